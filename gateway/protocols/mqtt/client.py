"""What is known about a client from its CONNECT on."""

from __future__ import annotations

import math
from typing import Final, TypeAlias

from gateway.core.message import Message, Origin
from gateway.protocols.mqtt.convert import PROTOCOL
from gateway.protocols.mqtt.errors import ReasonCode
from gateway.protocols.mqtt.fields import MAX_VARIABLE_INT
from gateway.protocols.mqtt.packets import V5, Connect, Disconnect, Puback, Pubcomp, Pubrec, Pubrel
from gateway.protocols.mqtt.properties import Properties
from gateway.protocols.mqtt.settings import FOR_EVER, MAX_KEEP_ALIVE, Settings
from gateway.protocols.mqtt.writer import write_packet

REASON_LENGTH: Final = 200
"""Characters of a reason string: for a person who reads a log, on a device with little memory."""

LARGEST_PACKET: Final = MAX_VARIABLE_INT + 5
"""Bytes of the largest packet that MQTT has: the limit of a client that names none."""

AcknowledgementType: TypeAlias = type[Puback] | type[Pubrec] | type[Pubrel] | type[Pubcomp]


def reason_string(problem: str) -> str:
    """A text that every client can read, and that MQTT has a form for."""
    return problem[:REASON_LENGTH].replace("\0", "?").encode(errors="replace").decode()


class Client:
    """How one client is served. `window`: deliveries at QoS 1 and 2 under way at once. Times in seconds.

    `expiry`: how long the session is kept without a connection, infinity for ever.
    """

    __slots__ = (
        "expiry",
        "keep_alive",
        "kept",
        "level",
        "maximum_packet_size",
        "origin",
        "problem_information",
        "requested_expiry",
        "topic_alias_maximum",
        "will",
        "will_delay",
        "window",
    )

    def __init__(self, connect: Connect, client_id: str, settings: Settings) -> None:
        said = connect.properties
        self.level = int(connect.level)
        self.origin = Origin(PROTOCOL, client_id)
        self.window = min(said.receive_maximum or settings.delivery_window, settings.delivery_window)
        self.maximum_packet_size = said.maximum_packet_size or LARGEST_PACKET
        self.topic_alias_maximum = min(said.topic_alias_maximum or 0, settings.topic_alias_maximum)
        self.problem_information = said.request_problem_information != 0
        self.keep_alive = self._granted_keep_alive(connect.keep_alive, settings)
        self.requested_expiry = self._requested_expiry(connect, settings)
        self.expiry = 0.0
        self.grant_expiry(self.requested_expiry, settings)
        self.kept = self.expiry > 0
        """Whether the session outlives its connection, or is one that did."""
        self.will: Message | None = None
        """What is published for it when the gateway is killed; when its connection ends, the session says what is."""
        self.will_delay = 0.0

    @property
    def client_id(self) -> str:
        return self.origin.client_id

    def _granted_keep_alive(self, keep_alive: int, settings: Settings) -> int:
        limit = settings.max_keep_alive
        if self.level < V5 or limit == MAX_KEEP_ALIVE or 0 < keep_alive <= limit:
            return keep_alive
        return limit

    def _requested_expiry(self, connect: Connect, settings: Settings) -> int:
        if self.level >= V5:
            return connect.properties.session_expiry_interval or 0
        return 0 if connect.clean_start else settings.persistent_session_expiry

    def grant_expiry(self, requested: int, settings: Settings) -> None:
        """Set how long the session is kept when its connection has ended."""
        granted = min(requested, settings.max_session_expiry) if self.level >= V5 else requested
        self.expiry = math.inf if granted == FOR_EVER else float(granted)

    def acknowledgement(self, kind: AcknowledgementType, packet_id: int, code: ReasonCode, problem: str = "") -> bytes:
        """An acknowledgement with a reason, as far as the client's version and wishes have room for it."""
        if self.level < V5:
            return write_packet(kind(packet_id), self.level)
        if problem and self.problem_information:  # [MQTT-3.1.2-29]
            packet = kind(packet_id, code, Properties(reason_string=reason_string(problem)))
            written = write_packet(packet, self.level)
            if len(written) <= self.maximum_packet_size:  # [MQTT-3.4.2-2] [MQTT-3.5.2-2] [MQTT-3.6.2-2] [MQTT-3.7.2-2]
                return written
        return write_packet(kind(packet_id, code), self.level)

    def disconnect(self, code: ReasonCode, problem: str) -> bytes:
        """A DISCONNECT of MQTT 5. Its reason string needs no permission (5.0 §3.1.2.11.7)."""
        written = write_packet(Disconnect(code, Properties(reason_string=reason_string(problem))), self.level)
        if len(written) <= self.maximum_packet_size:  # [MQTT-3.14.2-3]
            return written
        return write_packet(Disconnect(code), self.level)
