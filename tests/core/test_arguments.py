"""Queue arguments: what is read of them, what is refused and with which text, and when two queues are the same."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import pytest

from gateway.core.arguments import NO_POLICY, Overflow, QueuePolicy, check_equivalent, read_policy, read_stream_policy
from gateway.core.backend import QueueSpec
from gateway.core.errors import Inequivalent, InvalidArgument
from gateway.core.message import Address, Message


def spec(arguments: Mapping[str, object], **flags: bool) -> QueueSpec:
    return QueueSpec(arguments=arguments, **flags)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, NO_POLICY),
        ({"x-unknown": 1, "x-queue-mode": "lazy", "x-queue-type": "classic"}, NO_POLICY),
        ({"x-message-ttl": 0}, QueuePolicy(message_ttl=0)),
        ({"x-expires": 1}, QueuePolicy(expires=1)),
        (
            {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"},
            QueuePolicy(dead_letter_exchange="", dead_letter_routing_key="dead"),
        ),
        (
            {"x-max-length": 5, "x-overflow": "reject-publish"},
            QueuePolicy(max_length=5, overflow=Overflow.REJECT_PUBLISH),
        ),
        ({"x-max-priority": 255}, QueuePolicy(max_priority=255)),
        ({"x-single-active-consumer": True}, QueuePolicy(single_active_consumer=True)),
        ({"x-queue-type": "quorum"}, QueuePolicy(delivery_limit=20)),
        ({"x-queue-type": "quorum", "x-delivery-limit": 3}, QueuePolicy(delivery_limit=3)),
        ({"x-queue-type": "quorum", "x-delivery-limit": -1}, QueuePolicy(delivery_limit=None)),
    ],
)
def test_what_is_asked_for(arguments: Mapping[str, object], expected: QueuePolicy) -> None:
    assert read_policy(spec(arguments)) == expected


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"x-message-ttl": -1}, "x-message-ttl: {value_negative,-1}"),
        ({"x-message-ttl": "60000"}, 'x-message-ttl: "expected integer, got longstr"'),
        ({"x-message-ttl": True}, 'x-message-ttl: "expected integer, got bool"'),
        ({"x-message-ttl": 1.5}, 'x-message-ttl: "expected integer, got double"'),
        ({"x-message-ttl": 10**12}, "x-message-ttl: {value_too_large,1000000000000}"),
        ({"x-expires": 0}, "x-expires: {value_zero,0}"),
        ({"x-max-length": -5}, "x-max-length: {value_negative,-5}"),
        ({"x-max-priority": 256}, "x-max-priority: {max_value_exceeded,256}"),
        ({"x-dead-letter-exchange": 5}, "x-dead-letter-exchange: {unacceptable_type,long}"),
        ({"x-dead-letter-exchange": b"\xff"}, "x-dead-letter-exchange: {unacceptable_type,binary}"),
        ({"x-dead-letter-routing-key": "k"}, "x-dead-letter-routing-key: routing_key_but_no_dlx_defined"),
        (
            {"x-overflow": "drop-tail"},
            "x-overflow: invalid_overflow",
        ),
        (
            {"x-selector": "colour ="},
            "x-selector: 'the end' at character 9 does not belong there",
        ),
        (
            {"x-selector": 5},
            "x-selector: {unacceptable_type,long}",
        ),
        ({"x-queue-type": "odd"}, "x-queue-type: \"unsupported queue type 'odd'\""),
        ({"x-queue-mode": "hasty"}, "x-queue-mode: \"unsupported queue mode 'hasty'\""),
        ({"x-single-active-consumer": 1}, "x-single-active-consumer: {unacceptable_type,long}"),
        ({"x-max-length-bytes": 5}, "x-max-length-bytes: a queue in AWS does not know its bytes"),
        ({"x-max-priority": 5, "x-fifo": True}, "x-max-priority: a FIFO queue has one order"),
    ],
)
def test_what_is_refused(arguments: Mapping[str, object], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_policy(spec(arguments))
    assert str(caught.value).startswith(text)


def test_a_selector_says_what_comes_into_a_queue() -> None:
    accepts = read_policy(QueueSpec(arguments={"x-selector": "colour = 'red'"})).accepts
    assert accepts is not None
    assert accepts(Message(Address("", "q"), b"", headers={"colour": "red"}))
    assert not accepts(Message(Address("", "q"), b"", headers={"colour": "blue"}))
    with pytest.raises(InvalidArgument, match="streams have no such argument"):
        read_policy(QueueSpec(arguments={"x-queue-type": "stream", "x-selector": "colour = 'red'"}))


def test_bytes_are_counted_in_memory() -> None:
    policy = read_policy(spec({"x-max-length-bytes": 5}, durable=False))
    assert policy.max_length_bytes == 5
    assert policy.bounded


def test_streams() -> None:
    assert read_policy(spec({"x-queue-type": "stream", "x-max-age": "7D"})).stream
    assert read_stream_policy(spec({})).stream
    with pytest.raises(InvalidArgument, match="x-message-ttl"):
        read_stream_policy(spec({"x-message-ttl": 5}))
    with pytest.raises(InvalidArgument, match="x-queue-type"):
        read_stream_policy(spec({"x-queue-type": "classic"}))


@pytest.mark.parametrize("flags", [{"durable": False}, {"exclusive": True}, {"auto_delete": True}])
def test_a_quorum_queue_stays(flags: dict[str, bool]) -> None:
    with pytest.raises(InvalidArgument, match="quorum"):
        read_policy(spec({"x-queue-type": "quorum"}, **flags))


@pytest.mark.parametrize(
    ("current", "asked", "argument", "received", "had"),
    [
        (spec({}), spec({}, durable=False), "durable", "false", "true"),
        (spec({}), spec({}, exclusive=True), "exclusive", "true", "false"),
        (spec({}), spec({}, auto_delete=True), "auto_delete", "true", "false"),
        (spec({"x-message-ttl": 5}), spec({}), "x-message-ttl", "none", "5"),
        (spec({"x-message-ttl": 5}), spec({"x-message-ttl": 6}), "x-message-ttl", "6", "5"),
        (
            spec({"x-single-active-consumer": True}),
            spec({"x-single-active-consumer": 1}),
            "x-single-active-consumer",
            "1",
            "true",
        ),
        (spec({"x-queue-type": "quorum"}), spec({}), "x-queue-type", "none", "quorum"),
        (spec({"x-selector": "a = 1"}), spec({"x-selector": "a = 2"}), "x-selector", "a = 2", "a = 1"),
    ],
)
def test_the_first_difference_is_named(
    current: QueueSpec, asked: QueueSpec, argument: str, received: str, had: str
) -> None:
    with pytest.raises(Inequivalent) as caught:
        check_equivalent("orders", current, asked)
    error = caught.value
    assert (error.what, error.name, error.argument, error.received, error.current) == (
        "queue",
        "orders",
        argument,
        received,
        had,
    )


def test_what_makes_no_difference() -> None:
    check_equivalent(
        "orders",
        spec({"x-max-length": 5, "x-queue-mode": "lazy"}),
        spec({"x-max-length": Decimal(5), "x-queue-version": 2, "x-queue-type": "classic", "x-unknown": ["a"]}),
    )
