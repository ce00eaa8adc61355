"""WebSocket (RFC 6455): a connection of any protocol inside the data frames of one.

The frames are those of the `websockets` library, without its I/O. Extensions are not offered: compression costs each
idle connection its window, and lets a small frame become a large one. Frame boundaries mean nothing to the protocol
inside: what was received in one read is given on as one piece [MQTT-6.0.0-2].
"""

from __future__ import annotations

import asyncio
import codecs
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol, cast, runtime_checkable

from websockets.frames import DATA_OPCODES, CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import SEND_EOF, State
from websockets.server import ServerProtocol
from websockets.typing import Origin, Subprotocol

from gateway.net.large import UNCOUNTED
from gateway.net.transports import Refused, TransportOver, shown

HANDSHAKE_BYTES: Final = 16 * 1024
"""Of the request that opens a WebSocket; browsers send cookies with it. Tomcat and node.js take 8 and 16 KiB."""

FRAME_MARGIN: Final = 64 * 1024
"""Bytes that a message may have beyond the largest packet of the protocol: smaller ones may be in it too."""

SENT_FRAME: Final = 512 * 1024
"""Bytes of a frame that is sent; more is cut. Clients limit what they take, often to 1 MiB."""

LINGER: Final = 5.0
"""Seconds that a peer has to end a connection that was refused or closed, so that it can read why."""

HANDSHAKE: Final = "websocket_handshake"
FRAMES: Final = "websocket_frames"

_SHOWN: Final = 200
"""Characters of a problem that are told: it may repeat what the peer sent."""

_END_OF_HEAD: Final = b"\r\n\r\n"
_VERSION: Final = "13"
_NEGOTIATED: Final = (
    "Connection",
    "Upgrade",
    "Origin",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
    "Sec-WebSocket-Protocol",
)
"""Headers that decide about the handshake, and whose values are repeated in refusals."""

# It tells of every connection. What it has for an operator are its own faults.
_library_log = logging.getLogger("mqlift.websocket.library")
_library_log.setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketOptions:
    """What a listener answers to a client that wants a WebSocket, and what it takes inside."""

    paths: tuple[str, ...]
    subprotocols: tuple[str, ...]
    """In order of preference, where one is required; otherwise it is the client's order that counts."""
    subprotocol_required: bool
    """Whether a client has to offer one of them; otherwise it may get none."""
    text: bool
    """Whether the protocol is text: text frames are taken as well. A client gets what it sends itself, and text before
    it has sent anything; but what is not UTF-8 is sent in binary frames to all."""
    max_packet: int
    """Bytes of the largest packet, or frame, of the protocol."""
    origins: tuple[str, ...] = ()
    """Of web pages that may connect; all, if empty. A client without an origin is no web page."""


@runtime_checkable
class Gathering(Protocol):
    """A protocol that answers for the memory of its connection."""

    def gather(self, size: int, received: int) -> None:
        """A frame is not complete that has `size` bytes at most, 0 for none any more; `received` more of them came."""


