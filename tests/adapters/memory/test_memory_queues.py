"""What the contract suite cannot see from outside: time that is given, and limits."""

import pytest

import adapters.memory.queues
from adapters.memory.queues import COMPACT_FROM, DEDUPLICATION_SECONDS, FifoQueue, StandardQueue, Stored
from gateway.core.backend import Depth
from gateway.core.errors import ReceiptExpired, Throttled
from gateway.core.message import Address, Message


def put(
    queue: StandardQueue, body: str, *, group: str = "g", unique: str = "", delay: float = 0.0, now: float = 0.0
) -> None:
    queue.put(Message(Address("", "q"), body.encode()), group, unique or body, delay, now)


def bodies(taken: list[Stored]) -> list[str]:
    return [stored.message.body.decode() for stored in taken]


@pytest.fixture(params=[StandardQueue, FifoQueue])
def queue(request: pytest.FixtureRequest) -> StandardQueue:
    made: StandardQueue = request.param("q")
    return made


def test_time_decides_when_a_message_comes_back(queue: StandardQueue) -> None:
    put(queue, "a")
    (first,) = queue.take(10, 30.0, now=100.0)
    assert queue.next_change() == 130.0
    assert queue.take(10, 30.0, now=129.9) == []
    (again,) = queue.take(10, 30.0, now=130.0)
    assert again.message == first.message
    assert again.received == 2


def test_a_receipt_ends_with_its_time(queue: StandardQueue) -> None:
    put(queue, "a")
    receipt = queue.take(1, 30.0, now=0.0)[0].receipt
    with pytest.raises(ReceiptExpired):
        queue.delete(receipt, now=30.0)
    with pytest.raises(ReceiptExpired):
        queue.hide(receipt, 10.0, now=30.0)
    assert queue.depth(30.0) == Depth(ready=1, unsettled=0, delayed=0)


def test_extending_replaces_the_time(queue: StandardQueue) -> None:
    put(queue, "a")
    receipt = queue.take(1, 30.0, now=0.0)[0].receipt
    queue.hide(receipt, 60.0, now=20.0)
    assert queue.take(1, 30.0, now=79.0) == []
    queue.hide(receipt, 5.0, now=79.0)
    assert bodies(queue.take(1, 30.0, now=84.0)) == ["a"]


def test_delayed_messages_come_in_time(queue: StandardQueue) -> None:
    put(queue, "later", group="x", delay=10.0)
    put(queue, "now", group="y")
    assert queue.depth(0.0) == Depth(ready=1, unsettled=0, delayed=1)
    assert bodies(queue.take(10, 30.0, now=9.9)) == ["now"]
    assert bodies(queue.take(10, 30.0, now=10.0)) == ["later"]
    assert queue.depth(10.0) == Depth(ready=0, unsettled=2, delayed=0)


def test_a_full_queue_throttles(queue: StandardQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters.memory.queues, "QUEUE_LIMIT", 3)
    put(queue, "waiting", group="w")
    put(queue, "held", group="h")
    queue.take(1, 30.0, now=0.0)
    put(queue, "later", delay=5.0)
    with pytest.raises(Throttled):
        put(queue, "one too many")
    assert len(queue) == 3


def test_too_much_in_flight_throttles(queue: StandardQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters.memory.queues, "IN_FLIGHT_LIMIT", 3)
    for number in range(5):
        put(queue, str(number), group=str(number))
    assert len(queue.take(2, 30.0, now=0.0)) == 2
    (last,) = queue.take(10, 30.0, now=0.0)
    with pytest.raises(Throttled):
        queue.take(1, 30.0, now=0.0)
    queue.delete(last.receipt, now=0.0)
    assert len(queue.take(10, 30.0, now=0.0)) == 1


def test_timers_do_not_pile_up(queue: StandardQueue) -> None:
    for number in range(5 * COMPACT_FROM):
        put(queue, str(number))
        (stored,) = queue.take(1, 1e6, now=0.0)
        queue.hide(stored.receipt, 2e6, now=0.0)
        queue.delete(stored.receipt, now=0.0)
        assert len(queue._timers) <= COMPACT_FROM + 2
    assert len(queue) == 0


class TestFifo:
    def test_whole_groups_come_first(self) -> None:
        queue = FifoQueue("q")
        for body, group in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("b2", "b")):
            put(queue, body, group=group)
        assert bodies(queue.take(3, 30.0, now=0.0)) == ["a1", "a2", "b1"]
        assert queue.take(1, 30.0, now=0.0) == []

    def test_a_group_is_free_when_all_of_it_is_settled(self) -> None:
        queue = FifoQueue("q")
        for body in "abcd":
            put(queue, body)
        first, second = queue.take(2, 30.0, now=0.0)
        queue.delete(first.receipt, now=0.0)
        assert queue.take(1, 30.0, now=0.0) == []
        queue.hide(second.receipt, 0.0, now=0.0)
        assert bodies(queue.take(10, 30.0, now=0.0)) == ["b", "c", "d"]

    def test_messages_that_come_back_in_any_order_are_in_order(self) -> None:
        queue = FifoQueue("q")
        for body in "abc":
            put(queue, body)
        held = queue.take(3, 30.0, now=0.0)
        for index in (1, 2, 0):
            queue.hide(held[index].receipt, 0.0, now=0.0)
        assert bodies(queue.take(10, 30.0, now=0.0)) == ["a", "b", "c"]

    def test_ids_are_remembered_for_the_window(self) -> None:
        queue = FifoQueue("q")
        put(queue, "a", unique="1", now=0.0)
        put(queue, "b", unique="1", now=DEDUPLICATION_SECONDS - 1)
        assert len(queue) == 1
        put(queue, "c", unique="1", now=DEDUPLICATION_SECONDS)
        assert bodies(queue.take(10, 30.0, now=DEDUPLICATION_SECONDS)) == ["a", "c"]

    def test_a_deleted_message_is_still_a_duplicate(self) -> None:
        queue = FifoQueue("q")
        put(queue, "a", unique="1")
        queue.delete(queue.take(1, 30.0, now=0.0)[0].receipt, now=0.0)
        put(queue, "b", unique="1")
        assert len(queue) == 0

    def test_the_oldest_ids_make_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(adapters.memory.queues, "DEDUPLICATION_LIMIT", 2)
        queue = FifoQueue("q")
        for body in "abc":
            put(queue, body)
        put(queue, "c")
        put(queue, "a")
        assert bodies(queue.take(10, 30.0, now=0.0)) == ["a", "b", "c", "a"]
