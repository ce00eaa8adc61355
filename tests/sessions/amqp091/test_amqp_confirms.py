"""Confirms in any order of results: each publish is told once, right, and in few frames."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pamqp import frame as pamqp_frame
from pamqp.commands import Basic

from gateway.protocols.amqp091.confirms import Confirms


def told(confirms: Confirms) -> list[tuple[str, int, bool]]:
    out: list[bytes] = []
    confirms.write(1, out)
    data = b"".join(out)
    frames = []
    while data:
        count, _, method = pamqp_frame.unmarshal(data)
        assert isinstance(method, Basic.Ack | Basic.Nack)
        frames.append((method.name.removeprefix("Basic."), method.delivery_tag, method.multiple))
        data = data[count:]
    return frames


def test_one() -> None:
    confirms = Confirms(0)
    confirms.accepted(1)
    assert told(confirms) == [("Ack", 1, False)]
    assert told(confirms) == []


def test_many_in_order_take_one_frame() -> None:
    confirms = Confirms(0)
    for number in range(1, 101):
        confirms.accepted(number)
    assert told(confirms) == [("Ack", 100, True)]


def test_those_ahead_are_told_by_themselves_and_not_again() -> None:
    confirms = Confirms(0)
    confirms.accepted(2)
    confirms.accepted(3)
    assert told(confirms) == [("Ack", 2, False), ("Ack", 3, False)]
    confirms.accepted(1)
    assert told(confirms) == [("Ack", 1, False)]


def test_a_gap_that_closes_within_a_turn_is_not_seen() -> None:
    confirms = Confirms(0)
    for number in (3, 2, 1):
        confirms.accepted(number)
    assert told(confirms) == [("Ack", 3, True)]


def test_what_was_refused_is_told_before_what_was_accepted() -> None:
    confirms = Confirms(0)
    confirms.accepted(1)
    confirms.refused(2)
    confirms.accepted(3)
    assert told(confirms) == [("Nack", 2, False), ("Ack", 3, True)]


def test_only_refused() -> None:
    confirms = Confirms(0)
    confirms.refused(1)
    confirms.refused(2)
    assert told(confirms) == [("Nack", 1, False), ("Nack", 2, False)]


def test_what_was_published_before_confirms_were_asked_for_has_no_number() -> None:
    confirms = Confirms(5)
    confirms.accepted(4)
    confirms.refused(5)
    assert told(confirms) == []
    confirms.accepted(6)
    assert told(confirms) == [("Ack", 1, False)]


@given(st.data())
def test_a_client_learns_of_each_publish_what_became_of_it(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 30))
    bad = data.draw(st.sets(st.integers(1, count))) if count else set()
    order = data.draw(st.permutations(range(1, count + 1)))
    confirms = Confirms(0)
    waiting = set(range(1, count + 1))
    finished: set[int] = set()
    for number in order:
        (confirms.refused if number in bad else confirms.accepted)(number)
        finished.add(number)
        if data.draw(st.booleans()):
            _listen(told(confirms), waiting, finished, bad)
    _listen(told(confirms), waiting, finished, bad)
    assert not waiting


def _listen(frames: list[tuple[str, int, bool]], waiting: set[int], finished: set[int], bad: set[int]) -> None:
    """As a client with a set of what is unconfirmed."""
    for name, tag, multiple in frames:
        spoken_of = {number for number in waiting if number <= tag} if multiple else {tag} & waiting
        assert spoken_of, "told of nothing"
        assert spoken_of <= finished, "confirmed too early"
        assert all((number in bad) == (name == "Nack") for number in spoken_of)
        waiting -= spoken_of
