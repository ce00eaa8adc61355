"""What a kept session leaves behind, as JSON with a version: its filters, and the packet identifiers in use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from gateway.core.commands import Command, KeepInflight
from gateway.core.outcome import Outcome, Result
from gateway.protocols.mqtt.errors import PacketError, ReasonCode
from gateway.protocols.mqtt.procedures import Token
from gateway.protocols.mqtt.settings import MAX_PACKET_ID
from gateway.protocols.mqtt.subscriptions import Filter

VERSION: Final = 1


class StateUnreadable(PacketError):
    """What was kept is damaged, or was written by a later version."""

    def __init__(self, problem: str) -> None:
        super().__init__(ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR, f"the kept session cannot be read: {problem}")


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What changes with SUBSCRIBE and UNSUBSCRIBE. `shared`: shared subscriptions, prefix included."""

    filters: Sequence[Filter] = ()
    shared: Sequence[Filter] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inflight:
    """What changes with messages: packet identifiers, with the uids of deliveries where there are any.

    `received`: publishes at QoS 2 that the hub has taken and the client has not released. `sent`: deliveries without a
    PUBACK or PUBREC. `released`: deliveries with a PUBREC and without a PUBCOMP. `completed`: the uids of the latest
    deliveries at QoS 2 that are over, in case that the queue brings one again.
    """

    received: Sequence[int] = ()
    sent: Sequence[tuple[int, str]] = ()
    released: Sequence[tuple[int, str]] = ()
    completed: Sequence[str] = ()


def write_state(state: State) -> bytes:
    return orjson.dumps({"v": VERSION, "filters": _rows(state.filters), "shared": _rows(state.shared)})


def _rows(filters: Iterable[Filter]) -> list[list[object]]:
    return [[each.topic_filter, each.qos, each.no_local, each.retain_as_published, each.identifier] for each in filters]


def read_state(data: bytes) -> State:
    """Nothing at all is an empty state. Raises `StateUnreadable`."""
    if not data:
        return State()
    try:
        packed = _unpack(data)
        return State(
            filters=[_filter(row) for row in packed["filters"]],
            shared=[_filter(row) for row in packed["shared"]],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StateUnreadable(str(error)) from error


def write_inflight(inflight: Inflight) -> bytes:
    return orjson.dumps(
        {
            "v": VERSION,
            "received": inflight.received,
            "sent": inflight.sent,
            "released": inflight.released,
            "completed": inflight.completed,
        }
    )


def read_inflight(data: bytes) -> Inflight:
    """Nothing at all is nothing in flight. Raises `StateUnreadable`."""
    if not data:
        return Inflight()
    try:
        packed = _unpack(data)
        return Inflight(
            received=[_packet_id(value) for value in packed["received"]],
            sent=[_mapping(row) for row in packed["sent"]],
            released=[_mapping(row) for row in packed["released"]],
            completed=[str(uid) for uid in packed["completed"]],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StateUnreadable(str(error)) from error


def _unpack(data: bytes) -> dict[str, list[object]]:
    packed: object = orjson.loads(data)
    if not isinstance(packed, dict):
        raise TypeError("it is not an object")
    if packed["v"] != VERSION:
        raise ValueError(f"it has version {packed['v']!r:.20}, known is {VERSION}")
    return packed


def _filter(row: object) -> Filter:
    match row:
        case [str(topic_filter), 0 | 1 | 2 as qos, bool(no_local), bool(retain_as_published), int(identifier)]:
            return Filter(topic_filter, qos, no_local, retain_as_published, identifier)
    raise ValueError("a filter is not five values")


def _packet_id(value: object) -> int:
    if isinstance(value, int) and 0 < value <= MAX_PACKET_ID:
        return value
    raise ValueError("a packet identifier is out of range")


def _mapping(row: object) -> tuple[int, str]:
    match row:
        case [int(packet_id), str(uid)]:
            return _packet_id(packet_id), uid
    raise ValueError("a packet identifier has no uid")


class InflightKeeper:
    """Keeps what is in flight before what depends on it is said to the client.

    One write is under way at a time; what comes meanwhile is kept together by the next one. A step runs when a write
    that was made after `keep` was called is durable; steps run in their order.
    """

    __slots__ = ("_client_id", "_kept", "_snapshot", "_waiting", "_written")

    def __init__(self, client_id: str, kept: bytes, snapshot: Callable[[], Inflight]) -> None:
        self._client_id = client_id
        self._kept = kept
        self._snapshot = snapshot
        self._waiting: list[Callable[[], None]] = []
        self._written: list[Callable[[], None]] | None = None

    @property
    def due(self) -> bool:
        """Whether `collect` has something to write."""
        return bool(self._waiting) and self._written is None

    def keep(self, step: Callable[[], None]) -> None:
        """Run a step when what is in flight now is durable."""
        self._waiting.append(step)

    def collect(self, commands: list[Command]) -> None:
        """Begin the next write, if it is due."""
        if self.due:
            self._written, self._waiting = self._waiting, []
            self._kept = write_inflight(self._snapshot())
            commands.append(KeepInflight(self._client_id, self._kept, Token.INFLIGHT))

    def answered(self, result: Result) -> None:
        """The write has ended. Raises `PacketError` when it failed: nothing that depends on it can be said."""
        steps, self._written = self._written, None
        assert steps is not None
        if result.outcome is not Outcome.ACCEPTED:
            problem = f"packet identifiers could not be kept: {result.error}"
            raise PacketError(ReasonCode.SERVER_UNAVAILABLE, problem)
        for step in steps:
            step()

    def finish(self, last: Inflight, commands: list[Command]) -> None:
        """The connection ends: leave what is in flight, if that is not what was kept before."""
        inflight = write_inflight(last)
        if inflight != (self._kept or write_inflight(Inflight())):
            commands.append(KeepInflight(self._client_id, inflight, Token.INFLIGHT))
