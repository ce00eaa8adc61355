"""Records of `PutRecords`: the bytes, the keys, the sizes, and several messages in one."""

from __future__ import annotations

import base64
from dataclasses import replace

import orjson
import pytest

from adapters.kinesis.aggregation import deaggregate
from adapters.kinesis.encoding import PARTITION_KEY_LIMIT, AggregatedEntry, encode
from adapters.kinesis.settings import KinesisOptions, parse_target
from gateway.core.backend import Entry, Target
from gateway.core.errors import Invalid, TooLarge
from gateway.core.message import Address, Headers, Message, Origin
from gateway.core.transform import Compression, Transform

CAPTURES = {"device": "d-7"}


def message(body: bytes = b"21.5", headers: Headers | None = None, key: str = "sensors.d-7") -> Message:
    return Message(Address("amq.topic", key), body, headers=headers or {}, origin=Origin("mqtt", "client-1"))


def target(**options: object) -> Target:
    parsed = parse_target("telemetry", options, frozenset(CAPTURES))
    return replace(parsed, captures=CAPTURES)


def entry(given: Message, **options: object) -> Entry:
    chosen = target(**options)
    assert isinstance(chosen.options, KinesisOptions)
    return encode(chosen, chosen.options, given)


def record(made: Entry) -> dict[str, str]:
    payload = made.record() if isinstance(made, AggregatedEntry) else made.payload
    assert isinstance(payload, bytes)
    document: dict[str, str] = orjson.loads(payload)
    return document


def test_a_record() -> None:
    made = entry(message(), partition_key="{device}")
    assert made.payload == b'{"Data":"MjEuNQ==","PartitionKey":"d-7"}'
    assert (made.key, made.size) == ("d-7", 4 + 3)


def test_an_explicit_hash_key() -> None:
    made = entry(message(headers={"shard": 2**128 - 1}), partition_key="{device}", explicit_hash_key="{header:shard}")
    assert record(made)["ExplicitHashKey"] == str(2**128 - 1)
    assert made.key == "d-7"
    assert "ExplicitHashKey" not in record(entry(message(), explicit_hash_key="{header:shard}"))


@pytest.mark.parametrize("value", ["x", "-1", "007", "1.5", str(2**128), "9" * 50])
def test_what_is_no_hash_key(value: str) -> None:
    with pytest.raises(Invalid, match=r"kinesis stream telemetry: explicit_hash_key gave .* no whole number"):
        entry(message(headers={"shard": value}), explicit_hash_key="{header:shard}")


@pytest.mark.parametrize(
    ("template", "key"),
    [
        (None, "sensors.d-7"),
        ("{topic}", "sensors/d-7"),
        ("{client_id}", "client-1"),
        ("{json:id}", "77"),
        ("{header:absent}", "sensors.d-7"),
        ("{header:quoted}", 'say "é"'),
    ],
)
def test_partition_keys(template: str | None, key: str) -> None:
    options = {} if template is None else {"partition_key": template}
    made = entry(message(b'{"id":77}', {"quoted": 'say "é"'}), **options)
    assert (made.key, record(made)["PartitionKey"]) == (key, key)


def test_a_message_with_nothing_to_make_a_key_of() -> None:
    assert entry(message(key="")).key == "mqlift"


def test_templates_see_the_message_as_it_was_published() -> None:
    chosen = replace(target(partition_key="{json:id}"), transform=Transform(compression=Compression.GZIP))
    assert isinstance(chosen.options, KinesisOptions)
    assert encode(chosen, chosen.options, message(b'{"id":77}')).key == "77"


def test_a_key_that_is_too_long_is_cut_and_stays_distinct() -> None:
    longest = "é" * PARTITION_KEY_LIMIT
    made = entry(message(key=longest))
    assert made.key == longest
    assert made.size == 4 + 2 * PARTITION_KEY_LIMIT, "bytes, not characters"
    first, second = (entry(message(key=longest + end)).key for end in "ab")
    assert first is not None
    assert second is not None
    assert len(first) == len(second) == PARTITION_KEY_LIMIT
    assert first != second
    assert first.startswith("é" * 200)


def test_a_key_that_is_no_text() -> None:
    with pytest.raises(Invalid, match="kinesis stream telemetry"):
        entry(message(key="\ud800"))


@pytest.mark.parametrize("aggregate", [False, True])
def test_the_largest_record(aggregate: bool) -> None:
    body = b"x" * (1_048_576 - len("sensors.d-7"))
    assert base64.b64decode(record(entry(message(body), aggregate=aggregate))["Data"]) == body
    with pytest.raises(TooLarge, match="has 1048577 bytes with its partition key; the stream takes 1048576"):
        entry(message(body + b"x"), aggregate=aggregate)
    assert entry(message(body + b"x"), aggregate=aggregate, max_record_bytes=10_485_760).size > 1_048_576


class TestAggregation:
    def test_one_message_is_a_plain_record(self) -> None:
        made = entry(message(), partition_key="{device}", aggregate=True)
        assert record(made) == {"Data": "MjEuNQ==", "PartitionKey": "d-7"}

    def test_several_are_one_record_in_their_order(self) -> None:
        first, *others = [entry(message(b"%d" % number), aggregate=True) for number in range(50)]
        sizes = first.size + sum(other.size for other in others)
        assert all(first.join(other) for other in others)
        assert first.size == sizes
        assert first.joined == others
        made = record(first)
        assert made["PartitionKey"] == "sensors.d-7"
        data = base64.b64decode(made["Data"])
        assert [each.data for each in deaggregate("", data)] == [b"%d" % number for number in range(50)]
        assert {each.partition_key for each in deaggregate("", data)} == {"sensors.d-7"}
        assert len(data) + len("sensors.d-7") <= first.size
        assert record(first) == made, "the same bytes for a retry"

    def test_hash_keys_are_kept_apart(self) -> None:
        first, same, other = (
            entry(message(headers={"h": value}), aggregate=True, explicit_hash_key="{header:h}") for value in "112"
        )
        assert first.join(same)
        assert not first.join(other)
        data = base64.b64decode(record(first)["Data"])
        assert [each.explicit_hash_key for each in deaggregate("", data)] == ["1", "1"]
        assert record(first)["ExplicitHashKey"] == "1"

    def test_a_record_takes_no_more_than_it_may(self) -> None:
        first, second, third = (entry(message(b"x" * 400), aggregate=True, max_record_bytes=1024) for _ in range(3))
        assert first.join(second)
        assert not first.join(third)
        assert len(base64.b64decode(record(first)["Data"])) + len("sensors.d-7") <= 1024

    def test_plain_entries_do_not_join(self) -> None:
        assert not entry(message(), aggregate=True).join(entry(message()))
        assert not entry(message()).join(entry(message(), aggregate=True))
