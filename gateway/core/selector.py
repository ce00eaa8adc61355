"""Message selectors of JMS 2.0 (§3.8), a part of SQL-92: text in, a function of messages out. Pure.

Logic has three values: what is unknown (None) is no match in the end, nor is its negation. A comparison with NULL is
unknown, and so is arithmetic with anything but numbers. A comparison of a text with a number is false, and so is one of
texts or truth values other than `=` and `<>` (§3.8.1.1, §3.8.1.2).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum, auto
from typing import Final, NamedTuple, TypeAlias, TypeGuard

from gateway.core.errors import MqliftError
from gateway.core.message import HeaderValue, Message

MAX_LENGTH: Final = 4096
"""Characters of a selector; ActiveMQ's users seldom need 200."""
MAX_DEPTH: Final = 64
"""Parentheses, NOTs and signs within each other: a stop for the stack, here and when it is evaluated."""
MAX_TERMS: Final = 512
"""Operators and operands, which bound the time for a message."""

_DEFAULT_PRIORITY: Final = 4
_PERSISTENT: Final = 2
_MAX_EXACT: Final = 2**63 - 1
_SMALLEST_EXACT: Final = -(2**63)

Value: TypeAlias = bool | int | float | str | None
"""None is SQL's NULL, and the third truth value."""

Selector: TypeAlias = Callable[[Message], bool]

_Evaluate: TypeAlias = Callable[[Message], Value]


CONVERTING: Final = "convert_string_expressions:"
"""Begins a selector in which a text that is compared with a number counts as the number that it spells, as ActiveMQ
writes it: STOMP has no other headers than texts."""


class SelectorError(MqliftError):
    """The text is no selector; `str()` says why, and where."""


def compile_selector(text: str) -> Selector:
    """Whether a message matches. Raises `SelectorError`."""
    if len(text) > MAX_LENGTH:
        raise SelectorError(f"a selector of over {MAX_LENGTH} characters")
    condition = text.removeprefix(CONVERTING)
    evaluate = _Parser(_tokens(condition), texts_as_numbers=text.startswith(CONVERTING)).parse()
    return lambda message: evaluate(message) is True


# Words


class _Kind(Enum):
    NAME = auto()
    KEYWORD = auto()
    TEXT = auto()
    NUMBER = auto()
    OPERATOR = auto()
    END = auto()


class _Token(NamedTuple):
    kind: _Kind
    text: str
    position: int


_KEYWORDS: Final = frozenset({"AND", "OR", "NOT", "BETWEEN", "LIKE", "ESCAPE", "IN", "IS", "NULL", "TRUE", "FALSE"})

