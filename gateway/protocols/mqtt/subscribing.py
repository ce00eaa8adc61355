"""SUBSCRIBE and UNSUBSCRIBE of one client: what the hub is asked, and how its answers become SUBACK and UNSUBACK.

A client has up to two queues of its own, and one for each shared subscription, shared with others:

- the live one, in memory, for everything in a session that ends with its connection, and for QoS 0 in a kept one;
- the session's, which is durable, for QoS 1 and 2 in a kept session. It waits while the client is away.

All filters of a queue are bound to it, so overlapping ones deliver a message once. What both queues bring is delivered
by the session's. Queues are declared, and consumed from, when the first filter needs them.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

from gateway.core.backend import QueueSpec
from gateway.core.commands import (
    Bind,
    Cancel,
    Command,
    Consume,
    DeclareQueue,
    KeepSession,
    SendRetained,
    SessionRecord,
    Unbind,
)
from gateway.core.message import TOPIC_EXCHANGE
from gateway.core.outcome import Outcome, Result
from gateway.protocols.mqtt.client import Client
from gateway.protocols.mqtt.convert import pattern_of
from gateway.protocols.mqtt.errors import PacketError, ReasonCode
from gateway.protocols.mqtt.keeping import State, write_state
from gateway.protocols.mqtt.packets import V5, Suback, Subscribe, Subscription, Unsuback, Unsubscribe
from gateway.protocols.mqtt.procedures import Procedure, Token
from gateway.protocols.mqtt.reasons import FAILURE, reason_of, suback_code, unsuback_code
from gateway.protocols.mqtt.settings import Settings
from gateway.protocols.mqtt.subscriptions import Filter, Grant, Subscriptions, grant_of
from gateway.protocols.mqtt.topics import SHARED_PREFIX, is_topic_filter, shared_filter
from gateway.protocols.mqtt.writer import write_packet

LIVE: Final = "live"
"""The tag of the consumer of the live queue."""

SESSION: Final = "session"
"""The tag of the consumer of the session's queue."""

SHARE: Final = "share:"
"""What the tags of the consumers of shared queues begin with; the group and the filter follow."""

_LIVE_QUEUE: Final = QueueSpec(durable=False, exclusive=True, lossy=True)

# One group for each topic, whose messages stay in order [MQTT-4.6.0-6].
_SESSION_QUEUE: Final = QueueSpec(arguments={"x-fifo": True, "x-group-id": "{key}", "x-session": True})

_SHARED_QUEUE: Final = QueueSpec(arguments={"x-shared": True})

_SEND_RETAINED_ALWAYS: Final = 0
_SEND_RETAINED_IF_NEW: Final = 1


def _check_filters(topic_filters: Sequence[str]) -> None:
    for topic_filter in topic_filters:
        if not is_topic_filter(topic_filter):
            raise PacketError(ReasonCode.TOPIC_FILTER_INVALID, f"{topic_filter[:100]!r} is not a topic filter")


class _Added:
    """A filter of a SUBSCRIBE, as far as it was served. `queue` and `pattern` are for its retained messages."""

    __slots__ = ("code", "pattern", "queue")

    def __init__(self, code: int, queue: str = "", pattern: str = "") -> None:
        self.code = code
        self.queue = queue
        self.pattern = pattern


