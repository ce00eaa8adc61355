"""Batches of every size into every service, with failures inside: each message is answered once, none is lost, and what
has one key stays in order. No network: the clock jumps from retry to retry."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.batcher import BatchPolicy
from gateway.core.errors import Unavailable
from gateway.core.flow import Watermark
from gateway.core.health import Health
from gateway.core.outcome import ACCEPTED, Outcome
from gateway.core.sender import Sender
from tests.faults.scripted_services import SERVICES, Decide, Record, ScriptedService, message
from tests.rig.clock import at_end, on_clock, until
from tests.rig.scripted import Publisher, new_metrics

LARGE_SIZES = (11, 25, 100, 499, 500)
EVERY_SIZE = [
    pytest.param(service, size, id=f"{name}-{size}")
    for name, service in SERVICES.items()
    for size in (*range(1, 11), *LARGE_SIZES)
    if size <= service.size
]
SMALL_SIZES = [case for case in EVERY_SIZE if case.values[1] <= 10]  # type: ignore[operator]
ORDERED = [pytest.param(service, id=name) for name, service in SERVICES.items() if service.ordered]

BUSY = SERVICES["Kinesis"].retriable[0]


class Failing:
    """Stores what it says that it stores, and now and then what it says that it has not."""

    def __init__(self, service: ScriptedService, seed: int, failures: float) -> None:
        self.stored: list[tuple[str, str]] = []
        """Key and body, in order."""
        self._codes = service.retriable
        self._random = random.Random(seed)
        self._failures = failures

    def decide(self, records: Sequence[Record]) -> Sequence[str]:
        chance = self._random.random()
        if chance < self._failures / 4:
            raise Unavailable("connection reset")
        codes = [self._decide(record) for record in records]
        if chance < self._failures / 2:
            raise Unavailable("no answer")  # after the work was done
        return codes

    def _decide(self, record: Record) -> str:
        failed = self._random.random() < self._failures
        if not failed or self._random.random() < 0.2:
            self.store(record)
        return self._random.choice(self._codes) if failed else ""

    def store(self, record: Record) -> None:
        self.stored += record.units


def open_sender(service: ScriptedService, decide: Decide) -> Sender:
    backend, target = service.open(decide)
    sender = Sender(
        backend,
        target,
        policy=BatchPolicy(timeout=1_000.0, backoff_base=0.1, backoff_cap=0.5),
        inflight=Watermark(100_000, 10**9),
        metrics=new_metrics(),
        health=Health(),
    )
    at_end(sender.aclose)
    return sender


def put(sender: Sender, publisher: Publisher, keys: Sequence[str]) -> None:
    """One message for each key."""
    for number, key in enumerate(keys):
        sender.put(sender.target, message(key, number), publisher, publisher, number)


async def send(sender: Sender, keys: Sequence[str]) -> Publisher:
    """One message for each key, and wait for the answers."""
    publisher = Publisher()
    put(sender, publisher, keys)
    await until(lambda: len(publisher.answers) == len(keys), "every message is answered")
    return publisher


def assert_all_stored(failing: Failing, publisher: Publisher, keys: Sequence[str]) -> None:
    assert sorted(str(token) for token, _ in publisher.answers) == sorted(str(number) for number in range(len(keys)))
    assert all(result is ACCEPTED for _, result in publisher.answers)
    assert {body for _, body in failing.stored} == {f"{key} {number}" for number, key in enumerate(keys)}


def assert_each_key_in_order(failing: Failing, keys: Sequence[str]) -> None:
    """What failed and was stored comes twice; the first time that each comes is in order."""
    found: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for key, body in failing.stored:
        found[key].setdefault(body)
    expected: defaultdict[str, list[str]] = defaultdict(list)
    for number, key in enumerate(keys):
        expected[key].append(f"{key} {number}")
    assert {key: list(bodies) for key, bodies in found.items()} == expected


@pytest.mark.parametrize(("service", "size"), EVERY_SIZE)
@on_clock
async def test_one_batch_of_each_size(service: ScriptedService, size: int) -> None:
    failing = Failing(service, seed=size, failures=0.5)
    keys = [f"k{number}" for number in range(size)]
    assert_all_stored(failing, await send(open_sender(service, failing.decide), keys), keys)


@pytest.mark.parametrize(("service", "size"), SMALL_SIZES)
@settings(max_examples=10)
@given(data=st.data())
def test_only_what_failed_is_sent_again(service: ScriptedService, size: int, data: st.DataObject) -> None:
    """Whatever fails, and whichever are refused: each is stored once, unchanged, and its own publisher is told."""
    failing = data.draw(st.lists(st.sets(st.integers(0, size - 1)), max_size=3))
    refused = data.draw(st.sets(st.integers(0, size - 1), max_size=2))
    send_once_each(service, size, list(failing), {f"k{number} {number}" for number in refused})


@pytest.mark.parametrize(("service", "size"), SMALL_SIZES)
def test_one_entry_fails_at_each_place(service: ScriptedService, size: int) -> None:
    """For a while, or for good: the others are not touched by it."""
    for place in range(size):
        send_once_each(service, size, [{place}], set())
        send_once_each(service, size, [], {f"k{place} {place}"})


@on_clock
async def send_once_each(service: ScriptedService, size: int, failing: list[set[int]], refused: set[str]) -> None:
    stored: Counter[str] = Counter()
    forms: defaultdict[str, set[str]] = defaultdict(set)

    def decide(records: Sequence[Record]) -> Sequence[str]:
        bad = failing.pop(0) if failing else set()
        return [one(record, position in bad) for position, record in enumerate(records)]

    def one(record: Record, bad: bool) -> str:
        (unit,) = record.units
        forms[unit.body].add(record.form)
        if unit.body in refused:
            return service.permanent
        if bad:
            return service.retriable[0]
        stored[unit.body] += 1
        return ""

    keys = [f"k{number}" for number in range(size)]
    publisher = await send(open_sender(service, decide), keys)
    bodies = [f"{key} {number}" for number, key in enumerate(keys)]
    told = {bodies[int(str(token))]: result.outcome for token, result in publisher.answers}
    assert told == {body: Outcome.REJECTED if body in refused else Outcome.ACCEPTED for body in bodies}
    assert stored == {body: 1 for body in bodies if body not in refused}
    assert all(len(each) == 1 for each in forms.values()), "a retry is what was sent before"


@pytest.mark.parametrize("service", ORDERED)
@pytest.mark.parametrize("seed", range(5))
@on_clock
async def test_each_key_stays_in_order(service: ScriptedService, seed: int) -> None:
    failing = Failing(service, seed, failures=0.4)
    keys = random.Random(seed).choices([f"k{number}" for number in range(7)], k=150)
    publisher = await send(open_sender(service, failing.decide), keys)
    assert_all_stored(failing, publisher, keys)
    assert_each_key_in_order(failing, keys)


def then(first: Callable[[Record], str], failing: Failing) -> Decide:
    """The first request is answered so; what follows, well."""
    waiting = [first]

    def decide(records: Sequence[Record]) -> Sequence[str]:
        if waiting:
            answer = waiting.pop()
            return [answer(record) for record in records]
        return failing.decide(records)

    return decide


@pytest.mark.parametrize("service", ORDERED)
@on_clock
async def test_what_is_given_back_takes_what_follows_with_it(service: ScriptedService) -> None:
    """Nothing of a key is stored after a message of it was given back: its publisher sends from there on again."""
    failing = Failing(service, 1, failures=0.0)
    sender = open_sender(service, then(lambda record: "AccessDeniedException", failing))
    publisher = await send(sender, ["k"] * 5)
    assert [result.outcome for _, result in publisher.answers] == [Outcome.RELEASED] * 5
    assert failing.stored == []


@on_clock
async def test_throttling_slows_the_stream_down_and_pauses_publishers() -> None:
    service = SERVICES["Kinesis"]
    failing = Failing(service, 1, failures=0.0)
    throttled = True

    def decide(records: Sequence[Record]) -> Sequence[str]:
        return [BUSY] * len(records) if throttled else failing.decide(records)

    sender = open_sender(service, decide)
    sender._waiting.high_count = 100
    publisher = Publisher()
    put(sender, publisher, [f"k{number}" for number in range(100)])
    assert publisher.pauses, "back-pressure reaches the publisher"
    await until(lambda: sender._batcher.throttles >= 3, "it is throttled again and again")
    assert sender._batcher._allowed < 64
    assert not publisher.answers
    throttled = False
    await until(lambda: len(publisher.answers) == 100, "all are stored")
    assert not publisher.pauses


@on_clock
async def test_a_busy_shard_does_not_hold_up_the_others() -> None:
    service = SERVICES["Kinesis"]
    failing = Failing(service, 1, failures=0.0)
    busy = True

    def decide(records: Sequence[Record]) -> Sequence[str]:
        shut = [busy and record.units[0].key.startswith("busy") for record in records]
        for record, closed in zip(records, shut, strict=True):
            if not closed:
                failing.store(record)
        return [BUSY if closed else "" for closed in shut]

    sender = open_sender(service, decide)
    keys = [f"{'busy' if number % 4 == 0 else 'free'} {number % 40}" for number in range(400)]
    publisher = Publisher()
    put(sender, publisher, keys)
    started = asyncio.get_running_loop().time()
    await until(lambda: len(publisher.answers) == 300, "what goes to the other shards is stored")
    assert asyncio.get_running_loop().time() - started < 0.1
    busy = False
    await until(lambda: len(publisher.answers) == 400, "so is the rest")
    assert_all_stored(failing, publisher, keys)
    assert_each_key_in_order(failing, keys)
