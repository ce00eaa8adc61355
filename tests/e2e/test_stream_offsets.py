"""Where a consumer of a stream begins: every kind of offset, by AMQP, on both emulators of Kinesis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.conftest import serving
from tests.rig.amqp import AmqpClient, Got
from tests.rig.processes import Gateway, gateway_config


@pytest.fixture(scope="module", params=["ministack", "kinesis_local"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    url = request.getfixturevalue(request.param).url
    running = Gateway(gateway_config(url, protocols=["amqp091"]), tmp_path_factory.mktemp("offsets"))
    with serving(running):
        yield running


OFFSETS: dict[str, tuple[object, Sequence[int]]] = {
    "first": ("first", range(9)),
    "the number 0": (0, range(9)),
    "last": ("last", range(9)),
    "a time before": (datetime.fromtimestamp(time.time() - 600, UTC), range(9)),
    "an age": ("1h", range(9)),
    "next": ("next", []),
    "a time to come": (datetime.fromtimestamp(time.time() + 600, UTC), []),
    "a message": ("{offset}", range(4, 9)),
    "behind a message": (">{offset}", range(5, 9)),
}


@pytest.mark.parametrize(("offset", "expected"), OFFSETS.values(), ids=OFFSETS)
def test_amqp_reads_a_stream_from_where_it_likes(
    offset: object, expected: Sequence[int], gateway: Gateway, queue_name: str
) -> None:
    with AmqpClient(gateway.port("amqp091")) as amqp:
        amqp.declare(queue_name, x_queue_type="stream")
        for number in range(9):
            amqp.publish(queue_name, f"{number}")
        earlier = read_stream(gateway, queue_name, "first", 9)
        assert [each.body for each in earlier] == [f"{number}" for number in range(9)]
        if isinstance(offset, str):
            offset = offset.format(offset=earlier[4].headers["x-stream-offset"])
        found = read_stream(gateway, queue_name, offset, len(expected), after=lambda: amqp.publish(queue_name, "end"))
    assert [each.body for each in found] == [*(f"{number}" for number in expected), "end"]


def read_stream(
    gateway: Gateway, queue: str, offset: object, number: int, after: Callable[[], object] | None = None
) -> list[Got]:
    """So many messages from an offset on, two at a time as the prefetch says, and one more that comes afterwards."""
    with AmqpClient(gateway.port("amqp091")) as amqp:
        amqp.channel.basic_qos(prefetch_count=2)
        got: list[Got] = []

        def receive(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            got.append(Got(body, properties, method.routing_key, method.redelivered, 0, channel))
            assert len(got) - acknowledged <= 2
            unacknowledged.append(method.delivery_tag)

        acknowledged = 0
        unacknowledged: list[int] = []
        amqp.channel.basic_consume(queue, receive, arguments={"x-stream-offset": offset})
        if after is not None:
            after()
            number += 1
        while len(got) < number:
            amqp.pump(lambda: unacknowledged, f"{number} messages, not {len(got)}")
            amqp.channel.basic_ack(unacknowledged.pop(0))
            acknowledged += 1
        return got
