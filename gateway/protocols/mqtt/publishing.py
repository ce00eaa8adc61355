"""Publishes of a client: handed to the hub, and acknowledged when the hub has taken them.

QoS 2 is method A of the specification (5.0 figure 4.3): what is kept until PUBREL is the packet identifier. A publish
is handed to the hub when it comes; PUBREC leaves when the hub has taken it and, in a kept session, the identifier is
durable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from gateway.core.commands import Command, Publish, Retain
from gateway.core.message import Message
from gateway.core.outcome import ACCEPTED, Outcome, Result, worse
from gateway.protocols.mqtt.acknowledgements import PublishOrder
from gateway.protocols.mqtt.aliases import IncomingAliases
from gateway.protocols.mqtt.client import Client
from gateway.protocols.mqtt.convert import message_of
from gateway.protocols.mqtt.errors import PacketError, ReasonCode, violation
from gateway.protocols.mqtt.keeping import InflightKeeper
from gateway.protocols.mqtt.packets import V5, Puback, Pubcomp, Pubrec, Pubrel
from gateway.protocols.mqtt.packets import Publish as PublishPacket
from gateway.protocols.mqtt.procedures import Token
from gateway.protocols.mqtt.properties import NO_PROPERTIES
from gateway.protocols.mqtt.reasons import FAILURE, reason_of
from gateway.protocols.mqtt.settings import Settings
from gateway.protocols.mqtt.writer import write_puback, write_pubcomp, write_pubrec

_ACCEPTED: Final = Outcome.ACCEPTED

MAX_KEPT_RECEIPTS: Final = 10_000
"""Publishes at QoS 2 of a kept session that the client has not released: they are kept in one record, of 60 KB then."""

# What has become of a publish at QoS 2.
_UNANSWERED: Final = 0
"""The hub has it."""
_TAKEN: Final = 1
"""The hub has taken it, and PUBREC waits for others, or for the store."""
_RECEIVED: Final = 2
"""PUBREC was sent."""
_INHERITED: Final = 3
"""An earlier connection of this session sent PUBREC, or was about to."""


class Receipt:
    """The token of a publish at QoS 2. One at QoS 1 has its packet identifier."""

    __slots__ = ("packet_id",)

    def __init__(self, packet_id: int) -> None:
        self.packet_id = packet_id


class Twofold:
    """The token of a `Publish` and of the `Retain` beside it: acknowledged when both are answered."""

    __slots__ = ("missing", "result", "token")

    def __init__(self, token: int | Receipt) -> None:
        self.token = token
        self.missing = 2
        self.result = ACCEPTED

    def answered(self, result: Result) -> bool:
        """Whether this was the second answer; then `result` is the worse of both."""
        # A message that is retained has been put to use, though nobody was there to receive it.
        self.result = worse(self.result, result)
        self.missing -= 1
        return self.missing == 0


class Publishing:
    """Appends acknowledgements to `out`. Bounded by the packet identifiers, and by what MQTT 5 clients were told."""

    __slots__ = (
        "_aliases",
        "_client",
        "_clock",
        "_inherited",
        "_keeper",
        "_level",
        "_order",
        "_origin",
        "_out",
        "_reasons",
        "_receipt_order",
        "_receipts",
        "_settings",
    )

    def __init__(
        self,
        client: Client,
        settings: Settings,
        out: list[bytes],
        clock: Callable[[], float],
        keeper: InflightKeeper | None,
        received: Sequence[int],
    ) -> None:
        """`received`: packet identifiers that the session's last connection left behind."""
        self._client = client
        self._level = client.level
        self._origin = client.origin
        self._settings = settings
        self._out = out
        self._clock = clock
        self._keeper = keeper
        self._order = PublishOrder()
        self._receipt_order: PublishOrder | None = None
        self._receipts: dict[int, int] = dict.fromkeys(received, _INHERITED)
        self._inherited = len(self._receipts)
        self._reasons: dict[int, tuple[ReasonCode, str]] = {}
        self._aliases: IncomingAliases | None = None

    # PUBLISH

    def receive(self, packet: PublishPacket, commands: list[Command]) -> None:
        """A PUBLISH. Raises `PacketError`."""
        if packet.properties is not NO_PROPERTIES:
            self._apply_properties(packet)
        qos = packet.qos
        if qos == 1:
            self._receive_at_least_once(packet, commands)
        elif qos == 0:
            self._receive_at_most_once(packet, commands)
        else:
            self._receive_exactly_once(packet, commands)

    def _apply_properties(self, packet: PublishPacket) -> None:
        said = packet.properties
        if said.subscription_identifier:
            raise violation("a subscription identifier in a client's PUBLISH")  # [MQTT-3.3.4-6]
        if said.topic_alias is not None:
            if self._aliases is None:
                self._aliases = IncomingAliases(self._settings.topic_alias_maximum)
            packet.topic = self._aliases.resolve(packet.topic, said.topic_alias)

    def _receive_at_most_once(self, packet: PublishPacket, commands: list[Command]) -> None:
        problem = _payload_problem(packet)
        if problem is not None:
            raise problem
        message = message_of(packet, self._origin, self._clock)
        commands.append(Publish(message))
        if packet.retain:
            commands.append(Retain(message, Token.UNWAITED))

    def _receive_at_least_once(self, packet: PublishPacket, commands: list[Command]) -> None:
        packet_id = packet.packet_id
        if packet_id in self._order:
            if packet.dup:
                return  # the answer that is on its way acknowledges this one too
            raise _in_use(packet_id)
        if self._receipts and packet_id in self._receipts:
            raise _in_use(packet_id)
        if self._level >= V5:
            self._check_quota()
        self._order.add(packet_id)
        self._hand_over(packet, packet_id, commands)

    def _receive_exactly_once(self, packet: PublishPacket, commands: list[Command]) -> None:
        packet_id = packet.packet_id
        if packet_id in self._order:
            raise _in_use(packet_id)
        state = self._receipts.get(packet_id)
        if state is not None:  # DUP or not, until PUBREL it is the same message [MQTT-4.3.3-10]
            if state >= _RECEIVED:
                self._out.append(write_pubrec(packet_id))
            return
        self._check_quota()
        if self._receipt_order is None:
            self._receipt_order = PublishOrder()
        self._receipt_order.add(packet_id)
        self._receipts[packet_id] = _UNANSWERED
        self._hand_over(packet, Receipt(packet_id), commands)

    def _check_quota(self) -> None:
        if self._keeper is not None and len(self._receipts) >= MAX_KEPT_RECEIPTS:
            raise PacketError(ReasonCode.QUOTA_EXCEEDED, f"{MAX_KEPT_RECEIPTS} publishes at QoS 2 are not released")
        if self._level < V5:
            return
        limit = self._settings.receive_maximum
        if len(self._order) + len(self._receipts) - self._inherited >= limit:  # [MQTT-3.3.4-7]
            raise PacketError(ReasonCode.RECEIVE_MAXIMUM_EXCEEDED, f"more than {limit} publishes are under way")

    def _hand_over(self, packet: PublishPacket, token: int | Receipt, commands: list[Command]) -> None:
        problem = _payload_problem(packet)
        if problem is not None:
            self.answered(token, Result(Outcome.REJECTED, problem))
            return
        message = message_of(packet, self._origin, self._clock)
        if packet.retain:
            self._publish_and_retain(message, token, commands)
        else:
            commands.append(Publish(message, token))

    def _publish_and_retain(self, message: Message, token: int | Receipt, commands: list[Command]) -> None:
        both = Twofold(token)
        commands.append(Publish(message, both))
        commands.append(Retain(message, both))

    # What the hub says

    def answered(self, token: int | Receipt, result: Result) -> None:
        """The result of a publish, or what stands for one."""
        if isinstance(token, int):
            self.acknowledge(token, result)
        else:
            self.acknowledge_receipt(token.packet_id, result)

    def acknowledge(self, packet_id: int, result: Result) -> None:
        """The result of a publish at QoS 1. Before MQTT 5 it was accepted: no acknowledgement could say no."""
        if self._level >= V5 and (result.outcome is not _ACCEPTED or not result.routed):
            self._reasons[packet_id] = _reason(result)
        for acknowledged in self._order.answered(packet_id):
            self._out.append(self._puback(acknowledged) if self._reasons else write_puback(acknowledged))

    def acknowledge_receipt(self, packet_id: int, result: Result) -> None:
        """The result of a publish at QoS 2, in the same way."""
        assert self._receipt_order is not None
        if result.outcome is _ACCEPTED:
            self._receipts[packet_id] = _TAKEN
        if self._level >= V5 and (result.outcome is not _ACCEPTED or not result.routed):
            self._reasons[packet_id] = _reason(result)
        for acknowledged in self._receipt_order.answered(packet_id):
            self._begin_pubrec(acknowledged)

    def _puback(self, packet_id: int) -> bytes:
        if packet_id in self._reasons:
            return self._client.acknowledgement(Puback, packet_id, *self._reasons.pop(packet_id))
        return write_puback(packet_id)

    def _begin_pubrec(self, packet_id: int) -> None:
        """In the order of the PUBLISHes: PUBREC, when the identifier is kept."""
        code, problem = self._reasons.pop(packet_id, (ReasonCode.SUCCESS, ""))
        if code >= FAILURE:
            del self._receipts[packet_id]  # the identifier is free again [MQTT-4.3.3-9]
        if self._keeper is None:
            self._send_pubrec(packet_id, code, problem)
        else:
            self._keeper.keep(partial(self._send_pubrec, packet_id, code, problem))

    def _send_pubrec(self, packet_id: int, code: ReasonCode, problem: str) -> None:
        if code < FAILURE:
            self._receipts[packet_id] = _RECEIVED
        if code:
            self._out.append(self._client.acknowledgement(Pubrec, packet_id, code, problem))
        else:
            self._out.append(write_pubrec(packet_id))

    # PUBREL

    def release(self, packet: Pubrel) -> None:
        """A PUBREL. Raises `PacketError`."""
        packet_id = packet.packet_id
        state = self._receipts.get(packet_id, _RECEIVED)
        if state < _RECEIVED:
            raise violation(f"PUBREL for packet identifier {packet_id}, which has no PUBREC")
        known = self._receipts.pop(packet_id, None) is not None
        if state == _INHERITED:
            self._inherited -= 1
        if self._keeper is None:
            self._send_pubcomp(packet_id, known)
        else:
            # Not before it is forgotten for good: the client may give the identifier to another message then.
            self._keeper.keep(partial(self._send_pubcomp, packet_id, known))

    def _send_pubcomp(self, packet_id: int, known: bool) -> None:
        # [MQTT-4.3.3-11]; one that is not known was completed before, or in a session that is gone.
        if known:
            self._out.append(write_pubcomp(packet_id))
        else:
            code = ReasonCode.PACKET_IDENTIFIER_NOT_FOUND
            self._out.append(self._client.acknowledgement(Pubcomp, packet_id, code))

    def received(self) -> list[int]:
        """What must be known again after the connection: publishes at QoS 2 that were taken and not released."""
        return [packet_id for packet_id, state in self._receipts.items() if state != _UNANSWERED]


def _payload_problem(packet: PublishPacket) -> PacketError | None:
    """What is wrong with a payload that calls itself text (5.0 §3.3.2.3.2)."""
    if packet.properties is NO_PROPERTIES or packet.properties.payload_format_indicator != 1:
        return None
    return payload_problem(packet.payload)


def payload_problem(payload: bytes) -> PacketError | None:
    """The error of a payload that is not UTF-8."""
    try:
        payload.decode()
    except UnicodeDecodeError:
        return PacketError(ReasonCode.PAYLOAD_FORMAT_INVALID, "the payload is said to be UTF-8, and is not")
    return None


def _in_use(packet_id: int) -> PacketError:
    # [MQTT-2.3.1-2] another message: to acknowledge it unpublished would lose it
    return PacketError(ReasonCode.PACKET_IDENTIFIER_IN_USE, f"packet identifier {packet_id} is in flight")


def _reason(result: Result) -> tuple[ReasonCode, str]:
    if result.outcome is _ACCEPTED:
        return ReasonCode.NO_MATCHING_SUBSCRIBERS, ""
    return reason_of(result.error), "" if result.error is None else str(result.error)
