"""What the audit log tells of commands: what changed, once, and by whom."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from gateway.core.backend import QueueSpec
from gateway.core.commands import (
    Bind,
    BindExchange,
    DeclareExchange,
    DeclareQueue,
    DeleteExchange,
    DeleteQueue,
    Presence,
    Unbind,
    UnbindExchange,
)
from gateway.core.exchanges import ExchangeSpec, ExchangeType
from gateway.core.message import Headers
from gateway.core.shared import SUBSCRIPTION
from tests.rig.clock import on_clock
from tests.rig.hosting import Rig

TOPIC = ExchangeSpec(type=ExchangeType.TOPIC)
QUEUE = DeclareQueue("orders", QueueSpec(), "queue")
EXCHANGE = DeclareExchange("logs", TOPIC, "exchange")
MATCH: Headers = {"kind": "x"}

BINDING = {"exchange": "logs", "pattern": "a.#", "queue": "orders"}
ONWARD = {"exchange": "amq.topic", "pattern": "a.#", "to": "logs"}


def renewal(topic: str) -> DeclareQueue:
    return DeclareQueue("orders", QueueSpec(arguments={SUBSCRIPTION: topic}), topic, Presence.RENEWED)


async def told(*commands: object) -> list[dict[str, object]]:
    """Lines about the last command, in order, without what is in all of them."""
    peer = Rig().connect()
    await peer.sends(*commands[:-1])
    with capture_logs() as lines:
        await peer.sends(commands[-1])
    common = {"log_level": "info", "user": "", "client_id": "", "connection": peer.connection.number}
    for line in lines:
        assert common.items() <= line.items()
        assert line["peer"]
    return [{key: value for key, value in line.items() if key not in {*common, "peer"}} for line in lines]


@pytest.mark.parametrize(
    ("commands", "line"),
    [
        ([QUEUE], {"event": "queue_declared", "queue": "orders"}),
        ([renewal("a"), renewal("b")], {"event": "queue_declared", "queue": "orders"}),
        ([QUEUE, DeleteQueue("orders", "t")], {"event": "queue_deleted", "queue": "orders"}),
        ([EXCHANGE], {"event": "exchange_declared", "exchange": "logs", "type": "topic"}),
        ([EXCHANGE, DeleteExchange("logs", "t")], {"event": "exchange_deleted", "exchange": "logs"}),
        ([QUEUE, EXCHANGE, Bind("orders", "logs", "a.#", "t")], {"event": "queue_bound"} | BINDING),
        (
            [QUEUE, EXCHANGE, Bind("orders", "logs", "a.#", "b"), Unbind("orders", "logs", "a.#", "t")],
            {"event": "queue_unbound"} | BINDING,
        ),
        ([EXCHANGE, BindExchange("logs", "amq.topic", "a.#", "t")], {"event": "exchange_bound"} | ONWARD),
        (
            [
                EXCHANGE,
                BindExchange("logs", "amq.topic", "a.#", "b"),
                UnbindExchange("logs", "amq.topic", "a.#", "t"),
            ],
            {"event": "exchange_unbound"} | ONWARD,
        ),
    ],
    ids=lambda value: value["event"] if isinstance(value, dict) else "",
)
@on_clock
async def test_a_change_is_told(commands: list[object], line: dict[str, object]) -> None:
    assert await told(*commands) == [line]


@pytest.mark.parametrize(
    "commands",
    [
        [QUEUE, QUEUE],
        [renewal("a"), renewal("a")],
        [DeclareQueue("live", QueueSpec(durable=False, exclusive=True), "t")],
        [DeleteQueue("nothing", "t")],
        [EXCHANGE, EXCHANGE],
        [DeleteExchange("nothing", "t")],
        [QUEUE, Bind("orders", "amq.topic", "a.#", "b"), Bind("orders", "amq.topic", "a.#", "t")],
        [QUEUE, Bind("orders", "amq.headers", "", "b", MATCH), Bind("orders", "amq.headers", "", "t", MATCH)],
        [QUEUE, Bind("orders", "nothing", "a.#", "t")],
        [QUEUE, Unbind("orders", "amq.topic", "a.#", "t")],
        [EXCHANGE, BindExchange("logs", "amq.topic", "a", "b"), BindExchange("logs", "amq.topic", "a", "t")],
        [EXCHANGE, UnbindExchange("logs", "amq.topic", "a", "t")],
    ],
    ids=lambda commands: type(commands[-1]).__name__,
)
@on_clock
async def test_what_changes_nothing_is_not_told(commands: list[object]) -> None:
    assert await told(*commands) == []
