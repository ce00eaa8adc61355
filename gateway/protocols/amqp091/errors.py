"""AMQP's reply codes, and the errors that carry one: those that close a connection, and those that close a channel."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from gateway.core.errors import ProtocolError

MAX_REPLY_TEXT: Final = 255
"""Bytes of a reply text: it is a short string (spec §4.2.5.3)."""


class ReplyCode(IntEnum):
    """Spec §1.2 (constants). The names, with underscores, are what RabbitMQ's reply texts begin with."""

    SUCCESS = 200
    CONTENT_TOO_LARGE = 311
    NO_ROUTE = 312
    NO_CONSUMERS = 313
    CONNECTION_FORCED = 320
    INVALID_PATH = 402
    ACCESS_REFUSED = 403
    NOT_FOUND = 404
    RESOURCE_LOCKED = 405
    PRECONDITION_FAILED = 406
    FRAME_ERROR = 501
    SYNTAX_ERROR = 502
    COMMAND_INVALID = 503
    CHANNEL_ERROR = 504
    UNEXPECTED_FRAME = 505
    RESOURCE_ERROR = 506
    NOT_ALLOWED = 530
    NOT_IMPLEMENTED = 540
    INTERNAL_ERROR = 541


class AmqpError(ProtocolError):
    """What `connection.close` or `channel.close` says. `class_id` and `method_id`: the method that failed, or 0."""

    def __init__(self, reply_code: ReplyCode, problem: str, class_id: int = 0, method_id: int = 0) -> None:
        super().__init__(problem)
        self.reply_code = reply_code
        self.class_id = class_id
        self.method_id = method_id

    @property
    def reply_text(self) -> str:
        """In RabbitMQ's form, which some clients parse: `NOT_FOUND - no queue 'q' in vhost '/'`; cut to its limit."""
        return cut_text(f"{self.reply_code.name} - {self}", MAX_REPLY_TEXT)


class ConnectionException(AmqpError):
    """Closes the connection (spec §4.10.2); nothing that the peer sent after it can be trusted."""


class ChannelException(AmqpError):
    """Closes the channel that it happened on (spec §4.10.2); the others go on."""


class ProtocolHeaderMismatch(ConnectionException):
    """The first bytes are not AMQP 0-9-1's: answer with `PROTOCOL_HEADER` and close the socket (spec §4.2.2)."""

    def __init__(self, received: bytes) -> None:
        super().__init__(
            ReplyCode.FRAME_ERROR, f"the connection begins with {received!r}, not with AMQP 0-9-1's header"
        )
        self.received = received


def frame_error(problem: str) -> ConnectionException:
    """The bytes are no frames."""
    return ConnectionException(ReplyCode.FRAME_ERROR, problem)


def syntax_error(problem: str) -> ConnectionException:
    """A frame holds what its fields cannot be."""
    return ConnectionException(ReplyCode.SYNTAX_ERROR, problem)


def cut_text(text: str, limit: int) -> str:
    """The beginning of a text, of at most `limit` bytes of UTF-8, whole characters."""
    raw = text.encode(errors="replace")
    return text if len(raw) <= limit else raw[:limit].decode(errors="ignore")
