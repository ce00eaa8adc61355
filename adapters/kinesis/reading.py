"""What is asked of a stream to read it, and what it answers: shards, iterators, records, events. Pure."""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64
from typing import Any, Final, TypeAlias

import orjson

from adapters.kinesis.aggregation import AggregationBroken, deaggregate
from adapters.kinesis.content import message_of
from gateway.core.backend import Target
from gateway.core.errors import Unavailable
from gateway.core.streams.port import Page, Position, Shard, StreamRecord, Whence

Answer: TypeAlias = "dict[str, Any]"  # JSON; what is wanted of it is checked where it is read

_SHARD: Final = re.compile(r"shardId-([0-9]{12})")

# Service model 2013-12-02, ShardIteratorType.
_ITERATOR_TYPES: Final = {
    Whence.FIRST: "TRIM_HORIZON",
    Whence.NEXT: "LATEST",
    Whence.TIME: "AT_TIMESTAMP",
    Whence.AT: "AT_SEQUENCE_NUMBER",
    Whence.AFTER: "AFTER_SEQUENCE_NUMBER",
}


class AnswerBroken(Unavailable):
    """An answer that Kinesis does not give: of a proxy, or cut off."""


def broken(error: Exception) -> AnswerBroken:
    """What is raised for an answer that could not be read. `error`: what came of reading it."""
    return AnswerBroken(f"an answer that is not Kinesis's: {type(error).__name__} {error}")


def short_shard(shard: str) -> str:
    """What the hub calls a shard: its number where it has one, for it is in every offset."""
    found = _SHARD.fullmatch(shard)
    return str(int(found[1])) if found else shard


def full_shard(shard: str) -> str:
    """The reverse of `short_shard`."""
    return f"shardId-{int(shard):012d}" if shard.isdecimal() else shard


def iterator_request(shard: str, position: Position) -> dict[str, object]:
    """What `GetShardIterator` is asked, but for the stream."""
    return {
        "ShardId": full_shard(shard),
        "ShardIteratorType": _ITERATOR_TYPES[position.whence],
        **_place(position, "StartingSequenceNumber"),
    }


def subscription_request(shard: str, position: Position) -> dict[str, object]:
    """What `SubscribeToShard` is asked, but for the consumer."""
    starting = {"Type": _ITERATOR_TYPES[position.whence], **_place(position, "SequenceNumber")}
    return {"ShardId": full_shard(shard), "StartingPosition": starting}


def _place(position: Position, sequence: str) -> dict[str, object]:
    """`sequence`: what the request calls a sequence number."""
    if position.whence is Whence.TIME:
        return {"Timestamp": position.time}
    return {sequence: position.sequence} if position.sequence else {}


def read_shards(answer: bytes) -> tuple[list[Shard], str]:
    """The shards in an answer of `ListShards`, and the token of the next page, empty for the last."""
    try:
        document = orjson.loads(answer)
        return [_shard(shard) for shard in document["Shards"]], str(document.get("NextToken") or "")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise broken(error) from None


def _shard(shard: Answer) -> Shard:
    parents = (shard.get("ParentShardId"), shard.get("AdjacentParentShardId"))
    return Shard(
        short_shard(shard["ShardId"]),
        tuple(short_shard(parent) for parent in parents if parent),
        open=not shard["SequenceNumberRange"].get("EndingSequenceNumber"),
    )


def read_iterator(answer: bytes) -> str:
    """The iterator in an answer of `GetShardIterator`."""
    try:
        return str(orjson.loads(answer)["ShardIterator"])
    except (KeyError, TypeError, ValueError) as error:
        raise broken(error) from None


def read_page(answer: bytes, target: Target) -> Page:
    """The records in an answer of `GetRecords`."""
    return _page(answer, target, "NextShardIterator")


def read_event(event: bytes, target: Target) -> Page:
    """The records in a `SubscribeToShardEvent`. The last one of a shard names its children."""
    return _page(event, target, "ContinuationSequenceNumber")


def _page(answer: bytes, target: Target, continuation: str) -> Page:
    try:
        document = orjson.loads(answer)
        records = [_record(record, target) for record in document["Records"]]
        behind = bool(document.get("MillisBehindLatest") or 0)
        following = None if document.get("ChildShards") else document.get(continuation) or None
        return Page(records, following, behind)
    except (AttributeError, Base64Error, KeyError, TypeError, ValueError) as error:
        raise broken(error) from None


def _record(record: Answer, target: Target) -> StreamRecord:
    data = a2b_base64(record["Data"])
    key = record["PartitionKey"]
    arrived = float(record["ApproximateArrivalTimestamp"])
    size = len(data) + len(key)
    try:
        parts = deaggregate(key, data)
    except AggregationBroken:
        messages = [message_of(target, key, data)]  # it only looks like KPL's format
    else:
        messages = [message_of(target, part.partition_key, part.data) for part in parts]
    return StreamRecord(record["SequenceNumber"], messages, arrived, size)
