"""Answers about the records of a batch: each record has its own result, and silence is not success."""

from __future__ import annotations

import orjson
import pytest

from adapters.aws.errors import classify
from adapters.aws.records import record_results
from gateway.core.errors import BackendError, Throttled, Unavailable
from gateway.core.outcome import ACCEPTED, Outcome, Result


def refuse(code: str, text: str) -> BackendError:
    return classify("kinesis", "PutRecords", code, text, "kinesis stream s")


def results(answer: object, count: int) -> list[Result]:
    return record_results(orjson.dumps(answer), "Records", "SequenceNumber", count, refuse)


def test_each_record_has_its_own_result() -> None:
    stored = {"SequenceNumber": "1", "ShardId": "s"}
    throttled = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "slow"}
    broken = {"ErrorCode": "InternalFailure"}
    first, second, third, fourth = results({"FailedRecordCount": 2, "Records": [stored, throttled, broken, stored]}, 4)
    assert first is ACCEPTED
    assert fourth is ACCEPTED
    assert (second.outcome, type(second.error)) == (Outcome.RELEASED, Throttled)
    assert (third.outcome, type(third.error)) == (Outcome.RELEASED, Unavailable)
    assert "kinesis stream s (kinesis:PutRecords): ProvisionedThroughputExceededException: slow" in str(second.error)


def test_a_record_that_can_never_be_stored_is_rejected() -> None:
    (result,) = results({"Records": [{"ErrorCode": "ValidationException"}]}, 1)
    assert result.outcome is Outcome.REJECTED


@pytest.mark.parametrize("record", [{}, {"SequenceNumber": None}, {"SequenceNumber": ""}, {"ShardId": "s"}])
def test_silence_is_not_success(record: object) -> None:
    (result,) = results({"FailedRecordCount": 0, "Records": [record]}, 1)
    assert result.outcome is Outcome.RELEASED
    assert isinstance(result.error, Unavailable)


def test_an_error_wins_over_a_sequence_number() -> None:
    (result,) = results({"Records": [{"SequenceNumber": "1", "ErrorCode": "InternalFailure"}]}, 1)
    assert result.outcome is Outcome.RELEASED


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", b"null", b'{"Records":null}', b'{"Records":[1]}', b'{"Records":[]}', b'{"Records":5}']
)
def test_an_answer_about_something_else(answer: bytes) -> None:
    with pytest.raises(Unavailable, match="an answer"):
        record_results(answer, "Records", "SequenceNumber", 1, refuse)


@pytest.mark.parametrize("count", [1, 3])
def test_an_answer_about_fewer_or_more_records(count: int) -> None:
    with pytest.raises(Unavailable, match=f"about 2 records to a request with {count}"):
        results({"Records": [{"SequenceNumber": "1"}, {"SequenceNumber": "2"}]}, count)
