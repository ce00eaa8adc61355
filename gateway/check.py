"""`mqlift check`: is this configuration right, where would a name go, and does AWS agree?"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Final, Never, TextIO, TypeAlias

from adapters.aws.api import AwsClient
from adapters.aws.client import open_client
from config.settings import load, located
from gateway import explanation
from gateway.assembly import HOME_KIND, Assembly, assemble, open_backend, open_subscribers, probe_state
from gateway.core.backend import Backend, QueueSpec, Target
from gateway.core.errors import BackendError, ConfigError, Invalid, NotFound, NotSupported, Unavailable
from gateway.core.message import DEFAULT_EXCHANGE, TOPIC_EXCHANGE, Address
from gateway.core.routes import QUEUE_KIND, Matched, Routes
from gateway.core.selecting import Redrive
from gateway.core.store import StoreError
from gateway.core.streams.port import StreamBackend
from gateway.core.templates import Template
from gateway.core.trie import swap_separators
from gateway.rules import target_notes

EXIT_RIGHT: Final = 0
EXIT_FAILED: Final = 1
"""AWS did not agree; the configuration itself is right."""
EXIT_MISTAKE: Final = 2

_PLACES: Final = "queue:NAME, topic:A/B or exchange:NAME/KEY"
_LOCAL: Final = frozenset({"127.0.0.1", "::1", "localhost"})

Say: TypeAlias = Callable[[str], None]
Backends: TypeAlias = Mapping[str, Backend]


def check(path: Path, explain: Sequence[str], aws: bool, out: TextIO | None = None) -> int:
    """Print what was found to `out` (standard output if None), a line for each finding. The result is the exit code."""
    stream = sys.stdout if out is None else out

    def say(line: str) -> None:
        stream.write(f"{line}\n")

    try:
        assembly = assemble(load(path))
        explained = [line for place in explain for line in _explain(place, assembly)]
    except ConfigError as error:
        say(str(error))
        return EXIT_MISTAKE
    for line in explained if explain else _summary(assembly):
        say(line)
    return asyncio.run(_try_aws(assembly, say)) if aws else EXIT_RIGHT


def _summary(assembly: Assembly) -> Iterator[str]:
    settings = assembly.settings
    yield f"{settings.source}: OK"
    for part in assembly.listeners:
        listener = part.settings
        yield f"  listens: {listener.protocol} on {listener.host}:{listener.port}{' with TLS' if part.tls else ''}"
    yield f"  admin: http://{settings.admin.host}:{settings.admin.port}"
    region = assembly.aws.region or "region of the environment or profile"
    yield f"  aws: {region}{f' at {assembly.aws.endpoint_url}' if assembly.aws.endpoint_url else ''}"
    if settings.state_table:
        yield f"  state: DynamoDB table {settings.state_table}, in items of {settings.prefix}/"
    count = len(assembly.routes.rules)
    yield f"  routes: {count} rule{'' if count == 1 else 's'}; other queues are SQS queues named {settings.prefix}NAME"
    for source in assembly.ingress:
        yield f"  listens to: sns {source.topic.name}, through the queue {settings.prefix}{source.queue}"
    yield "  note: SQS standard queues keep order as well as they can; only .fifo queues promise it"
    yield from _warnings(assembly.routes)
    if settings.auth.anonymous and any(part.settings.host not in _LOCAL for part in assembly.listeners):
        yield "  warning: everybody who reaches a listener may connect (auth.anonymous)"
    if assembly.access.ways.none:
        yield "  warning: nobody may connect: set auth.users or another way to log in, or auth.anonymous: true"


def _warnings(routes: Routes) -> Iterator[str]:
    """What the rules say and hardly mean."""
    for rule in routes.rules:
        targets = [each.target for each in rule.targets]
        for position, target in enumerate(targets):
            if target.kind not in (QUEUE_KIND, "sqs"):  # a line above speaks of all standard queues
                yield from (
                    f"  warning: {rule.key}.to.{position}: {note}"
                    for note in target_notes(target, rule.match.fixed_fields)
                )
        if targets[0].pass_over is not None:
            yield f"  warning: {rule.key}.selectors: what nobody takes costs; --explain queue:NAME says how much"
        if all(target.best_effort for target in targets):
            yield f"  warning: {rule.key}: every target is best_effort: publishes are acknowledged, stored or not"


# --- explain: where would a name go?


def _explain(place: str, assembly: Assembly) -> Iterator[str]:
    """Raises `ConfigError` for a text that is no place."""
    kind, _, name = place.partition(":")
    backends = {each: open_backend(each, _Offline(), assembly.settings) for each in assembly.kinds}
    yield place
    try:
        if kind == "queue" and name:
            yield from _explain_queue(name, assembly, backends)
        elif kind == "topic" and name:
            yield from _explain_topic(name, assembly, backends)
        elif kind == "exchange" and name:
            exchange, _, key = name.partition("/")
            yield from _explain_exchange(Address(exchange, key), assembly, backends)
        else:
            raise ConfigError("--explain", f"{place!r} is no place", _PLACES)
    except Invalid as error:
        yield f"  refused: {error}"


def _explain_queue(name: str, assembly: Assembly, backends: Backends) -> Iterator[str]:
    routes = assembly.routes
    matched = routes.rule_for_queue(name)
    yield from _rule_lines(matched, "no rule for this queue: it lives where queues do by default")
    yield from _queue_lines(name, routes, backends)
    home = _home(name, routes, backends)
    yield from explanation.selector_lines(home)
    yield from explanation.queue_lines(home, assembly, open_subscribers(assembly, _Offline()))


def _explain_topic(topic: str, assembly: Assembly, backends: Backends) -> Iterator[str]:
    routes = assembly.routes
    if "#" in topic or "+" in topic:
        raise ConfigError("--explain", f"topic:{topic} is a filter", "a topic as it is published, without wildcards")
    matched = routes.rule_for_address(Address(TOPIC_EXCHANGE, swap_separators(topic)))
    yield from _rule_lines(matched, "no rule for this topic: it lives among connected clients only, and is not kept")
    if matched is not None:
        yield from _target_lines(matched, {"topic": topic, "key": swap_separators(topic)}, routes, backends)
        yield from explanation.topic_lines(matched, open_subscribers(assembly, _Offline()))
        yield "  and live to clients that are subscribed"


def _explain_exchange(address: Address, assembly: Assembly, backends: Backends) -> Iterator[str]:
    routes = assembly.routes
    if address.exchange == TOPIC_EXCHANGE:
        yield from _explain_topic(swap_separators(address.routing_key), assembly, backends)
        return
    if address.exchange == DEFAULT_EXCHANGE:
        yield from _explain_queue(address.routing_key, assembly, backends)
        return
    matched = routes.rule_for_address(address)
    yield from _rule_lines(matched, "no rule for this exchange: messages go to the queues that clients bind to it")
    if matched is not None:
        yield from _target_lines(matched, {"key": address.routing_key}, routes, backends)
        yield from explanation.topic_lines(matched, open_subscribers(assembly, _Offline()))
        yield "  and to the queues that clients bind to it"


def _rule_lines(matched: Matched | None, otherwise: str) -> Iterator[str]:
    if matched is None:
        yield f"  {otherwise}"
        return
    yield f"  rule: {matched.rule.key}, {matched.rule.match}"
    if matched.captures:
        yield "  captures: " + ", ".join(f"{name} = {value!r}" for name, value in matched.captures.items())


def _target_lines(matched: Matched, known: Mapping[str, str], routes: Routes, backends: Backends) -> Iterator[str]:
    for target in matched.targets():
        if target.kind == QUEUE_KIND:
            yield f"  to: queue {target.name}"
            yield from (f"  {line}" for line in _queue_lines(target.name, routes, backends))
        else:
            yield from _resource_lines("to", target, known)


def _queue_lines(queue: str, routes: Routes, backends: Backends) -> Iterator[str]:
    home = _home(queue, routes, backends)
    yield from _resource_lines("lives in", home, {})
    backend = backends[home.kind]
    if not backend.limits.receive_entries and not isinstance(backend, StreamBackend):
        yield "    note: clients can send to this queue, and none can consume from it"
    for copy in routes.copies(queue):
        yield from _resource_lines("copied to", copy, {})


def _home(queue: str, routes: Routes, backends: Backends) -> Target:
    return routes.home(queue) or backends[HOME_KIND].home(queue, QueueSpec())


def _resource_lines(verb: str, target: Target, known: Mapping[str, str]) -> Iterator[str]:
    options = _options(target, {**known, **target.captures})
    yield f"  {verb}: {target.kind} {target.name}" + (f" ({', '.join(options)})" if options else "")
    yield from explanation.push_lines(target)
    yield from (f"    note: {note}" for note in target_notes(target))


def _options(target: Target, known: Mapping[str, str]) -> list[str]:
    """The adapter's options that were set, templates filled in as far as they are known before there is a message."""
    shown = [str(target.transform)] if target.transform else []
    if target.best_effort:
        shown.append("best effort")
    if target.fanout is not None:
        shown.append("fan-out")
    options = target.options
    if not is_dataclass(options) or isinstance(options, type):
        return shown
    for field in fields(options):
        value = getattr(options, field.name)
        if isinstance(value, Template):
            shown.append(f"{field.name} = {value.preview(known)}")
        elif isinstance(value, tuple) and value:
            shown.append(f"{field.name} = {', '.join(map(str, value))}")
        elif value and not isinstance(value, tuple):
            shown.append(f"{field.name} = {value}")
    return shown


