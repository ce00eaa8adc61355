"""What rules are about: topics, names and regular expressions, matched against what clients name.

The texts come from clients, the patterns from operators. A topic or name pattern costs at most pattern times text; a
regular expression is stopped when it takes too long, and then matches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import regex
import structlog

from gateway.core.trie import split_words, swap_separators

log = structlog.get_logger("mqlift.auth")

MAX_REGEX_LENGTH: Final = 1024
"""Characters of an operator's expression."""

MAX_NAME_LENGTH: Final = 1024
"""Characters of a name that an expression is tried on; AMQP's names have 255 bytes."""

REGEX_TIMEOUT: Final = 0.01
"""Seconds of CPU. Useful expressions take microseconds; those that backtrack without end are stopped."""

ONE: Final = "*"
REST: Final = "#"
_WILD: Final = frozenset({ONE, REST})

_VARIABLE: Final = re.compile(r"%([uc%])")


class Subject(NamedTuple):
    """Who a pattern is filled in for. What its names hold is never a wildcard."""

    user: str
    client_id: str


NOBODY: Final = Subject("", "")


def has_variables(text: str) -> bool:
    """Whether a pattern is another one for each peer."""
    return any(found[1] != "%" for found in _VARIABLE.finditer(text))


def fill(text: str, subject: Subject) -> str:
    """`%u` is the user, `%c` the client id, `%%` a percent sign, as in Mosquitto's `pattern` lines."""
    values = {"u": subject.user, "c": subject.client_id, "%": "%"}
    return _VARIABLE.sub(lambda found: values[found[1]], text)


def is_for_somebody(text: str, subject: Subject) -> bool:
    """Whether everything that the text names is there: `%c` means nothing for a peer without a client id."""
    names = {found[1] for found in _VARIABLE.finditer(text)}
    return not ("u" in names and not subject.user) and not ("c" in names and not subject.client_id)


def check_filter(text: str) -> str:
    """Raises `ValueError` for what is no MQTT filter."""
    levels = text.split("/")
    if not text:
        raise ValueError("a topic is never empty")  # [MQTT-4.7.3-1]
    if REST in levels[:-1]:
        raise ValueError(f"'#' stands last, unlike in {text!r}")  # [MQTT-4.7.1-1]
    for level in levels:
        if level not in ("+", REST) and ("+" in level or REST in level):
            raise ValueError(f"'+' and '#' are a whole level, unlike in {text!r}")  # [MQTT-4.7.1-2]
    return text


class Word(NamedTuple):
    """One word of a pattern; a literal one may look like a wildcard, when it is a client's name."""

    text: str
    wild: bool


class Words:
    """A pattern of words: `*` is one, `#` any number, wherever it stands (AMQP 0-9-1 §3.1.3.3)."""

    __slots__ = ("_head", "_shields_dollar", "_words")

    def __init__(self, words: Sequence[Word], *, shields_dollar: bool = False) -> None:
        self._words = words
        self._head = words[0].text if words and not words[0].wild else ""
        """What every key begins with: most patterns are about something else, which shows at once."""
        # [MQTT-4.7.2-1] Wildcards at the start do not match the server's own topics.
        self._shields_dollar = shields_dollar and bool(words) and words[0].wild

    @classmethod
    def topic(cls, text: str, subject: Subject) -> Words:
        """Of an MQTT filter; each level is filled in for itself, so that a name stays within it."""
        wildcards = {"+": ONE, REST: REST}
        words = [
            Word(wildcards[level], True) if level in wildcards else Word(swap_separators(fill(level, subject)), False)
            for level in text.split("/")
        ]
        return cls(words, shields_dollar=True)

    @classmethod
    def key(cls, text: str, subject: Subject) -> Words:
        """Of an AMQP binding key."""
        return cls(
            [Word(word, True) if word in _WILD else Word(fill(word, subject), False) for word in split_words(text)]
        )

    def matches(self, key: str) -> bool:
        """Whether a routing key fits; its words are never wildcards, whatever they look like."""
        return self._fits(key, _word_matches)

    def covers(self, pattern: str) -> bool:
        """Whether every key that another pattern matches fits this one as well."""
        return self._fits(pattern, _word_covers)

    def overlaps(self, pattern: str) -> bool:
        """Whether some key fits both this pattern and another one."""
        if self._shields_dollar and pattern.startswith("$"):
            return False
        words = [Word(word, word in _WILD) for word in split_words(pattern)]
        # meets[i]: the rest of this pattern and the other one from its word i on have a key in common.
        meets = [all(map(_is_rest, words[index:])) for index in range(len(words) + 1)]
        for word in reversed(self._words):
            meets = _meets_before(word, meets, words)
        return meets[0]

    def _fits(self, key: str, fits: Callable[[Word, str], bool]) -> bool:
        """Match words in order; when one does not fit, the last `#` takes one word more."""
        if not key.startswith(self._head) or (self._shields_dollar and key.startswith("$")):
            return False
        mine, others = self._words, split_words(key)
        index = position = taken = 0
        rest = -1
        while position < len(others):
            if index < len(mine) and _is_rest(mine[index]):
                rest, taken = index, position
                index += 1
            elif index < len(mine) and fits(mine[index], others[position]):
                index += 1
                position += 1
            elif rest >= 0:
                taken += 1
                index, position = rest + 1, taken
            else:
                return False
        return all(map(_is_rest, mine[index:]))


