"""Turns: a read is given on whole and in order, however it is cut, and others have theirs in between."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.net.turns import TURN_BYTES, TakesTurns
from tests.rig.clock import on_clock, settle_down
from tests.rig.connections import FakeTransport


class Above(asyncio.Protocol):
    """Keeps what it gets; pauses where a test says so."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.pause_at = -1
        self.fault: Exception | None = None
        self.log: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, TakesTurns)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.fault is not None:
            raise self.fault
        self.pieces.append(data)
        if len(self.pieces) == self.pause_at:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.log.append(f"eof after {self.size}")
        return False

    def pause_writing(self) -> None:
        self.log.append("pause writing")

    def resume_writing(self) -> None:
        self.log.append("resume writing")

    def connection_lost(self, exc: Exception | None) -> None:
        self.log.append(f"lost after {self.size}")

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))


def connected() -> tuple[Above, TakesTurns, FakeTransport]:
    above = Above()
    turns = TakesTurns(above)
    transport = FakeTransport(turns)
    turns.connection_made(transport)
    return above, turns, transport


def data(size: int) -> bytes:
    return bytes(number % 251 for number in range(size))


@on_clock
async def test_a_small_read_is_given_on_as_it_is() -> None:
    above, turns, transport = connected()
    read = data(TURN_BYTES)
    turns.data_received(read)
    assert above.pieces == [read]
    assert transport.reading


@on_clock
async def test_a_large_read_takes_a_turn_of_the_loop_for_each_piece() -> None:
    above, turns, transport = connected()
    read = data(3 * TURN_BYTES + 1)
    turns.data_received(read)
    for count in range(1, 5):
        assert len(above.pieces) == count
        assert transport.reading == (count == 4)
        await asyncio.sleep(0)
    assert b"".join(above.pieces) == read
    assert max(map(len, above.pieces)) == TURN_BYTES


@on_clock
async def test_two_connections_take_turns() -> None:
    order: list[str] = []

    class Named(Above):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def data_received(self, data: bytes) -> None:
            order.append(self.name)

    for name in "ab":
        turns = TakesTurns(Named(name))
        turns.connection_made(FakeTransport(turns))
        turns.data_received(data(3 * TURN_BYTES))
    await settle_down()
    assert order == ["a", "b"] + 2 * ["a", "b"]


@pytest.mark.parametrize("pause_at", [1, 2, 4])
@on_clock
async def test_a_pause_holds_the_rest_back(pause_at: int) -> None:
    above, turns, transport = connected()
    above.pause_at = pause_at
    read = data(4 * TURN_BYTES)
    turns.data_received(read)
    await settle_down()
    assert len(above.pieces) == pause_at
    assert not transport.reading
    above.transport.resume_reading()
    await settle_down()
    assert b"".join(above.pieces) == read
    assert transport.reading


@on_clock
async def test_pause_and_resume_in_one_turn_schedule_one_turn() -> None:
    above, turns, _ = connected()
    turns.data_received(data(3 * TURN_BYTES))
    for _ in range(5):
        turns.pause_reading()
        turns.resume_reading()
    await asyncio.sleep(0)
    assert len(above.pieces) == 2


@on_clock
async def test_what_comes_though_nothing_is_read_waits_behind_the_rest() -> None:
    above, turns, transport = connected()
    turns.data_received(data(2 * TURN_BYTES))
    turns.data_received(b"more")
    await settle_down()
    assert b"".join(above.pieces) == data(2 * TURN_BYTES) + b"more"
    assert transport.reading


@pytest.mark.parametrize("ending", ["eof", "lost"])
@pytest.mark.parametrize("paused", [False, True])
@on_clock
async def test_at_the_end_the_rest_is_given_on(ending: str, paused: bool) -> None:
    above, turns, _ = connected()
    turns.data_received(data(5 * TURN_BYTES))
    if paused:
        turns.pause_reading()
    if ending == "eof":
        assert turns.eof_received() is False
    else:
        turns.connection_lost(None)
    assert above.log == [f"{ending} after {5 * TURN_BYTES}"]
    assert b"".join(above.pieces) == data(5 * TURN_BYTES)
    await settle_down()
    assert len(above.log) == 1


@on_clock
async def test_a_bug_above_ends_the_connection_and_is_told() -> None:
    above, turns, transport = connected()
    turns.data_received(data(3 * TURN_BYTES))
    above.fault = ZeroDivisionError()
    with capture_logs() as lines:
        await settle_down()
    assert [line["event"] for line in lines] == ["session_failed"]
    assert transport.is_closing()
    assert above.log == [f"lost after {TURN_BYTES}"]


@on_clock
async def test_writing_is_passed_on() -> None:
    above, turns, transport = connected()
    above.transport.write(b"answer")
    turns.pause_writing()
    turns.resume_writing()
    assert transport.written == b"answer"
    assert above.log == ["pause writing", "resume writing"]


@given(
    steps=st.lists(st.one_of(st.integers(1, 5 * TURN_BYTES), st.sampled_from(["pause", "resume", "turn"])), max_size=30)
)
@on_clock
async def test_nothing_is_lost_or_moved_whatever_happens(steps: list[int | str]) -> None:
    above, turns, transport = connected()
    sent = b""
    for step in steps:
        if step == "pause":
            turns.pause_reading()
        elif step == "resume":
            turns.resume_reading()
        elif step == "turn":
            await asyncio.sleep(0)
        elif isinstance(step, int) and transport.reading:
            turns.data_received(data(step))
            sent += data(step)
    turns.resume_reading()
    await settle_down(100)
    assert b"".join(above.pieces) == sent
    assert transport.reading
