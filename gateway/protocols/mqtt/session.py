"""One MQTT connection: from CONNECT to its end, publishes in, deliveries out. `subscribing` has the subscriptions.

Served is 3.1.1 with QoS 0 and 1; other versions are refused in their own words. Every session is clean: a CONNECT with
CleanSession 0 is taken, and told that no session is present. RETAIN is taken, and nothing is retained.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final

from gateway.core.auth import Credentials
from gateway.core.errors import MqliftError, NotAuthorized
from gateway.core.message import Message, Origin
from gateway.core.outcome import Outcome, Result
from gateway.core.session import (
    NO_COMMANDS,
    Authenticate,
    Claim,
    Close,
    Command,
    Delivery,
    Publish,
    Session,
    SessionContext,
    Settle,
)
from gateway.protocols.mqtt import packets
from gateway.protocols.mqtt.acknowledgements import PublishOrder
from gateway.protocols.mqtt.codec import Decoder
from gateway.protocols.mqtt.convert import message_of, outgoing_topic
from gateway.protocols.mqtt.errors import PacketError, ReasonCode, UnsupportedVersion, violation
from gateway.protocols.mqtt.packets import Level
from gateway.protocols.mqtt.settings import MAX_PACKET_ID, Settings
from gateway.protocols.mqtt.subscribing import Binding, QueueStep, Subscribing, Unbinding
from gateway.protocols.mqtt.writer import DUP, PINGRESP, PUBLISH, QOS_1, write_packet, write_puback, write_publish

PROTOCOL: Final = "mqtt"

SERVED_LEVELS: Final = frozenset({Level.V3_1_1})

KEEP_ALIVE_FACTOR: Final = 1.5
"""A client may be silent for one and a half keep-alive periods [MQTT-3.1.2-24]."""

_RETURN_CODES: Final[Mapping[ReasonCode, int]] = {  # 3.1.1 table 3.1
    ReasonCode.UNSUPPORTED_PROTOCOL_VERSION: 1,
    ReasonCode.CLIENT_IDENTIFIER_NOT_VALID: 2,
    ReasonCode.SERVER_UNAVAILABLE: 3,
    ReasonCode.BAD_USER_NAME_OR_PASSWORD: 4,
    ReasonCode.NOT_AUTHORIZED: 5,
}

_AT_ONCE: Final = 0.0
"""A deadline that has passed on every clock."""

# Reading a member of an enumeration costs 0.1 µs in Python 3.11; these are read for each message.
_ACCEPTED: Final = Outcome.ACCEPTED
_TRANSIENT_MODE: Final = 1


class _Step(Enum):
    """Tokens of the commands that let a client in."""

    AUTHENTICATE = "authenticate"
    CLAIM = "claim"


class MqttSession:
    """See `core.session.Session`, the port that this is."""

    __slots__ = (
        "_acknowledged",
        "_closed",
        "_connect",
        "_decoder",
        "_heard",
        "_order",
        "_origin",
        "_out",
        "_packet_id",
        "_patience",
        "_pipelined",
        "_reading",
        "_settings",
        "_subscribing",
        "_unacknowledged",
        "_undeliverable",
        "_will",
        "deadline",
        "established",
    )

    def __init__(self, settings: Settings, now: float) -> None:
        self.deadline = math.inf
        self.established = False
        self._settings = settings
        self._decoder = Decoder(settings.max_packet_size)
        self._out: list[bytes] = []
        self._closed = False
        self._connect: packets.Connect | None = None
        self._pipelined: bytearray | None = None
        self._origin = Origin(PROTOCOL)
        self._will: Message | None = None
        self._heard = now
        self._patience = math.inf
        self._reading = True
        self._order: PublishOrder | None = None
        self._subscribing: Subscribing | None = None
        self._packet_id = 0
        self._unacknowledged: dict[int, Delivery] = {}
        self._acknowledged: list[Delivery] = []
        self._undeliverable: list[Delivery] = []

    # What comes in.

    def receive_data(self, data: bytes, now: float) -> Sequence[Command]:
        if self._closed:
            return NO_COMMANDS
        self._heard = now
        if self._connect is not None:
            return self._keep_pipelined(data)
        self._decoder.feed(data)
        return self._read_packets()

    def _keep_pipelined(self, data: bytes) -> Sequence[Command]:
        """Clients need not wait for CONNACK [MQTT-3.1.4-5]; what they send has to."""
        if self._pipelined is None:
            self._pipelined = bytearray()
        self._pipelined += data
        limit = self._settings.max_pipelined_bytes
        if len(self._pipelined) <= limit:
            return NO_COMMANDS
        return self._fail(PacketError(ReasonCode.QUOTA_EXCEEDED, f"more than {limit} bytes behind CONNECT"), [])

    def _read_packets(self) -> Sequence[Command]:
        commands: list[Command] = []
        try:
            while not self._closed and self._connect is None:
                packet = self._decoder.next_packet()
                if packet is None:
                    break
                if type(packet) is packets.Publish:
                    self._receive_publish(packet, commands)
                elif type(packet) is packets.Puback:
                    self._receive_puback(packet)
                else:
                    self._receive_control(packet, commands)
        except PacketError as error:
            return self._fail(error, commands)
        self._settle_acknowledged(commands)
        return commands

    def _receive_publish(self, packet: packets.Publish, commands: list[Command]) -> None:
        if packet.qos == 0:
            commands.append(Publish(message_of(packet, self._origin)))
            return
        if packet.qos != 1:
            raise PacketError(ReasonCode.QOS_NOT_SUPPORTED, "QoS 2 is not served yet")
        if self._order is None:
            self._order = PublishOrder()
        packet_id = packet.packet_id
        if packet_id in self._order:
            if packet.dup:
                return  # the answer that is on its way acknowledges this one too
            # [MQTT-2.3.1-2] another message: to acknowledge it unpublished would lose it
            raise PacketError(ReasonCode.PACKET_IDENTIFIER_IN_USE, f"packet identifier {packet_id} is in flight")
        self._order.add(packet_id)
        commands.append(Publish(message_of(packet, self._origin), packet_id))

    def _receive_puback(self, packet: packets.Puback) -> None:
        # One that nobody waits for does no harm: a client may repeat it.
        delivery = self._unacknowledged.pop(packet.packet_id, None)
        if delivery is not None:
            self._acknowledged.append(delivery)

    def _settle_acknowledged(self, commands: list[Command]) -> None:
        if self._acknowledged:
            commands.append(Settle(self._acknowledged, _ACCEPTED))
            self._acknowledged = []

    def _receive_control(self, packet: packets.Packet, commands: list[Command]) -> None:
        match packet:
            case packets.Connect():
                self._receive_connect(packet, commands)
            case packets.Subscribe():
                commands += self._subscriptions().subscribe(packet)
            case packets.Unsubscribe():
                commands += self._subscriptions().unsubscribe(packet)
            case packets.Pingreq():
                self._out.append(PINGRESP)  # [MQTT-3.12.4-1]
            case packets.Disconnect():
                self._will = None  # [MQTT-3.1.2-10] [MQTT-3.14.4-3]
                self._end("the client disconnected", None, commands)
            case packets.Pubrec() | packets.Pubrel() | packets.Pubcomp():
                raise PacketError(ReasonCode.QOS_NOT_SUPPORTED, "QoS 2 is not served yet")
            case _:
                raise violation(f"{type(packet).__name__.upper()} from a client")

    def _subscriptions(self) -> Subscribing:
        if self._subscribing is None:
            self._subscribing = Subscribing(self._origin.client_id, self._decoder.level, self._settings, self._out)
        return self._subscribing

    # Letting a client in.

    def _receive_connect(self, packet: packets.Connect, commands: list[Command]) -> None:
        if self.established:
            raise violation("a second CONNECT")  # [MQTT-3.1.0-2]
        if packet.level not in SERVED_LEVELS:  # [MQTT-3.1.2-2]
            code = ReasonCode.UNSUPPORTED_PROTOCOL_VERSION
            self._refuse(code, PacketError(code, f"protocol level {packet.level} is not served yet"), commands)
            return
        problem = self._problem_with_client_id(packet)
        if problem:
            code = ReasonCode.CLIENT_IDENTIFIER_NOT_VALID
            self._refuse(code, PacketError(code, problem), commands)
            return
        client_id = packet.client_id or f"mqlift-{secrets.token_hex(12)}"  # [MQTT-3.1.3-6]
        self._connect = packet
        self._origin = Origin(PROTOCOL, client_id, packet.username or "")
        credentials = Credentials(
            protocol=PROTOCOL, client_id=client_id, username=packet.username, password=packet.password
        )
        commands.append(Authenticate(credentials, _Step.AUTHENTICATE))

    def _problem_with_client_id(self, packet: packets.Connect) -> str:
        if not packet.client_id and not packet.clean_start:
            return "no client identifier, and CleanSession 0"  # [MQTT-3.1.3-7] [MQTT-3.1.3-8]
        limit = self._settings.max_client_id_bytes
        if len(packet.client_id.encode()) > limit:
            return f"a client identifier of more than {limit} bytes"
        return ""

    def _refuse(self, code: ReasonCode, error: MqliftError | None, commands: list[Command]) -> None:
        level = self._decoder.level
        wire_code = code if level >= Level.V5 else _RETURN_CODES[code]
        self._out.append(write_packet(packets.Connack(False, wire_code), level))  # [MQTT-3.2.2-4]
        self._end(f"CONNECT was refused: {error}", error, commands)  # [MQTT-3.2.2-5]

    def _authenticated(self, result: Result) -> Sequence[Command]:
        if result.outcome is _ACCEPTED:
            return (Claim(self._origin.client_id, _Step.CLAIM),)
        commands: list[Command] = []
        refused = isinstance(result.error, NotAuthorized)
        code = ReasonCode.NOT_AUTHORIZED if refused else ReasonCode.SERVER_UNAVAILABLE
        self._refuse(code, result.error, commands)
        return commands

    def _claimed(self, result: Result, now: float) -> Sequence[Command]:
        if result.outcome is not _ACCEPTED:
            commands: list[Command] = []
            self._refuse(ReasonCode.SERVER_UNAVAILABLE, result.error, commands)
            return commands
        connect = self._connect
        assert connect is not None
        self.established = True
        self._connect = None
        if connect.will is not None:
            self._will = message_of(connect.will, self._origin)
        if connect.keep_alive:
            self._patience = connect.keep_alive * KEEP_ALIVE_FACTOR
        self._heard = now
        self._set_deadline()
        # No session is ever present: none is kept yet [MQTT-3.2.2-1] [MQTT-3.2.2-3].
        self._out.append(write_packet(packets.Connack(False, 0), self._decoder.level))
        if self._pipelined is not None:
            self._decoder.feed(bytes(self._pipelined))
            self._pipelined = None
        return self._read_packets()

    # Answers of the hub.

    def answer(self, token: object, result: Result, now: float) -> Sequence[Command]:
        if self._closed:
            return NO_COMMANDS
        if type(token) is int:
            return self._published(token, result)
        if token is _Step.AUTHENTICATE:
            return self._authenticated(result)
        if token is _Step.CLAIM:
            return self._claimed(result, now)
        return self._subscription_answered(token, result)

    def _published(self, packet_id: int, result: Result) -> Sequence[Command]:
        if result.outcome is not _ACCEPTED:
            # 3.1.1 has no PUBACK that says no: the client resends on its next connection.
            commands: list[Command] = []
            self._end(f"a publish was not accepted: {result.error}", result.error, commands)
            return commands
        assert self._order is not None
        for acknowledged in self._order.accepted(packet_id):
            self._out.append(write_puback(acknowledged))
        return NO_COMMANDS

    def _subscription_answered(self, token: object, result: Result) -> Sequence[Command]:
        subscriptions = self._subscriptions()
        try:
            match token:
                case Binding():
                    return subscriptions.bound(token, result)
                case Unbinding():
                    subscriptions.unbound(token, result)
                case QueueStep():
                    subscriptions.queue_answered(token, result)
                case _:
                    raise TypeError(f"{token!r} is no token of this session")
        except PacketError as error:
            return self._fail(error, [])
        return NO_COMMANDS

    # What goes out.

    def deliver(self, tag: str, delivery: Delivery) -> bool:  # noqa: ARG002  # there is one consumer
        if self._closed or self._subscribing is None:
            self._undeliverable.append(delivery)
            return True
        message = delivery.message
        topic = outgoing_topic(message.address.routing_key)
        if topic is None:
            return self._refuse_delivery(delivery)
        qos = self._subscribing.granted.granted_qos(topic.name)
        if qos < 0:
            return False  # `$` topics under a leading wildcard, and what was routed before an UNSUBSCRIBE
        try:
            if qos == 0 or message.properties.delivery_mode == _TRANSIENT_MODE:
                self._out.append(write_publish(PUBLISH, topic.field, 0, b"", message.body))
                return False
            packet_id = self._free_packet_id()
            # DUP says that this is not the first attempt, by whichever connection [MQTT-3.3.1-3].
            first = PUBLISH | QOS_1 | DUP if delivery.attempt > 1 else PUBLISH | QOS_1
            self._out.append(write_publish(first, topic.field, packet_id, b"", message.body))
        except PacketError:
            return self._refuse_delivery(delivery)
        self._unacknowledged[packet_id] = delivery
        return True

    def _free_packet_id(self) -> int:
        """The next identifier that is not in use [MQTT-2.3.1-4]. The window leaves at least one."""
        packet_id = self._packet_id % MAX_PACKET_ID + 1
        while packet_id in self._unacknowledged:
            packet_id = packet_id % MAX_PACKET_ID + 1
        self._packet_id = packet_id
        return packet_id

    def _refuse_delivery(self, delivery: Delivery) -> bool:
        """MQTT has no form for this message: it is rejected at the next tick, which is due at once."""
        self._undeliverable.append(delivery)
        self.deadline = _AT_ONCE
        return True

    def data_to_send(self) -> bytes:
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def unsettled(self) -> Sequence[Delivery]:
        return (*self._unacknowledged.values(), *self._undeliverable)

    # Time, and the end.

    def tick(self, now: float) -> Sequence[Command]:
        if self._closed:
            return NO_COMMANDS
        commands: list[Command] = []
        if self._undeliverable:
            commands.append(Settle(self._undeliverable, Outcome.REJECTED))
            self._undeliverable = []
        self._set_deadline()
        if now >= self.deadline:  # [MQTT-3.1.2-24]
            silent = now - self._heard
            error = PacketError(ReasonCode.KEEP_ALIVE_TIMEOUT, f"nothing was received for {silent:.1f} s")
            return self._fail(error, commands)
        return commands

    def reading(self, active: bool, now: float) -> None:
        self._reading = active
        self._heard = now
        if not self._closed:
            self._set_deadline()

    def _set_deadline(self) -> None:
        if self._undeliverable:
            self.deadline = _AT_ONCE
        elif self._reading:
            self.deadline = self._heard + self._patience
        else:
            self.deadline = math.inf

    def taken_over(self) -> Sequence[Command]:
        return self._ended("another connection has the client identifier now")  # [MQTT-3.1.4-2]

    def shutdown(self) -> Sequence[Command]:
        return self._ended("the gateway stops")

    def connection_lost(self) -> Sequence[Command]:
        return [command for command in self._ended("the connection was lost") if isinstance(command, Publish)]

    def _ended(self, reason: str) -> Sequence[Command]:
        commands: list[Command] = []
        if not self._closed:
            self._end(reason, None, commands)
        return commands

    def _fail(self, error: PacketError, commands: list[Command]) -> Sequence[Command]:
        """The client broke the protocol [MQTT-4.8.0-1]."""
        if isinstance(error, UnsupportedVersion):
            # [MQTT-3.1.2-2] In 3.1.1's form, which is the last that is known to be understood.
            self._out.append(write_packet(packets.Connack(False, _RETURN_CODES[error.reason_code]), Level.V3_1_1))
        self._end(str(error), error, commands)
        return commands

    def _end(self, reason: str, error: MqliftError | None, commands: list[Command]) -> None:
        """The last commands of a session: what is acknowledged, the will [MQTT-3.1.2-8], and the close."""
        self._closed = True
        self.deadline = math.inf
        self._connect = None
        self._pipelined = None
        self._settle_acknowledged(commands)
        if self._will is not None:
            commands.append(Publish(self._will))
            self._will = None
        commands.append(Close(reason, error))


def open_session(context: SessionContext, now: float) -> Session:
    """The session of a new connection. `context.settings` must be this protocol's `Settings`."""
    if not isinstance(context.settings, Settings):
        raise TypeError(f"MQTT settings are needed, and {type(context.settings).__name__} was given")
    return MqttSession(context.settings, now)
