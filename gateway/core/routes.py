"""Rules of the configuration: which resources of a backend a legacy name is mapped to. Pure.

A topic rule speaks of MQTT topics, which are the keys of `amq.topic`; an exchange rule of any other exchange; a queue
rule says where a queue lives. Of each kind, the first rule that matches wins.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from gateway.core.backend import Target
from gateway.core.errors import Invalid
from gateway.core.message import DEFAULT_EXCHANGE, TOPIC_EXCHANGE, Address
from gateway.core.templates import RESERVED_NAMES, Template
from gateway.core.trie import swap_separators

_NAME_FIELDS = frozenset({"topic", "key"})
"""Fields of a template that are made of a message's routing key."""

QUEUE_KIND = "queue"
"""The kind of target that is a queue of the hub itself, wherever that lives."""

_CAPTURE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:#)?\}")
_NAME_TOKEN = re.compile(r"\*+|\{[^{}]*\}|[^*{}]+|[{}]")

# What the names of queues, topics, streams and delivery streams may hold.
_PART_OF_NAME = re.compile(r"[A-Za-z0-9_.-]*")
_REFERENCE = re.compile(r"arn:|.*://", re.DOTALL)
_SHOWN_LENGTH = 80


@dataclass(frozen=True, slots=True)
class Pattern:
    """A legacy name with wildcards and captures. Made by `topic`, `key` and `name`, which raise `ValueError`."""

    text: str
    captures: tuple[str, ...]
    _regex: re.Pattern[str]
    _separator: str
    _shields_dollar: bool = False
    literal: bool = False
    """Whether it is one name, without wildcards and captures."""

    @classmethod
    def topic(cls, text: str) -> Pattern:
        """An MQTT topic: `+` is one level, `#` the rest, `{name}` and `{name:#}` the same under a name."""
        if not text:
            raise ValueError("a topic is never empty")  # [MQTT-4.7.3-1]
        parts = [_word(level, "/", one="+") for level in text.split("/")]
        if any(part.elastic for part in parts[:-1]):
            raise ValueError(f"'#' is the rest of a topic and stands last, unlike in {text!r}")  # [MQTT-4.7.1-1]
        # [MQTT-4.7.2-1] Wildcards at the start do not match the server's own topics.
        return cls._of(text, parts, "/", shields_dollar=parts[0].wild)

    @classmethod
    def key(cls, text: str) -> Pattern:
        """An AMQP routing key: `*` is one word, `#` any number, `{name}` and `{name:#}` the same under a name."""
        return cls._of(text, [_word(word, ".", one="*") for word in text.split(".")] if text else [], ".")

    @classmethod
    def name(cls, text: str) -> Pattern:
        """The whole name of a queue or exchange: `*` is any text, `{name}` some text, at least one character."""
        parts = [_name_part(token.group(), text) for token in _NAME_TOKEN.finditer(text)]
        if any(before.elastic and after.elastic for before, after in itertools.pairwise(parts)):
            raise ValueError(f"nothing separates two wildcards in {text!r}")
        return cls._of(text, parts, "")

    @classmethod
    def _of(cls, text: str, parts: Sequence[_Part], separator: str, *, shields_dollar: bool = False) -> Pattern:
        captures = tuple(part.capture for part in parts if part.capture)
        for capture in captures:
            if capture in RESERVED_NAMES:
                raise ValueError(f"{{{capture}}} is a field of every message; capture under another name")
            if captures.count(capture) > 1:
                raise ValueError(f"{{{capture}}} is captured twice in {text!r}")
        regex = re.compile(_expression(parts), re.DOTALL)
        return cls(text, captures, regex, separator, shields_dollar, literal=not any(part.wild for part in parts))

    def match(self, subject: str) -> dict[str, str] | None:
        """What was captured, or None when the pattern does not match. Costs at most pattern times subject."""
        if self._shields_dollar and subject.startswith("$"):
            return None
        # Each word is closed by its separator, so that no word and one empty word differ.
        found = self._regex.fullmatch(subject + self._separator if subject else "")
        if found is None:
            return None
        return {name: found[name].removesuffix(self._separator) for name in self.captures}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A piece of a pattern as a regular expression; an elastic one matches texts of different length."""

    regex: str
    capture: str = ""
    wild: bool = False
    elastic: bool = False


def _expression(parts: Sequence[_Part]) -> str:
    """Join the pieces. Each elastic piece but the last ends at the first place where what follows it fits, for good:
    as that leaves the most for the others, nothing is missed, and no input makes matching slow.
    """
    expression = ""
    group = ""
    for part in parts:
        if part.elastic:
            expression += f"(?>{group})" if group else ""
            group = part.regex
        elif group:
            group += part.regex
        else:
            expression += part.regex
    return expression + group


def _word(word: str, separator: str, *, one: str) -> _Part:
    """One word or level, with the separator that closes it."""
    close = re.escape(separator)
    single, several = f"[^{close}]*{close}", f"(?:[^{close}]*{close})*?"
    if word == one:
        return _Part(regex=single, wild=True)
    if word == "#":
        return _Part(regex=several, wild=True, elastic=True)
    found = _CAPTURE.fullmatch(word)
    if found is not None:
        regex = several if found[2] else single
        return _Part(regex=f"(?P<{found[1]}>{regex})", capture=found[1], wild=True, elastic=bool(found[2]))
    for mark in (one, "#", "{", "}"):
        if mark in word:
            raise ValueError(f"{mark!r} in {word!r}: a wildcard or a capture stands alone between two {separator!r}")
    return _Part(regex=re.escape(word) + close)


def _name_part(token: str, text: str) -> _Part:
    if token.startswith("*"):
        return _Part(regex=".*?", wild=True, elastic=True)
    if token.startswith(("{", "}")):
        found = _CAPTURE.fullmatch(token)
        if found is None or found[2]:
            raise ValueError(f"{token!r} in {text!r}: a capture is written {{name}}")
        return _Part(regex=f"(?P<{found[1]}>.+?)", capture=found[1], wild=True, elastic=True)
    return _Part(regex=re.escape(token))


@dataclass(frozen=True, slots=True)
class TopicMatch:
    """Messages on `amq.topic`, by their topic as MQTT writes it."""

    topic: Pattern

    def match(self, address: Address) -> dict[str, str] | None:
        return self.topic.match(swap_separators(address.routing_key))

    @property
    def captures(self) -> frozenset[str]:
        return frozenset(self.topic.captures)

    @property
    def fixed_fields(self) -> frozenset[str]:
        """The fields of a template that are the same for each message that matches."""
        return _NAME_FIELDS if self.topic.literal else frozenset()

    def __str__(self) -> str:
        return f"topic {self.topic.text}"


@dataclass(frozen=True, slots=True)
class ExchangeMatch:
    """Messages on other exchanges, by the exchange's name and, if given, the routing key."""

    exchange: Pattern
    key: Pattern | None = None

    def __post_init__(self) -> None:
        twice = set(self.exchange.captures) & set(self.key.captures if self.key else ())
        if twice:
            raise ValueError(f"{{{min(twice)}}} is captured by both exchange and key")
        if self.exchange.text == TOPIC_EXCHANGE:
            raise ValueError(
                f"messages on {TOPIC_EXCHANGE} are matched as topics; write topic: with '/' between levels"
            )
        if self.exchange.text == DEFAULT_EXCHANGE:
            raise ValueError("the default exchange has queues only; write queue:")

    def match(self, address: Address) -> dict[str, str] | None:
        captured = self.exchange.match(address.exchange)
        if captured is None or self.key is None:
            return captured
        by_key = self.key.match(address.routing_key)
        return None if by_key is None else captured | by_key

    @property
    def captures(self) -> frozenset[str]:
        return frozenset(self.exchange.captures + (self.key.captures if self.key else ()))

    @property
    def fixed_fields(self) -> frozenset[str]:
        """As `TopicMatch.fixed_fields`."""
        return _NAME_FIELDS if self.key is not None and self.key.literal else frozenset()

    def __str__(self) -> str:
        return f"exchange {self.exchange.text}" + (f" key {self.key.text}" if self.key else "")


