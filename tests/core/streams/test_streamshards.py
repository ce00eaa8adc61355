"""Parents before children, and where each shard is begun."""

from __future__ import annotations

from gateway.core.streams.offset import Start
from gateway.core.streams.port import END, FIRST, NEXT, Position, Shard, Whence
from gateway.core.streams.shards import Course

PARENT = Shard("p", open=False)
CHILDREN = [Shard("a", ("p",)), Shard("b", ("p",))]
AFTER = Position(Whence.AFTER, "7")


def begun(start: Start, *shards: Shard) -> list[tuple[str, Position]]:
    course = Course(start)
    course.listed(shards)
    return course.begin()


def test_from_the_first_parents_come_first() -> None:
    course = Course(Start(FIRST))
    course.listed([PARENT, *CHILDREN])
    assert course.begin() == [("p", FIRST)]
    assert course.begin() == []
    course.finish("p")
    assert course.begin() == [("a", FIRST), ("b", FIRST)]


def test_a_merged_shard_waits_for_both_parents() -> None:
    one, other, child = Shard("p", open=False), Shard("q", open=False), Shard("c", ("p", "q"))
    course = Course(Start(FIRST))
    course.listed([one, other, child])
    assert [shard for shard, _ in course.begin()] == ["p", "q"]
    course.finish("p")
    assert course.begin() == []
    course.finish("q")
    assert course.begin() == [("c", FIRST)]


def test_parents_that_are_not_kept_any_more_are_not_waited_for() -> None:
    assert begun(Start(FIRST), *CHILDREN) == [("a", FIRST), ("b", FIRST)]


def test_from_now_on_means_open_shards_now_and_all_of_their_children() -> None:
    course = Course(Start(NEXT))
    course.listed([PARENT, *CHILDREN])
    assert course.begin() == [("a", NEXT), ("b", NEXT)]
    course.finish("a")
    course.listed([Shard("a", open=False), CHILDREN[1], Shard("c", ("a",))])
    assert course.begin() == [("c", FIRST)]


def test_an_offset_of_a_child_says_that_its_parents_were_read() -> None:
    assert begun(Start(FIRST, {"a": AFTER}), PARENT, *CHILDREN) == [("a", AFTER), ("b", FIRST)]


def test_an_offset_of_a_parent_comes_before_the_children() -> None:
    assert begun(Start(FIRST, {"p": AFTER}), PARENT, *CHILDREN) == [("p", AFTER)]


def test_an_ended_parent_is_not_read_again() -> None:
    assert begun(Start(FIRST, {"p": END}), PARENT, *CHILDREN) == [("a", FIRST), ("b", FIRST)]


def test_an_ended_shard_waits_for_its_children_to_be_listed() -> None:
    course = Course(Start(FIRST))
    course.listed([Shard("p")])
    course.begin()
    assert not course.childless
    course.finish("p")
    assert course.childless
    course.listed([PARENT, *CHILDREN])
    assert not course.childless


def test_a_parent_is_told_by_its_child() -> None:
    course = Course(Start(FIRST))
    course.listed([PARENT, *CHILDREN])
    assert course.superseded("p", {"a"})
    assert not course.superseded("p", {"x"})
