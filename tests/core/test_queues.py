"""Durable queues: what AMQP asks of them and the backend does not do itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from gateway.core.arguments import QueuePolicy
from gateway.core.backend import Limits, QueueSpec, Received, Target
from gateway.core.batcher import BatchPolicy
from gateway.core.commands import Consume
from gateway.core.deadletter import DeadLettering, Reason
from gateway.core.errors import AccessDenied, InUse, NotSupported, Unavailable
from gateway.core.health import Health
from gateway.core.message import Address, Message, Properties
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.core.queues import BackendQueue
from gateway.core.receiver import Keeper, ReceivePolicy, Receiver
from gateway.core.sender import Sender
from gateway.core.settler import Settler
from gateway.core.subscription import Subscription
from tests.rig.clock import at_end, on_clock, settle_down
from tests.rig.scripted import LIMITS, TARGET, Consumer, Publisher, ScriptedBackend, message, never, new_metrics

WALL = 1_000_000.0
DLX = {"x-dead-letter-exchange": "graveyard"}


class Rig:
    def __init__(self, limits: Limits = LIMITS, **arguments: object) -> None:
        self.loop = asyncio.get_running_loop()
        self.backend = ScriptedBackend(limits)
        self.metrics = new_metrics()
        self.buried: list[tuple[bytes, Reason]] = []
        self.grave = ACCEPTED
        self.publisher = Publisher()
        self.queue = BackendQueue(
            TARGET,
            QueueSpec(arguments={name.replace("_", "-"): value for name, value in arguments.items()}),
            self.backend,
            open_sender=self.open_sender,
            open_receiver=self.open_receiver,
            bury=self.bury,
            nobody=self.publisher,
            wall=self.wall,
        )
        at_end(self.queue.aclose)

    def wall(self) -> float:
        return WALL + self.loop.time()

    def open_sender(self, target: Target) -> Sender:
        sender = Sender(
            self.backend,
            target,
            policy=BatchPolicy(timeout=5.0),
            inflight=_Unbounded(),  # type: ignore[arg-type]
            metrics=self.metrics,
            health=Health(),
        )
        at_end(sender.aclose)
        return sender

    def open_receiver(self, target: Target, keeper: Keeper, policy: QueuePolicy) -> Receiver:
        return Receiver(
            self.backend,
            target,
            Settler(self.backend, target, policy=BatchPolicy(timeout=5.0), metrics=self.metrics),
            policy=ReceivePolicy(),
            metrics=self.metrics,
            health=Health(),
            keeper=keeper,
            single=policy.single_active_consumer,
        )

    def bury(self, queue: DeadLettering, message: Message, reason: Reason, done: Callable[[Result], None]) -> None:
        assert queue is self.queue
        self.buried.append((message.body, reason))
        done(self.grave)

    def arrive(self, *bodies: bytes, age: float = 0.0, attempt: int = 1, **properties: int) -> None:
        for body in bodies:
            made = Message(Address("", "orders"), body, Properties(**properties))  # type: ignore[arg-type]
            self.backend.inbox.append(Received(made, "r-" + body.decode(), attempt, "", self.wall() - age))
        self.backend.arrive()

    def consume(self, prefetch: int = 10, **options: bool) -> tuple[Subscription, Consumer]:
        consumer = Consumer()
        command = Consume("tag", "orders", prefetch, None, **options)  # type: ignore[arg-type]
        return self.queue.consume(command, consumer), consumer


class _Unbounded:
    def add(self, size: int, publisher: object) -> None: ...

    def remove(self, size: int, count: int = 1) -> None: ...


# Dead letters


@on_clock
async def test_what_is_rejected_is_buried_and_then_deleted() -> None:
    rig = Rig(**DLX)
    _, consumer = rig.consume()
    rig.arrive(b"a")
    await settle_down()
    consumer.settle(Outcome.REJECTED)
    await settle_down()
    assert rig.buried == [(b"a", Reason.REJECTED)]
    assert rig.backend.deleted == ["r-a"]


@on_clock
async def test_without_a_place_for_the_dead_what_is_rejected_is_dropped() -> None:
    rig = Rig()
    _, consumer = rig.consume()
    rig.arrive(b"a")
    await settle_down()
    consumer.settle(Outcome.REJECTED)
    await settle_down()
    assert rig.backend.settled == [(["r-a"], Outcome.REJECTED)]


@on_clock
async def test_what_cannot_be_buried_stays_and_is_not_tried_again_at_once() -> None:
    rig = Rig(**DLX)
    rig.grave = Result(Outcome.RELEASED, Unavailable("no answer"))
    _, consumer = rig.consume()
    rig.arrive(b"a")
    await settle_down()
    with capture_logs() as lines:
        consumer.settle(Outcome.REJECTED)
        await settle_down()
    assert rig.backend.settled == [], "hidden until its visibility ends"
    assert [line["event"] for line in lines] == ["message_not_moved"]
    await asyncio.sleep(100)
    assert not rig.backend.extended, "and nobody holds it longer"


@pytest.mark.parametrize("arguments", [DLX, {}])
@on_clock
async def test_what_fails_too_often_ends(arguments: dict[str, object]) -> None:
    rig = Rig(**arguments, x_queue_type="quorum", x_delivery_limit=2)
    _, consumer = rig.consume()
    for attempt in (1, 2, 3):
        rig.arrive(b"a", attempt=attempt)
        await settle_down()
        assert consumer.bodies == [b"a"]
        consumer.settle(Outcome.RELEASED)
        await settle_down()
    assert rig.buried == [(b"a", Reason.DELIVERY_LIMIT)]
    assert (rig.backend.released, rig.backend.deleted) == (["r-a", "r-a"], ["r-a"])
    rig.arrive(b"b", attempt=4)
    await settle_down()
    assert not consumer.deliveries, "three deliveries have failed without a word: their consumers vanished"
    assert rig.backend.deleted == ["r-a", "r-b"]


@on_clock
async def test_what_no_consumer_has_had_does_not_fail() -> None:
    rig = Rig(x_queue_type="quorum", x_delivery_limit=0)
    subscription, _ = rig.consume()
    await settle_down()
    subscription.cancel()
    rig.arrive(b"a", attempt=1)
    await settle_down()
    assert rig.backend.released == ["r-a"]
    assert rig.buried == []


# Expiry


@on_clock
async def test_what_has_expired_is_not_delivered() -> None:
    rig = Rig(x_message_ttl=5_000)
    _, consumer = rig.consume()
    rig.arrive(b"old", age=5.1)
    rig.arrive(b"new", age=4.9)
    rig.arrive(b"own", age=1.1, expiration=1_000)
    await settle_down()
    assert consumer.bodies == [b"new"]
    assert rig.buried == [(b"old", Reason.EXPIRED), (b"own", Reason.EXPIRED)]
    assert rig.backend.deleted == ["r-old", "r-own"]


@on_clock
async def test_dead_letters_of_what_expires_come_without_a_consumer() -> None:
    rig = Rig(**DLX, x_message_ttl=5_000)
    rig.queue.watch_expiry()
    rig.arrive(b"a", b"b", age=2.0)
    rig.arrive(b"own", expiration=1_000)
    await asyncio.sleep(0.5)
    assert rig.buried == []
    assert rig.queue.consumers == 0
    await asyncio.sleep(0.6)
    assert rig.buried == [(b"own", Reason.EXPIRED)]
    await asyncio.sleep(2.0)
    assert rig.buried[1:] == [(b"a", Reason.EXPIRED), (b"b", Reason.EXPIRED)]
    assert sorted(rig.backend.deleted) == ["r-a", "r-b", "r-own"]
    assert rig.backend.released == []


@on_clock
async def test_a_consumer_gets_what_was_watched_and_after_it_the_watch_goes_on() -> None:
    rig = Rig(**DLX, x_message_ttl=60_000)
    rig.queue.watch_expiry()
    rig.arrive(b"a")
    await settle_down()
    subscription, consumer = rig.consume(exclusive=True)
    await settle_down()
    assert rig.backend.released == ["r-a"]
    rig.arrive(b"a", attempt=2)
    await settle_down()
    assert consumer.bodies == [b"a"]
    subscription.cancel()
    consumer.settle(Outcome.RELEASED)
    rig.arrive(b"b")
    await asyncio.sleep(61)
    assert rig.buried == [(b"b", Reason.EXPIRED)]


@on_clock
async def test_messages_with_a_time_of_their_own_are_watched_once_they_were_seen() -> None:
    rig = Rig(**DLX)
    rig.queue.put(message(b"x"), rig.publisher, rig.publisher, 1)
    await settle_down()
    assert rig.backend.polls == 0
    made = Message(Address("", "orders"), b"a", Properties(expiration=1_000))
    rig.queue.put(made, rig.publisher, rig.publisher, 2)
    await settle_down()
    assert rig.backend.polls == 1


@on_clock
async def test_get_takes_what_is_watched() -> None:
    rig = Rig(**DLX, x_message_ttl=60_000)
    rig.queue.watch_expiry()
    rig.arrive(b"a")
    await settle_down()
    delivery = await rig.queue.get()
    assert delivery is not None
    await asyncio.sleep(61)
    assert rig.buried == [], "it is somebody's"
    delivery.source.settle(delivery, Outcome.ACCEPTED)
    await settle_down()
    assert rig.backend.deleted == ["r-a"]


@on_clock
async def test_what_is_watched_for_hours_is_given_back_before_the_service_takes_it() -> None:
    limits = Limits(batch_entries=10, batch_bytes=1_000, entry_bytes=500, max_hold=600.0)
    rig = Rig(limits, **DLX, x_message_ttl=3_600_000)
    rig.queue.watch_expiry()
    rig.arrive(b"a")
    await asyncio.sleep(545)
    await settle_down()
    assert rig.backend.released == ["r-a"]
    assert rig.buried == []


@on_clock
async def test_a_delayed_message_lives_from_when_it_is_due() -> None:
    rig = Rig(x_message_ttl=1_000)
    _, consumer = rig.consume()
    made = Message(Address("", "orders"), b"a", not_before=rig.wall() - 0.5)
    rig.backend.inbox.append(Received(made, "r-a", 1, "", rig.wall() - 600))
    rig.backend.arrive()
    await settle_down()
    assert consumer.bodies == [b"a"]


# Delays


@on_clock
async def test_what_is_not_due_goes_on_its_next_stretch_and_is_deleted_when_that_has_begun() -> None:
    rig = Rig()
    _, consumer = rig.consume()
    made = Message(Address("", "orders"), b"a", not_before=rig.wall() + 600)
    gate = asyncio.Event()

    async def send(entries: object) -> list[Result]:
        await gate.wait()
        return [ACCEPTED]

    rig.backend.on_send = send
    rig.backend.inbox.append(Received(made, "r-a", 1, "", rig.wall()))
    rig.backend.arrive()
    await settle_down()
    assert (consumer.deliveries, rig.backend.sent, rig.backend.deleted) == ([], [[b"a"]], [])
    gate.set()
    await settle_down()
    assert rig.backend.deleted == ["r-a"]


@on_clock
async def test_what_is_nearly_due_is_delivered() -> None:
    rig = Rig()
    _, consumer = rig.consume()
    made = Message(Address("", "orders"), b"a", not_before=rig.wall() + 0.4)
    rig.backend.inbox.append(Received(made, "r-a", 1, "", rig.wall()))
    rig.backend.arrive()
    await settle_down()
    assert consumer.bodies == [b"a"]


# Length


@on_clock
async def test_the_oldest_are_taken_out_of_a_queue_that_is_too_long() -> None:
    rig = Rig(x_max_length=2)
    rig.arrive(b"a", b"b", b"c", b"d")
    await rig.queue.check_length()
    assert rig.buried == [(b"a", Reason.MAXLEN), (b"b", Reason.MAXLEN)]
    await settle_down()
    assert rig.backend.deleted == ["r-a", "r-b"]


@pytest.mark.parametrize(
    ("overflow", "buried"), [("reject-publish", []), ("reject-publish-dlx", [(b"x", Reason.MAXLEN)])]
)
@on_clock
async def test_a_full_queue_refuses_where_that_was_asked_for(overflow: str, buried: list[object]) -> None:
    rig = Rig(x_max_length=1, x_overflow=overflow)
    rig.arrive(b"a")
    await rig.queue.check_length()
    rig.queue.put(message(b"x"), rig.publisher, rig.publisher, 1)
    assert rig.publisher.outcome_of(1) is Outcome.REJECTED
    assert rig.buried == buried
    rig.backend.inbox.clear()
    await asyncio.sleep(2)
    await rig.queue.check_length()
    rig.queue.put(message(b"y"), rig.publisher, rig.publisher, 2)
    await settle_down()
    assert rig.publisher.outcome_of(2) is Outcome.ACCEPTED


# Consumers, counts and the end


@on_clock
async def test_nothing_can_be_consumed_from_a_service_that_gives_nothing() -> None:
    rig = Rig(Limits(batch_entries=1, batch_bytes=1, entry_bytes=1, receive_entries=0))
    with pytest.raises(NotSupported):
        rig.consume()


@on_clock
async def test_an_exclusive_consumer_is_alone() -> None:
    rig = Rig()
    rig.consume(exclusive=True)
    with pytest.raises(InUse):
        rig.consume()


@on_clock
async def test_counts_are_asked_for_once_a_second_unless_they_have_to_be_fresh() -> None:
    rig = Rig()
    assert (await rig.queue.depth()).ready == 0
    rig.arrive(b"a")
    assert (await rig.queue.depth()).ready == 0
    assert (await rig.queue.depth(fresh=True)).ready == 1
    rig.arrive(b"b")
    await asyncio.sleep(1.1)
    assert (await rig.queue.depth()).ready == 2
    assert await rig.queue.purge() == 2
    assert (await rig.queue.depth()).ready == 0


@on_clock
async def test_a_purge_spares_what_was_sent_after_it_began() -> None:
    rig = Rig()
    rig.arrive(b"old")
    rig.arrive(b"new", age=-60.0)
    assert await rig.queue.purge() == 1
    assert rig.backend.settled == [(["r-old"], Outcome.ACCEPTED), (["r-new"], Outcome.RELEASED)]


@on_clock
async def test_a_purge_that_the_backend_refuses_says_so() -> None:
    rig = Rig()

    async def denied(limit: int) -> None:
        raise AccessDenied("may not")

    rig.backend.on_receive = denied
    with pytest.raises(AccessDenied):
        await rig.queue.purge()


@on_clock
async def test_a_get_that_comes_back_to_a_closed_queue_takes_nothing() -> None:
    rig = Rig()
    getting = asyncio.create_task(rig.queue.get())
    await settle_down()
    rig.queue.stop_polling()
    rig.arrive(b"a")
    assert await getting is None
    await settle_down()
    assert rig.backend.released == ["r-a"]


@on_clock
async def test_deleting_ends_all_consumers_and_tells_those_who_want_to_be_told() -> None:
    rig = Rig()
    rig.backend.on_receive = never  # type: ignore[assignment]
    (first, told), (second, other) = rig.consume(cancellable=True), rig.consume()
    rig.queue.cancel_consumers()
    assert (told.times_cancelled, other.times_cancelled) == (1, 0)
    assert first.cancelled
    assert second.cancelled


@on_clock
async def test_the_first_declaration_says_how_a_queue_is_that_was_only_found() -> None:
    rig = Rig()
    _, first = rig.consume(1)
    _, second = rig.consume(1)
    rig.queue.redefine(QueueSpec(arguments={"x-single-active-consumer": True}))
    rig.arrive(b"a", b"b")
    await settle_down()
    assert (first.bodies, second.bodies) == ([b"a"], [])