@dataclass(frozen=True, slots=True)
class QueueMatch:
    """Queues, by their name."""

    queue: Pattern

    def __post_init__(self) -> None:
        if not self.queue.text:
            raise ValueError("the name of a queue is never empty; write '*' for all queues")

    def match(self, queue: str) -> dict[str, str] | None:
        return self.queue.match(queue)

    @property
    def captures(self) -> frozenset[str]:
        return frozenset(self.queue.captures)

    @property
    def fixed_fields(self) -> frozenset[str]:
        """As `TopicMatch.fixed_fields`, of one queue: its name is the routing key of all that is sent to it."""
        return _NAME_FIELDS

    def __str__(self) -> str:
        return f"queue {self.queue.text}"


Match: TypeAlias = TopicMatch | ExchangeMatch | QueueMatch


@dataclass(frozen=True, slots=True)
class RuleTarget:
    """A target as the rule says it; its name may hold captures of the rule's pattern."""

    target: Target
    _name: Template

    @classmethod
    def of(cls, target: Target, captures: frozenset[str]) -> RuleTarget:
        """Raises `ValueError` for a name with fields that are not captured."""
        return cls(target, Template.parse_name(target.name, captures))

    @property
    def fields(self) -> frozenset[str]:
        """The captures in the name."""
        return self._name.fields

    def render(self, captures: Mapping[str, str], queue: str = "") -> Target:
        """The target for one legacy name. Raises `Invalid` when what was captured makes no name of it."""
        name = self._name.render_captures(captures)
        if self.target.kind != QUEUE_KIND and self._name.fields:
            self._check(name, captures)
        if not name:
            raise Invalid("the name would be empty", resource=self._resource)
        return replace(self.target, name=name, queue=queue, captures=captures)

    def _check(self, name: str, captures: Mapping[str, str]) -> None:
        """A client chooses what is captured: it must not turn the name into the ARN or URL of somebody else's."""
        if not _REFERENCE.match(self.target.name):
            if _REFERENCE.match(name):
                raise Invalid(f"{name[:_SHOWN_LENGTH]!r} is no name, but elsewhere", resource=self._resource)
            return
        for field in sorted(self._name.fields):
            value = captures[field]
            if not _PART_OF_NAME.fullmatch(value):
                shown = value[:_SHOWN_LENGTH]
                raise Invalid(f"{shown!r}, captured as {{{field}}}, cannot be in a name", resource=self._resource)

    @property
    def _resource(self) -> str:
        return f"{self.target.kind} {self.target.name}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `key` says where in the configuration it stands, such as `routes.0`."""

    key: str
    match: Match
    targets: tuple[RuleTarget, ...]


