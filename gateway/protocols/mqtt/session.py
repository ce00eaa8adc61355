"""One MQTT connection, of any version, from CONNECT to its end.

`connecting` says who is refused, `publishing` has the publishes that come in, `delivering` the deliveries that go out,
`subscribing` the filters, and `keeping` what a session leaves behind for its next connection. Here they are put
together: packets and answers are handed to the part that they belong to, and time and the end are minded.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from typing import Final

from gateway.core.commands import NO_COMMANDS, Close, Command, EndSession, KeepInflight, Publish, SessionRecord, Settle
from gateway.core.delivery import Delivery
from gateway.core.errors import MqliftError
from gateway.core.message import RETAIN, Message
from gateway.core.metrics import Count
from gateway.core.outcome import Outcome, Result
from gateway.core.session import Session, SessionContext
from gateway.protocols.mqtt import packets
from gateway.protocols.mqtt.client import LARGEST_PACKET, Client
from gateway.protocols.mqtt.codec import Decoder
from gateway.protocols.mqtt.connecting import (
    ASSIGNED_PREFIX,
    ConnectRefused,
    accept,
    authenticate,
    check_connect,
    keep,
    open_record,
    refuse,
)
from gateway.protocols.mqtt.convert import message_of
from gateway.protocols.mqtt.delivering import Delivering
from gateway.protocols.mqtt.errors import PacketError, ReasonCode, UnsupportedVersion, violation
from gateway.protocols.mqtt.keeping import Inflight, InflightKeeper, read_inflight, read_state
from gateway.protocols.mqtt.packets import V5, Level
from gateway.protocols.mqtt.procedures import Procedure, Procedures, Token
from gateway.protocols.mqtt.publishing import Publishing, Receipt, Twofold
from gateway.protocols.mqtt.reasons import disconnect_reason
from gateway.protocols.mqtt.settings import Settings
from gateway.protocols.mqtt.subscribing import Subscribing
from gateway.protocols.mqtt.writer import PINGRESP

KEEP_ALIVE_FACTOR: Final = 1.5
"""A client may be silent for one and a half keep-alive periods [MQTT-3.1.2-24]; in 5.0 [MQTT-3.1.2-22]."""

_AT_ONCE: Final = 0.0
"""A deadline that has passed on every clock."""

_ACCEPTED: Final = Outcome.ACCEPTED
"""Reading a member of an enumeration costs 0.1 µs in Python 3.11, and this one is read for each message."""

_NOTHING_KEPT: Final = Inflight()


class MqttSession:
    """See `core.session.Session`, the port that this is."""

    __slots__ = (
        "_client",
        "_clock",
        "_closed",
        "_connecting",
        "_decoder",
        "_delivering",
        "_discarded",
        "_heard",
        "_inherited",
        "_keeper",
        "_opened",
        "_out",
        "_patience",
        "_pipelined",
        "_procedures",
        "_publishing",
        "_reading",
        "_settings",
        "_subscribing",
        "_will",
        "congested",
        "deadline",
        "established",
    )

    def __init__(self, settings: Settings, clock: Callable[[], float], discarded: Count, now: float) -> None:
        self.deadline = math.inf
        self.established = False
        self.congested = False
        self._settings = settings
        self._clock = clock
        self._discarded = discarded
        self._decoder = Decoder(settings.max_packet_size)
        self._out: list[bytes] = []
        self._closed = False
        self._connecting = False
        """CONNECT has come, and is not answered."""
        self._opened = False
        """The hub was asked for the session."""
        self._pipelined: bytearray | None = None
        self._client: Client | None = None
        self._will: packets.Will | None = None
        self._heard = now
        self._patience = math.inf
        self._reading = True
        self._procedures = Procedures()
        self._inherited = _NOTHING_KEPT
        self._keeper: InflightKeeper | None = None
        self._publishing: Publishing | None = None
        self._subscribing: Subscribing | None = None
        self._delivering: Delivering | None = None

    # What comes in.

    def receive_data(self, data: bytes, now: float) -> Sequence[Command]:
        if self._closed:
            return NO_COMMANDS
        self._heard = now
        commands: list[Command] = []
        try:
            if self._connecting:
                self._keep_pipelined(data)
            else:
                self._decoder.feed(data)
                self._read_packets(commands)
        except PacketError as error:
            self._fail(error, commands)
        return commands

    def _keep_pipelined(self, data: bytes) -> None:
        """Clients need not wait for CONNACK [MQTT-3.1.4-5]; what they send has to."""
        if self._pipelined is None:
            self._pipelined = bytearray()
        self._pipelined += data
        limit = self._settings.max_pipelined_bytes
        if len(self._pipelined) > limit:
            raise PacketError(ReasonCode.QUOTA_EXCEEDED, f"more than {limit} bytes behind CONNECT")

    def _read_packets(self, commands: list[Command]) -> None:
        next_packet = self._decoder.next_packet
        while not self._closed and not self._connecting:
            packet = next_packet()
            if packet is None:
                break
            if type(packet) is packets.Publish:
                (self._publishing or self._open_publishing()).receive(packet, commands)
            elif type(packet) is packets.Puback:
                (self._delivering or self._deliveries()).puback(packet)
            else:
                self._receive_control(packet, commands)
        self._collect(commands)

    def _receive_control(self, packet: packets.Packet, commands: list[Command]) -> None:
        match packet:
            case packets.Pubrel():
                (self._publishing or self._open_publishing()).release(packet)
            case packets.Pubrec():
                self._deliveries().pubrec(packet)
            case packets.Pubcomp():
                self._deliveries().pubcomp(packet)
            case packets.Pingreq():
                self._out.append(PINGRESP)  # [MQTT-3.12.4-1]
            case packets.Subscribe():
                commands += self._procedures.start(self._subscriptions().subscribe(packet))
            case packets.Unsubscribe():
                commands += self._procedures.start(self._subscriptions().unsubscribe(packet))
            case packets.Disconnect():
                self._receive_disconnect(packet, commands)
            case packets.Connect():
                self._receive_connect(packet, commands)
            case _:
                # [MQTT-4.12.0-7] AUTH too: nobody who uses it is let in.
                raise violation(f"{type(packet).__name__.upper()} from a client")

    def _receive_disconnect(self, packet: packets.Disconnect, commands: list[Command]) -> None:
        client = self._client
        assert client is not None
        expiry = packet.properties.session_expiry_interval
        if expiry is not None:
            if expiry and not client.requested_expiry:
                raise violation("DISCONNECT asks for a session that CONNECT did not want")  # 5.0 §3.14.2.2.2
            client.grant_expiry(expiry, self._settings)
        if packet.reason_code == ReasonCode.SUCCESS:
            self._will = None  # [MQTT-3.1.2-10] [MQTT-3.14.4-3]
        self._end("the client disconnected", None, commands)

    # The parts, made when they are needed: most connections only publish, or only subscribe.

    def _open_publishing(self) -> Publishing:
        client = self._client
        assert client is not None
        received = self._inherited.received
        self._publishing = Publishing(client, self._settings, self._out, self._clock, self._keeper, received)
        return self._publishing

    def _subscriptions(self) -> Subscribing:
        if self._subscribing is None:
            assert self._client is not None
            self._subscribing = Subscribing(self._client, self._settings, self._out)
        return self._subscribing

    def _deliveries(self) -> Delivering:
        if self._delivering is None:
            client = self._client
            assert client is not None
            self._delivering = Delivering(
                client, self._subscriptions(), self._out, self._clock, self._keeper, self._discarded
            )
        return self._delivering

    # Letting a client in.

    def _receive_connect(self, packet: packets.Connect, commands: list[Command]) -> None:
        if self._client is not None:
            raise violation("a second CONNECT")  # [MQTT-3.1.0-2]
        client_id = packet.client_id or f"{ASSIGNED_PREFIX}{secrets.token_hex(12)}"  # [MQTT-3.1.3-6]
        self._client = Client(packet, client_id, self._settings)
        self._connecting = True
        check_connect(packet, self._settings)
        commands += self._procedures.start(self._let_in(packet, self._client))

    def _let_in(self, connect: packets.Connect, client: Client) -> Procedure[None]:
        yield from authenticate(connect, client)
        self._opened = True  # from when the hub is asked: the connection may end before it answers
        record = yield from open_record(connect, client)
        if record is not None:
            client.kept = True
        if client.kept and connect.will is not None:
            client.will, client.will_delay = self._will_of(connect.will, client)
        if record is not None:
            yield from self._restore(record, client)
        elif client.kept:
            # A session exists from CONNECT on, whether or not anything is in it [MQTT-3.1.2-4].
            self._keeper = InflightKeeper(client.client_id, b"", self._inflight)
            empty = SessionRecord(expiry=client.expiry, will=client.will, will_delay=client.will_delay)
            yield from keep(client, empty)
        self._establish(connect, client, session_present=record is not None)
        if record is not None:
            yield from self._subscriptions().consume()

    def _restore(self, record: SessionRecord, client: Client) -> Procedure[None]:
        """Have what an earlier connection of the session has left."""
        state = read_state(record.state)
        self._inherited = read_inflight(record.inflight)
        self._keeper = InflightKeeper(client.client_id, record.inflight, self._inflight)
        yield from self._subscriptions().restore(record.queue, state)
        if record.expiry != client.expiry or client.will is not None:
            yield from keep(client, self._subscriptions().record())

    def _establish(self, connect: packets.Connect, client: Client, *, session_present: bool) -> None:
        self.established = True
        self._will = connect.will
        if client.keep_alive:
            self._patience = client.keep_alive * KEEP_ALIVE_FACTOR
        self._out.append(accept(connect, client, self._settings, session_present=session_present))
        if self._inherited is not _NOTHING_KEPT:
            self._deliveries().resume(self._inherited)

    # Answers of the hub.

    def answer(self, token: object, result: Result, now: float) -> Sequence[Command]:
        if self._closed:
            return NO_COMMANDS
        if type(token) is int and result.outcome is _ACCEPTED:
            assert self._publishing is not None
            self._publishing.acknowledge(token, result)
            return NO_COMMANDS
        commands: list[Command] = []
        try:
            self._answer(token, result, now, commands)
        except PacketError as error:
            self._fail(error, commands)
        return commands

    def _answer(self, token: object, result: Result, now: float, commands: list[Command]) -> None:
        if token is Token.CONTROL:
            commands += self._procedures.answered(result)
            if self._connecting and self.established:
                self._begin(now, commands)
        elif isinstance(token, int | Receipt):
            self._published(token, result, commands)
        elif isinstance(token, Twofold):
            if token.answered(result):
                self._published(token.token, token.result, commands)
        elif token is Token.INFLIGHT:
            assert self._keeper is not None
            self._keeper.answered(result)
        elif token is not Token.UNWAITED:
            raise TypeError(f"{token!r} is no token of this session")
        self._collect(commands)

    def _published(self, token: int | Receipt, result: Result, commands: list[Command]) -> None:
        client = self._client
        assert client is not None
        assert self._publishing is not None
        if result.outcome is not _ACCEPTED and client.level < V5:
            # No acknowledgement says no before MQTT 5: the client resends on its next connection.
            self._end(f"a publish was not accepted: {result.error}", result.error, commands)
        else:
            self._publishing.answered(token, result)

    def _begin(self, now: float, commands: list[Command]) -> None:
        """CONNACK is said: go on with what came behind CONNECT."""
        self._connecting = False
        self._heard = now
        self._set_deadline()
        if self._pipelined is not None:
            self._decoder.feed(bytes(self._pipelined))
            self._pipelined = None
        self._read_packets(commands)

    def _collect(self, commands: list[Command]) -> None:
        """What the parts have gathered."""
        if self._closed:
            return
        if self._delivering is not None:
            self._delivering.collect(commands)
        if self._keeper is not None:
            self._keeper.collect(commands)

    # What goes out.

    def deliver(self, tag: str, delivery: Delivery) -> bool:
        delivering = self._delivering
        if delivering is None:
            delivering = self._deliveries()
        if self._closed:
            return delivering.hold(delivery)
        held = delivering.deliver(tag, delivery)
        if delivering.due:
            self.deadline = _AT_ONCE
        return held

    def data_to_send(self) -> bytes:
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    @property
    def assembling(self) -> int:
        return self._decoder.assembling

    def needs_body(self, delivery: Delivery) -> bool:
        return self._delivering is not None and self._delivering.needs_body(delivery)

    def unsettled(self) -> Sequence[Delivery]:
        return () if self._delivering is None else self._delivering.unsettled()

    # Time.

    def tick(self, now: float) -> Sequence[Command]:
        commands: list[Command] = []
        if self._closed:
            return commands
        self._collect(commands)
        self._set_deadline()
        if now >= self.deadline:  # [MQTT-3.1.2-24]
            silent = now - self._heard
            self._fail(PacketError(ReasonCode.KEEP_ALIVE_TIMEOUT, f"nothing was received for {silent:.1f} s"), commands)
        return commands

    def reading(self, active: bool, now: float) -> None:
        self._reading = active
        self._heard = now
        if not self._closed:
            self._set_deadline()

    def _set_deadline(self) -> None:
        if self._delivering is not None and self._delivering.due:
            self.deadline = _AT_ONCE
        elif self._reading:
            self.deadline = self._heard + self._patience
        else:
            self.deadline = math.inf

    # The end.

    def cancelled(self, tag: str) -> Sequence[Command]:  # noqa: ARG002 - the port's
        return NO_COMMANDS  # no subscription asks for it: MQTT has no way to tell a client

    def taken_over(self) -> Sequence[Command]:
        reason = "another connection has the client identifier now"
        return self._say_goodbye(ReasonCode.SESSION_TAKEN_OVER, reason)  # [MQTT-3.1.4-2]; in 5.0 [MQTT-3.1.4-3]

    def shutdown(self) -> Sequence[Command]:
        return self._say_goodbye(ReasonCode.SERVER_SHUTTING_DOWN, "the gateway stops")

    def _say_goodbye(self, code: ReasonCode, reason: str) -> Sequence[Command]:
        commands: list[Command] = []
        if not self._closed:
            self._explain(PacketError(code, reason))
            self._end(reason, None, commands)
        return commands

    def connection_lost(self) -> Sequence[Command]:
        commands: list[Command] = []
        if not self._closed:
            self._end("the connection was lost", None, commands)
        return [command for command in commands if isinstance(command, Settle | Publish | KeepInflight | EndSession)]

    def _fail(self, error: PacketError, commands: list[Command]) -> None:
        """The client broke the protocol [MQTT-4.8.0-1], is not let in, or cannot be served any longer."""
        self._explain(error)
        if isinstance(error, ConnectRefused):
            self._end(f"CONNECT was refused: {error}", error.cause or error, commands)
        else:
            self._end(str(error), error, commands)

    def _explain(self, error: PacketError) -> None:
        """Tell the client why the connection ends, as far as its version can."""
        client = self._client
        if client is None:
            if isinstance(error, UnsupportedVersion):
                # [MQTT-3.1.2-2] In 3.1.1's form, which is the last that is known to be understood.
                self._out.append(refuse(error, Level.V3_1_1, LARGEST_PACKET))
        elif not self.established:
            self._out.append(refuse(error, client.level, client.maximum_packet_size))
        elif client.level >= V5:
            self._out.append(client.disconnect(disconnect_reason(error.reason_code), str(error)))

    def _end(self, reason: str, error: MqliftError | None, commands: list[Command]) -> None:
        """The last commands of a connection: what is acknowledged, the session and the will, and the close."""
        self._closed = True
        self.deadline = math.inf
        self._pipelined = None
        if self._delivering is not None:
            self._delivering.collect_settled(commands)
        if self._opened:
            self._end_session(commands)
        commands.append(Close(reason, error))

    def _end_session(self, commands: list[Command]) -> None:
        client = self._client
        assert client is not None
        will, delay = self._last_will(client)
        if client.kept:
            if self._keeper is not None:
                self._keeper.finish(self._inflight(last=True), commands)
            commands.append(EndSession(client.client_id, client.expiry, will, delay))
        elif will is not None and will.headers.get(RETAIN):
            commands.append(EndSession(client.client_id, 0.0, will))  # to be retained beside
        elif will is not None:
            commands.append(Publish(will))  # [MQTT-3.1.2-8]

    def _last_will(self, client: Client) -> tuple[Message | None, float]:
        """The will, once, and how long it waits (5.0 §3.1.3.2.2)."""
        will, self._will = self._will, None
        if will is None:
            return None, 0.0
        return self._will_of(will, client)

    def _will_of(self, will: packets.Will, client: Client) -> tuple[Message, float]:
        delay = min(float(will.properties.will_delay_interval or 0), client.expiry)
        return message_of(will, client.origin, lambda: self._clock() + delay), delay

    def _inflight(self, *, last: bool = False) -> Inflight:
        """What has to be known again after a crash, or with `last` after this connection."""
        publishing, delivering = self._publishing, self._delivering
        inherited = self._inherited
        return Inflight(
            received=inherited.received if publishing is None else publishing.received(),
            sent=inherited.sent if delivering is None else delivering.sent(last=last),
            released=inherited.released if delivering is None else delivering.released(),
            completed=inherited.completed if delivering is None else delivering.completed(),
        )


def open_session(context: SessionContext, now: float) -> Session:
    """The session of a new connection. `context.settings` must be this protocol's `Settings`."""
    if not isinstance(context.settings, Settings):
        raise TypeError(f"MQTT settings are needed, and {type(context.settings).__name__} was given")
    return MqttSession(context.settings, context.time, context.discarded, now)