class _Offline:
    """An AWS client for backends that are asked only for names."""

    region = ""

    @property
    def objects(self) -> Never:
        raise Unavailable("AWS is not called for an explanation")

    async def call(
        self,
        service: str,
        action: str,
        body: bytes,  # noqa: ARG002 - the port's
        *,
        resource: str = "",
        region: str | None = None,  # noqa: ARG002 - the port's
        read_timeout: float | None = None,  # noqa: ARG002 - the port's
    ) -> bytes:
        raise Unavailable("AWS is not called for an explanation", resource=resource, action=f"{service}:{action}")

    def events(
        self,
        service: str,
        action: str,
        body: bytes,  # noqa: ARG002 - the port's
        *,
        silence: float,  # noqa: ARG002 - the port's
        resource: str = "",
        region: str | None = None,  # noqa: ARG002 - the port's
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        raise Unavailable("AWS is not called for an explanation", resource=resource, action=f"{service}:{action}")

    async def caller(self) -> Never:
        raise Unavailable("AWS is not called for an explanation")

    async def aclose(self) -> None:
        """There is nothing to close."""


# --- aws: do the credentials work, and is everything there that the rules name?


async def _try_aws(assembly: Assembly, say: Say) -> int:
    try:
        client = await open_client(assembly.aws, services=assembly.services)
    except ConfigError as error:
        say(str(located(assembly.settings.source, error)))
        return EXIT_MISTAKE
    try:
        well = await _try_credentials(client, say)
        if assembly.settings.state_table:
            well &= await _try_state(assembly, client, say)
        backends = {kind: open_backend(kind, client, assembly.settings) for kind in assembly.kinds}
        topics = [part.topic for part in assembly.ingress]
        for target in itertools.chain(_named(assembly.routes, backends, say), topics):
            well &= await _try_resource(backends[target.kind], target, assembly.settings.provision, say)
    except Invalid as error:
        say(str(error))
        return EXIT_FAILED
    finally:
        await client.aclose()
    return EXIT_RIGHT if well else EXIT_FAILED


async def _try_credentials(client: AwsClient, say: Say) -> bool:
    try:
        arn = await client.caller()
    except BackendError as error:
        say(f"credentials: {error}")
        return False
    say(f"credentials: OK, {arn} in {client.region}")
    return True


async def _try_state(assembly: Assembly, client: AwsClient, say: Say) -> bool:
    table = assembly.settings.state_table
    try:
        there = await probe_state(assembly, client)
    except (ConfigError, StoreError) as error:
        say(str(located(assembly.settings.source, error) if isinstance(error, ConfigError) else error))
        return False
    say(f"dynamodb table {table}: {'OK' if there else 'not there yet; it is created when the gateway starts'}")
    return True


def _named(routes: Routes, backends: Backends, say: Say) -> Iterator[Target]:
    """The resources that rules name, each once. Those that a client's names decide about cannot be tried."""
    seen = set()
    for rule in routes.rules:
        for each in rule.targets:
            if each.fields:
                say(f"{each.target.kind} {each.target.name}: not tried, as its name depends on the client's")
                continue
            target = each.render({})
            if target.kind == QUEUE_KIND:
                target = _home(target.name, routes, backends)
            if (target.kind, target.name) not in seen:
                seen.add((target.kind, target.name))
                yield target


async def _try_resource(backend: Backend, target: Target, provision: str, say: Say) -> bool:
    try:
        await backend.probe(target)
    except NotFound as error:
        # What is named with its account, by an ARN or a URL, is not ours to create.
        if provision == "auto" and ":" not in target.name:
            say(f"{target.kind} {target.name}: not there yet; it is created when it is first used")
            return True
        say(str(error))
        return False
    except BackendError as error:
        say(str(error))
        return False
    say(f"{target.kind} {target.name}: OK")
    return target.pass_over is None or await _try_passing_over(backend, target, say)


async def _try_passing_over(backend: Backend, target: Target, say: Say) -> bool:
    """Whether consumers with selectors will be let in."""
    try:
        await Redrive(backend, target).check()
    except (BackendError, NotSupported) as error:
        say(str(error))
        return False
    return True
