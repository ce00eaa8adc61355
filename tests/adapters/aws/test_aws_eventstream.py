"""Event streams: the same events however the bytes are cut, and nothing but the documented errors."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.aws.eventstream import Event, EventBuffer, EventFault
from tests.rig.event_stream import event, fault, initial, message

ERROR = message({":message-type": "error", ":error-code": "Oops", ":error-message": "an accident"}, b"")


def events_of(*pieces: bytes) -> list[Event]:
    buffer, found = EventBuffer(), []
    for piece in pieces:
        buffer.feed(piece)
        while (each := buffer.take()) is not None:
            found.append(each)
    return found


CASES = [
    (initial(), Event("initial-response", b"{}")),
    (event("SubscribeToShardEvent", {"Records": []}), Event("SubscribeToShardEvent", b'{"Records": []}')),
    (message({":message-type": "event", ":event-type": "Empty"}, b""), Event("Empty", b"")),
]


@pytest.mark.parametrize(("data", "expected"), CASES)
def test_one_event(data: bytes, expected: Event) -> None:
    assert events_of(data) == [expected]
    assert events_of(*(data[index : index + 1] for index in range(len(data)))) == [expected]
    assert events_of(data + data[:7]) == [expected]
    for end in range(len(data)):
        buffer = EventBuffer()
        buffer.feed(data[:end])
        assert buffer.take() is None
        assert buffer.within == bool(end)
    buffer = EventBuffer()
    buffer.feed(data)
    assert buffer.take() == expected
    assert not buffer.within


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (fault("InternalFailureException", "not our day"), "InternalFailureException", "not our day"),
        (ERROR, "Oops", "an accident"),
        (message({":message-type": "exception", ":exception-type": "E"}, b"no json"), "E", ""),
        (message({":message-type": "exception", ":exception-type": "E"}, b"[]"), "E", ""),
    ],
)
def test_what_ends_a_stream(data: bytes, code: str, text: str) -> None:
    with pytest.raises(EventFault) as raised:
        events_of(initial() + data)
    assert (raised.value.code, raised.value.message) == (code, text)


def _changed(data: bytes, index: int) -> bytes:
    return data[:index] + bytes((data[index] ^ 0xFF,)) + data[index + 1 :]


WHOLE = event("A", {"b": 1})


@pytest.mark.parametrize("index", range(len(WHOLE)))
def test_what_was_changed_on_its_way_is_no_event(index: int) -> None:
    with pytest.raises(ValueError, match="not an event stream"):
        events_of(_changed(WHOLE, index))


@pytest.mark.parametrize(
    "data",
    [
        message({}, b"{}"),
        message({":message-type": "event"}, b"{}"),
        b"HTTP/1.1 200 OK\r\n\r\n",
        bytes(16),
        b"\xff" * 16,
    ],
)
def test_what_is_no_event_stream(data: bytes) -> None:
    with pytest.raises(ValueError, match="not an event stream"):
        events_of(data)


@given(st.lists(st.dictionaries(st.text(), st.text())), st.lists(st.integers(0, 2_000)))
def test_events_come_out_as_they_went_in_however_they_are_cut(documents: list[dict[str, str]], cuts: list[int]) -> None:
    data = b"".join(event("E", each) for each in documents)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[begin:end] for begin, end in itertools.pairwise(places)]
    assert [json.loads(each.payload) for each in events_of(*pieces)] == documents


@given(st.lists(st.binary(max_size=64), max_size=8))
def test_bytes_of_any_kind_give_events_or_an_error(pieces: list[bytes]) -> None:
    buffer = EventBuffer()
    try:
        for piece in pieces:
            buffer.feed(piece)
            while buffer.take() is not None:
                pass
    except (EventFault, ValueError):
        pass
