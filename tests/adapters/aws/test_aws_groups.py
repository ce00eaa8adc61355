import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.aws.groups import DEFAULT_GROUP, DeduplicationIds, legal_id, message_group
from gateway.core.message import Address, Headers, Message
from gateway.core.templates import Template

CAPTURES = {"site": "north"}


def message(headers: Headers) -> Message:
    return Message(Address("", "q"), b"x", headers=headers)


@given(st.text(min_size=1, max_size=300))
def test_ids_are_always_legal_and_stay(text: str) -> None:
    made = legal_id(text)
    assert re.fullmatch(r"[!-~]{1,128}", made)
    assert legal_id(made) == made


@given(st.sets(st.text(min_size=1, max_size=200), min_size=2))
def test_different_texts_are_different_ids(texts: set[str]) -> None:
    assert len(set(map(legal_id, texts))) == len(texts)


@pytest.mark.parametrize("text", ["a", "!~", "#1:/{}", "x" * 128])
def test_legal_ids_are_left_alone(text: str) -> None:
    assert legal_id(text) == text


@pytest.mark.parametrize(
    ("headers", "group"),
    [
        ({}, DEFAULT_GROUP),
        ({"other": "x"}, DEFAULT_GROUP),
        ({"JMSXGroupID": "jms"}, "jms"),
        ({"x-group-id": "amqp"}, "amqp"),
        ({"x-group-id": "amqp", "JMSXGroupID": "jms"}, "jms"),
        ({"x-group-id": "amqp", "JMSXGroupID": ""}, "amqp"),
        ({"x-group-id": 7}, "7"),
        ({"x-group-id": None}, DEFAULT_GROUP),
    ],
)
def test_groups_of_messages(headers: Headers, group: str) -> None:
    assert message_group(None, message(headers), {}) == group


def test_a_rule_wins_over_the_message() -> None:
    template = Template.parse("{site}", frozenset(CAPTURES))
    assert message_group(template, message({"JMSXGroupID": "jms"}), CAPTURES) == "north"
    assert message_group(Template.parse("{header:no}", frozenset()), message({}), CAPTURES) == DEFAULT_GROUP


def test_deduplication_ids() -> None:
    ids, other = DeduplicationIds(), DeduplicationIds()
    template = Template.parse("{header:id}", frozenset())
    made = [
        ids.make(None, message({}), {}),
        ids.make(None, message({}), {}),
        ids.make(template, message({}), {}),
        other.make(None, message({}), {}),
    ]
    assert len(set(made)) == 4
    assert all(legal_id(one) == one for one in made)
    assert ids.make(template, message({"id": "7"}), {}) == other.make(template, message({"id": "7"}), {}) == "7"
    assert re.fullmatch(r"a-b-[0-9a-f]{16}", ids.make(template, message({"id": "a b"}), {}))
