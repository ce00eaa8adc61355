"""What is kept of a session: its form, and when it is written."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.commands import Command, KeepInflight
from gateway.core.errors import Unavailable
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.protocols.mqtt.errors import PacketError
from gateway.protocols.mqtt.keeping import (
    Inflight,
    InflightKeeper,
    State,
    StateUnreadable,
    read_inflight,
    read_state,
    write_inflight,
    write_state,
)
from gateway.protocols.mqtt.subscriptions import Filter

filters = st.builds(
    Filter, st.text(min_size=1), st.integers(0, 2), st.booleans(), st.booleans(), st.integers(0, 268_435_455)
)
packet_ids = st.integers(1, 65_535)
mappings = st.lists(st.tuples(packet_ids, st.text(min_size=1)))


def fields(filters: object) -> list[tuple[object, ...]]:
    assert isinstance(filters, list | tuple)
    return [tuple(getattr(each, name) for name in Filter.__slots__) for each in filters]


@given(st.lists(filters), st.lists(filters))
def test_a_state_comes_back_as_it_was(ordinary: list[Filter], shared: list[Filter]) -> None:
    state = read_state(write_state(State(filters=ordinary, shared=shared)))
    assert fields(state.filters) == fields(ordinary)
    assert fields(state.shared) == fields(shared)


@given(st.lists(packet_ids), mappings, mappings, st.lists(st.text()))
def test_what_is_in_flight_comes_back_as_it_was(
    received: list[int], sent: list[tuple[int, str]], released: list[tuple[int, str]], completed: list[str]
) -> None:
    inflight = Inflight(received=received, sent=sent, released=released, completed=completed)
    assert read_inflight(write_inflight(inflight)) == inflight


def test_nothing_kept_is_nothing() -> None:
    assert read_state(b"") == State()
    assert read_inflight(b"") == Inflight()


def test_the_form_is_fixed() -> None:
    """A gateway reads what the one before it wrote."""
    state = State(filters=[Filter("a/+", 1, True, False, 7)], shared=[Filter("$share/g/b", 2)])
    assert orjson.loads(write_state(state)) == {
        "v": 1,
        "filters": [["a/+", 1, True, False, 7]],
        "shared": [["$share/g/b", 2, False, False, 0]],
    }
    assert orjson.loads(write_inflight(Inflight(received=[1], sent=[(2, "b")], released=[(3, "c")]))) == {
        "v": 1,
        "received": [1],
        "sent": [[2, "b"]],
        "released": [[3, "c"]],
        "completed": [],
    }


@pytest.mark.parametrize(
    "broken",
    [
        {"filters": [["a", 3, False, False, 0]]},
        {"filters": [["a", 1, False, False]]},
        {"filters": ["a"]},
        {"filters": 1},
        {"shared": [[1, 1, False, False, 0]]},
        {"v": 2},
    ],
)
def test_states_that_cannot_be_read(broken: dict[str, object]) -> None:
    with pytest.raises(StateUnreadable):
        read_state(orjson.dumps({"v": 1, "filters": [], "shared": [], **broken}))


@pytest.mark.parametrize(
    "broken",
    [
        {"received": [0]},
        {"received": [65_536]},
        {"received": ["1"]},
        {"sent": [[1]]},
        {"sent": [[70_000, "x"]]},
        {"released": [["1", 1]]},
        {"completed": None},
        {"v": "1"},
    ],
)
def test_inflight_states_that_cannot_be_read(broken: dict[str, object]) -> None:
    whole = {"v": 1, "received": [], "sent": [], "released": [], "completed": []}
    with pytest.raises(StateUnreadable):
        read_inflight(orjson.dumps({**whole, **broken}))


@pytest.mark.parametrize("raw", [b"{", b"[]", b"1", b"{}", b"\xff"])
def test_what_is_no_state_at_all(raw: bytes) -> None:
    for read in (read_state, read_inflight):
        with pytest.raises(StateUnreadable):
            read(raw)


# Writing


def inflight(received: list[int]) -> Inflight:
    return Inflight(received=list(received), sent=[], released=[], completed=[])


class Snapshots:
    """What is in flight, changing."""

    def __init__(self) -> None:
        self.received: list[int] = []

    def __call__(self) -> Inflight:
        return inflight(self.received)


def collected(keeper: InflightKeeper) -> list[Inflight]:
    commands: list[Command] = []
    keeper.collect(commands)
    keeps = [command for command in commands if isinstance(command, KeepInflight)]
    assert len(keeps) == len(commands)
    return [read_inflight(command.inflight) for command in keeps]


def test_a_step_runs_when_a_later_write_is_durable() -> None:
    snapshot = Snapshots()
    keeper = InflightKeeper("c", b"", snapshot)
    done: list[str] = []
    assert collected(keeper) == []
    snapshot.received = [1]
    keeper.keep(lambda: done.append("a"))
    assert keeper.due
    assert collected(keeper) == [inflight([1])]
    snapshot.received = [1, 2]
    keeper.keep(lambda: done.append("b"))
    keeper.keep(lambda: done.append("c"))
    assert not keeper.due
    assert collected(keeper) == [], "one at a time"
    keeper.answered(ACCEPTED)
    assert done == ["a"]
    assert collected(keeper) == [inflight([1, 2])]
    keeper.answered(ACCEPTED)
    assert done == ["a", "b", "c"]
    assert collected(keeper) == []


def test_a_step_that_asks_for_another_waits_for_its_own_write() -> None:
    keeper = InflightKeeper("c", b"", Snapshots())
    done: list[str] = []
    keeper.keep(lambda: keeper.keep(lambda: done.append("second")))
    collected(keeper)
    keeper.answered(ACCEPTED)
    assert done == []
    assert len(collected(keeper)) == 1
    keeper.answered(ACCEPTED)
    assert done == ["second"]


def test_no_step_runs_when_a_write_has_failed() -> None:
    keeper = InflightKeeper("c", b"", Snapshots())
    keeper.keep(lambda: pytest.fail("it was not kept"))
    collected(keeper)
    with pytest.raises(PacketError, match="disk full"):
        keeper.answered(Result(Outcome.RELEASED, Unavailable("disk full")))


@pytest.mark.parametrize("kept", [b"", write_inflight(Inflight())])
def test_the_last_word_is_written_when_it_says_something_new(kept: bytes) -> None:
    keeper = InflightKeeper("c", kept, Snapshots())
    commands: list[Command] = []
    keeper.finish(Inflight(), commands)
    assert commands == []
    keeper.finish(Inflight(received=[1]), commands)
    assert len(commands) == 1
