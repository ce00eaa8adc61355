"""The messages of AWS's event streams, taken out of bytes by botocore's parser. Pure.

https://smithy.io/2.0/aws/amazon-eventstream.html has the format. A call is answered with such messages when the service
goes on telling: events, and one exception at most, which is the end.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from botocore.eventstream import EventStreamBuffer, ParserError

from adapters.aws.errors import fault_text, read_fault

INITIAL: Final = "initial-response"
"""The event that says that the call was accepted; it comes first."""

BROKEN: Final = (ParserError, struct.error, KeyError, IndexError, ValueError)
"""What botocore's parser raises for bytes that are no message."""


class Event(NamedTuple):
    """`kind` as the service model calls it; `payload` is JSON."""

    kind: str
    payload: bytes


class EventFault(Exception):
    """The service says why it ends the stream."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class EventBuffer:
    """Bytes in, events out. It holds one message and what was fed behind it: take events until there is none."""

    def __init__(self) -> None:
        self._buffer = EventStreamBuffer()
        self._held = 0

    @property
    def within(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._held > 0

    def feed(self, data: bytes) -> None:
        self._buffer.add_data(data)
        self._held += len(data)

    def take(self) -> Event | None:
        """The next event; None before its end is here. Raises `EventFault`, and `ValueError` for what is no message."""
        try:
            message = next(self._buffer, None)
            if message is None:
                return None
            self._held -= message.prelude.total_length
            headers = {name: str(value) for name, value in message.headers.items()}
            kind = headers[":message-type"]
            if kind == "event":
                return Event(headers[":event-type"], bytes(message.payload))
        except BROKEN as error:
            raise ValueError(f"not an event stream: {type(error).__name__} {error}") from None
        raise _fault(kind, headers, message.payload)


def _fault(kind: str, headers: dict[str, str], payload: bytes) -> EventFault:
    if kind == "error":  # one that the service model does not have
        return EventFault(headers.get(":error-code", ""), headers.get(":error-message", ""))
    return EventFault(headers.get(":exception-type", ""), fault_text(read_fault(payload)))
