"""Batches of every size into Kinesis and Firehose, with failures inside: each message is answered once, none is lost,
and each partition key stays in order. No network: the clock jumps from retry to retry."""

from __future__ import annotations

import asyncio
import base64
import random
from collections import defaultdict
from collections.abc import Sequence

import pytest

from adapters.firehose.backend import FirehoseBackend
from adapters.firehose.settings import parse_target as parse_archive
from adapters.kinesis.aggregation import deaggregate
from adapters.kinesis.backend import KinesisBackend
from adapters.kinesis.settings import parse_target as parse_stream
from gateway.core.backend import Backend, Target
from gateway.core.batcher import BatchPolicy
from gateway.core.errors import Unavailable
from gateway.core.flow import Watermark
from gateway.core.health import Health
from gateway.core.message import Address, Message
from gateway.core.outcome import ACCEPTED, Outcome
from gateway.core.sender import Sender
from tests.rig.clock import at_end, on_clock, until
from tests.rig.scripted import Publisher, new_metrics
from tests.rig.scripted_aws import ScriptedAws

SIZES = [*range(1, 26), 100, 499, 500]
RETRIABLE = ("ProvisionedThroughputExceededException", "InternalFailure", "ServiceUnavailableException")


class FailingService:
    """Stores what it says that it stores, and now and then what it says that it has not."""

    def __init__(self, kind: str, seed: int, failures: float) -> None:
        self.aws = ScriptedAws(kind)
        self.stored: list[tuple[str, str]] = []
        """Partition key and body, in order."""
        self.calls = 0
        self._random = random.Random(seed)
        self._failures = failures
        self.aws.answers = {"PutRecords": self._put_records, "PutRecordBatch": self._put_record_batch}

    def _put_records(self, request: dict[str, object]) -> object:
        return {"Records": self._results(request, "SequenceNumber")}

    def _put_record_batch(self, request: dict[str, object]) -> object:
        return {"RequestResponses": self._results(request, "RecordId")}

    def _results(self, request: dict[str, object], identity: str) -> list[object]:
        self.calls += 1
        chance = self._random.random()
        if chance < self._failures / 4:
            raise Unavailable("connection reset")
        records = request["Records"]
        assert isinstance(records, list)
        results = [self._result(record, identity) for record in records]
        if chance < self._failures / 2:
            raise Unavailable("no answer")  # after the work was done
        return results

    def _result(self, record: dict[str, str], identity: str) -> object:
        failed = self._random.random() < self._failures
        if not failed or self._random.random() < 0.2:
            key = record.get("PartitionKey", "")
            units = deaggregate(key, base64.b64decode(record["Data"]))
            self.stored += [(unit.partition_key, unit.data.decode()) for unit in units]
        return {"ErrorCode": self._random.choice(RETRIABLE)} if failed else {identity: "1"}


def open_sender(backend: Backend, target: Target) -> Sender:
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


async def send(sender: Sender, keys: Sequence[str]) -> Publisher:
    """One message for each key, and wait for the answers."""
    publisher = Publisher()
    for number, key in enumerate(keys):
        message = Message(Address("amq.topic", key), f"{key} {number}".encode())
        sender.put(sender.target, message, publisher, publisher, number)
    await until(lambda: len(publisher.answers) == len(keys), "every message is answered")
    return publisher


def assert_all_stored(service: FailingService, publisher: Publisher, keys: Sequence[str]) -> None:
    assert sorted(str(token) for token, _ in publisher.answers) == sorted(str(number) for number in range(len(keys)))
    assert all(result is ACCEPTED for _, result in publisher.answers)
    assert {body for _, body in service.stored} == {f"{key} {number}" for number, key in enumerate(keys)}


def assert_each_key_in_order(service: FailingService, keys: Sequence[str]) -> None:
    """What failed and was stored comes twice; the first time that each comes is in order."""
    found: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for key, body in service.stored:
        found[key].setdefault(body)
    expected: defaultdict[str, list[str]] = defaultdict(list)
    for number, key in enumerate(keys):
        expected[key].append(f"{key} {number}")
    assert {key: list(bodies) for key, bodies in found.items()} == expected


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["kinesis", "firehose"])
@on_clock
async def test_one_batch_of_each_size(kind: str, size: int) -> None:
    service = FailingService(kind, seed=size, failures=0.5)
    keys = [f"k{number}" for number in range(size)]
    if kind == "kinesis":
        sender = open_sender(KinesisBackend(service.aws), parse_stream("s", {}, frozenset()))
    else:
        sender = open_sender(FirehoseBackend(service.aws), parse_archive("s", {}, frozenset()))
    assert_all_stored(service, await send(sender, keys), keys)


