"""Where a consumer of a stream begins, and the text of offsets."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import InvalidArgument
from gateway.core.message import HeaderValue
from gateway.core.streams.offset import (
    LAST_SECONDS,
    OFFSET_SHARDS,
    Start,
    format_offset,
    parse_offset,
    parse_position,
    position_text,
    read_name,
    read_start,
)
from gateway.core.streams.port import END, FIRST, NEXT, Position, Whence

NOW = 1_700_000_000.0


def at_time(seconds: float) -> Start:
    return Start(Position(Whence.TIME, time=seconds))


@pytest.mark.parametrize(
    ("value", "start"),
    [
        (None, Start(NEXT)),
        ("first", Start(FIRST)),
        ("next", Start(NEXT)),
        ("last", at_time(NOW - LAST_SECONDS)),
        (0, Start(FIRST)),
        ("offset=0", Start(FIRST)),
        ("timestamp=1600000000", at_time(1_600_000_000.0)),
        (datetime(2020, 1, 1, tzinfo=UTC), at_time(1_577_836_800.0)),
        (datetime(1900, 1, 1, tzinfo=UTC), at_time(0.0)),
        (datetime(2100, 1, 1, tzinfo=UTC), Start(NEXT)),
        ("timestamp=9999999999999", Start(NEXT)),
        ("1h", at_time(NOW - 3_600)),
        ("7D", at_time(NOW - 7 * 86_400)),
        ("999999999Y", at_time(0.0)),
        ("0@12.3", Start(FIRST, {"0": Position(Whence.AT, "12", 3)})),
        (
            "0@12.3,1@7,2@end,shard-x@~1500",
            Start(
                FIRST,
                {
                    "0": Position(Whence.AT, "12", 3),
                    "1": Position(Whence.AFTER, "7"),
                    "2": END,
                    "shard-x": Position(Whence.TIME, time=1.5),
                },
            ),
        ),
        (">0@12.3,1@7", Start(FIRST, {"0": Position(Whence.AT, "12", 4), "1": Position(Whence.AFTER, "7")})),
        ("offset=0@12.0", Start(FIRST, {"0": Position(Whence.AT, "12", 0)})),
    ],
)
def test_where_it_begins(value: HeaderValue, start: Start) -> None:
    assert read_start({} if value is None else {"x-stream-offset": value}, NOW) == start


@pytest.mark.parametrize(
    "value",
    [
        "",
        "middle",
        17,
        -1,
        True,
        1.5,
        b"first",
        ["first"],
        "offset=17",
        "1h30m",
        "0@",
        "0@12.",
        "0@12.x",
        "@12",
        "0@12,0@13",
        "0@12,",
        "0@end.1",
        "0@" + "1" * 200,
        ",".join(f"{shard}@1" for shard in range(10_000)),
    ],
)
def test_what_is_no_offset(value: HeaderValue) -> None:
    with pytest.raises(InvalidArgument, match="x-stream-offset"):
        read_start({"x-stream-offset": value}, NOW)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({}, ""), ({"name": "a"}, "a"), ({"x-stream-name": "b", "name": "a"}, "b")],
)
def test_the_name_of_a_consumer(arguments: dict[str, HeaderValue], name: str) -> None:
    assert read_name(arguments) == name


@pytest.mark.parametrize("name", ["", 7, "x" * 256, "é" * 128])
def test_what_is_no_name(name: HeaderValue) -> None:
    with pytest.raises(InvalidArgument):
        read_name({"name": name})


positions = st.one_of(
    st.sampled_from([FIRST, END]),
    st.builds(lambda ms: Position(Whence.TIME, time=ms / 1000), st.integers(0, 10**13)),
    st.builds(lambda number: Position(Whence.AFTER, str(number)), st.integers(0, 10**56)),
    st.builds(lambda number, index: Position(Whence.AT, str(number), index), st.integers(0, 10**56), st.integers(0, 9)),
)


@given(positions)
def test_positions_come_back(position: Position) -> None:
    assert parse_position(position_text(position)) == position


@given(st.dictionaries(st.from_regex(r"[a-z0-9_.-]{1,20}", fullmatch=True), positions, min_size=1, max_size=20))
def test_offsets_come_back(by_shard: dict[str, Position]) -> None:
    own = next(iter(by_shard))
    by_shard[own] = Position(Whence.AT, "77", 1)
    text = format_offset(f"{own}@77.1", [(shard, position_text(at)) for shard, at in by_shard.items()], len(by_shard))
    assert parse_offset(text) == {shard: at for shard, at in by_shard.items() if at != FIRST}


def test_of_too_many_shards_the_own_one_is_told() -> None:
    others = [(str(shard), "5") for shard in range(OFFSET_SHARDS + 1)]
    assert format_offset("0@7.0", others, len(others)) == "0@7.0"


def test_what_is_written_from_now_on_is_no_place() -> None:
    with pytest.raises(ValueError, match="no place"):
        position_text(NEXT)
