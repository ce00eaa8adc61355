"""CONNECT and CONNACK: who is let in, who is refused and how, and what an MQTT 5 client is told about the server."""

from __future__ import annotations

from typing import Final

from gateway.core.auth import Credentials
from gateway.core.commands import Authenticate, Authenticated, KeepSession, Opened, OpenSession, SessionRecord
from gateway.core.errors import MqliftError, NotAuthorized
from gateway.core.message import Origin
from gateway.core.outcome import Outcome, Result
from gateway.protocols.mqtt.client import Client, reason_string
from gateway.protocols.mqtt.convert import PROTOCOL
from gateway.protocols.mqtt.errors import PacketError, ReasonCode
from gateway.protocols.mqtt.packets import V5, Connack, Connect, Level
from gateway.protocols.mqtt.procedures import Procedure, Token
from gateway.protocols.mqtt.properties import NO_PROPERTIES, Properties
from gateway.protocols.mqtt.publishing import payload_problem
from gateway.protocols.mqtt.reasons import connack_code
from gateway.protocols.mqtt.settings import MAX_PACKET_ID, Settings
from gateway.protocols.mqtt.writer import write_packet

ASSIGNED_PREFIX: Final = "mqlift-"
"""What client identifiers of our own making begin with."""


class ConnectRefused(PacketError):
    """The client is not let in. `cause`: what the hub said, if it was the hub."""

    def __init__(self, reason_code: ReasonCode, problem: str, cause: MqliftError | None = None) -> None:
        super().__init__(reason_code, problem)
        self.cause = cause


def check_connect(packet: Connect, settings: Settings) -> None:
    """Raises `ConnectRefused` for what is wrong before anybody else has to be asked."""
    if not packet.client_id and packet.level < V5:
        if packet.level == Level.V3_1:
            _refuse_client_id("no client identifier")  # 3.1 §3.1; longer ones than its 23 characters are taken
        if not packet.clean_start:
            _refuse_client_id("no client identifier, and CleanSession 0")  # [MQTT-3.1.3-7] [MQTT-3.1.3-8]
    limit = settings.max_client_id_bytes
    if len(packet.client_id.encode()) > limit:
        _refuse_client_id(f"a client identifier of more than {limit} bytes")
    if packet.properties.authentication_method is not None:
        # [MQTT-4.12.0-1] There is no enhanced authentication here.
        raise ConnectRefused(ReasonCode.BAD_AUTHENTICATION_METHOD, "the authentication method is not known")
    will = packet.will
    if will is not None and will.properties.payload_format_indicator == 1:
        problem = payload_problem(will.payload)
        if problem is not None:
            raise ConnectRefused(problem.reason_code, f"will: {problem}")


def _refuse_client_id(problem: str) -> None:
    raise ConnectRefused(ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, problem)


def authenticate(connect: Connect, client: Client) -> Procedure[None]:
    """Ask who the client is. Raises `ConnectRefused`."""
    credentials = Credentials(
        protocol=PROTOCOL, client_id=client.client_id, username=connect.username, password=connect.password
    )
    answer = yield Authenticate(credentials, Token.CONTROL)
    if not isinstance(answer, Authenticated):
        refused = isinstance(answer.error, NotAuthorized)
        raise _refusal(ReasonCode.NOT_AUTHORIZED if refused else ReasonCode.SERVER_UNAVAILABLE, answer)
    client.origin = Origin(PROTOCOL, client.client_id, answer.identity.user)


def open_record(connect: Connect, client: Client) -> Procedure[SessionRecord | None]:
    """Become the only connection of the client, and get what was kept of its session. Raises `ConnectRefused`."""
    answer = yield OpenSession(client.client_id, connect.clean_start, Token.CONTROL)
    if not isinstance(answer, Opened):
        # Not 0x85: a return code of 3.1.1 for that is about the characters of an identifier, and this is about whose.
        refused = isinstance(answer.error, NotAuthorized)
        raise _refusal(ReasonCode.NOT_AUTHORIZED if refused else ReasonCode.SERVER_UNAVAILABLE, answer)
    return answer.record


def keep(client: Client, record: SessionRecord) -> Procedure[None]:
    """See that the session outlives its connection. Raises `ConnectRefused`, also when too many are kept."""
    answer = yield KeepSession(client.client_id, record, Token.CONTROL)
    if answer.outcome is not Outcome.ACCEPTED:
        full = answer.outcome is Outcome.REJECTED
        raise _refusal(ReasonCode.QUOTA_EXCEEDED if full else ReasonCode.SERVER_UNAVAILABLE, answer)


def _refusal(reason: ReasonCode, answer: Result) -> ConnectRefused:
    return ConnectRefused(reason, str(answer.error), answer.error)


def accept(connect: Connect, client: Client, settings: Settings, *, session_present: bool) -> bytes:
    """The CONNACK that lets a client in [MQTT-3.2.2-1]. A version without a flag for the session has a 0 there."""
    present = session_present and client.level > Level.V3_1
    properties = _announced(connect, client, settings) if client.level >= V5 else NO_PROPERTIES
    return write_packet(Connack(present, ReasonCode.SUCCESS, properties), client.level)


def _announced(connect: Connect, client: Client, settings: Settings) -> Properties:
    """The server's limits.

    What is left out has the value that the specification gives it: QoS 2, RETAIN, wildcards, subscription identifiers
    and shared subscriptions are available (5.0 §3.2.2.3).
    """
    capped = client.requested_expiry > settings.max_session_expiry
    return Properties(
        session_expiry_interval=settings.max_session_expiry if capped else None,
        receive_maximum=settings.receive_maximum if settings.receive_maximum < MAX_PACKET_ID else None,
        maximum_packet_size=settings.max_packet_size,
        assigned_client_identifier=None if connect.client_id else client.client_id,  # [MQTT-3.2.2-16]
        topic_alias_maximum=settings.topic_alias_maximum or None,
        server_keep_alive=client.keep_alive if client.keep_alive != connect.keep_alive else None,  # [MQTT-3.2.2-21]
    )


def refuse(error: PacketError, level: int, maximum_packet_size: int) -> bytes:
    """The CONNACK that refuses; nothing where the version has no code for it. No session is present [MQTT-3.2.2-6]."""
    code = connack_code(error.reason_code, level)
    if code is None:
        return b""
    if level >= V5:
        properties = Properties(reason_string=reason_string(str(error)))
        written = write_packet(Connack(False, code, properties), level)
        if len(written) <= maximum_packet_size:  # [MQTT-3.2.2-19]
            return written
    return write_packet(Connack(False, code), level)
