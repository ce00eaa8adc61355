"""A publish whose content comes in several frames (spec §4.2.6). Pure."""

from __future__ import annotations

from io import BytesIO

from gateway.protocols.amqp091.content import Content
from gateway.protocols.amqp091.errors import ConnectionException, ReplyCode
from gateway.protocols.amqp091.frames import BASIC, BodyFrame, HeaderFrame
from gateway.protocols.amqp091.methods import BasicPublish
from gateway.protocols.amqp091.refusals import connection_error


class Assembly:
    """What has come of a message, from its method on."""

    __slots__ = ("_body", "_missing", "content", "method", "size")

    def __init__(self, method: BasicPublish) -> None:
        self.method = method
        self.content: Content | None = None
        """None before the header has come."""
        self.size = 0
        """Bytes that the header has announced."""
        self._missing = 0
        # Not a list of pieces: those may be tiny, or empty, and many. Nor a bytearray, which would have to be copied.
        self._body = BytesIO()

    def begin(self, header: HeaderFrame) -> None:
        """The header has come."""
        self.content = header.content
        self.size = self._missing = header.body_size

    def add(self, frame: BodyFrame) -> None:
        """A piece of the body. Raises `ConnectionException` when it is more than was announced."""
        self._missing -= len(frame.payload)
        if self._missing < 0:
            raise self.unexpected()
        self._body.write(frame.payload)

    @property
    def complete(self) -> bool:
        return self.content is not None and not self._missing

    def body(self) -> bytes:
        return self._body.getvalue()

    def unexpected(self) -> ConnectionException:
        """What came is not what has to come next (spec §4.2.6: content is not mixed with other frames)."""
        if self.content is None:
            problem = f"expected content header for class {BASIC}, got non content header frame instead"
        else:
            problem = "expected content body, got non content body frame instead"
        return connection_error(ReplyCode.UNEXPECTED_FRAME, problem, BasicPublish)
