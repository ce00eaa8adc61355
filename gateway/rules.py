"""From the rules of the configuration to checked rules: each kind of target is checked by its adapter."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from types import ModuleType
from typing import Final, TypeAlias

from config.mistakes import closest, under
from config.settings import MatchSettings, RouteSettings
from gateway.core.backend import Target
from gateway.core.errors import ConfigError
from gateway.core.routes import (
    QUEUE_KIND,
    ExchangeMatch,
    Match,
    Pattern,
    QueueMatch,
    Rule,
    RuleTarget,
    TopicMatch,
)
from gateway.core.selecting import FIFO_SUFFIX
from gateway.core.transform import OPTIONS as TRANSFORM_OPTIONS
from gateway.core.transform import Transform

TargetParser: TypeAlias = Callable[[object, Mapping[str, object], AbstractSet[str]], Target]
"""`settings.parse_target` of an adapter: what its key was set to, the options beside it, the names of captures."""

STREAM_KIND: Final = "kinesis"
"""Where streams live that clients declare and no rule maps."""

FANOUT: Final = "fanout"
"""The option of a topic that is to hand messages to queues itself."""

ENHANCED: Final = "enhanced_fan_out"
"""The option of a stream that brings records to consumers itself."""

BEST_EFFORT: Final = "best_effort"
"""The option of every target that takes it out of the acknowledgement."""


def target_parser(kind: str) -> TargetParser:
    """Of an adapter that is there."""
    module: ModuleType = importlib.import_module(f"adapters.{kind}.settings")
    parser: TargetParser = module.parse_target
    return parser


def read_rule(
    number: int, settings: RouteSettings, parsers: Mapping[str, TargetParser], mistakes: list[ConfigError]
) -> Rule | None:
    """One rule; None for one with mistakes, which are added."""
    key = f"routes.{number}"
    found = len(mistakes)
    try:
        match = _match(settings.match)
    except ConfigError as error:
        mistakes.append(under(f"{key}.match", error))
        return None
    targets: list[RuleTarget] = []
    for position, given in enumerate(settings.to):
        try:
            targets.append(_target(given, match, parsers, first=not position))
        except ConfigError as error:
            mistakes.append(under(f"{key}.to.{position}", error))
    if settings.selectors is not None and len(mistakes) == found:
        try:
            targets[0] = _selective(targets[0], settings.selectors.pass_over)
        except ConfigError as error:
            mistakes.append(under(key, error))
    return Rule(key, match, tuple(targets)) if len(mistakes) == found else None


def _selective(home: RuleTarget, pass_over: float) -> RuleTarget:
    """Where a queue lives whose consumers may have selectors. Raises `ConfigError` with a key relative to the rule."""
    kind, name = home.target.kind, home.target.name
    if kind == STREAM_KIND:
        raise ConfigError("selectors", "a stream is not filtered", "leave it out, or name sqs: first")
    if name.endswith(FIFO_SUFFIX):
        problem = "of a FIFO queue, a message that nobody takes would hold up its group"
        raise ConfigError("selectors", problem, "leave it out, or name a standard queue first")
    return replace(home, target=replace(home.target, pass_over=pass_over))


def _match(settings: MatchSettings) -> Match:
    """Raises `ConfigError` with a key relative to the match."""
    if settings.topic is not None:
        return TopicMatch(_pattern("topic", Pattern.topic, settings.topic))
    try:
        if settings.queue is not None:
            return QueueMatch(_pattern("queue", Pattern.name, settings.queue))
        key = None if settings.key is None else _pattern("key", Pattern.key, settings.key)
        return ExchangeMatch(_pattern("exchange", Pattern.name, settings.exchange or ""), key)
    except ValueError as error:
        raise ConfigError("queue" if settings.queue is not None else "exchange", str(error)) from None


def _pattern(key: str, parse: Callable[[str], Pattern], text: str) -> Pattern:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError(key, str(error)) from None


def _target(
    given: Mapping[str, object], match: Match, parsers: Mapping[str, TargetParser], *, first: bool
) -> RuleTarget:
    """Raises `ConfigError` with a key relative to the target."""
    kind = _kind(given, [QUEUE_KIND, *parsers])
    options = {name: value for name, value in given.items() if name != kind}
    if kind == QUEUE_KIND:
        target = _hub_queue(given[kind], options)
        if first and isinstance(match, QueueMatch):
            raise ConfigError(
                QUEUE_KIND, "a queue cannot live in another queue of the gateway", "name a resource first, such as sqs:"
            )
    else:
        target = _resource(kind, given[kind], options, match, parsers, first=first)
        if first and isinstance(match, QueueMatch) and not _keeps_queues(kind):
            raise ConfigError(kind, "a queue cannot live here", "name what keeps it first, such as sqs:, and this next")
    try:
        return RuleTarget.of(target, match.captures)
    except ValueError as error:
        raise ConfigError(kind, str(error)) from None


def _keeps_queues(kind: str) -> bool:
    return bool(getattr(importlib.import_module(f"adapters.{kind}.settings"), "KEEPS_QUEUES", True))


def _resource(
    kind: str,
    name: object,
    options: Mapping[str, object],
    match: Match,
    parsers: Mapping[str, TargetParser],
    *,
    first: bool,
) -> Target:
    """A target with the options that all kinds share; what is left is checked by its adapter. Raises `ConfigError`."""
    own = {key: value for key, value in options.items() if key not in TRANSFORM_OPTIONS and key != BEST_EFFORT}
    target = parsers[kind](name, own, match.captures)
    if target.tail and not isinstance(match, TopicMatch):
        raise ConfigError("tail", "only topics have live subscribers that a stream feeds", "leave it out")
    if target.pushed and not target.tail and not (first and isinstance(match, QueueMatch)):
        remedy = "leave it out; it is for a queue that lives there, and for topics with tail"
        raise ConfigError(ENHANCED, "nothing is read from there by this rule", remedy)
    best_effort = options.get(BEST_EFFORT, False)
    if not isinstance(best_effort, bool):
        raise ConfigError(BEST_EFFORT, f"{best_effort!r} is neither true nor false", "true or false")
    if best_effort and first and isinstance(match, QueueMatch):
        problem = "a queue lives in its first target, which has to take every message"
        raise ConfigError(BEST_EFFORT, problem, "leave it out, or name another target first")
    transform = Transform.parse(options)
    if target.fanout is not None:
        _check_fanout(match, transform, best_effort=best_effort)
    return replace(target, transform=transform, best_effort=best_effort)


def _check_fanout(match: Match, transform: Transform | None, *, best_effort: bool) -> None:
    """Raises `ConfigError` for a topic that cannot stand for the queues behind it."""
    if isinstance(match, QueueMatch):
        raise ConfigError(FANOUT, "nothing is bound to a queue", "give it where a topic or an exchange is matched")
    if best_effort:
        raise ConfigError(FANOUT, "queues are not to lose what the topic does not take", "leave best_effort out")
    if transform is not None:
        problem = "the queues would get what the rule makes of a message for the topic"
        raise ConfigError(FANOUT, problem, f"leave {transform} out, or send that to another topic")


def not_there(key: str, problem: str, name: str, known: Collection[str]) -> ConfigError:
    """What is told of a name that is not known, with the one that may have been meant."""
    meant = closest(name, known)
    return ConfigError(key, problem, f"did you mean {meant}?" if meant else f"there are {', '.join(known)}")


def target_notes(target: Target, fixed: AbstractSet[str] = frozenset()) -> Sequence[str]:
    """What an operator should know of a rule's target, a line each: `notes` of its adapter, if it has any.

    `fixed` are fields of templates that are the same for each message that the rule is about.
    """
    settings = importlib.import_module(f"adapters.{target.kind}.settings")
    notes: Callable[[Target, AbstractSet[str]], Sequence[str]] | None = getattr(settings, "notes", None)
    return () if notes is None else notes(target, fixed)


def _kind(given: Mapping[str, object], kinds: list[str]) -> str:
    """The one key that says what kind of target it is."""
    found = [name for name in given if name in kinds]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError("", f"{' and '.join(found)} are both given", "write one target for each")
    for name in given:
        if closest(name, kinds):
            raise not_there(name, "no such kind of target", name, kinds)
    raise ConfigError("", "has no kind of target", f"one of {', '.join(kinds)}")


def _hub_queue(name: object, options: Mapping[str, object]) -> Target:
    if not isinstance(name, str) or not name:
        raise ConfigError(QUEUE_KIND, "is not the name of a queue", "the name that clients use")
    for option in options:
        raise ConfigError(option, "a queue of the gateway has no options", "give them where a rule maps that queue")
    return Target(kind=QUEUE_KIND, name=name)


# What a rule says, and the rest of the configuration does not go with


def fanned_out(rules: Iterable[Rule | None]) -> Iterator[tuple[str, Target]]:
    """The targets that ask for fan-out, and where each stands."""
    for rule in rules:
        for position, each in enumerate(rule.targets if rule is not None else ()):
            if each.target.fanout is not None:
                assert rule is not None
                yield f"{rule.key}.to.{position}.{FANOUT}", each.target


def check_whole(kind: str, rules: Iterable[Rule | None], mistakes: list[ConfigError]) -> None:
    """A body in S3 has one message that ends it; with fan-out there are several."""
    for key, target in fanned_out(rules):
        if target.kind == kind:
            problem = f"with {kind}.large_payloads, queues would share a body in S3"
            mistakes.append(ConfigError(key, problem, f"leave it out, or {kind}.large_payloads"))


def check_no_fanout(rules: Iterable[Rule | None], mistakes: list[ConfigError]) -> None:
    for key, _ in fanned_out(rules):
        problem = "the gateway makes the subscriptions, which `provision: never` forbids"
        mistakes.append(ConfigError(key, problem, "leave it out, or set provision: auto"))


def check_not_pushed(rules: Iterable[Rule | None], mistakes: list[ConfigError]) -> None:
    """There is one subscription for each consumer and shard, and workers share no state to agree who has it."""
    for rule in rules:
        for position, each in enumerate(rule.targets if rule is not None else ()):
            if each.target.pushed:
                assert rule is not None
                problem = "workers would take each other's subscriptions away"
                remedy = "run 1 worker, in as many gateways as needed, or leave it out"
                mistakes.append(ConfigError(f"{rule.key}.to.{position}.{ENHANCED}", problem, remedy))
