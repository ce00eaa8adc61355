"""What one connection may ask of the gateway, and how much of that a message takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.net.pace import PublishRate

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Of one connection."""

    connect_timeout: float = 10.0
    """Seconds from accepting the socket to being let in."""
    inflight: int = 2_000
    """Published messages without a result before the connection is not read any more."""
    inflight_bytes: int = 64 * MIB
    """The same, in bytes of their bodies."""
    publish_rate: PublishRate = field(default_factory=PublishRate)
    """Over it the connection is not read for a while."""
    consumers: int = 5_000
    """Of queues; one more is refused. What the protocol calls subscriptions, it limits itself."""
    unacknowledged: int = 0
    """Deliveries that consumers hold together, whatever their prefetch allows; 0 for any number. Consumers that share
    a limit of their protocol's (AMQP's channels) keep to that one."""
    write_timeout: float = 300.0
    """Seconds in which a peer that was sent something has to take a byte of it; 0 for ever."""

    @property
    def share(self) -> int:
        """Bytes of a body up to which it is the number of messages that counts, and no account of bytes is needed."""
        return max(1, self.inflight_bytes // self.inflight)


class Heavy:
    """The token of a message that counts as several, because its body is larger than the share of one."""

    __slots__ = ("size", "token", "weight")

    def __init__(self, token: object, size: int, share: int) -> None:
        self.token = token
        self.size = size
        """Bytes of its body."""
        self.weight = -(-size // share)
        """Rounded up: so the bytes under way are never more than the weights allow."""
