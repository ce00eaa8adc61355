"""What the port in `gateway/core/backend.py` promises of every backend that keeps queues."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from gateway.core.backend import Backend, Entry, QueueSpec, Received, Target
from gateway.core.errors import Invalid, NotFound, ReceiptExpired, TooLarge
from gateway.core.message import NO_HEADERS, PERSISTENT, Address, Headers, HeaderValue, Message, Origin, Properties
from gateway.core.outcome import ACCEPTED, Outcome
from tests.contract.conftest import Service

LONG = 30.0
"""Seconds of visibility that no test outlasts."""
SHORT = 1.0
"""Seconds of visibility that a test waits for."""
CLOCKS = 1.0
"""Seconds that two clocks differ at most, one of which may count whole seconds only."""
PATIENCE = 20.0
"""Seconds after which a message is not coming."""

DURABLE = QueueSpec()
FIFO = QueueSpec(arguments={"x-fifo": True})


def message(body: bytes | str, headers: Headers = NO_HEADERS) -> Message:
    content = body.encode() if isinstance(body, str) else body
    return Message(Address("", "hub-queue"), content, PERSISTENT, headers, Origin("mqtt", "dev-1", "alice"))


def grouped(body: str, group: str) -> Message:
    return message(body, {"JMSXGroupID": group})


async def publish(backend: Backend, target: Target, *messages: Message) -> None:
    for start in range(0, len(messages), backend.limits.batch_entries):
        batch = messages[start : start + backend.limits.batch_entries]
        results = await backend.send(target, [backend.encode(target, item) for item in batch])
        assert list(results) == [ACCEPTED] * len(batch)


async def take(backend: Backend, target: Target, count: int, visibility: float = LONG) -> list[Received]:
    """Receive until there are `count` messages; they may come in several answers."""
    taken: list[Received] = []
    async with asyncio.timeout(PATIENCE):
        while len(taken) < count:
            limit = min(count - len(taken), backend.limits.receive_entries)
            taken += await backend.receive(target, limit, 5.0, visibility)
    return taken


async def delete(backend: Backend, target: Target, received: Sequence[Received]) -> None:
    results = await backend.settle(target, [item.receipt for item in received], Outcome.ACCEPTED)
    assert list(results) == [ACCEPTED] * len(received)


async def nothing_waits(backend: Backend, target: Target, wait: float = 0.0) -> bool:
    return not await backend.receive(target, backend.limits.receive_entries, wait, LONG)


def bodies(received: Sequence[Received]) -> list[str]:
    return [item.message.body.decode() for item in received]


class TestHome:
    def test_a_queue_has_one_home(self, backend: Backend, service: Service) -> None:
        target = backend.home("orders", DURABLE)
        assert (target.kind, target.queue, target.name) == (service.kind, "orders", "orders")
        assert backend.home("orders", DURABLE) == target

    def test_the_prefix_begins_the_name(self, service: Service) -> None:
        assert service.open(prefix="prod-").home("orders", DURABLE).name == "prod-orders"
        assert service.open(prefix="prod-").home("orders", DURABLE).queue == "orders"

    @pytest.mark.parametrize("argument", [True, "true"])
    def test_fifo_on_demand(self, backend: Backend, argument: object) -> None:
        spec = QueueSpec(arguments={"x-fifo": argument})
        assert backend.home("orders", spec).name == "orders.fifo"
        assert backend.home("orders.fifo", spec).name == "orders.fifo"
        assert backend.home("orders", QueueSpec(arguments={"x-fifo": False})).name == "orders"

    @pytest.mark.parametrize("name", ["", ".fifo"])
    def test_a_queue_without_name_has_none(self, backend: Backend, name: str) -> None:
        with pytest.raises(Invalid):
            backend.home(name, DURABLE)

    @pytest.mark.parametrize("name", ["a.b/c d", "grüße", "%2F#*", "q" * 200, "\ud800"])
    @pytest.mark.parametrize("spec", [DURABLE, FIFO], ids=["standard", "fifo"])
    async def test_any_name_works(self, service: Service, name: str, spec: QueueSpec) -> None:
        backend = service.open(prefix=f"{service.name}-")
        target = backend.home(name, spec)
        await backend.ensure(target, spec)
        await publish(backend, target, message("hello"))
        assert bodies(await take(backend, target, 1)) == ["hello"]


class TestEncode:
    def test_standard_queues_order_nothing(self, backend: Backend, service: Service) -> None:
        assert backend.encode(service.target(), grouped("x", "g")).key is None

    def test_groups_are_keys(self, backend: Backend, service: Service) -> None:
        target = service.target(".fifo")
        first, same, other = (backend.encode(target, grouped("x", group)).key for group in ("a", "a", "b"))
        assert first is not None
        assert first == same
        assert first != other
        by_amqp = message("x", {"x-group-id": "a"})
        assert backend.encode(target, by_amqp).key == first
        assert backend.encode(target, message("x")).key == backend.encode(target, message("y")).key is not None

    def test_a_rule_chooses_the_group(self, backend: Backend, service: Service) -> None:
        template = "{site}-{header:device}"
        north, south = (
            service.target(".fifo", captures={"site": site}, group_id=template) for site in ("north", "south")
        )
        assert backend.encode(north, message("x", {"device": "1"})).key == "north-1"
        assert backend.encode(south, message("x", {"device": "1"})).key == "south-1"

    def test_what_the_service_cannot_take_is_refused(self, backend: Backend, service: Service) -> None:
        with pytest.raises(TooLarge) as refused:
            backend.encode(service.target(), message(b"x" * (backend.limits.entry_bytes + 1)))
        assert refused.value.permanent
        assert service.name in str(refused.value)


class TestSendAndReceive:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"-",
            b" ",
            b"plain text",
            "grüße \U0001f600\r\n\t".encode(),
            b'{"quoted": "\\"yes\\""}',
            bytes(range(256)),
            b"\x00",
            "\ufffe\uffff".encode(),
            b"x" * 100_000,
        ],
        ids=lambda body: repr(body[:12]),
    )
    async def test_bodies(self, backend: Backend, service: Service, body: bytes) -> None:
        target = service.target()
        await publish(backend, target, message(body))
        (received,) = await take(backend, target, 1)
        assert received.message == message(body)
        assert received.attempt == 1

    @pytest.mark.parametrize(
        "value",
        [
            None,
            True,
            0,
            -(2**63),
            2**64,
            10**40,
            1.5,
            -0.0,
            float("inf"),
            "",
            "text with \x00 and \ufffe",
            b"",
            b"\x00\xff",
            Decimal("1.10"),
            Decimal("-Infinity"),
            datetime(2026, 11, 5, 10, 30, 0, 123456, UTC),
            datetime(2026, 11, 5, 10, 30),  # noqa: DTZ001 - a header may be without zone
            [1, "two", [b"3"], {"four": None}],
            {"nested": {"b": b"not a tag", "list": [Decimal("0.1")]}, "": 1},
        ],
        ids=repr,
    )
    async def test_header_types(self, backend: Backend, service: Service, value: HeaderValue) -> None:
        target = service.target()
        original = message("x", {"value": value, "other": "kept"})
        await publish(backend, target, original)
        (received,) = await take(backend, target, 1)
        assert received.message == original
        assert type(received.message.headers["value"]) is type(value)

    async def test_address_properties_and_origin(self, backend: Backend, service: Service) -> None:
        target = service.target()
        original = Message(
            Address("amq.topic", "sensors.north.1"),
            b"21.5",
            Properties(
                content_type="text/plain",
                content_encoding="identity",
                delivery_mode=2,
                priority=9,
                correlation_id=b"\x00\x01",
                reply_to="answers",
                expiration=60_000,
                message_id="m-1",
                timestamp=1_793_872_800,
                type="reading",
                user_id="alice",
                app_id="meter",
            ),
            {"a": 1},
            Origin("amqp091", "conn-7", "alice"),
        )
        await publish(backend, target, original)
        assert (await take(backend, target, 1))[0].message == original

    async def test_a_full_batch(self, backend: Backend, service: Service) -> None:
        target = service.target()
        sent = [f"{number}" for number in range(backend.limits.batch_entries)]
        await publish(backend, target, *map(message, sent))
        assert sorted(bodies(await take(backend, target, len(sent)))) == sorted(sent)

    async def test_the_largest_message(self, backend: Backend, service: Service) -> None:
        target = service.target()
        overhead = backend.encode(target, message("x")).size - 1
        body = b"x" * (backend.limits.entry_bytes - overhead)
        entry = backend.encode(target, message(body))
        assert entry.size == backend.limits.entry_bytes
        assert list(await backend.send(target, [entry])) == [ACCEPTED]
        (received,) = await take(backend, target, 1)
        assert received.message.body == body
        with pytest.raises(TooLarge):
            backend.encode(target, message(body + b"x"))

    async def test_the_largest_batch(self, backend: Backend, service: Service) -> None:
        target = service.target()
        share = backend.limits.batch_bytes // backend.limits.batch_entries
        overhead = backend.encode(target, message("x")).size - 1
        entries = [backend.encode(target, message(b"x" * (share - overhead))) for _ in range(10)]
        assert sum(entry.size for entry in entries) <= backend.limits.batch_bytes
        assert list(await backend.send(target, entries)) == [ACCEPTED] * 10

    async def test_no_more_than_asked_for(self, backend: Backend, service: Service) -> None:
        target = service.target()
        await publish(backend, target, *map(message, "abcde"))
        assert 1 <= len(await backend.receive(target, 2, 5.0, LONG)) <= 2

    async def test_nothing_waits_in_an_empty_queue(self, backend: Backend, service: Service) -> None:
        target = service.target()
        await backend.ensure(target, DURABLE)
        assert list(await backend.receive(target, 10, 0.0, LONG)) == []

    async def test_a_receive_ends_when_its_wait_is_over(self, backend: Backend, service: Service) -> None:
        target = service.target()
        await backend.ensure(target, DURABLE)
        start = asyncio.get_running_loop().time()
        assert await nothing_waits(backend, target, wait=1.0)
        assert 0.9 <= asyncio.get_running_loop().time() - start < PATIENCE

    async def test_a_waiting_receive_gets_the_next_message(self, backend: Backend, service: Service) -> None:
        target = service.target()
        await backend.ensure(target, DURABLE)
        loop = asyncio.get_running_loop()
        waiting = asyncio.create_task(backend.receive(target, 10, backend.limits.max_wait, LONG))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done
        sent_at = loop.time()
        await publish(backend, target, message("at last"))
        assert bodies(await waiting) == ["at last"]
        assert loop.time() - sent_at < backend.limits.max_wait / 4

    async def test_receivers_share_a_queue(self, backend: Backend, service: Service) -> None:
        target = service.target()
        sent = [f"{number}" for number in range(40)]
        await publish(backend, target, *map(message, sent))
        shares = await asyncio.gather(*(take(backend, target, 10) for _ in range(4)))
        assert sorted(body for share in shares for body in bodies(share)) == sorted(sent)

    async def test_queues_are_apart(self, backend: Backend, service: Service) -> None:
        one, other = service.target("-one"), service.target("-other")
        await publish(backend, one, message("for one"))
        await backend.ensure(other, DURABLE)
        assert await nothing_waits(backend, other)
        assert bodies(await take(backend, one, 1)) == ["for one"]

    async def test_a_cancelled_receive_loses_nothing(self, backend: Backend, service: Service) -> None:
        target = service.target()
        await backend.ensure(target, DURABLE)
        waiting = asyncio.create_task(backend.receive(target, 10, backend.limits.max_wait, SHORT))
        await asyncio.wait([waiting], timeout=0.2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await publish(backend, target, message("still here"))
        assert bodies(await take(backend, target, 1)) == ["still here"]


class TestSettle:
    @pytest.mark.parametrize("outcome", [Outcome.ACCEPTED, Outcome.REJECTED])
    async def test_an_ended_delivery_is_gone(self, backend: Backend, service: Service, outcome: Outcome) -> None:
        target = service.target()
        await publish(backend, target, *map(message, "abc"))
        received = await take(backend, target, 3, SHORT)
        results = await backend.settle(target, [item.receipt for item in received], outcome)
        assert list(results) == [ACCEPTED] * 3
        # Longer than the visibility that they had.
        assert await nothing_waits(backend, target, wait=2.0)
        depth = await backend.depth(target)
        assert (depth.ready, depth.unsettled) == (0, 0)

    async def test_a_released_delivery_comes_back_at_once(self, backend: Backend, service: Service) -> None:
        target = service.target()
        await publish(backend, target, message("again"))
        for attempt in (1, 2, 3):
            (received,) = await take(backend, target, 1)
            assert (received.message.body, received.attempt) == (b"again", attempt)
            assert list(await backend.settle(target, [received.receipt], Outcome.RELEASED)) == [ACCEPTED]

    async def test_a_release_wakes_a_waiting_receive(self, backend: Backend, service: Service) -> None:
        target = service.target()
        await publish(backend, target, message("again"))
        (received,) = await take(backend, target, 1)
        waiting = asyncio.create_task(backend.receive(target, 10, backend.limits.max_wait, LONG))
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done
        await backend.settle(target, [received.receipt], Outcome.RELEASED)
        async with asyncio.timeout(5.0):
            assert bodies(await waiting) == ["again"]

    async def test_a_delivery_is_hidden_until_its_time(self, backend: Backend, service: Service) -> None:
        target = service.target()
        await publish(backend, target, message("mine"))
        (first,) = await take(backend, target, 1, SHORT)
        assert await nothing_waits(backend, target)
        (second,) = await take(backend, target, 1)
        assert (second.message.body, second.attempt) == (b"mine", 2)
        assert second.receipt != first.receipt

    async def test_a_delivery_that_went_to_another_is_no_longer_ours(self, backend: Backend, service: Service) -> None:
        target = service.target()
        await publish(backend, target, message("mine"))
        (first,) = await take(backend, target, 1, SHORT)
        (second,) = await take(backend, target, 1)
        for results in (
            await backend.settle(target, [first.receipt], Outcome.RELEASED),
            await backend.settle(target, [first.receipt], Outcome.ACCEPTED),
            await backend.extend(target, [first.receipt], LONG),
        ):
            assert isinstance(results[0].error, ReceiptExpired)
            assert results[0].outcome is not Outcome.ACCEPTED
        await delete(backend, target, [second])

    async def test_one_bad_receipt_fails_alone(self, backend: Backend, service: Service) -> None:
        target = service.target()
        await publish(backend, target, *map(message, "abcd"))
        received = await take(backend, target, 4)
        settled = await backend.settle(
            target, [received[0].receipt, "no such receipt", received[1].receipt], Outcome.ACCEPTED
        )
        assert [result.outcome is Outcome.ACCEPTED for result in settled] == [True, False, True]
        assert isinstance(settled[1].error, ReceiptExpired)
        extended = await backend.extend(target, ["no such receipt", received[2].receipt], SHORT)
        assert [result.outcome is Outcome.ACCEPTED for result in extended] == [False, True]
        assert isinstance(extended[0].error, ReceiptExpired)
        released = await backend.settle(target, ["no such receipt", received[3].receipt], Outcome.RELEASED)
        assert [result.outcome is Outcome.ACCEPTED for result in released] == [False, True]
        assert len(await take(backend, target, 2)) == 2

    async def test_a_full_batch_of_receipts(self, backend: Backend, service: Service) -> None:
        target = service.target()
        await publish(backend, target, *map(message, "abcdefghij"))
        received = await take(backend, target, 10)
        receipts = [item.receipt for item in received]
        assert list(await backend.extend(target, receipts, LONG)) == [ACCEPTED] * 10
        await delete(backend, target, received)


class TestExtend:
    async def test_an_extended_delivery_stays_hidden(self, backend: Backend, service: Service) -> None:
        target = service.target()
        await publish(backend, target, message("held"))
        (received,) = await take(backend, target, 1, SHORT)
        assert list(await backend.extend(target, [received.receipt], LONG)) == [ACCEPTED]
        assert await nothing_waits(backend, target, wait=2.0)
        await delete(backend, target, [received])

    async def test_the_time_counts_from_now(self, backend: Backend, service: Service) -> None:
        target = service.target()
        await publish(backend, target, message("held"))
        (received,) = await take(backend, target, 1, LONG)
        assert list(await backend.extend(target, [received.receipt], SHORT)) == [ACCEPTED]
        assert (await take(backend, target, 1))[0].attempt == 2


class TestFifo:
    async def test_order_within_a_group(self, backend: Backend, service: Service) -> None:
        target = service.target(".fifo")
        sent = [f"{number:02}" for number in range(25)]
        await publish(backend, target, *(grouped(body, "g") for body in sent))
        seen: list[str] = []
        while len(seen) < len(sent):
            received = await take(backend, target, 1)
            seen += bodies(received)
            await delete(backend, target, received)
        assert seen == sent

    async def test_one_batch_is_in_order(self, backend: Backend, service: Service) -> None:
        target = service.target(".fifo")
        await publish(backend, target, *(grouped(body, "g") for body in "abcdef"))
        received = await backend.receive(target, 10, 5.0, LONG)
        assert bodies(received) == list("abcdef")[: len(received)]

    async def test_a_group_in_flight_is_blocked_and_others_are_not(self, backend: Backend, service: Service) -> None:
        target = service.target(".fifo")
        await publish(backend, target, grouped("a1", "a"), grouped("a2", "a"))
        first = await backend.receive(target, 1, 5.0, LONG)
        assert bodies(first) == ["a1"]
        assert await nothing_waits(backend, target)
        await publish(backend, target, grouped("b1", "b"))
        other = await take(backend, target, 1)
        assert bodies(other) == ["b1"]
        await delete(backend, target, first)
        assert bodies(await take(backend, target, 1)) == ["a2"]

    async def test_a_released_message_comes_first_again(self, backend: Backend, service: Service) -> None:
        target = service.target(".fifo")
        await publish(backend, target, *(grouped(body, "g") for body in "abc"))
        (first,) = await backend.receive(target, 1, 5.0, LONG)
        assert list(await backend.settle(target, [first.receipt], Outcome.RELEASED)) == [ACCEPTED]
        (again,) = await backend.receive(target, 1, 5.0, LONG)
        assert (again.message.body, again.attempt) == (b"a", 2)

    async def test_an_expired_message_comes_first_again(self, backend: Backend, service: Service) -> None:
        target = service.target(".fifo")
        await publish(backend, target, *(grouped(body, "g") for body in "abc"))
        await take(backend, target, 1, SHORT)
        (again,) = await take(backend, target, 1)
        assert (again.message.body, again.attempt) == (b"a", 2)

    async def test_the_same_entry_twice_is_one_message(self, backend: Backend, service: Service) -> None:
        target = service.target(".fifo")
        entry = backend.encode(target, message("once"))
        for _ in range(2):
            assert list(await backend.send(target, [entry])) == [ACCEPTED]
        assert bodies(await take(backend, target, 1)) == ["once"]
        assert (await backend.depth(target)).ready == 0

    async def test_equal_messages_are_two(self, backend: Backend, service: Service) -> None:
        target = service.target(".fifo")
        await publish(backend, target, message("same"), message("same"))
        assert bodies(await take(backend, target, 2)) == ["same", "same"]

    async def test_a_rule_deduplicates(self, backend: Backend, service: Service) -> None:
        target = service.target(".fifo", deduplication_id="{header:id}")
        first = await backend.send(target, [backend.encode(target, message("one", {"id": "7"}))])
        await publish(backend, target, message("two", {"id": "7"}), message("three", {"id": "8"}), message("four"))
        assert list(first) == [ACCEPTED]
        assert bodies(await take(backend, target, 3)) == ["one", "three", "four"]

    async def test_groups_of_any_text(self, backend: Backend, service: Service) -> None:
        target = service.target(".fifo")
        groups = ["a b", "a c", "grüße", "x" * 300, "\t", ""]
        await publish(backend, target, *(grouped(str(number), group) for number, group in enumerate(groups)))
        assert sorted(bodies(await take(backend, target, len(groups)))) == [str(n) for n in range(len(groups))]


class TestEnsureAndProbe:
    @pytest.mark.parametrize("suffix", ["", ".fifo"])
    async def test_a_queue_is_made_once(self, backend: Backend, service: Service, suffix: str) -> None:
        target = service.target(suffix)
        await asyncio.gather(*(backend.ensure(target, DURABLE) for _ in range(5)))
        await publish(backend, target, message("kept"))
        await backend.ensure(target, DURABLE)
        await backend.probe(target)
        assert bodies(await take(backend, target, 1)) == ["kept"]

    async def test_a_probe_makes_nothing(self, backend: Backend, service: Service) -> None:
        target = service.target()
        for _ in range(2):
            with pytest.raises(NotFound):
                await backend.probe(target)

    async def test_where_nothing_may_be_made_the_error_says_what_is_missing(self, service: Service) -> None:
        backend = service.open(provision="never")
        target = service.target()
        with pytest.raises(NotFound, match=f"{service.name}.*provision"):
            await backend.ensure(target, DURABLE)
        with pytest.raises(NotFound, match=service.name):
            await backend.probe(target)
        with pytest.raises(NotFound, match=service.name):
            await backend.send(target, [backend.encode(target, message("lost?"))])

    async def test_a_missing_queue_is_told(self, backend: Backend, service: Service) -> None:
        target = service.target()
        with pytest.raises(NotFound, match=service.name):
            await backend.receive(target, 1, 0.0, LONG)
        with pytest.raises(NotFound, match=service.name):
            await backend.settle(target, ["r"], Outcome.ACCEPTED)
        with pytest.raises(NotFound, match=service.name):
            await backend.extend(target, ["r"], LONG)
        with pytest.raises(NotFound, match=service.name):
            await backend.depth(target)

    async def test_a_queue_that_was_missed_is_made_when_it_is_wanted(self, backend: Backend, service: Service) -> None:
        target = service.target()
        with pytest.raises(NotFound):
            await backend.receive(target, 1, 0.0, LONG)
        await backend.ensure(target, DURABLE)
        assert await nothing_waits(backend, target)

    async def test_sending_makes_the_queue(self, backend: Backend, service: Service) -> None:
        target = service.target()
        await publish(backend, target, message("first"))
        assert bodies(await take(backend, target, 1)) == ["first"]


class TestDepth:
    @pytest.mark.parametrize("suffix", ["", ".fifo"])
    async def test_counts(self, backend: Backend, service: Service, suffix: str) -> None:
        target = service.target(suffix)
        await backend.ensure(target, DURABLE)
        empty = await backend.depth(target)
        assert (empty.ready, empty.unsettled, empty.delayed) == (0, 0, 0)
        await publish(backend, target, *(grouped(body, body) for body in "abc"))
        await take(backend, target, 1)
        depth = await backend.depth(target)
        assert (depth.ready, depth.unsettled, depth.delayed) == (2, 1, 0)


async def test_closing_twice_is_closing_once(service: Service) -> None:
    backend = service.open()
    await backend.aclose()
    await backend.aclose()


def test_limits_make_sense(backend: Backend) -> None:
    limits = backend.limits
    assert limits.batch_entries >= 1
    assert limits.receive_entries >= 1
    assert 0 < limits.entry_bytes <= limits.batch_bytes
    assert limits.max_wait > 0
    assert limits.max_hold > 0


def test_entries_belong_to_the_sender(backend: Backend, service: Service) -> None:
    entry = backend.encode(service.target(), message("x"))
    assert isinstance(entry, Entry)
    assert entry.size >= 1
    assert (entry.attempts, entry.token, entry.waiter) == (0, None, None)


class TestTimes:
    @pytest.mark.parametrize("suffix", ["", ".fifo"])
    async def test_when_it_was_stored_is_told_each_time(self, backend: Backend, service: Service, suffix: str) -> None:
        target = service.target(suffix)
        before = time.time()
        await publish(backend, target, message("a"))
        after = time.time()
        (first,) = await take(backend, target, 1)
        assert before - CLOCKS < first.stored_at < after + CLOCKS
        await backend.settle(target, [first.receipt], Outcome.RELEASED)
        (again,) = await take(backend, target, 1)
        assert (again.stored_at, again.uid) == (first.stored_at, first.uid)

    async def test_nobody_gets_a_message_before_its_time(self, backend: Backend, service: Service) -> None:
        target = service.target()
        due = time.time() + 2.0
        await publish(backend, target, replace(message("later"), not_before=due), message("now"))
        assert bodies(await take(backend, target, 1)) == ["now"]
        (later,) = await take(backend, target, 1)
        assert time.time() >= due - CLOCKS
        assert later.message.not_before == due
        assert later.message.body == b"later"

    async def test_a_time_that_has_passed_delays_nothing(self, backend: Backend, service: Service) -> None:
        target = service.target()
        await publish(backend, target, replace(message("a"), not_before=time.time() - 60))
        assert bodies(await take(backend, target, 1)) == ["a"]

    def test_more_than_the_service_delays_is_taken(self, backend: Backend, service: Service) -> None:
        backend.encode(service.target(), replace(message("a"), not_before=time.time() + 7 * 86_400))

    def test_a_fifo_queue_refuses_it(self, backend: Backend, service: Service) -> None:
        with pytest.raises(Invalid, match="FIFO"):
            backend.encode(service.target(".fifo"), replace(message("a"), not_before=time.time() + 60))