@dataclass(frozen=True, slots=True)
class Matched:
    """The rule that applies to a legacy name, and what its pattern took out of that name."""

    rule: Rule
    captures: Mapping[str, str]

    def targets(self, queue: str = "") -> Iterator[Target]:
        """The rule's targets, in its order; the first is where `queue` lives. Raises `Invalid`."""
        for number, target in enumerate(self.rule.targets):
            yield target.render(self.captures, "" if number else queue)


class Routes:
    """All rules. Nothing is cached here: callers remember what they ask for often."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.rules = tuple(rules)
        self._topics: list[tuple[Rule, TopicMatch]] = []
        self._exchanges: list[tuple[Rule, ExchangeMatch]] = []
        self._queues: list[tuple[Rule, QueueMatch]] = []
        for rule in self.rules:
            self._add(rule)

    def _add(self, rule: Rule) -> None:
        match = rule.match
        if isinstance(match, TopicMatch):
            self._topics.append((rule, match))
        elif isinstance(match, ExchangeMatch):
            self._exchanges.append((rule, match))
        else:
            self._queues.append((rule, match))

    def for_publish(self, address: Address) -> tuple[Target, ...]:
        """Where a message goes besides the queues that are bound. Raises `Invalid`, see `RuleTarget.render`."""
        matched = self.rule_for_address(address)
        return () if matched is None else tuple(matched.targets())

    def home(self, queue: str) -> Target | None:
        """Where a queue lives; None for the backend's own default. Raises `Invalid`, see `RuleTarget.render`."""
        matched = self.rule_for_queue(queue)
        return None if matched is None else next(matched.targets(queue))

    def copies(self, queue: str) -> tuple[Target, ...]:
        """What else gets the messages published to a queue. Raises `Invalid`, see `RuleTarget.render`."""
        matched = self.rule_for_queue(queue)
        return () if matched is None else tuple(matched.targets(queue))[1:]

    def tails(self) -> Iterator[Target]:
        """Streams that feed the topics that are written to them."""
        for rule, _ in self._topics:
            for each in rule.targets:
                if each.target.tail:
                    yield each.target

    def named_queues(self) -> Iterator[str]:
        """The queues that rules name outright: they are there before anybody declares them."""
        return (match.queue.text for _, match in self._queues if match.queue.literal)

    def rule_for_address(self, address: Address) -> Matched | None:
        """The topic rule for `amq.topic`, the exchange rule for other exchanges; the default exchange has none."""
        if address.exchange == DEFAULT_EXCHANGE:
            return None
        rules = self._topics if address.exchange == TOPIC_EXCHANGE else self._exchanges
        return _first((rule, match.match(address)) for rule, match in rules)

    def rule_for_queue(self, queue: str) -> Matched | None:
        return _first((rule, match.match(queue)) for rule, match in self._queues)


def _first(attempts: Iterable[tuple[Rule, dict[str, str] | None]]) -> Matched | None:
    for rule, captures in attempts:
        if captures is not None:
            return Matched(rule, captures)
    return None