class Subscribing:
    """`granted` and `shares` (by tag) say what is subscribed to now. Procedures append packets to `out`."""

    __slots__ = (
        "_client",
        "_live_queue",
        "_out",
        "_session_queue",
        "_settings",
        "_shared_filters",
        "_unanswered",
        "granted",
        "shares",
    )

    def __init__(self, client: Client, settings: Settings, out: list[bytes]) -> None:
        self._client = client
        self._settings = settings
        self._out = out
        self._live_queue = ""
        self._session_queue = ""
        self._shared_filters: dict[str, Filter] = {}
        self._unanswered = 0
        self.granted = Subscriptions()
        self.shares: dict[str, Grant] = {}

    # SUBSCRIBE

    def subscribe(self, packet: Subscribe) -> Procedure[None]:
        """Raises `PacketError` for a filter that is none [MQTT-4.7.1-1] [MQTT-4.7.1-2], or too many unanswered ones."""
        self._expect([each.topic_filter for each in packet.subscriptions])
        return self._subscribe(packet)

    def _expect(self, topic_filters: Sequence[str]) -> None:
        _check_filters(topic_filters)
        self._unanswered += len(topic_filters)
        limit = self._settings.max_unanswered_filters
        if self._unanswered > limit:
            raise PacketError(ReasonCode.QUOTA_EXCEEDED, f"more than {limit} filters are unanswered")

    def _subscribe(self, packet: Subscribe) -> Procedure[None]:
        identifier = packet.properties.subscription_identifier[0] if packet.properties.subscription_identifier else 0
        unopened = yield from self._open_queues(packet.subscriptions)
        added = []
        for subscription in packet.subscriptions:
            added.append((yield from self._add(subscription, identifier, unopened)))  # noqa: PERF401 - that could not yield
        if any(each.code < FAILURE for each in added):
            yield from self._keep()
        for each in added:
            if each.queue:
                result = yield SendRetained(each.queue, TOPIC_EXCHANGE, each.pattern, Token.CONTROL)
                _insist(result, "retained messages could not be sent")
        self._unanswered -= len(added)
        # One code for each filter, in their order [MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.9.3-1].
        codes = tuple(each.code for each in added)
        self._out.append(write_packet(Suback(packet.packet_id, codes), self._client.level))

    def _add(self, subscription: Subscription, identifier: int, unopened: Result | None) -> Procedure[_Added]:
        added = Filter(
            subscription.topic_filter,
            subscription.qos,
            subscription.no_local,
            subscription.retain_as_published,
            identifier,
        )
        group, topic_filter = shared_filter(subscription.topic_filter)
        pattern = pattern_of(topic_filter)
        if pattern is None:
            return self._refused(ReasonCode.TOPIC_FILTER_INVALID)
        if group:
            return (yield from self._share(added))
        if not self._queue_for(added.qos):
            return self._refused(reason_of(None if unopened is None else unopened.error))
        return (yield from self._bind(pattern, added, subscription.retain_handling))

    def _refused(self, reason: ReasonCode) -> _Added:
        return _Added(suback_code(reason, self._client.level))

    def _bind(self, pattern: str, added: Filter, retain_handling: int) -> Procedure[_Added]:
        before = self.granted.get(added.topic_filter)
        if before is None and self._full():
            return self._refused(ReasonCode.QUOTA_EXCEEDED)
        queue = self._queue_for(added.qos)
        result = yield Bind(queue, TOPIC_EXCHANGE, pattern, Token.CONTROL)
        if result.outcome is not Outcome.ACCEPTED:
            return self._refused(reason_of(result.error))
        self.granted.add(added)
        if before is not None and self._queue_for(before.qos) != queue:
            result = yield Unbind(self._queue_for(before.qos), TOPIC_EXCHANGE, pattern, Token.CONTROL)
            _insist(result, "a filter could not be moved")
        # [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]; older versions always send them [MQTT-3.8.4-3].
        if retain_handling == _SEND_RETAINED_ALWAYS or (retain_handling == _SEND_RETAINED_IF_NEW and before is None):
            return _Added(added.qos, queue, pattern)
        return _Added(added.qos)

    def _full(self) -> bool:
        return len(self.granted) + len(self.shares) >= self._settings.max_subscriptions

    def _share(self, added: Filter) -> Procedure[_Added]:
        """Become one of a group's consumers, or change the options of being one."""
        tag = _share_tag(added.topic_filter)
        if tag not in self.shares:
            if self._full() or len(self.shares) >= self._settings.max_shared_subscriptions:
                return self._refused(ReasonCode.QUOTA_EXCEEDED)
            self._set_share(tag, added)
            for command in (
                *_shared_queue(added.topic_filter),
                _consumer(tag, added.topic_filter, self._client.window),
            ):
                result = yield command
                if result.outcome is not Outcome.ACCEPTED:
                    self._remove_share(tag)
                    return self._refused(reason_of(result.error))
        self._set_share(tag, added)
        return _Added(added.qos)  # no retained messages for shared subscriptions [MQTT-3.3.1-9] 5.0 §4.8.2

    def _set_share(self, tag: str, added: Filter) -> None:
        grant = grant_of((added,))
        assert grant is not None
        self._shared_filters[tag] = added
        self.shares[tag] = grant

    def _remove_share(self, tag: str) -> None:
        del self._shared_filters[tag]
        del self.shares[tag]

    # Queues

    def _queue_for(self, qos: int) -> str:
        """The queue that a filter of this QoS is bound to."""
        return self._session_queue if self._client.kept and qos else self._live_queue

    def _open_queues(self, subscriptions: Sequence[Subscription]) -> Procedure[Result | None]:
        """Have the queues that filters need. None, or the result that says why not; the next SUBSCRIBE tries anew."""
        failed = None
        durable = {self._client.kept and each.qos > 0 for each in subscriptions if _bindable(each.topic_filter)}
        for qos in sorted(durable):
            failed = (yield from self._open_queue(qos)) or failed
        return failed

    def _open_queue(self, qos: int) -> Procedure[Result | None]:
        if self._queue_for(qos):
            return None
        # Connections of one client identifier overlap while one takes over from the other; and a name that was
        # deleted in SQS cannot be used again for 60 seconds.
        owner = f"{self._client.client_id}-{secrets.token_hex(8)}"
        if self._client.kept and qos:
            return (yield from self._open_session_queue(f"mqtt-session-{owner}"))
        return (yield from self._open_live_queue(f"mqtt-subscription-{owner}"))

    def _open_live_queue(self, queue: str) -> Procedure[Result | None]:
        result = yield DeclareQueue(queue, _LIVE_QUEUE, Token.CONTROL)
        if result.outcome is Outcome.ACCEPTED:
            result = yield Consume(LIVE, queue, self._client.window, Token.CONTROL)
        if result.outcome is not Outcome.ACCEPTED:
            return result
        self._live_queue = queue
        return None

    def _open_session_queue(self, queue: str) -> Procedure[Result | None]:
        result = yield DeclareQueue(queue, _SESSION_QUEUE, Token.CONTROL)
        if result.outcome is not Outcome.ACCEPTED:
            return result
        self._session_queue = queue
        yield from self._keep()  # before anything else can fail: a queue that no record names stays for ever
        result = yield Consume(SESSION, queue, self._client.window, Token.CONTROL)
        _insist(result, "the session's queue cannot be consumed")
        return None

    # UNSUBSCRIBE

    def unsubscribe(self, packet: Unsubscribe) -> Procedure[None]:
        """Raises `PacketError` like `subscribe`."""
        self._expect(packet.topic_filters)
        return self._unsubscribe(packet)

    def _unsubscribe(self, packet: Unsubscribe) -> Procedure[None]:
        codes = []
        for topic_filter in packet.topic_filters:
            codes.append((yield from self._remove(topic_filter)))  # noqa: PERF401 - that could not yield
        if ReasonCode.SUCCESS in codes:
            yield from self._keep()
        self._unanswered -= len(codes)
        level = self._client.level
        # Also when there was nothing to remove [MQTT-3.10.4-5].
        self._out.append(write_packet(Unsuback(packet.packet_id, tuple(codes) if level >= V5 else ()), level))

    def _remove(self, topic_filter: str) -> Procedure[ReasonCode]:
        tag = _share_tag(topic_filter) if topic_filter.startswith(SHARED_PREFIX) else ""
        removed = self.granted.get(topic_filter)
        if removed is not None:
            queue = self._queue_for(removed.qos)
            result = yield Unbind(queue, TOPIC_EXCHANGE, _pattern_of(removed), Token.CONTROL)
        elif tag in self.shares:
            result = yield Cancel(tag, Token.CONTROL)
        else:
            return ReasonCode.NO_SUBSCRIPTION_EXISTED
        if self._client.level < V5:
            _insist(result, "UNSUBSCRIBE failed")  # UNSUBACK cannot say so
        if result.outcome is not Outcome.ACCEPTED:
            return unsuback_code(result.error)
        if removed is not None:
            self.granted.remove(topic_filter)
        else:
            self._remove_share(tag)
        return ReasonCode.SUCCESS

    # Kept sessions

    def record(self) -> SessionRecord:
        """What is to be known again after the connection."""
        filters = list(self.granted)
        shared = list(self._shared_filters.values())
        return SessionRecord(
            queue=self._session_queue,
            bindings=tuple((TOPIC_EXCHANGE, _pattern_of(each)) for each in filters if each.qos),
            shared=tuple(shared_queue_name(each.topic_filter) for each in shared),
            expiry=self._client.expiry,
            state=write_state(State(filters=filters, shared=shared)),
            will=self._client.will,
            will_delay=self._client.will_delay,
        )

    def _keep(self) -> Procedure[None]:
        if self._client.kept:
            result = yield KeepSession(self._client.client_id, self.record(), Token.CONTROL)
            _insist(result, "the session could not be kept")

    def restore(self, queue: str, state: State) -> Procedure[None]:
        """Have the queues of a session that was kept, and the bindings that ended with its last connection.

        Raises `PacketError` when it cannot be.
        """
        if queue:
            result = yield DeclareQueue(queue, _SESSION_QUEUE, Token.CONTROL)
            _insist(result, "the session's queue could not be opened")
            self._session_queue = queue
        for each in state.shared:
            for command in _shared_queue(each.topic_filter):
                result = yield command
                _insist(result, "a shared subscription could not be restored")
            self._set_share(_share_tag(each.topic_filter), each)
        for each in state.filters:
            self.granted.add(each)

    def consume(self) -> Procedure[None]:
        """Begin to receive what a restored session is subscribed to. Raises `PacketError` when it cannot be."""
        window = self._client.window
        if self._session_queue:
            result = yield Consume(SESSION, self._session_queue, window, Token.CONTROL)
            _insist(result, "the session's queue cannot be consumed")
        for tag, each in self._shared_filters.items():
            result = yield _consumer(tag, each.topic_filter, window)
            _insist(result, "a shared subscription could not be restored")
        live = [each for each in self.granted if not each.qos]
        if live:
            failed = yield from self._open_queue(0)
            if failed is not None:
                _insist(failed, "a live queue could not be opened")
        for each in live:
            result = yield Bind(self._live_queue, TOPIC_EXCHANGE, _pattern_of(each), Token.CONTROL)
            _insist(result, "a subscription could not be restored")


