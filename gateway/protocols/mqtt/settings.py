"""The options of an MQTT listener."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from gateway.protocols.mqtt.fields import MAX_FIELD_BYTES, MAX_VARIABLE_INT

MAX_PACKET_ID: Final = 65_535

ALPN: Final = ("mqtt",)
"""Registered with IANA for MQTT; clients that share port 443 with HTTPS ask for it."""
WEBSOCKET_PATHS: Final = ("/mqtt",)
WEBSOCKET_SUBPROTOCOLS: Final = ("mqtt", "mqttv3.1")
"""[MQTT-6.0.0-4] The first is the standard's; clients of 3.1 know the second."""
WEBSOCKET_SUBPROTOCOL_REQUIRED: Final = True
"""[MQTT-6.0.0-3] A client has to offer it."""
WEBSOCKET_TEXT: Final = False
"""[MQTT-6.0.0-1] Binary frames only."""

MAX_WINDOW: Final = 32_767
"""Deliveries under way to one client. As many packet identifiers again are left for those that its last connection
left behind, and the queue has not delivered again yet."""

FOR_EVER: Final = 0xFFFF_FFFF
"""A session expiry interval without an end (5.0 §3.1.2.11.2)."""

MAX_KEEP_ALIVE: Final = 65_535


class Settings(BaseModel):
    """What an operator may want otherwise; the defaults suit devices that ran on Mosquitto or RabbitMQ."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_packet_size: int = Field(default=1_310_720, ge=1024, le=MAX_VARIABLE_INT + 5)
    """Bytes of a packet, fixed header included. The default takes a payload of 1 MiB, which is all that SQS has for a
    message, and a quarter more for topic and properties."""

    delivery_window: int = Field(default=100, ge=1, le=MAX_WINDOW)
    """Deliveries at QoS 1 and 2 that are under way to a client; MQTT 5 clients may ask for fewer. mosquitto has 20,
    RabbitMQ 10; a client on a long line needs more, and each costs the payload's memory."""

    receive_maximum: int = Field(default=1_000, ge=1, le=MAX_PACKET_ID)
    """Publishes at QoS 1 and 2 that an MQTT 5 client may have under way; one that sends more is closed. Older clients
    are not told, and are only held back by the connection's own limit."""

    topic_alias_maximum: int = Field(default=100, ge=0, le=MAX_PACKET_ID)
    """Topic aliases in each direction of an MQTT 5 connection. Each costs a topic's memory. mosquitto has 10."""

    persistent_session_expiry: int = Field(default=1_209_600, ge=0, le=FOR_EVER)
    """Seconds that the session of a 3.1 or 3.1.1 client with CleanSession 0 is kept without a connection; 0 keeps none,
    4,294,967,295 keeps it for ever, as mosquitto does. The default is 14 days: SQS keeps no message for longer, and a
    queue that nobody comes back for should not stay."""

    max_session_expiry: int = Field(default=1_209_600, ge=0, le=FOR_EVER)
    """Seconds that an MQTT 5 client's session is kept at most; the client is told when it asked for more. The default
    has the same reason; 4,294,967,295 grants whatever is asked for."""

    max_keep_alive: int = Field(default=MAX_KEEP_ALIVE, ge=1, le=MAX_KEEP_ALIVE)
    """Seconds of keep-alive that an MQTT 5 client is told to use at most. Older clients cannot be told."""

    max_subscriptions: int = Field(default=5_000, ge=1)
    """Filters of a connection; more are refused in SUBACK. Each costs about 1 KiB here and in the routing table."""

    max_shared_subscriptions: int = Field(default=20, ge=0)
    """Shared subscriptions among them: each may bring a whole delivery window that waits for the client."""

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

    @property
    def largest_body(self) -> tuple[str, int]:
        """The option that says how large a message may be, and its bytes."""
        return "max_packet_size", self.max_packet_size
