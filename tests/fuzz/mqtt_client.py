"""The MQTT client of a fuzzed session: keeps accounts of its requests, and of what it gets for them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from gateway.protocols.mqtt.codec import Decoder, encode
from gateway.protocols.mqtt.errors import PacketError
from gateway.protocols.mqtt.packets import (
    V5,
    Connack,
    Disconnect,
    Level,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from tests.fuzz.cases import Violation
from tests.fuzz.hub import Hub

FAILURE: Final = 0x80
"""Codes from here on say no."""

LARGEST: Final = 1 << 28


class Publishes:
    """Publishes of one QoS, by packet identifier: each is answered at most once, and each identifier at least once.

    One whose identifier is in use may be dropped as a repetition; or it is a new one, if the answer to the one before
    was on its way.
    """

    def __init__(self) -> None:
        self._due: set[int] = set()
        self._possible: Counter[int] = Counter()

    def sent(self, packet_id: int) -> None:
        self._due.add(packet_id)
        self._possible[packet_id] += 1

    def answered(self, packet_id: int) -> None:
        if not self._possible[packet_id]:
            raise Violation(f"{packet_id} is acknowledged for nothing")
        self._possible[packet_id] -= 1
        self._due.discard(packet_id)

    def settled(self) -> set[int]:
        """No more answers will come; what has none."""
        self._possible.clear()
        return self._due


class MqttClient:
    """Implements `hub.Client`. Requests are read with the codec, whatever damage they have taken on their way."""

    def __init__(self, max_packet_size: int) -> None:
        self.accepted_by_client: float = 0
        self._requests = Decoder(max_packet_size)
        self._answers: Decoder | None = None
        self._unreadable = False
        self._ended = False
        """The session reads no further: what was sent cannot be read, or was a DISCONNECT."""
        self._let_in = False
        self._answered_yes = 0
        # Requests without an answer.
        self._publishes = Publishes()
        """At QoS 1."""
        self._receipts = Publishes()
        """At QoS 2."""
        self._received: set[int] = set()
        """Those at QoS 2 that the server has taken and the client has not released."""
        self._released: set[int] = set()
        """Released since the last output, in which there may be something from before it."""
        self._releases: Counter[int] = Counter()
        self._filters: Counter[tuple[type[Packet], int, int]] = Counter()
        """SUBSCRIBE and UNSUBSCRIBE, by the answer that is due: its type, its packet identifier, its codes."""
        self._pings = 0
        # What has come.
        self._deliveries: dict[int, int] = {}
        """QoS of what was delivered and not acknowledged, by packet identifier."""
        self._unanswered: list[Packet] = []

    @property
    def level(self) -> int:
        """The version of CONNECT; before it, the one that everybody is refused in."""
        return self._requests.level or Level.V3_1_1

    # What is sent

    def sent(self, data: bytes) -> None:
        if not self._ended:
            self._requests.feed(data)
            self._read_requests()

    def _read_requests(self) -> None:
        try:
            while not self._ended and (packet := self._requests.next_packet()) is not None:
                if note := _NOTES.get(type(packet)):
                    note(self, packet)
        except PacketError:
            self._ended = self._unreadable = True

    def _note_publish(self, packet: Publish) -> None:
        if packet.qos:
            (self._publishes if packet.qos == 1 else self._receipts).sent(packet.packet_id)

    def _note_pubrel(self, packet: Pubrel) -> None:
        self._released.add(packet.packet_id)
        self._releases[packet.packet_id] += 1

    def _note_acknowledgement(self, packet: Puback | Pubrec | Pubcomp) -> None:
        self.accepted_by_client += 1
        if not isinstance(packet, Pubrec) or packet.reason_code >= FAILURE:
            self._deliveries.pop(packet.packet_id, None)

    def _note_subscribe(self, packet: Subscribe) -> None:
        self._filters[Suback, packet.packet_id, len(packet.subscriptions)] += 1

    def _note_unsubscribe(self, packet: Unsubscribe) -> None:
        codes = len(packet.topic_filters) if self.level >= V5 else 0
        self._filters[Unsuback, packet.packet_id, codes] += 1

    def _note_pingreq(self, _packet: Pingreq) -> None:
        self._pings += 1

    def _note_disconnect(self, _packet: Disconnect) -> None:
        self._ended = True

    # What is received

    def received(self, data: bytes) -> None:
        if data:
            self._read_answers(data)
        self._received -= self._released
        self._released.clear()

    def _read_answers(self, data: bytes) -> None:
        if self._answers is None:
            self._answers = Decoder(LARGEST, self.level)
            if self.level >= V5:
                self.accepted_by_client = (
                    math.inf
                )  # a server may drop what has expired, or is larger than was asked for
        self._answers.feed(data)
        try:
            while (packet := self._answers.next_packet()) is not None:
                self._receive(packet)
        except PacketError as error:
            raise Violation(f"the session has written what cannot be read: {error}") from error

    def _receive(self, packet: Packet) -> None:
        if not self._let_in and not isinstance(packet, Connack | Disconnect):
            raise Violation(f"{type(packet).__name__} before CONNACK")
        receive = _RECEIVES.get(type(packet))
        if receive is None:
            raise Violation(f"a server sends no {type(packet).__name__}")
        receive(self, packet)

    def _receive_connack(self, packet: Connack) -> None:
        if self._let_in:
            raise Violation("a second CONNACK")
        self._let_in = packet.code == 0

    def _receive_puback(self, packet: Puback) -> None:
        self._publishes.answered(packet.packet_id)
        self._answered_yes += packet.reason_code < FAILURE

    def _receive_pubrec(self, packet: Pubrec) -> None:
        self._receipts.answered(packet.packet_id)
        if packet.reason_code < FAILURE and packet.packet_id not in self._received:
            self._received.add(packet.packet_id)
            self._answered_yes += 1

    def _receive_pubcomp(self, packet: Pubcomp) -> None:
        if not self._releases[packet.packet_id]:
            raise Violation(f"PUBCOMP {packet.packet_id} for nothing")
        self._releases[packet.packet_id] -= 1

    def _receive_filters_answer(self, packet: Suback | Unsuback) -> None:
        request = type(packet), packet.packet_id, len(packet.codes)
        if not self._filters[request]:
            raise Violation(f"{packet!r} for nothing")
        self._filters[request] -= 1

    def _receive_pingresp(self, _packet: Pingresp) -> None:
        self._pings -= 1
        if self._pings < 0:
            raise Violation("PINGRESP for nothing")

    def _receive_publish(self, packet: Publish) -> None:
        if packet.qos:
            if packet.packet_id in self._deliveries:
                raise Violation(f"packet identifier {packet.packet_id} of a delivery is in use")
            self._deliveries[packet.packet_id] = packet.qos
            self._unanswered.append((Puback if packet.qos == 1 else Pubrec)(packet.packet_id))

    def _receive_pubrel(self, packet: Pubrel) -> None:
        self._unanswered.append(Pubcomp(packet.packet_id))

    def _receive_disconnect(self, _packet: Disconnect) -> None:
        if self.level < V5:
            raise Violation("a server sends no DISCONNECT before MQTT 5")

    # What it does about it

    def react(self, choice: int) -> bytes:
        """Acknowledge: mostly all in order, or backwards, or twice, or only the first."""
        if choice % 4 == 3:
            answers, self._unanswered = self._unanswered[:1], self._unanswered[1:]
        else:
            answers, self._unanswered = self._unanswered, []
        if choice % 4 == 1:
            answers.reverse()
        return b"".join(encode(packet, self.level) for packet in answers) * (2 if choice % 4 == 2 else 1)

    # What has to be so

    def check(self, hub: Hub) -> None:
        if self._answered_yes > hub.publishes_accepted:
            raise Violation(f"{self._answered_yes} acknowledged of {hub.publishes_accepted} accepted")

    def check_settled(self, hub: Hub) -> None:
        if self._unreadable:
            raise Violation("the session lives on after what cannot be read")
        if not self._let_in:
            return
        due = (self._publishes.settled(), self._receipts.settled(), +self._releases, +self._filters, self._pings)
        if any(due):
            raise Violation(f"not answered: {due}")


# Each function takes its own type of packet: the key says which.
_NOTES: Final[Mapping[type[Packet], Callable[..., None]]] = {
    Publish: MqttClient._note_publish,
    Puback: MqttClient._note_acknowledgement,
    Pubrec: MqttClient._note_acknowledgement,
    Pubcomp: MqttClient._note_acknowledgement,
    Pubrel: MqttClient._note_pubrel,
    Subscribe: MqttClient._note_subscribe,
    Unsubscribe: MqttClient._note_unsubscribe,
    Pingreq: MqttClient._note_pingreq,
    Disconnect: MqttClient._note_disconnect,
}
_RECEIVES: Final[Mapping[type[Packet], Callable[..., None]]] = {
    Connack: MqttClient._receive_connack,
    Publish: MqttClient._receive_publish,
    Puback: MqttClient._receive_puback,
    Pubrec: MqttClient._receive_pubrec,
    Pubrel: MqttClient._receive_pubrel,
    Pubcomp: MqttClient._receive_pubcomp,
    Suback: MqttClient._receive_filters_answer,
    Unsuback: MqttClient._receive_filters_answer,
    Pingresp: MqttClient._receive_pingresp,
    Disconnect: MqttClient._receive_disconnect,
}
