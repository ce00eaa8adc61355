"""SUBSCRIBE and UNSUBSCRIBE of one client: what the hub is asked, and how its answers become SUBACK and UNSUBACK.

All subscriptions of a client share one virtual queue, so overlapping filters deliver a message once. It is declared,
and consumed from, with the first SUBSCRIBE. Control commands are answered in their order, so the tables follow the
answers: whatever a client pipelines, they say what the hub has done.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from enum import Enum
from typing import Final

from gateway.core.backend import QueueSpec
from gateway.core.message import TOPIC_EXCHANGE
from gateway.core.outcome import Outcome, Result
from gateway.core.session import Bind, Command, Consume, DeclareQueue, Unbind
from gateway.protocols.mqtt.convert import pattern_of
from gateway.protocols.mqtt.errors import PacketError, ReasonCode
from gateway.protocols.mqtt.packets import Suback, Subscribe, Subscription, Unsuback, Unsubscribe
from gateway.protocols.mqtt.settings import Settings
from gateway.protocols.mqtt.subscriptions import Subscriptions
from gateway.protocols.mqtt.topics import SHARED_PREFIX, is_topic_filter
from gateway.protocols.mqtt.writer import write_packet

LIVE: Final = "live"
"""The tag of the only consumer that a client has."""

MAX_GRANTED_QOS: Final = 1
"""QoS 2 is not served yet: [MQTT-3.8.4-6] lets a server grant less than was asked for."""

FAILURE: Final = 0x80
"""The return code of a filter that was refused (3.1.1 §3.9.3)."""

_LIVE_QUEUE: Final = QueueSpec(durable=False, exclusive=True)


class QueueStep(Enum):
    """Tokens of the commands that open the queue."""

    DECLARE = "declare"
    CONSUME = "consume"
    UNDO = "undo"


class _Request:
    """A SUBSCRIBE or UNSUBSCRIBE until its last filter is answered."""

    __slots__ = ("codes", "packet_id", "waiting")

    def __init__(self, packet_id: int, filters: int) -> None:
        self.packet_id = packet_id
        self.codes = [FAILURE] * filters
        self.waiting = 0


class Binding:
    """The token of a `Bind`."""

    __slots__ = ("index", "pattern", "request", "subscription")

    def __init__(self, request: _Request, index: int, subscription: Subscription, pattern: str) -> None:
        self.request = request
        self.index = index
        self.subscription = subscription
        self.pattern = pattern


class Unbinding:
    """The token of an `Unbind`."""

    __slots__ = ("request", "topic_filter")

    def __init__(self, request: _Request, topic_filter: str) -> None:
        self.request = request
        self.topic_filter = topic_filter


def _check_filters(topic_filters: Sequence[str]) -> None:
    for topic_filter in topic_filters:
        if not is_topic_filter(topic_filter):
            raise PacketError(ReasonCode.TOPIC_FILTER_INVALID, f"{topic_filter[:100]!r} is not a topic filter")


class Subscribing:
    """`granted` says what is subscribed to now. The other methods return commands, and append packets to `out`."""

    __slots__ = ("_consuming", "_level", "_opened", "_out", "_queue", "_settings", "_unanswered", "granted")

    def __init__(self, client_id: str, level: int, settings: Settings, out: list[bytes]) -> None:
        self._level = level
        self._settings = settings
        self._out = out
        # Connections of one client identifier overlap while one takes over from the other.
        self._queue = f"mqtt-subscription-{client_id}-{secrets.token_hex(8)}"
        self._opened = False
        self._consuming = False
        self._unanswered = 0
        self.granted = Subscriptions()

    def subscribe(self, packet: Subscribe) -> Sequence[Command]:
        """Raises `PacketError` for a filter that is none [MQTT-4.7.1-2] [MQTT-4.7.1-3], or too many unanswered ones."""
        _check_filters([subscription.topic_filter for subscription in packet.subscriptions])
        request = _Request(packet.packet_id, len(packet.subscriptions))
        commands: list[Command] = []
        for index, subscription in enumerate(packet.subscriptions):
            pattern = self._admitted(subscription.topic_filter)
            if pattern is None:
                continue
            if not self._opened:
                commands += self._open_queue()
            binding = Binding(request, index, subscription, pattern)
            commands.append(Bind(self._queue, TOPIC_EXCHANGE, pattern, binding))
            self._expect(request)
        if not request.waiting:
            self._send_suback(request)
        return commands

    def _admitted(self, topic_filter: str) -> str | None:
        """The pattern to bind, or None for a filter that is refused in SUBACK."""
        if topic_filter.startswith(SHARED_PREFIX):  # not served yet, and never delivered to as an ordinary filter
            return None
        if topic_filter in self.granted or len(self.granted) + self._unanswered < self._settings.max_subscriptions:
            return pattern_of(topic_filter)
        return None

    def _open_queue(self) -> Sequence[Command]:
        self._opened = True
        return (
            DeclareQueue(self._queue, _LIVE_QUEUE, QueueStep.DECLARE),
            Consume(LIVE, self._queue, self._settings.delivery_window, QueueStep.CONSUME),
        )

    def _expect(self, request: _Request) -> None:
        request.waiting += 1
        self._unanswered += 1
        limit = self._settings.max_unanswered_filters
        if self._unanswered > limit:
            raise PacketError(ReasonCode.QUOTA_EXCEEDED, f"more than {limit} filters are unanswered")

    def unsubscribe(self, packet: Unsubscribe) -> Sequence[Command]:
        """Raises `PacketError` like `subscribe`."""
        _check_filters(packet.topic_filters)
        request = _Request(packet.packet_id, len(packet.topic_filters))
        commands: list[Command] = []
        for topic_filter in packet.topic_filters:
            pattern = pattern_of(topic_filter)
            if pattern is not None and self._opened:
                commands.append(Unbind(self._queue, TOPIC_EXCHANGE, pattern, Unbinding(request, topic_filter)))
                self._expect(request)
        if not request.waiting:
            self._send_unsuback(request)  # also when there was nothing to remove [MQTT-3.10.4-5]
        return commands

    def queue_answered(self, step: QueueStep, result: Result) -> None:
        """The result of opening the queue. When it failed, so do the filters behind it; the next SUBSCRIBE tries anew.

        A queue that could not be declared cannot be consumed from: `CONSUME` speaks for both.
        """
        if step is QueueStep.CONSUME:
            self._consuming = self._opened = result.outcome is Outcome.ACCEPTED

    def bound(self, binding: Binding, result: Result) -> Sequence[Command]:
        """The result of a `Bind`."""
        request = binding.request
        commands: Sequence[Command] = ()
        if result.outcome is Outcome.ACCEPTED:
            if self._consuming:
                subscription = binding.subscription
                qos = min(subscription.qos, MAX_GRANTED_QOS)
                self.granted.add(subscription.topic_filter, qos)
                request.codes[binding.index] = qos
            else:
                commands = (Unbind(self._queue, TOPIC_EXCHANGE, binding.pattern, QueueStep.UNDO),)
        if self._answered(request):
            self._send_suback(request)
        return commands

    def unbound(self, unbinding: Unbinding, result: Result) -> None:
        """The result of an `Unbind`. Raises `PacketError` when it failed: UNSUBACK cannot say so before MQTT 5."""
        if result.outcome is not Outcome.ACCEPTED:
            raise PacketError(ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR, f"UNSUBSCRIBE failed: {result.error}")
        self.granted.remove(unbinding.topic_filter)
        if self._answered(unbinding.request):
            self._send_unsuback(unbinding.request)

    def _answered(self, request: _Request) -> bool:
        request.waiting -= 1
        self._unanswered -= 1
        return request.waiting == 0

    def _send_suback(self, request: _Request) -> None:
        # One code for each filter, in their order [MQTT-3.8.4-5] [MQTT-3.9.3-1].
        self._out.append(write_packet(Suback(request.packet_id, tuple(request.codes)), self._level))

    def _send_unsuback(self, request: _Request) -> None:
        self._out.append(write_packet(Unsuback(request.packet_id), self._level))
