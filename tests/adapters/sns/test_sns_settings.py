import pytest

from adapters.sns.naming import TopicReference, parse_reference, topic_arn
from adapters.sns.settings import DEFAULT_OPTIONS, SnsOptions, parse_target
from gateway.core.errors import ConfigError
from gateway.core.templates import Template

NOBODY: frozenset[str] = frozenset()
ARN = "arn:aws-cn:sns:cn-north-1:111122223333:events"


@pytest.mark.parametrize("name", ["events", "events.fifo", ARN, "{site}", "a-{site}.fifo", "a" * 256])
def test_names(name: str) -> None:
    target = parse_target(name, {}, frozenset({"site"}))
    assert (target.kind, target.name) == ("sns", name)
    assert target.options is DEFAULT_OPTIONS


def test_options() -> None:
    options = {
        "group_id": "{site}",
        "deduplication_id": "{property:message_id}",
        "subject": "{topic}",
        "attributes": ["tenant", "tenant", "site"],
    }
    captures = frozenset({"site"})
    assert parse_target("a.fifo", options, captures).options == SnsOptions(
        group_id=Template.parse("{site}", captures),
        deduplication_id=Template.parse("{property:message_id}", captures),
        subject=Template.parse("{topic}", captures),
        attributes=("tenant", "site"),
    )


@pytest.mark.parametrize(
    ("name", "options", "key", "problem"),
    [
        ("", {}, "sns", "not the name of a topic"),
        (7, {}, "sns", "not the name of a topic"),
        ("a b", {}, "sns", "not a name that SNS allows"),
        ("a" * 257, {}, "sns", "256 characters"),
        (".fifo", {}, "sns", "empty name"),
        ("{nobody}", {}, "sns", "unknown field"),
        ("arn:aws:sqs:eu-west-1:111122223333:queue", {}, "sns", "not the ARN of an SNS topic"),
        ("https://sns/1", {}, "sns", "not the name or the ARN"),
        ("events", {"colour": "red"}, "colour", "no such option"),
        ("events", {"deduplication_id": "x"}, "deduplication_id", "only FIFO topics"),
        ("events", {"subject": ""}, "subject", "not a text with fields"),
        ("events", {"subject": "{nobody}"}, "subject", "unknown field"),
        ("events", {"attributes": ["mqlift.key"]}, "attributes", "cannot be the name"),
        ("events", {"attributes": ["ExtendedPayloadSize"]}, "attributes", "leave it out"),
        ("events", {"attributes": list("abcdef")}, "attributes", "name 5 at most"),
    ],
)
def test_mistakes(name: object, options: dict[str, object], key: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as mistake:
        parse_target(name, options, NOBODY)
    assert mistake.value.key == key


def test_references() -> None:
    assert parse_reference("events") == TopicReference("events")
    assert parse_reference(ARN) == TopicReference("events", ARN, "cn-north-1")
    assert parse_reference("events").ours
    assert not parse_reference(ARN).ours
    assert parse_reference("events.fifo").fifo
    assert parse_reference("a/b").name.startswith("a-b-")


@pytest.mark.parametrize(
    ("caller", "arn"),
    [
        ("arn:aws:iam::111122223333:user/a", "arn:aws:sns:eu-west-1:111122223333:events"),
        ("arn:aws-cn:sts::111122223333:assumed-role/a/b", "arn:aws-cn:sns:eu-west-1:111122223333:events"),
    ],
)
def test_own_topics(caller: str, arn: str) -> None:
    assert topic_arn("events", "eu-west-1", caller) == arn
    with pytest.raises(ValueError, match="no account"):
        topic_arn("events", "eu-west-1", "nobody")
