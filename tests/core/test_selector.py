"""JMS message selectors."""

from __future__ import annotations

import re
import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.message import Address, Message, Properties
from gateway.core.selector import CONVERTING, MAX_DEPTH, MAX_LENGTH, MAX_TERMS, SelectorError, compile_selector

MESSAGE = Message(
    Address("amq.topic", "a"),
    b"",
    Properties(priority=7, correlation_id="c-1", message_id="ID:1", timestamp=1_700_000_000, type="order"),
    {
        "colour": "red",
        "quote": "it's",
        "count": 5,
        "price": 2.5,
        "exact": Decimal("1.5"),
        "text5": "5",
        "yes": True,
        "no": False,
        "nothing": None,
        "list": [1],
        "huge": 2**70,
        "JMSXGroupID": "g",
        "$dollar_1": "d",
        "naïve": "n",
        "percent": "10%",
        "under": "a_b",
        "with-hyphen": "h",
    },
)

TRUE = [
    "colour = 'red'",
    "colour <> 'blue'",
    "quote = 'it''s'",
    "count = 5",
    "count = 5.0",
    "count = 5L",
    "count > 4 AND count < 6",
    "count >= 5 and count <= 5",
    "price = 2.5",
    "price = 25e-1",
    "price = .25E1",
    "price = 2.5f",
    "exact = 1.5",
    "yes",
    "yes = TRUE",
    "no = false",
    "NOT no",
    "not (no or no)",
    "no OR yes AND yes",
    "yes OR no AND no",
    "NOT no AND yes",
    "count + 1 = 6",
    "count - 1 - 1 = 3",
    "2 + 3 * 2 = 8",
    "(2 + 3) * 2 = 10",
    "7 / 2 = 3",
    "-7 / 2 = -3",
    "7.0 / 2 = 3.5",
    "-count = -5",
    "- - count = 5",
    "+count = 5",
    "count BETWEEN 5 AND 7",
    "count NOT BETWEEN 6 AND 7",
    "count BETWEEN 1 + 1 AND 2 * 3",
    "colour IN ('blue', 'red')",
    "colour NOT IN ('blue')",
    "colour LIKE 'r_d'",
    "colour LIKE 'r%'",
    "colour LIKE '%'",
    "colour LIKE '%e%'",
    "colour LIKE 'r%d'",
    "colour LIKE '%r%e%d%'",
    "colour NOT LIKE 'b%'",
    "colour LIKE 'red%'",
    "percent LIKE '10\\%' ESCAPE '\\'",
    "under LIKE 'a!_b' ESCAPE '!'",
    "nothing IS NULL",
    "missing IS NULL",
    "list IS NULL",
    "huge IS NULL",
    "colour IS NOT NULL",
    "JMSPriority = 7",
    "JMSCorrelationID = 'c-1'",
    "JMSMessageID LIKE 'ID:%'",
    "JMSTimestamp >= 1700000000000",
    "JMSType = 'order'",
    "JMSDeliveryMode = 'NON_PERSISTENT'",
    "JMSXGroupID = 'g'",
    "$dollar_1 = 'd'",
    "naïve = 'n'",
    "\"with-hyphen\" = 'h'",
    "  count=5  ",
    "9223372036854775807 + 1 > 9223372036854775807 - 1",
    "1.0 / 0 > 5",
]
FALSE = [
    "colour = 'blue'",
    "colour = 5",
    "text5 = 5",
    "text5 > 4",
    "colour < 'z'",
    "yes < TRUE",
    "yes = 'true'",
    "NOT yes",
    "count NOT BETWEEN 5 AND 7",
    "colour LIKE 're'",
    "colour LIKE 'red_'",
    "colour LIKE 'd%'",
    "colour LIKE '%re'",
    "colour LIKE 'rr%d'",
    "colour LIKE '%d%d'",
    "count LIKE '5'",
    "count IN ('5')",
    "percent LIKE '1\\%' ESCAPE '\\'",
    "colour IS NULL",
    "yes AND no",
]
# Unknown is no match, and its negation is none either.
UNKNOWN = [
    "missing = 1",
    "missing <> 1",
    "missing > 1",
    "missing",
    "missing LIKE '%'",
    "missing IN ('a')",
    "missing BETWEEN 1 AND 2",
    "missing + 1 = 1",
    "colour + 1 = 1",
    "-colour = 1",
    "1 / 0 = 1",
    "missing AND yes",
    "missing OR no",
    "missing = missing",
    "Colour = 'red'",
    "list = 1",
]


@pytest.mark.parametrize("text", TRUE)
def test_true(text):
    assert compile_selector(text)(MESSAGE) is True
    assert compile_selector(f"NOT ({text})")(MESSAGE) is False


@pytest.mark.parametrize("text", FALSE)
def test_false(text):
    assert compile_selector(text)(MESSAGE) is False
    assert compile_selector(f"NOT ({text})")(MESSAGE) is True


