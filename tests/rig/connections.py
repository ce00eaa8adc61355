"""A transport without a socket, and a session without a protocol, for tests of what hosts them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import inf

from gateway.core.commands import Command
from gateway.core.delivery import Delivery
from gateway.core.outcome import Result


class FakeTransport(asyncio.Transport):
    """Takes everything at once, unless it is `stuck`; then all that is written waits for `let_go`."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": ("192.0.2.1", 4711)})
        self.protocol = protocol
        self.written = b""
        """What the operating system has taken."""
        self.buffer = b""
        self.stuck = False
        self.broken = False
        """The peer has reset the connection, which shows with the next write."""
        self.reading = True
        self._high = 65_536
        self._paused = False
        self.polite = True
        """The peer closes the connection when it has read to the end."""
        self._eof = False
        self._closing = False
        self._lost = False
        self._loop = asyncio.get_running_loop()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        assert low == 0
        self._high = high

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self._eof, "written after the end"
        if self._lost or (self._closing and not self.buffer):
            return
        if self.broken:
            self._lose(ConnectionResetError())
        elif self.stuck:
            self.buffer += data
            if len(self.buffer) > self._high and not self._paused:
                self._paused = True
                self.protocol.pause_writing()
        else:
            self.written += data

    def let_go(self, size: int | None = None) -> None:
        """The peer reads `size` bytes, or everything from now on."""
        self.stuck = size is not None
        size = len(self.buffer) if size is None else size
        self.written += self.buffer[:size]
        self.buffer = self.buffer[size:]
        if self._paused and not self.buffer:
            self._paused = False
            self.protocol.resume_writing()
        if self._closing and not self.buffer:
            self._lose(None)
        self._end()

    def pause_reading(self) -> None:
        if not self._closing:
            assert self.reading, "paused twice"
            self.reading = False

    def resume_reading(self) -> None:
        if not self._closing:
            assert not self.reading, "resumed without a pause"
            self.reading = True

    def is_closing(self) -> bool:
        return self._closing

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._eof = True
        self._end()

    def _end(self) -> None:
        if self._eof and self.polite and self.reading and not self.buffer:
            self._lose(None)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self.buffer:
                self._lose(None)

    def abort(self) -> None:
        self._lose(None)

    def reset(self) -> None:
        """The peer is gone."""
        self._lose(ConnectionResetError())

    def _lose(self, error: Exception | None) -> None:
        self._closing = True
        if not self._lost:
            self._lost = True
            self.buffer = b""
            self._loop.call_soon(self.protocol.connection_lost, error)


class ScriptedSession:
    """Answers each piece of data with the commands that a test has put there, and writes down what it is told."""

    def __init__(self) -> None:
        self.deadline = inf
        self.established = True
        self.congested = False
        self.assembling = 0
        self.unsent: list[Delivery] = []
        """Deliveries that `deliver` has not encoded."""
        self.script: dict[bytes, Sequence[Command]] = {}
        self.on_answer: Callable[[object, Result], Sequence[Command]] = lambda _token, _result: ()
        self.on_tick: Callable[[float], Sequence[Command]] = lambda _now: ()
        self.at_takeover: Sequence[Command] = ()
        self.at_shutdown: Sequence[Command] = ()
        self.at_end: Sequence[Command] = ()
        self.automatic = False
        """Whether deliveries are settled by being written."""
        self.fault: Exception | None = None
        """Raised by `answer`, `deliver` and `shutdown`: a bug."""
        self.log: list[str] = []
        self.answers: list[tuple[object, Result]] = []
        self.delivered: list[Delivery] = []
        self.held: list[Delivery] = []
        self.output = b""
        self.times_ended = 0

    def receive_data(self, data: bytes, now: float) -> Sequence[Command]:
        return self.script.get(data, ())

    def answer(self, token: object, result: Result, now: float) -> Sequence[Command]:
        self._fail()
        self.answers.append((token, result))
        self.output += f"[{token}:{result.outcome.name}]".encode()
        return self.on_answer(token, result)

    def deliver(self, tag: str, delivery: Delivery) -> bool:
        self._fail()
        self.delivered.append(delivery)
        self.output += delivery.message.body
        if not self.automatic:
            self.held.append(delivery)
        return not self.automatic

    def tick(self, now: float) -> Sequence[Command]:
        return self.on_tick(now)

    def reading(self, active: bool, now: float) -> None:
        self.log.append("reading" if active else "not reading")

    def data_to_send(self) -> bytes:
        output, self.output = self.output, b""
        return output

    def unsettled(self) -> Sequence[Delivery]:
        return self.held

    def needs_body(self, delivery: Delivery) -> bool:
        return delivery in self.unsent

    def cancelled(self, tag: str) -> Sequence[Command]:
        self.log.append(f"cancelled {tag}")
        return ()

    def taken_over(self) -> Sequence[Command]:
        self.log.append("taken over")
        return self.at_takeover

    def shutdown(self) -> Sequence[Command]:
        self._fail()
        self.log.append("shutdown")
        return self.at_shutdown

    def connection_lost(self) -> Sequence[Command]:
        self.times_ended += 1
        return self.at_end

    def _fail(self) -> None:
        if self.fault is not None:
            raise self.fault
