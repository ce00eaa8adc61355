"""The sums that fault tests end with find what is wrong, and nothing else."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.rig.counting import (
    SqsClient,
    assert_deleted_after_ack,
    assert_exactly,
    assert_nothing_lost,
    assert_stored_before_acknowledged,
    depth,
    drain,
)
from tests.rig.fault_endpoint import Ended, Stored


def test_depth_and_drain(sqs: SqsClient, queue: str) -> None:
    for body in ["a", "b", "b"]:
        sqs.send_message(QueueUrl=queue, MessageBody=body)
    sqs.receive_message(QueueUrl=queue, VisibilityTimeout=1)
    assert depth(sqs, queue) == (2, 1)
    assert drain(sqs, queue) == Counter("abb"), "what was hidden is waited for"
    assert depth(sqs, queue) == (0, 0)


def test_drain_does_not_wait_for_ever(sqs: SqsClient, queue: str) -> None:
    sqs.send_message(QueueUrl=queue, MessageBody="held")
    sqs.receive_message(QueueUrl=queue, VisibilityTimeout=60)
    with pytest.raises(AssertionError, match=r"\(0, 1\) \(waiting, hidden\) left"):
        drain(sqs, queue, timeout=0.1)


def test_lost_messages() -> None:
    assert_nothing_lost(["a", "b"], ["b", "a", "a", "never acknowledged"])
    with pytest.raises(AssertionError, match=r"acknowledged and not there: 2 messages, such as \['a', 'c'\]"):
        assert_nothing_lost(["a", "a", "b", "c"], ["a", "b"])


def test_what_clients_and_queues_give_can_be_compared_as_it_is() -> None:
    acknowledged = {"a": 17.5, "b": 18.5}
    assert_nothing_lost(acknowledged, Counter(["a", "b", "b"]))
    assert_exactly(["a", "b", "b"], Counter(["a", "b", "b"]))
    with pytest.raises(AssertionError, match=r"there: 1 messages, such as \['b'\]"):
        assert_nothing_lost(acknowledged, Counter(["a"]))


def test_exact_sums() -> None:
    assert_exactly(["a", "b", "b"], ["b", "a", "b"])
    with pytest.raises(AssertionError, match=r"1 missing, such as \['a'\]; 2 too many, such as \['b', 'c'\]"):
        assert_exactly(["a", "b"], ["b", "b", "c"])


def test_acknowledged_before_stored() -> None:
    stored = [Stored("q", "a", 1.0), Stored("q", "a", 9.0), Stored("q", "b", 2.0)]
    assert_stored_before_acknowledged({"a": 1.5, "b": 2.5}, stored)
    with pytest.raises(AssertionError, match=r"1 messages, such as \['b'\]"):
        assert_stored_before_acknowledged({"a": 1.5, "b": 1.9}, stored)
    with pytest.raises(AssertionError, match=r"1 messages, such as \['never'\]"):
        assert_stored_before_acknowledged({"never": 5.0}, stored)


def test_deleted_before_acknowledged() -> None:
    assert_deleted_after_ack({"a": 1.0}, [Ended("q", "a", 1.1), Ended("q", "a", 7.0)])
    with pytest.raises(AssertionError, match=r"1 messages, such as \['a'\]"):
        assert_deleted_after_ack({"a": 1.0}, [Ended("q", "a", 0.9)])
    with pytest.raises(AssertionError, match=r"1 messages, such as \['b'\]"):
        assert_deleted_after_ack({"a": 1.0}, [Ended("q", "b", 2.0)])