# Names are Java's identifiers (§3.8.1.1). As in ActiveMQ, double quotes make a name of anything: STOMP's headers have
# hyphens, which would be minus signs.
_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[lLfFdD]?(?![\w$]))
      | (?P<name>[^\W\d][\w$]*|\$[\w$]*)
      | "(?P<quoted>[^"]+)"
      | (?P<text>'(?:[^']|'')*')
      | (?P<operator><>|<=|>=|[=<>+\-*/(),])
    )""",
    re.VERBOSE,
)


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position, end)
        if found is None or found.lastgroup is None:
            raise SelectorError(f"nothing that a selector can hold at character {position + 1}")
        tokens.append(_token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup)))
        position = found.end()
        if len(tokens) > MAX_TERMS:
            raise SelectorError(f"a selector of more than {MAX_TERMS} words")
    tokens.append(_Token(_Kind.END, "the end", end))
    return tokens


def _token(group: str, text: str, position: int) -> _Token:
    if group == "name" and text.upper() in _KEYWORDS:
        return _Token(_Kind.KEYWORD, text.upper(), position)
    if group == "quoted":
        return _Token(_Kind.NAME, text, position)
    if group == "text":
        return _Token(_Kind.TEXT, text[1:-1].replace("''", "'"), position)
    return _Token(_Kind[group.upper()], text, position)


# Grammar


class _Parser:
    """Recursive descent, one method for each level of precedence. Makes closures, innermost first."""

    def __init__(self, tokens: list[_Token], *, texts_as_numbers: bool) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0
        self._operand: Callable[[Value, Value], tuple[Value, Value]] = _spelled if texts_as_numbers else _as_they_are

    def parse(self) -> _Evaluate:
        condition = self._condition()
        if self._peek().kind is not _Kind.END:
            raise self._unexpected()
        return condition

    def _condition(self) -> _Evaluate:
        return self._nested(self._any_of)

    def _any_of(self) -> _Evaluate:
        terms = [self._all_of()]
        while self._take_keyword("OR"):
            terms.append(self._all_of())
        return terms[0] if len(terms) == 1 else _any(terms)

    def _all_of(self) -> _Evaluate:
        terms = [self._negation()]
        while self._take_keyword("AND"):
            terms.append(self._negation())
        return terms[0] if len(terms) == 1 else _all(terms)

    def _negation(self) -> _Evaluate:
        if self._take_keyword("NOT"):
            return _not(self._nested(self._negation))
        return self._comparison()

    def _comparison(self) -> _Evaluate:
        left = self._sum()
        token = self._peek()
        if token.kind is _Kind.OPERATOR and token.text in _COMPARISONS:
            self._next += 1
            return self._compared(left, token.text, self._sum())
        if self._take_keyword("IS"):
            negated = self._take_keyword("NOT")
            self._expect_keyword("NULL")
            return _is_null(left, negated=negated)
        negated = self._take_keyword("NOT")
        for keyword, parse in (("BETWEEN", self._between), ("IN", self._in), ("LIKE", self._like)):
            if self._take_keyword(keyword):
                test = parse(left)
                return _not(test) if negated else test
        if negated:
            raise self._unexpected()
        return left

    def _compared(self, left: _Evaluate, operator: str, right: _Evaluate) -> _Evaluate:
        compare, operand = _COMPARISONS[operator], self._operand

        def evaluate(message: Message) -> Value:
            return compare(*operand(left(message), right(message)))

        return evaluate

    def _between(self, subject: _Evaluate) -> _Evaluate:
        least = self._sum()
        self._expect_keyword("AND")
        most = self._sum()
        return _all([self._compared(subject, ">=", least), self._compared(subject, "<=", most)])

    def _in(self, subject: _Evaluate) -> _Evaluate:
        self._expect("(")
        values = {self._text()}
        while self._take(","):
            values.add(self._text())
        self._expect(")")

        def evaluate(message: Message) -> Value:
            value = subject(message)
            return value in values if value is not None else None

        return evaluate

    def _like(self, subject: _Evaluate) -> _Evaluate:
        pattern = self._text()
        escape = ""
        if self._take_keyword("ESCAPE"):
            escape = self._text()
            if len(escape) != 1:
                raise SelectorError("ESCAPE is not one character")
        steps = _like_steps(pattern, escape)

        def evaluate(message: Message) -> Value:
            value = subject(message)
            return _matches(value, steps) if isinstance(value, str) else (None if value is None else False)

        return evaluate

    def _sum(self) -> _Evaluate:
        value = self._product()
        while (token := self._peek()).kind is _Kind.OPERATOR and token.text in ("+", "-"):
            self._next += 1
            value = self._calculated(value, token.text, self._product())
        return value

    def _product(self) -> _Evaluate:
        value = self._signed()
        while (token := self._peek()).kind is _Kind.OPERATOR and token.text in ("*", "/"):
            self._next += 1
            value = self._calculated(value, token.text, self._signed())
        return value

    def _calculated(self, left: _Evaluate, operator: str, right: _Evaluate) -> _Evaluate:
        calculate = _CALCULATIONS[operator]
        # What deepens the closures counts, too: a long sum is a deep one.
        self._deepen()

        def evaluate(message: Message) -> Value:
            one, other = left(message), right(message)
            if not (_is_number(one) and _is_number(other)):
                return None
            return calculate(one, other)

        return evaluate

    def _signed(self) -> _Evaluate:
        if self._take("-"):
            return _negative(self._nested(self._signed))
        if self._take("+"):
            return self._nested(self._signed)
        return self._primary()

    def _primary(self) -> _Evaluate:
        token = self._peek()
        self._next += 1
        if token.kind is _Kind.NAME:
            return _identifier(token.text)
        if token.kind is _Kind.NUMBER:
            return _constant(_number(token))
        if token.kind is _Kind.TEXT:
            return _constant(token.text)
        if token.kind is _Kind.KEYWORD and token.text in ("TRUE", "FALSE"):
            return _constant(token.text == "TRUE")
        if token.kind is _Kind.OPERATOR and token.text == "(":
            condition = self._condition()
            self._expect(")")
            return condition
        self._next -= 1
        raise self._unexpected()

    def _nested(self, parse: Callable[[], _Evaluate]) -> _Evaluate:
        self._deepen()
        result = parse()
        self._depth -= 1
        return result

    def _deepen(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise SelectorError(f"more than {MAX_DEPTH} levels of nesting")

    def _text(self) -> str:
        token = self._peek()
        if token.kind is not _Kind.TEXT:
            raise self._unexpected()
        self._next += 1
        return token.text

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, operator: str) -> bool:
        return self._take_token(_Kind.OPERATOR, operator)

    def _take_keyword(self, keyword: str) -> bool:
        return self._take_token(_Kind.KEYWORD, keyword)

    def _take_token(self, kind: _Kind, text: str) -> bool:
        token = self._peek()
        if token.kind is not kind or token.text != text:
            return False
        self._next += 1
        return True

    def _expect(self, operator: str) -> None:
        if not self._take(operator):
            raise self._unexpected()

    def _expect_keyword(self, keyword: str) -> None:
        if not self._take_keyword(keyword):
            raise self._unexpected()

    def _unexpected(self) -> SelectorError:
        token = self._peek()
        return SelectorError(f"{token.text[:40]!r} at character {token.position + 1} does not belong there")


def _number(token: _Token) -> int | float:
    """An exact literal is a Java long (or was marked `L`), an approximate one a double (§3.8.1.1)."""
    text = token.text
    if text.isdecimal() or text[-1] in "lL":
        value = int(text.rstrip("lL")) if text.rstrip("lL").isdecimal() else None
        if value is None or value > _MAX_EXACT:
            raise SelectorError(f"{text[:40]} is no whole number of 64 bits")
        return value
    return float(text.rstrip("fFdD"))


# Evaluation


def _constant(value: Value) -> _Evaluate:
    return lambda _: value


def _identifier(name: str) -> _Evaluate:
    known = _JMS_FIELDS.get(name)
    if known is not None:
        return known
    if name.startswith("JMS") and not name.startswith(("JMSX", "JMS_")):
        # §3.8.1.1: no other header fields may be asked for.
        raise SelectorError(f"{name} cannot be used in a selector; {', '.join(_JMS_FIELDS)} can")
    return lambda message: _plain(message.headers.get(name))


def _plain(value: HeaderValue) -> Value:
    """A header as a value of the selector's language; one that has none there is unknown."""
    if isinstance(value, int) and not _SMALLEST_EXACT <= value <= _MAX_EXACT:
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return float(value) if isinstance(value, Decimal) else None