@pytest.mark.parametrize("aggregate", [False, True], ids=["plain", "aggregated"])
@pytest.mark.parametrize("seed", range(5))
@on_clock
async def test_each_key_stays_in_order(aggregate: bool, seed: int) -> None:
    service = FailingService("kinesis", seed, failures=0.4)
    keys = random.Random(seed).choices([f"k{number}" for number in range(7)], k=150)
    sender = open_sender(KinesisBackend(service.aws), parse_stream("s", {"aggregate": aggregate}, frozenset()))
    publisher = await send(sender, keys)
    assert_all_stored(service, publisher, keys)
    assert_each_key_in_order(service, keys)


@on_clock
async def test_what_is_given_back_takes_what_follows_with_it() -> None:
    """Nothing of a key is stored after a message of it was given back: its publisher sends from there on again."""
    service = FailingService("kinesis", 1, failures=0.0)
    answers = iter(["AccessDeniedException"])

    def refuse_first(request: dict[str, object]) -> object:
        code = next(answers, None)
        if code is None:
            return service._put_records(request)
        return {"Records": [{"ErrorCode": code}] * len(request["Records"])}  # type: ignore[arg-type]

    service.aws.answers["PutRecords"] = refuse_first
    sender = open_sender(KinesisBackend(service.aws), parse_stream("s", {"aggregate": True}, frozenset()))
    publisher = await send(sender, ["k"] * 5)
    assert [result.outcome for _, result in publisher.answers] == [Outcome.RELEASED] * 5
    assert service.stored == []


@on_clock
async def test_throttling_slows_the_stream_down_and_pauses_publishers() -> None:
    service = FailingService("kinesis", 1, failures=0.0)
    throttle = {"ErrorCode": RETRIABLE[0]}
    service.aws.answers["PutRecords"] = lambda request: {"Records": [throttle] * len(request["Records"])}  # type: ignore[arg-type]
    sender = open_sender(KinesisBackend(service.aws), parse_stream("s", {}, frozenset()))
    sender._waiting.high_count = 100
    publisher = Publisher()
    for number in range(100):
        sender.put(sender.target, Message(Address("amq.topic", f"k{number}"), b"x"), publisher, publisher, number)
    assert publisher.pauses, "back-pressure reaches the publisher"
    await until(lambda: sender._batcher.throttles >= 3, "it is throttled again and again")
    assert sender._batcher._allowed < 64
    assert not publisher.answers
    service.aws.answers["PutRecords"] = service._put_records
    await until(lambda: len(publisher.answers) == 100, "all are stored")
    assert not publisher.pauses


@on_clock
async def test_a_busy_shard_does_not_hold_up_the_others() -> None:
    service = FailingService("kinesis", 1, failures=0.0)

    def busy_shard(request: dict[str, object]) -> object:
        records = request["Records"]
        assert isinstance(records, list)
        busy = [record["PartitionKey"].startswith("busy") for record in records]
        service._results({"Records": [each for each, shut in zip(records, busy, strict=True) if not shut]}, "")
        return {"Records": [{"ErrorCode": RETRIABLE[0]} if shut else {"SequenceNumber": "1"} for shut in busy]}

    service.aws.answers["PutRecords"] = busy_shard
    sender = open_sender(KinesisBackend(service.aws), parse_stream("s", {}, frozenset()))
    keys = [f"{'busy' if number % 4 == 0 else 'free'} {number % 40}" for number in range(400)]
    publisher = Publisher()
    for number, key in enumerate(keys):
        message = Message(Address("amq.topic", key), f"{key} {number}".encode())
        sender.put(sender.target, message, publisher, publisher, number)
    started = asyncio.get_running_loop().time()
    await until(lambda: len(publisher.answers) == 300, "what goes to the other shards is stored")
    assert asyncio.get_running_loop().time() - started < 0.1
    service.aws.answers["PutRecords"] = service._put_records
    await until(lambda: len(publisher.answers) == 400, "so is the rest")
    assert_all_stored(service, publisher, keys)
    assert_each_key_in_order(service, keys)