def _insist(result: Result, problem: str) -> None:
    """Raises `PacketError` where nothing can be said to the client, or undone, but by closing."""
    if result.outcome is not Outcome.ACCEPTED:
        raise PacketError(ReasonCode.SERVER_UNAVAILABLE, f"{problem}: {result.error}")


def _pattern_of(added: Filter) -> str:
    pattern = pattern_of(added.topic_filter)
    assert pattern is not None, "it was bound"
    return pattern


def _bindable(topic_filter: str) -> bool:
    return not topic_filter.startswith(SHARED_PREFIX) and pattern_of(topic_filter) is not None


def _share_tag(topic_filter: str) -> str:
    return SHARE + topic_filter.removeprefix(SHARED_PREFIX)


def shared_queue_name(topic_filter: str) -> str:
    """The name of the queue that the consumers of a shared subscription share. A group has no `/` in its name."""
    return "mqtt-shared-" + topic_filter.removeprefix(SHARED_PREFIX)


def _shared_queue(topic_filter: str) -> Sequence[Command]:
    """What it takes to have the queue of a shared subscription."""
    queue = shared_queue_name(topic_filter)
    pattern = pattern_of(shared_filter(topic_filter)[1])
    assert pattern is not None, "it was checked"
    return (
        DeclareQueue(queue, _SHARED_QUEUE, Token.CONTROL),
        Bind(queue, TOPIC_EXCHANGE, pattern, Token.CONTROL),
    )


def _consumer(tag: str, topic_filter: str, window: int) -> Command:
    return Consume(tag, shared_queue_name(topic_filter), window, Token.CONTROL)