def _correlation_id(message: Message) -> Value:
    value = message.properties.correlation_id
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _timestamp(message: Message) -> Value:
    seconds = message.properties.timestamp
    return None if seconds is None else seconds * 1000


def _priority(message: Message) -> Value:
    priority = message.properties.priority
    return _DEFAULT_PRIORITY if priority is None else priority


_JMS_FIELDS: Final[Mapping[str, _Evaluate]] = {
    "JMSDeliveryMode": lambda message: (
        "PERSISTENT" if message.properties.delivery_mode == _PERSISTENT else "NON_PERSISTENT"
    ),
    "JMSPriority": _priority,
    "JMSMessageID": lambda message: message.properties.message_id,
    "JMSTimestamp": _timestamp,
    "JMSCorrelationID": _correlation_id,
    "JMSType": lambda message: message.properties.type,
}


def _any(terms: list[_Evaluate]) -> _Evaluate:
    def evaluate(message: Message) -> Value:
        result: Value = False
        for term in terms:
            value = term(message)
            if value is True:
                return True
            if value is not False:
                result = None
        return result

    return evaluate


def _all(terms: list[_Evaluate]) -> _Evaluate:
    def evaluate(message: Message) -> Value:
        result: Value = True
        for term in terms:
            value = term(message)
            if value is False:
                return False
            if value is not True:
                result = None
        return result

    return evaluate


def _not(term: _Evaluate) -> _Evaluate:
    def evaluate(message: Message) -> Value:
        value = term(message)
        return not value if isinstance(value, bool) else None

    return evaluate


def _is_null(subject: _Evaluate, *, negated: bool) -> _Evaluate:
    return lambda message: (subject(message) is None) is not negated


def _negative(term: _Evaluate) -> _Evaluate:
    def evaluate(message: Message) -> Value:
        value = term(message)
        return _bounded(-value) if _is_number(value) else None

    return evaluate


