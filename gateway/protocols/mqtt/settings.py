"""The options of an MQTT listener."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from gateway.protocols.mqtt.fields import MAX_FIELD_BYTES, MAX_VARIABLE_INT

MAX_PACKET_ID: Final = 65_535

WEBSOCKET_PATHS: Final = ("/mqtt",)
WEBSOCKET_SUBPROTOCOLS: Final = ("mqtt", "mqttv3.1")
"""[MQTT-6.0.0-4] The first is the standard's; clients of 3.1 know the second."""
WEBSOCKET_SUBPROTOCOL_REQUIRED: Final = True
"""[MQTT-6.0.0-3] A client has to offer it."""
WEBSOCKET_TEXT: Final = False
"""[MQTT-6.0.0-1] Binary frames only."""


class Settings(BaseModel):
    """What an operator may want otherwise; the defaults suit devices that ran on Mosquitto or RabbitMQ."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_packet_size: int = Field(default=1_310_720, ge=1024, le=MAX_VARIABLE_INT + 5)
    """Bytes of a packet, fixed header included. The default takes a payload of 1 MiB, which is all that SQS has for a
    message, and a quarter more for topic and properties."""

    delivery_window: int = Field(default=100, ge=1, le=MAX_PACKET_ID)
    """Deliveries at QoS 1 that wait for their PUBACK. mosquitto has 20, RabbitMQ 10; a client on a long line needs
    more, and each costs the payload's memory."""

    max_subscriptions: int = Field(default=5_000, ge=1)
    """Filters of a connection; more are refused in SUBACK. Each costs about 1 KiB here and in the routing table."""

    max_unanswered_filters: int = Field(default=20_000, ge=1)
    """Filters of SUBSCRIBE and UNSUBSCRIBE that were read and not answered; a client that goes over it is closed."""

    max_pipelined_bytes: int = Field(default=524_288, ge=0)
    """Bytes that a client may send behind CONNECT before it is let in: twice the largest read of a connection."""

    max_client_id_bytes: int = Field(default=1024, ge=23, le=MAX_FIELD_BYTES)
    """A client identifier's UTF-8 form. Servers must take 23 (3.1.1 §3.1.3.1); a key of DynamoDB has 1,024."""

    @property
    def largest_packet(self) -> int:
        """Bytes that a WebSocket message has to have room for."""
        return self.max_packet_size
