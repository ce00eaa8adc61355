"""The reference backend: what the port asks for, with SQS's semantics and no service behind it.

It is what other backends are compared with in `tests/contract`, what benchmarks use to leave AWS out, and it loses
everything when the process ends.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Final, ParamSpec, cast

from adapters.memory.queues import FifoQueue, StandardQueue, Stored
from adapters.memory.settings import DEFAULT_OPTIONS, KIND, MemoryOptions
from gateway.core.backend import Depth, Entry, Limits, Provision, QueueSpec, Received, Target
from gateway.core.errors import BackendError, Invalid, NotFound, Throttled, TooLarge
from gateway.core.message import Message
from gateway.core.outcome import ACCEPTED, Outcome, Result, failed
from gateway.core.templates import Template
from gateway.core.transform import transformed

_P = ParamSpec("_P")

# Those of SQS, see adapters/sqs/backend.py.
BATCH_ENTRIES: Final = 10
MAX_BYTES: Final = 1_048_576
MAX_WAIT: Final = 20.0

QUEUES_LIMIT: Final = 100_000

FIFO_SUFFIX: Final = ".fifo"
DEFAULT_GROUP: Final = "mqlift"
_GROUP_HEADERS = tuple(Template.parse(f"{{header:{name}}}", frozenset()) for name in ("JMSXGroupID", "x-group-id"))


def open_backend(aws: object, *, prefix: str, provision: Provision) -> MemoryBackend:  # noqa: ARG001 - needs no AWS
    """How this folder offers itself, with the signature that all adapters share."""
    return MemoryBackend(prefix=prefix, provision=provision)


class _Payload:
    __slots__ = ("deduplication_id", "delay", "group", "message")

    def __init__(self, message: Message, group: str, deduplication_id: str, delay: float) -> None:
        self.message = message
        self.group = group
        self.deduplication_id = deduplication_id
        self.delay = delay


class MemoryBackend:
    """Implements `gateway.core.backend.Backend`."""

    limits = Limits(batch_entries=BATCH_ENTRIES, batch_bytes=MAX_BYTES, entry_bytes=MAX_BYTES, max_wait=MAX_WAIT)

    def __init__(self, *, prefix: str = "", provision: Provision = "auto") -> None:
        self._prefix = prefix
        self._provision = provision
        self._queues: dict[str, StandardQueue] = {}
        self._pollers: dict[str, set[asyncio.Future[None]]] = {}
        self._publishes = itertools.count()

    def home(self, queue: str, spec: QueueSpec) -> Target:
        if not queue.removesuffix(FIFO_SUFFIX):
            raise Invalid("a queue cannot have an empty name")
        fifo = spec.arguments.get("x-fifo") in (True, "true") and not queue.endswith(FIFO_SUFFIX)
        name = self._prefix + queue + (FIFO_SUFFIX if fifo else "")
        template = spec.arguments.get("x-group-id")
        options = DEFAULT_OPTIONS if template is None else MemoryOptions(group_id=_template(template))
        return Target(kind=KIND, name=name, queue=queue, options=options)

    def encode(self, target: Target, message: Message) -> Entry:
        options = target.options if isinstance(target.options, MemoryOptions) else DEFAULT_OPTIONS
        try:
            sent = transformed(target.transform, message)
        except ValueError as error:
            raise Invalid(str(error), resource=f"memory queue {target.name}") from None
        size = max(len(sent.body), 1)
        if size > MAX_BYTES:
            problem = f"the message has {size} bytes; a queue takes {MAX_BYTES}"
            raise TooLarge(problem, resource=f"memory queue {target.name}")
        if not target.name.endswith(FIFO_SUFFIX):
            delay = max(options.delay, message.not_before - time.time() if message.not_before else 0.0)
            return Entry(_Payload(sent, "", "", delay), size)
        if message.not_before:
            raise Invalid("a FIFO queue cannot delay single messages", resource=f"memory queue {target.name}")
        group = _group(options.group_id, message, target)
        deduplication_id = self._deduplication_id(options.deduplication_id, message, target)
        return Entry(_Payload(sent, group, deduplication_id, options.delay), size, group)

    def _deduplication_id(self, template: Template | None, message: Message, target: Target) -> str:
        """The rule's id, or one of its own for each publish: an entry that is sent again is one message."""
        chosen = template.render(message, target.captures) if template is not None else ""
        return chosen or f"publish-{next(self._publishes)}"

    async def send(self, target: Target, entries: Sequence[Entry]) -> Sequence[Result]:
        queue = self._open(target.name)
        now = _now()
        payloads = cast("list[_Payload]", [entry.payload for entry in entries])
        results = [
            _attempt(queue.put, payload.message, payload.group, payload.deduplication_id, payload.delay, now)
            for payload in payloads
        ]
        self._wake(target.name)
        return results

    async def receive(self, target: Target, limit: int, wait: float, visibility: float) -> Sequence[Received]:
        queue = self._find(target.name)
        deadline = _now() + min(wait, MAX_WAIT)
        while True:
            taken = queue.take(limit, visibility, _now())
            if taken or _now() >= deadline:
                return [_received(stored) for stored in taken]
            await self._changed(target.name, min(deadline, queue.next_change()))

    async def _changed(self, name: str, until: float) -> None:
        """Wait for something to happen to a queue, or for a time of the event loop's clock."""
        loop = asyncio.get_running_loop()
        poller = loop.create_future()
        pollers = self._pollers.setdefault(name, set())
        pollers.add(poller)
        timer = loop.call_at(until, _finish, poller)
        try:
            await poller
        finally:
            timer.cancel()
            pollers.discard(poller)

    def _wake(self, name: str) -> None:
        for poller in self._pollers.get(name, ()):
            _finish(poller)

    async def settle(self, target: Target, receipts: Sequence[str], outcome: Outcome) -> Sequence[Result]:
        queue, now = self._find(target.name), _now()
        if outcome is Outcome.RELEASED:
            results = [_attempt(queue.hide, receipt, 0.0, now) for receipt in receipts]
        else:
            results = [_attempt(queue.delete, receipt, now) for receipt in receipts]
        self._wake(target.name)
        return results

    async def extend(self, target: Target, receipts: Sequence[str], visibility: float) -> Sequence[Result]:
        queue, now = self._find(target.name), _now()
        results = [_attempt(queue.hide, receipt, visibility, now) for receipt in receipts]
        self._wake(target.name)
        return results

    async def ensure(self, target: Target, spec: QueueSpec) -> None:  # noqa: ARG002 - the name says standard or FIFO
        self._open(target.name)

    async def probe(self, target: Target) -> None:
        self._find(target.name)

    async def remove(self, target: Target) -> None:
        self._queues.pop(target.name, None)
        self._wake(target.name)

    async def depth(self, target: Target) -> Depth:
        return self._find(target.name).depth(_now())

    async def aclose(self) -> None:
        """There is nothing to close."""

    def _find(self, name: str) -> StandardQueue:
        queue = self._queues.get(name)
        if queue is None:
            problem = "the queue does not exist; create it"
            if self._provision == "never":
                problem += ", or set `provision: auto`"
            raise NotFound(problem, resource=f"memory queue {name}")
        return queue

    def _open(self, name: str) -> StandardQueue:
        if name in self._queues or self._provision == "never":
            return self._find(name)
        if len(self._queues) >= QUEUES_LIMIT:
            raise Throttled(f"there are {QUEUES_LIMIT} queues already", resource=f"memory queue {name}")
        queue = FifoQueue(name) if name.endswith(FIFO_SUFFIX) else StandardQueue(name)
        self._queues[name] = queue
        return queue


def _group(template: Template | None, message: Message, target: Target) -> str:
    templates = (template,) if template is not None else _GROUP_HEADERS
    groups = (candidate.render(message, target.captures) for candidate in templates)
    return next(filter(None, groups), DEFAULT_GROUP)


def _template(text: object) -> Template:
    try:
        return Template.parse(str(text), frozenset())
    except ValueError as error:
        raise Invalid(f"x-group-id: {error}") from None


def _attempt(operation: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs) -> Result:
    try:
        operation(*args, **kwargs)
    except BackendError as error:
        return failed(error)
    return ACCEPTED


def _received(stored: Stored) -> Received:
    return Received(stored.message, stored.receipt, stored.received, str(stored.sequence), stored.stored_at)


def _finish(poller: asyncio.Future[None]) -> None:
    if not poller.done():
        poller.set_result(None)


def _now() -> float:
    return asyncio.get_running_loop().time()