def _is_number(value: Value) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as_they_are(left: Value, right: Value) -> tuple[Value, Value]:
    return left, right


def _spelled(left: Value, right: Value) -> tuple[Value, Value]:
    """A text beside a number becomes the number that it spells."""
    if isinstance(left, str) and _is_number(right):
        return _as_number(left), right
    if isinstance(right, str) and _is_number(left):
        return left, _as_number(right)
    return left, right


def _as_number(text: str) -> Value:
    if len(text) > _MAX_SPELLED or _SPELLED.fullmatch(text) is None:
        return None
    return int(text) if text.removeprefix("-").isdecimal() else float(text)


_MAX_SPELLED: Final = 40
_SPELLED: Final = re.compile(r"-?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|-?\.[0-9]+(?:[eE][+-]?[0-9]+)?")


def _equal(left: Value, right: Value) -> Value:
    """§3.8.1.1: only values of one type compare, exact and approximate numbers being one type in that."""
    if _is_number(left) and _is_number(right):
        return left == right
    if (isinstance(left, str) and isinstance(right, str)) or (isinstance(left, bool) and isinstance(right, bool)):
        return left == right
    return None if left is None or right is None else False


def _unequal(left: Value, right: Value) -> Value:
    comparable = (_is_number(left) and _is_number(right)) or (type(left) is type(right) and left is not None)
    if comparable:
        return left != right
    return None if left is None or right is None else False


def _ordered(compare: Callable[[int | float, int | float], bool]) -> Callable[[Value, Value], Value]:
    def evaluate(left: Value, right: Value) -> Value:
        if _is_number(left) and _is_number(right):
            return compare(left, right)
        return None if left is None or right is None else False

    return evaluate


_COMPARISONS: Final[Mapping[str, Callable[[Value, Value], Value]]] = {
    "=": _equal,
    "<>": _unequal,
    "<": _ordered(lambda left, right: left < right),
    "<=": _ordered(lambda left, right: left <= right),
    ">": _ordered(lambda left, right: left > right),
    ">=": _ordered(lambda left, right: left >= right),
}


def _quotient(left: int | float, right: int | float) -> Value:
    if isinstance(left, int) and isinstance(right, int):
        if right == 0:
            return None
        exact = abs(left) // abs(right)  # towards zero, as in Java
        return _bounded(exact if (left < 0) == (right < 0) else -exact)
    if right:
        return left / right
    return math.copysign(math.inf, left) if left else math.nan  # as Java's doubles do


def _bounded(value: int | float) -> Value:
    """Exact numbers have 64 bits: what is beyond is approximate, so that no selector can make numbers grow."""
    return value if isinstance(value, float) or _SMALLEST_EXACT <= value <= _MAX_EXACT else float(value)


_CALCULATIONS: Final[Mapping[str, Callable[[int | float, int | float], Value]]] = {
    "+": lambda left, right: _bounded(left + right),
    "-": lambda left, right: _bounded(left - right),
    "*": lambda left, right: _bounded(left * right),
    "/": _quotient,
}


# LIKE: a pattern is cut at its `%` into runs; each run is one place for each character, None for `_`.

_Run: TypeAlias = tuple[str | None, ...]


def _like_steps(pattern: str, escape: str) -> tuple[_Run, ...]:
    runs: list[list[str | None]] = [[]]
    characters = iter(pattern)
    for character in characters:
        if escape and character == escape:
            literal = next(characters, None)
            if literal is None:
                raise SelectorError("a LIKE pattern ends in its ESCAPE character")
            runs[-1].append(literal)
        elif character == "%":
            runs.append([])
        else:
            runs[-1].append(None if character == "_" else character)
    return tuple(map(tuple, runs))


def _matches(text: str, runs: tuple[_Run, ...]) -> bool:
    """Each run is looked for once, from where the one before it ended: at worst the product of both lengths."""
    first, *middle = runs
    if not _fits(text, 0, first):
        return False
    if not middle:
        return len(text) == len(first)
    last = middle.pop()
    at, end = len(first), len(text) - len(last)
    if end < at or not _fits(text, end, last):
        return False
    for run in middle:
        while not _fits(text, at, run):
            at += 1
            if at + len(run) > end:
                return False
        at += len(run)
    return at <= end


def _fits(text: str, at: int, run: _Run) -> bool:
    if at + len(run) > len(text):
        return False
    return all(wanted is None or text[at + offset] == wanted for offset, wanted in enumerate(run))
