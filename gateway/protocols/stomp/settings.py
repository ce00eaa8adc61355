"""A STOMP listener's own options."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

KIB = 1024
MIB = 1024 * KIB

WEBSOCKET_PATHS: Final = ("/stomp", "/ws")
"""ActiveMQ's and Spring's, and RabbitMQ's."""
WEBSOCKET_SUBPROTOCOLS: Final = ("v12.stomp", "v11.stomp", "v10.stomp")
"""Of the versions that are offered."""
WEBSOCKET_SUBPROTOCOL_REQUIRED: Final = False
"""A client that offers none, or others, is told in CONNECTED or ERROR which versions there are."""
WEBSOCKET_TEXT: Final = True
"""Clients in browsers expect text frames, and send them."""


class Settings(BaseModel):
    """Limits and habits of a STOMP listener. Sizes in bytes, times as their names say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dialect: Literal["rabbitmq", "activemq"] = "rabbitmq"
    """Whose destinations and headers clients use."""

    max_headers: int = Field(default=200, ge=10)
    """Header lines of a frame. Spring and JMS clients send 10 to 30; ActiveMQ takes 1,000."""
    max_header_line: int = Field(default=10 * KIB, ge=256)
    """Bytes of a header line, as in ActiveMQ."""
    max_header_section: int = Field(default=64 * KIB, ge=KIB)
    """Bytes of all headers of a frame; they travel with the message, which SQS limits to 1 MiB."""
    max_body: int = Field(default=MIB, ge=KIB)
    """Bytes of a message's body. SQS takes 1 MiB, headers included."""

    max_subscriptions: int = Field(default=256, ge=1)
    """Of a connection: active ones, and ended ones whose messages are still unacknowledged."""
    default_prefetch: int = Field(default=250, ge=1)
    """Unacknowledged messages of a subscription that does not say `prefetch-count`. A client that acknowledges
    cumulatively has to do so at least this often. RabbitMQ sets no bound, and keeps no visibility timeout running."""
    max_prefetch: int = Field(default=10_000, ge=1)
    """What a larger `prefetch-count`, or 0 for unlimited, becomes. SQS allows 120,000 in flight for a whole queue."""
    max_unanswered: int = Field(default=65_536, ge=1)
    """SENDs without a result. Only protection: connections stop reading far below it."""

    max_transactions: int = Field(default=16, ge=1)
    """Of a connection, begun and not ended; as in RabbitMQ's plugin."""
    max_transaction_actions: int = Field(default=1024, ge=1)
    """SENDs, ACKs and NACKs of a transaction; as in RabbitMQ's plugin."""
    max_transaction_bytes: int = Field(default=8 * MIB, ge=KIB)
    """Headers and bodies that all transactions of a connection hold together."""
    transaction_timeout: float = Field(default=300.0, gt=0.0)
    """Seconds from BEGIN to COMMIT or ABORT."""

    heart_beat_floor_ms: int = Field(default=1000, ge=10)
    """The most frequent heart-beats that are agreed to, in both directions."""
    heart_beat_tolerance: float = Field(default=2.0, ge=1.0)
    """Agreed intervals of silence after which a peer is given up, as in RabbitMQ."""

    @property
    def largest_packet(self) -> int:
        """Bytes that a WebSocket message has to have room for."""
        return self.max_header_section + self.max_body

    @property
    def largest_body(self) -> tuple[str, int]:
        """The option that says how large a message may be, and its bytes."""
        return "max_body", self.max_body

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.default_prefetch > self.max_prefetch:
            raise ValueError("default_prefetch is over max_prefetch")
        return self