class WebSocket(TransportOver, asyncio.Protocol):
    """A protocol to the socket's transport, and a transport to the protocol above.

    The protocol above begins with the socket, not with the handshake's end: so its limits of number and time hold from
    the start. `refused` is told why a peer was cut, by one of the reasons above.
    """

    __slots__ = (
        "_above",
        "_binary",
        "_closing",
        "_gathered",
        "_head",
        "_linger",
        "_options",
        "_pong",
        "_refused",
        "_text",
        "_websocket",
        "_write_paused",
    )

    def __init__(self, above: asyncio.Protocol, options: WebSocketOptions, refused: Refused) -> None:
        super().__init__()
        self._above = above
        self._options = options
        self._refused = refused
        self._websocket = ServerProtocol(
            origins=[*map(Origin, options.origins), None] if options.origins else None,
            subprotocols=[Subprotocol(name) for name in options.subprotocols],
            select_subprotocol=None if options.subprotocol_required else _first_common,
            logger=_library_log,
        )
        self._head = bytearray()
        self._gathered = 0
        """Bytes of a frame that is not complete."""
        self._closing = False
        self._write_paused = False
        self._pong = b""
        self._binary = not options.text
        """Whether binary frames are sent, even for what is UTF-8."""
        self._text: codecs.IncrementalDecoder | None = None
        """Not None within a text message."""
        self._linger: asyncio.TimerHandle | None = None

    # The socket's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._above.connection_made(self)

    def data_received(self, data: bytes) -> None:
        if self._websocket.state is State.CONNECTING:
            if self._closing:
                return
            data = self._receive_head(data)
        if data:
            self._receive_frames(data)

    def eof_received(self) -> bool | None:
        return self._above.eof_received()

    def pause_writing(self) -> None:
        self._write_paused = True
        self._above.pause_writing()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._pong:
            pong, self._pong = self._pong, b""
            self._write(pong)
        self._above.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._linger is not None:
            self._linger.cancel()
        self._above.connection_lost(exc)

    # The protocol's side

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send a piece in a frame, or several: it is what gathered in a turn. Lost where a transport's would be."""
        if self._websocket.state is not State.OPEN or not data:
            return
        text = not self._binary and _is_utf8(data)
        send = self._websocket.send_text if text else self._websocket.send_binary
        for piece in _pieces(bytes(data), text=text):
            send(piece)
        self._send()

    def close(self) -> None:
        """Close the WebSocket, then the connection, when the peer has agreed or `LINGER` seconds have passed."""
        if self._closing:
            return
        self._closing = True
        if self._websocket.state is State.CONNECTING:
            self._transport.close()
        elif self._websocket.state is State.OPEN:
            self._websocket.send_close(CloseCode.NORMAL_CLOSURE)
            self._send()
            if not self._transport.is_closing():
                self._transport.resume_reading()
                self._limit_end()
        # Otherwise the peer has closed, and this is called for the last that it sent.

    def can_write_eof(self) -> bool:
        return False  # a WebSocket has no half that could be closed

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def pause_reading(self) -> None:
        if not self._closing:  # what is waited for then is the peer's end
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._closing:
            self._transport.resume_reading()

    # The handshake

    def _receive_head(self, data: bytes) -> bytes:
        """Take what belongs to the request, and answer it when it is whole. Gives what is behind one that was accepted.

        The library is given the request alone: it would take what is behind it for frames before it is answered.
        """
        known = len(self._head)
        self._head += data
        end = self._head.find(_END_OF_HEAD, max(0, known - len(_END_OF_HEAD) + 1))
        whole = end >= 0
        stop = end + len(_END_OF_HEAD) if whole else len(self._head)
        if stop > HANDSHAKE_BYTES:
            self._refuse(
                self._websocket.reject(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request is too large.\n")
            )
            return b""
        self._websocket.receive_data(bytes(self._head[known:stop]))
        rest = bytes(self._head[stop:])
        for event in self._websocket.events_received():
            if isinstance(event, Request) and self._shake_hands(event):
                self._head = bytearray()
                return rest
        if self._websocket.handshake_exc is not None and not self._closing:
            # Not what stands behind the colon: it is the peer's own line, which may be a cookie or a password.
            problem = str(self._websocket.handshake_exc.__cause__).partition(":")[0]
            self._refuse(self._websocket.reject(HTTPStatus.BAD_REQUEST, f"Not a WebSocket request: {problem!a}\n"))
        return b""

    def _shake_hands(self, request: Request) -> bool:
        if request.path.partition("?")[0] not in self._options.paths:
            response = self._websocket.reject(HTTPStatus.NOT_FOUND, "There is nothing at this path.\n")
        elif not all(value.isascii() for name in _NEGOTIATED for value in request.headers.get_all(name)):
            response = self._websocket.reject(HTTPStatus.BAD_REQUEST, "A header is not ASCII.\n")
        else:
            response = self._websocket.accept(request)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self._refuse(response)
            return False
        self._websocket.send_response(response)
        self._send()
        # Another one for the frames: the one of the handshake keeps the request, which is larger than all the rest.
        self._websocket = ServerProtocol(
            state=State.OPEN, max_size=self._options.max_packet + FRAME_MARGIN, logger=_library_log
        )
        return True

    def _refuse(self, response: Response) -> None:
        # [RFC 6455 §4.4] which version is spoken here, for a client that wanted another one
        response.headers["Sec-WebSocket-Version"] = _VERSION
        problem = response.body.decode().partition("\n")[0]
        self._tell(HANDSHAKE, f"{response.status_code}: {problem[:_SHOWN]!a}")
        self._write(response.serialize())
        self._end()

    # Frames

    def _receive_frames(self, data: bytes) -> None:
        websocket = self._websocket
        websocket.receive_data(data)
        payloads = self._payloads(websocket.events_received())
        if payloads and not self._closing:
            self._above.data_received(b"".join(payloads))
        self._gather(0 if payloads else self._gathered + len(data), len(data))
        if websocket.state is State.OPEN:
            self._send_pongs()
        elif self._send():
            self._end_frames()

    def _gather(self, size: int, received: int) -> None:
        """The library keeps a frame until it is complete, and does not say how large it will be."""
        was, self._gathered = self._gathered, size
        if max(was, size) > UNCOUNTED and isinstance(self._above, Gathering):
            self._above.gather(self._options.max_packet if size > UNCOUNTED else 0, received)

    def _payloads(self, events: Sequence[Frame | Request | Response]) -> list[bytes]:
        payloads = []
        for frame in events:
            if isinstance(frame, Frame) and frame.opcode in DATA_OPCODES:
                if not self._takes(frame):
                    break
                payloads.append(bytes(frame.data))
        return payloads

    def _takes(self, frame: Frame) -> bool:
        """Whether a data frame is as the protocol above has it; if not, the WebSocket has failed."""
        if frame.opcode is Opcode.TEXT:
            if not self._options.text:
                # [MQTT-6.0.0-1] any other data frame closes the network connection
                self._websocket.fail(CloseCode.UNSUPPORTED_DATA, "only binary frames are taken")
                return False
            self._text = _Utf8Decoder()
            self._binary = False
        elif frame.opcode is Opcode.BINARY:
            self._binary = True
        if self._text is None:
            return True
        try:
            self._text.decode(frame.data, frame.fin)
        except UnicodeDecodeError:
            # [RFC 6455 §8.1]
            self._websocket.fail(CloseCode.INVALID_DATA, "a text message is not UTF-8")
            return False
        if frame.fin:
            self._text = None
        return True

    def _end_frames(self) -> None:
        """The last frame has been sent, in answer to the peer's close or to what cannot be read any further."""
        websocket = self._websocket
        if websocket.close_rcvd is not None and websocket.parser_exc is None:
            self._closing = True
            self._transport.close()
            self._limit_end()
            return
        if not self._closing:
            self._tell(FRAMES, str(websocket.close_sent)[:_SHOWN])
        self._end()

    # Writing

    def _send(self) -> bool:
        """Write what the library has to say. True when the connection is to be ended behind it."""
        chunks = self._websocket.data_to_send()
        if data := b"".join(chunks):
            self._write(data)
        return SEND_EOF in chunks

    def _send_pongs(self) -> None:
        chunks = self._websocket.data_to_send()
        if not chunks:
            return
        if self._write_paused:
            # [RFC 6455 §5.5.3] Only the latest ping has to be answered: a peer that does not read fills no buffer.
            self._pong = chunks[-1]
        else:
            self._write(b"".join(chunks))

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def _tell(self, reason: str, problem: str) -> None:
        self._refused(reason, problem, shown(self._transport.get_extra_info("peername")))

    def _end(self) -> None:
        """Leave the end to the peer: bytes of its own that nobody had read would take the last ones from it."""
        self._closing = True
        if self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()  # TLS waits for the peer by itself
        self._limit_end()

    def _limit_end(self) -> None:
        if self._linger is None:
            self._linger = asyncio.get_running_loop().call_later(LINGER, self._transport.abort)


_CONTINUATION_BITS: Final = 0b1100_0000
_CONTINUATION: Final = 0b1000_0000
"""How every byte of a character in UTF-8 begins, but the first one (RFC 3629 §3)."""

_Utf8Decoder: Final = codecs.getincrementaldecoder("utf-8")


def _pieces(data: bytes, *, text: bool) -> Iterator[bytes]:
    """At most `SENT_FRAME` bytes each; of a text, whole characters [RFC 6455 §5.6]."""
    start = 0
    while len(data) - start > SENT_FRAME:
        end = start + SENT_FRAME
        while text and data[end] & _CONTINUATION_BITS == _CONTINUATION:
            end -= 1
        yield data[start:end]
        start = end
    yield data[start:]


def _is_utf8(data: bytes | bytearray | memoryview) -> bool:
    try:
        bytes(data).decode()
    except UnicodeDecodeError:
        return False
    return True


def _first_common(protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """For clients that need not offer any: the first of theirs, by their preference [RFC 6455 §4.1], that is ours."""
    return next((name for name in offered if name in (protocol.available_subprotocols or ())), None)
