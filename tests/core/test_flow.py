"""Watermarks: who is paused, when all go on, and that nothing leaks."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.flow import Watermark
from tests.rig.scripted import Publisher


def test_below_the_mark_nobody_waits() -> None:
    mark, publisher = Watermark(3, 100), Publisher()
    mark.add(10, publisher)
    mark.add(10, publisher)
    assert (mark.count, mark.bytes) == (2, 20)
    assert not publisher.pauses


def test_at_the_count_who_adds_is_paused_and_half_free_again_resumed() -> None:
    mark, publisher = Watermark(4, 1_000), Publisher()
    for _ in range(4):
        mark.add(1, publisher)
    assert publisher.pauses == {mark}
    mark.remove(1)
    assert publisher.pauses == {mark}
    mark.remove(1)
    assert not publisher.pauses


def test_at_the_bytes_as_well_and_both_have_to_be_low() -> None:
    mark, publisher = Watermark(4, 100), Publisher()
    mark.add(90, publisher)
    mark.add(10, publisher)
    assert publisher.pauses == {mark}
    mark.remove(10)
    assert publisher.pauses == {mark}, "the count is low, the bytes are not"
    mark.remove(90)
    assert not publisher.pauses


def test_one_message_over_the_mark_is_taken_and_does_not_stick() -> None:
    mark, publisher = Watermark(1, 1), Publisher()
    mark.add(50, publisher)
    assert publisher.pauses == {mark}
    mark.remove(50)
    assert not publisher.pauses
    assert (mark.count, mark.bytes) == (0, 0)


def test_only_who_adds_above_the_mark_is_paused() -> None:
    mark, quiet, busy = Watermark(2, 100), Publisher(), Publisher()
    mark.add(1, quiet)
    mark.add(1, busy)
    mark.add(1, busy)
    assert not quiet.pauses
    assert busy.pauses == {mark}


def test_a_publisher_that_is_gone_is_not_resumed() -> None:
    mark, gone, other = Watermark(2, 100), Publisher(), Publisher()
    mark.add(1, gone)
    mark.add(1, gone)
    mark.add(1, other)
    mark.forget(gone)
    for _ in range(3):
        mark.remove(1)
    assert gone.pauses == {mark}
    assert not other.pauses
    mark.forget(gone)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), max_size=80), st.integers(1, 6), st.integers(1, 100))
def test_whatever_comes_and_goes_in_the_end_nobody_waits(
    steps: list[tuple[int, int]], high_count: int, high_bytes: int
) -> None:
    mark = Watermark(high_count, high_bytes)
    publishers = [Publisher() for _ in range(3)]
    held: list[int] = []
    for who, size in steps:
        if who < 3:
            mark.add(size, publishers[who])
            held.append(size)
            full = mark.count >= high_count or mark.bytes >= high_bytes
            assert bool(publishers[who].pauses) >= full, "added above the mark without being paused"
        elif held:
            mark.remove(held.pop(0))
        assert (mark.count, mark.bytes) == (len(held), sum(held))
    for size in held:
        mark.remove(size)
    assert (mark.count, mark.bytes) == (0, 0)
    assert not any(publisher.pauses for publisher in publishers)


def test_several_go_at_once() -> None:
    mark, publisher = Watermark(4, 1_000), Publisher()
    for _ in range(4):
        assert not mark.full
        mark.add(10, publisher)
    assert mark.full
    mark.remove(30, 3)
    assert (mark.count, mark.bytes) == (1, 10)
    assert not mark.full
    assert not publisher.pauses


def test_it_is_full_by_bytes_too() -> None:
    mark = Watermark(4, 100)
    mark.add(100, Publisher())
    assert mark.full
