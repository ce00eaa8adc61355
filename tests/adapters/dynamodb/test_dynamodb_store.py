"""What the store makes of answers that an emulator gives seldom or never: throttles, conflicts, and none at all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from adapters.dynamodb.calls import ATTEMPT_SECONDS, PARALLEL, PATIENCE, QUEUED, Calls
from adapters.dynamodb.store import DynamoStore
from gateway.core.errors import AccessDenied, BackendError, CredentialsInvalid, Throttled, Unavailable
from gateway.core.store import Conflict, StoreError
from tests.rig.clock import on_clock, settle_down
from tests.rig.scripted_aws import ScriptedAws

THROTTLED = Throttled("ThrottlingException: slow down", resource="dynamodb table state")
BROKEN = Unavailable("no answer within 3 s")
REFUSED = BackendError("ConditionalCheckFailedException: The conditional request failed")
NOW = 1_700_000_000.0
STAMP = int(NOW * 1_000_000)


class Opened:
    """A store over a client that answers what a test says."""

    def __init__(self) -> None:
        self.aws = ScriptedAws("dynamodb")
        self.now = NOW
        self.calls = Calls(self.aws, "state", 15.0)  # type: ignore[arg-type]  # no objects are stored
        self.store = DynamoStore(self.calls, "", lambda: self.now)

    def answers(self, action: str, answers: Sequence[object]) -> None:
        """One after the other; the last one again and again."""
        left = list(answers)
        self.aws.answers[action] = lambda _: left.pop(0) if len(left) > 1 else left[0]

    def holds(self, *, version: int, stamp: int, writer: str | None = None) -> None:
        """What the table says of every record. No `writer`: this process."""

        def answer(_: dict[str, object]) -> object:
            usual = {"key": {"S": "=q"}, "value": {"B": ""}, "version": {"N": str(version)}}
            return {"Item": usual | {"writer": {"S": writer or self.store._writer}, "stamp": {"N": str(stamp)}}}

        self.aws.answers["GetItem"] = answer


def written(version: int) -> object:
    return {"Attributes": {"version": {"N": str(version)}}}


@on_clock
async def test_what_may_pass_is_tried_again() -> None:
    opened = Opened()
    opened.answers("UpdateItem", [THROTTLED, BROKEN, THROTTLED, written(8)])
    record = await opened.store.put("queue", "q", b"1")
    assert record.version == 8
    requests = [call.request for call in opened.aws.calls]
    assert len(requests) == 4
    assert requests.count(requests[0]) == 4, "a retry is the same request"
    assert {call.read_timeout for call in opened.aws.calls} == {ATTEMPT_SECONDS}


@on_clock
async def test_what_does_not_pass_is_an_error_in_time() -> None:
    opened = Opened()
    opened.answers("Query", [THROTTLED])
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(StoreError, match=r"^dynamodb table state: ThrottlingException: slow down$"):
        await opened.store.scan("queue")
    assert PATIENCE / 2 < loop.time() - began <= PATIENCE
    assert 10 < len(opened.aws.calls) < 100


@pytest.mark.parametrize(
    "error", [AccessDenied("no"), CredentialsInvalid("no"), BackendError("ResourceNotFoundException: no")], ids=repr
)
@on_clock
async def test_what_an_operator_has_to_mend_is_an_error_at_once(error: BackendError) -> None:
    opened = Opened()
    opened.answers("GetItem", [error])
    with pytest.raises(StoreError, match="no"):
        await opened.store.get("queue", "q")
    assert len(opened.aws.calls) == 1


@pytest.mark.parametrize("expected", [0, 4, None])
@on_clock
async def test_a_write_whose_answer_was_lost_is_no_conflict(expected: int | None) -> None:
    opened = Opened()
    opened.answers("UpdateItem", [BROKEN, REFUSED])
    opened.holds(version=5, stamp=STAMP)
    assert (await opened.store.put("queue", "q", b"1", expected=expected)).version == 5


@pytest.mark.parametrize("expected", [0, 4])
@pytest.mark.parametrize("stamp", [STAMP - 1, STAMP + 1])
@on_clock
async def test_another_write_of_the_same_process_is_a_conflict(expected: int, stamp: int) -> None:
    opened = Opened()
    opened.answers("UpdateItem", [REFUSED])
    opened.holds(version=5, stamp=stamp)
    with pytest.raises(Conflict):
        await opened.store.put("queue", "q", b"1", expected=expected)


@pytest.mark.parametrize("expected", [0, 4])
@on_clock
async def test_another_process_is_a_conflict(expected: int) -> None:
    opened = Opened()
    opened.answers("UpdateItem", [REFUSED])
    opened.holds(version=5, stamp=STAMP, writer="somebody else")
    with pytest.raises(Conflict):
        await opened.store.put("queue", "q", b"1", expected=expected)


@on_clock
async def test_a_write_of_which_nobody_knows_whether_it_was_made() -> None:
    """It may have been, and the other process may have written because of it."""
    opened = Opened()
    opened.answers("UpdateItem", [BROKEN, REFUSED])
    opened.answers("DeleteItem", [BROKEN, REFUSED])
    opened.holds(version=5, stamp=STAMP, writer="somebody else")
    for call in (opened.store.put("queue", "q", b"1", expected=4), opened.store.delete("queue", "q", expected=4)):
        with pytest.raises(Conflict) as conflict:
            await call
        assert conflict.value.unsure


@on_clock
async def test_a_write_that_was_throttled_was_not_made() -> None:
    opened = Opened()
    opened.answers("UpdateItem", [THROTTLED, REFUSED])
    opened.holds(version=5, stamp=STAMP, writer="somebody else")
    with pytest.raises(Conflict) as conflict:
        await opened.store.put("queue", "q", b"1", expected=4)
    assert not conflict.value.unsure


@on_clock
async def test_what_this_process_wrote_before_shows_that_nobody_has_since() -> None:
    opened = Opened()
    opened.answers("UpdateItem", [BROKEN, REFUSED])
    opened.holds(version=5, stamp=STAMP - 1)
    with pytest.raises(Conflict) as conflict:
        await opened.store.put("queue", "q", b"1", expected=4)
    assert not conflict.value.unsure


@on_clock
async def test_what_is_gone_is_a_conflict_for_who_expects_it() -> None:
    opened = Opened()
    opened.answers("UpdateItem", [REFUSED])
    opened.aws.answers["GetItem"] = b"{}"
    with pytest.raises(Conflict):
        await opened.store.put("queue", "q", b"1", expected=4)


@on_clock
async def test_a_write_that_was_overtaken_by_the_next_is_done() -> None:
    opened = Opened()
    opened.answers("UpdateItem", [REFUSED])
    opened.holds(version=9, stamp=STAMP + 1)
    record = await opened.store.put("queue", "q", b"1")
    assert record.version == 8, "not that of the record that is there"


@on_clock
async def test_a_write_in_whose_way_something_was_is_made_again() -> None:
    opened = Opened()
    opened.answers("UpdateItem", [REFUSED, written(6)])
    opened.aws.answers["GetItem"] = b"{}"
    assert (await opened.store.put("queue", "q", b"1")).version == 6


@on_clock
async def test_a_delete_of_another_version_is_a_conflict() -> None:
    opened = Opened()
    opened.answers("DeleteItem", [REFUSED])
    opened.holds(version=5, stamp=STAMP, writer="somebody else")
    with pytest.raises(Conflict):
        await opened.store.delete("queue", "q", expected=4)
    assert await opened.store.delete("queue", "q"), "it was there, and was written anew"


@on_clock
async def test_stamps_grow_though_the_clock_does_not() -> None:
    opened = Opened()
    opened.answers("UpdateItem", [written(1)])
    for now in (NOW, NOW, NOW - 60, NOW + 1):
        opened.now = now
        await opened.store.put("queue", "q", b"")
    values = [call.request["ExpressionAttributeValues"] for call in opened.aws.calls]
    stamps = [int(each[":stamp"]["N"]) for each in values]  # type: ignore[index]
    assert stamps == [STAMP, STAMP + 1, STAMP + 2, STAMP + 1_000_000]


@on_clock
async def test_a_few_requests_at_once() -> None:
    opened = Opened()
    opened.answers("UpdateItem", [written(1)])
    opened.aws.gate = asyncio.Event()
    writes = [asyncio.ensure_future(opened.store.put("queue", str(n), b"")) for n in range(3 * PARALLEL)]
    await settle_down()
    assert len(opened.aws.calls) == PARALLEL
    opened.aws.gate.set()
    await asyncio.gather(*writes)
    assert len(opened.aws.calls) == 3 * PARALLEL


@on_clock
async def test_more_than_can_wait_is_refused() -> None:
    opened = Opened()
    opened.answers("GetItem", [b"{}"])
    opened.aws.gate = asyncio.Event()
    reads = [asyncio.ensure_future(opened.store.get("queue", str(n))) for n in range(QUEUED)]
    await settle_down()
    with pytest.raises(StoreError, match="does not keep up"):
        await opened.store.get("queue", "one more")
    opened.aws.gate.set()
    assert await asyncio.gather(*reads) == [None] * QUEUED
    assert await opened.store.get("queue", "one more") is None


@on_clock
async def test_the_end_waits_for_what_was_begun() -> None:
    opened = Opened()
    opened.answers("UpdateItem", [written(3)])
    opened.aws.gate = asyncio.Event()
    write = asyncio.ensure_future(opened.store.put("queue", "q", b""))
    await settle_down()
    end = asyncio.ensure_future(opened.store.aclose())
    await settle_down()
    assert not end.done()
    with pytest.raises(StoreError, match="closed"):
        await opened.store.get("queue", "q")
    opened.aws.gate.set()
    await end
    assert (await write).version == 3


@on_clock
async def test_the_index_is_not_believed() -> None:
    """It says which records were to expire a moment ago; the table says what is so now."""
    opened = Opened()
    opened.aws.answers["Query"] = {"Items": [{"key": {"S": f"={key}"}} for key in ("gone", "late", "b", "a")]}

    def item(request: dict[str, object]) -> object:
        key = request["Key"]["key"]["S"]  # type: ignore[index]
        if key == "=gone":
            return {}
        expires_at = {"=late": "99", "=b": "2", "=a": "2"}[key]
        usual = {"value": {"B": ""}, "version": {"N": "1"}, "writer": {"S": "w"}, "stamp": {"N": "1"}}
        return {"Item": usual | {"key": {"S": key}, "expires_at": {"N": expires_at}}}

    opened.aws.answers["GetItem"] = item
    assert [record.key for record in await opened.store.expired("queue", 10.0)] == ["a", "b"]
