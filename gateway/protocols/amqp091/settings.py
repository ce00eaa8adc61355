"""The options of an AMQP 0-9-1 listener."""

from __future__ import annotations

from typing import Final, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.protocols.amqp091.frames import MIN_FRAME_MAX

MIB: Final = 1024 * 1024

MAX_SHORT: Final = 65_535
"""Of a 16-bit field: channels, seconds of a heartbeat, deliveries of a prefetch."""

Mechanism: TypeAlias = Literal["PLAIN", "AMQPLAIN", "EXTERNAL"]


class Settings(BaseModel):
    """Limits and habits of an AMQP 0-9-1 listener. Sizes in bytes, times in seconds; the defaults suit applications
    that ran on RabbitMQ.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    vhosts: dict[str, str] = Field(default={"/": ""}, min_length=1)
    """Virtual hosts that clients may open, and what the names of their queues and exchanges begin with in the gateway.
    What other protocols see has no prefix."""
    vhost_users: dict[str, frozenset[str]] = Field(default_factory=dict)
    """Who may open a virtual host; one that is not named here is open to everybody who may connect."""
    mechanisms: tuple[Mechanism, ...] = Field(default=("PLAIN", "AMQPLAIN"), min_length=1)
    """Ways to log in that are offered. EXTERNAL (a client's certificate) has to be asked for, as in RabbitMQ: some
    clients use it wherever it is offered, whether they have a certificate or not."""
    cluster_name: str = Field(default="mqlift", max_length=255)
    """What clients show as the name of the server."""

    frame_max: int = Field(default=131_072, ge=MIN_FRAME_MAX, le=16 * MIB)
    """Of a frame, as in RabbitMQ; clients may ask for less."""
    channel_max: int = Field(default=2_047, ge=1, le=MAX_SHORT)
    """Channels of a connection at a time, as in RabbitMQ; clients may ask for fewer."""
    heartbeat: int = Field(default=60, ge=0, le=MAX_SHORT)
    """What is suggested to clients, which decide; as in RabbitMQ. 0: none."""

    max_message_size: int = Field(default=128 * MIB, ge=1)
    """Of a body; a larger one closes its channel. As in RabbitMQ 3; what a queue's backend takes may be less."""
    max_unfinished_bytes: int = Field(default=256 * MIB, ge=1)
    """Of all bodies of a connection that have been announced and are not complete, one for each channel at most."""
    max_held_bytes: int = Field(default=MIB, ge=0)
    """Of frames that wait for the answer to one before them on their channel. Over it the connection is not read; what
    one read brings comes on top."""

    unlimited_prefetch: int = Field(default=1_000, ge=1, le=MAX_SHORT)
    """Unacknowledged deliveries of a consumer without a prefetch. RabbitMQ sets no bound, and keeps no visibility
    timeout running."""
    max_prefetch: int = Field(default=10_000, ge=1, le=MAX_SHORT)
    """What a larger prefetch becomes. SQS allows 120,000 in flight for a whole queue."""
    max_unacknowledged: int = Field(default=65_536, ge=1)
    """Deliveries that one channel may hold before it can neither get nor consume more."""
    max_consumers: int = Field(default=2_047, ge=1)
    """Consumers of a connection."""

    max_transaction_messages: int = Field(default=10_000, ge=1)
    """Publishes that a channel keeps until `tx.commit`."""
    max_transaction_bytes: int = Field(default=64 * MIB, ge=1)
    """Of their bodies, properties and headers."""

    @property
    def largest_body(self) -> tuple[str, int]:
        """The option that says how large a message may be, and its bytes."""
        return "max_message_size", self.max_message_size

    @model_validator(mode="after")
    def _check_vhost_users(self) -> Self:
        unknown = sorted(self.vhost_users.keys() - self.vhosts.keys())
        if unknown:
            raise ValueError(f"vhost_users: {', '.join(map(repr, unknown))} is not in vhosts; add it there")
        return self