def _is_rest(word: Word) -> bool:
    return word.wild and word.text == REST


def _word_matches(word: Word, other: str) -> bool:
    return word.wild or word.text == other


def _word_covers(word: Word, other: str) -> bool:
    if word.wild:
        return other != REST
    return other == word.text and other not in _WILD


def _meets_before(word: Word, below: Sequence[bool], words: Sequence[Word]) -> list[bool]:
    """`meets` one word earlier in this pattern, from `meets` behind that word."""
    meets = [False] * len(below)
    for index in reversed(range(len(below))):
        other = words[index] if index < len(words) else None
        if _is_rest(word):
            meets[index] = below[index] or (other is not None and meets[index + 1])
        elif other is not None and _is_rest(other):
            meets[index] = meets[index + 1] or below[index]
        elif other is not None and (word.wild or other.wild or word.text == other.text):
            meets[index] = below[index + 1]
    return meets


def name_matcher(text: str, subject: Subject) -> Callable[[str], bool]:
    """The whole name of a queue or an exchange, `*` is any text."""
    return glob_matcher([fill(part, subject) for part in text.split("*")])


def glob_matcher(parts: Sequence[str]) -> Callable[[str], bool]:
    """Texts that have these parts, in this order, with any text between two of them; the whole text."""
    if len(parts) == 1:
        return parts[0].__eq__
    first, *middle, last = parts

    def matches(name: str) -> bool:
        if not name.startswith(first) or not name.endswith(last) or len(name) < len(first) + len(last):
            return False
        position, end = len(first), len(name) - len(last)
        for part in middle:
            found = name.find(part, position, end)
            if found < 0:
                return False
            position = found + len(part)
        return True

    return matches


class Expression:
    """A regular expression of an operator, searched for as RabbitMQ does: anywhere, unless it has `^` and `$`."""

    __slots__ = ("_compiled", "_text")

    def __init__(self, text: str, longest: int = MAX_REGEX_LENGTH) -> None:
        """Raises `ValueError` with what is wrong with it."""
        if len(text) > longest:
            raise ValueError(f"is longer than {longest} characters")
        self._text = text
        try:
            # RabbitMQ: an empty expression matches nothing.
            self._compiled = regex.compile(text) if text else None
        except regex.error as error:
            raise ValueError(f"{text!r} is no regular expression: {error}") from None

    def filled(self, values: Mapping[str, str]) -> Expression:
        """With each `{name}` replaced by its value, taken literally. Itself when there is none in it.

        Raises `ValueError` when the values make it longer than any name that it could match.
        """
        text = self._text
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", regex.escape(value))
        return self if text == self._text else Expression(text, MAX_REGEX_LENGTH + 2 * MAX_NAME_LENGTH)

    def matches(self, name: str) -> bool:
        """A name that is too long, or takes too long, does not match: nothing is allowed by it."""
        if self._compiled is None or len(name) > MAX_NAME_LENGTH:
            return False
        try:
            return self._compiled.search(name, timeout=REGEX_TIMEOUT) is not None
        except TimeoutError:
            log.warning("permission_expression_too_slow", expression=self._text)
            return False