@pytest.mark.parametrize("text", UNKNOWN)
def test_unknown(text):
    assert compile_selector(text)(MESSAGE) is False
    assert compile_selector(f"NOT ({text})")(MESSAGE) is False


@pytest.mark.parametrize(("text", "matches"), [("missing AND no", False), ("missing OR yes", True)])
def test_what_is_unknown_does_not_always_matter(text, matches):
    assert compile_selector(text)(MESSAGE) is matches


def test_defaults_of_a_bare_message():
    bare = Message(Address("", "q"), b"")
    assert compile_selector("JMSPriority = 4 AND JMSDeliveryMode = 'NON_PERSISTENT' AND JMSType IS NULL")(bare)
    assert compile_selector("JMSTimestamp IS NULL AND JMSMessageID IS NULL AND JMSCorrelationID IS NULL")(bare)
    persistent = Message(Address("", "q"), b"", Properties(delivery_mode=2, correlation_id=b"c"))
    assert compile_selector("JMSDeliveryMode = 'PERSISTENT' AND JMSCorrelationID = 'c'")(persistent)


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("text5 = 5", True),
        ("5 = text5", True),
        ("text5 BETWEEN 4 AND 6", True),
        ("text5 = '5'", True),
        ("colour = 5", False),
        ("colour <> 5", False),
        ("text5 > 5.5", False),
    ],
)
def test_texts_that_count_as_numbers(text, matches):
    assert compile_selector(CONVERTING + text)(MESSAGE) is matches


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "a =",
        "= 1",
        "a = 1 b",
        "a == 1",
        "a != 1",
        "a = 1 = 1",
        "(a = 1",
        "a = 1)",
        "a AND",
        "NOT",
        "a NOT 1",
        "a IS 1",
        "a IS NOT 1",
        "a IN ()",
        "a IN (1)",
        "a IN ('x',)",
        "a IN 'x'",
        "a LIKE b",
        "a LIKE 'x' ESCAPE ''",
        "a LIKE 'x!' ESCAPE '!'",
        "a LIKE 'x' ESCAPE 'ab'",
        "a BETWEEN 1",
        "a BETWEEN 1 OR 2",
        "'open",
        "a = 'x''",
        "a; b",
        "a = 1a",
        "a.b = 1",
        'a = ""',
        'a = "x',
        "a = 9223372036854775808",
        "a = 1.5L",
        "JMSDestination = 'x'",
        "JMSRedelivered",
        "a = \x00",
    ],
)
def test_refused(text):
    with pytest.raises(SelectorError) as error:
        compile_selector(text)
    assert len(str(error.value)) < 300


class TestBounds:
    @pytest.mark.parametrize(
        "text",
        [
            "a" * (MAX_LENGTH + 1),
            "(" * (MAX_DEPTH + 1) + "a" + ")" * (MAX_DEPTH + 1),
            "NOT " * (MAX_DEPTH + 1) + "a",
            "- " * (MAX_DEPTH + 1) + "1 = 1",
            "1" + " + 1" * (MAX_DEPTH + 1) + " = 1",
            "a OR " * MAX_TERMS + "a",
        ],
    )
    def test_over(self, text):
        with pytest.raises(SelectorError):
            compile_selector(text)

    def test_within(self):
        assert compile_selector("no OR " * 200 + "yes")(MESSAGE)
        assert compile_selector("(" * 60 + "yes" + ")" * 60)(MESSAGE)

    def test_a_pattern_cannot_take_for_ever(self):
        message = Message(Address("", "q"), b"", headers={"text": "a" * 10_000})
        matches = compile_selector(f"text LIKE '{'%a' * 500}%b'")
        start = time.process_time()
        assert not matches(message)
        assert time.process_time() - start < 1.0


@given(st.text("ab%_!'", max_size=12), st.text("ab", max_size=8))
def test_like_as_a_regular_expression_has_it(pattern, text):
    expected = "".join({"%": ".*", "_": "."}.get(character, re.escape(character)) for character in pattern)
    quoted = pattern.replace("'", "''")
    message = Message(Address("", "q"), b"", headers={"text": text})
    assert compile_selector(f"text LIKE '{quoted}'")(message) is (re.fullmatch(expected, text) is not None)


WORDS = ["a", "1", "2.5", "'x'", "AND", "OR", "NOT", "IN", "LIKE", "BETWEEN", "IS", "NULL", "(", ")", ",", "=", "<>",
         "<", "+", "-", "*", "/", "ESCAPE", "TRUE", "colour", "missing"]  # fmt: skip


@given(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join) | st.text(max_size=40))
def test_any_text_is_a_selector_or_refused(text):
    try:
        matches = compile_selector(text)
    except SelectorError:
        return
    assert isinstance(matches(MESSAGE), bool)


SUMS = st.recursive(
    st.integers(0, 1000).map(str),
    lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner),
    max_leaves=20,
)


@given(SUMS)
def test_arithmetic_as_python_has_it(expression):
    value = eval(expression)  # made of digits and three operators
    if abs(value) < 2**53:
        assert compile_selector(f"{expression} = {value}")(MESSAGE)
