"""The status topics: for who subscribes, when they are published and before, and never to who asks for everything."""

from __future__ import annotations

from gateway.core.backend import QueueSpec
from gateway.core.commands import Consume
from gateway.core.message import RETAINED, TOPIC_EXCHANGE
from gateway.status import StatusTopics
from tests.core.test_broker import Rig
from tests.rig.clock import on_clock, until

LIVE = QueueSpec(durable=False, exclusive=True)
TREE = "$SYS.broker.#"


async def subscribed(rig: Rig, pattern: str) -> None:
    await rig.broker.declare_queue("live", LIVE, rig.client)
    rig.broker.bind("live", TOPIC_EXCHANGE, pattern)
    rig.broker.consume(Consume("live", "live", 1_000, None), rig.client)


def figures(rig: Rig) -> dict[str, str]:
    """What came, by topic below the tree."""
    return {
        each.message.address.routing_key.removeprefix("$SYS.broker."): each.message.body.decode()
        for each in rig.client.deliveries
    }


@on_clock
async def test_every_figure_is_published() -> None:
    rig = Rig()
    status = StatusTopics(rig.broker, rig.metrics, "1.2.3")
    await subscribed(rig, TREE)
    rig.metrics.connections.labels("mqtt").inc(3)
    rig.metrics.connections.labels("stomp").inc()
    rig.metrics.publishes.labels("mqtt").inc(7)
    status.update()
    await until(lambda: rig.client.deliveries, "figures come")
    found = figures(rig)
    assert found["version"] == "mqlift version 1.2.3"
    assert found["clients.connected"] == "3"
    assert found["publish.messages.received"] == "7"
    assert found["subscriptions.count"] == "1"
    assert found["uptime"].endswith(" seconds")
    assert len(found) == len(status.figures())


@on_clock
async def test_the_most_clients_are_remembered() -> None:
    rig = Rig()
    status = StatusTopics(rig.broker, rig.metrics, "1.2.3")
    rig.metrics.connections.labels("mqtt").inc(3)
    status.update()
    rig.metrics.connections.labels("mqtt").dec(2)
    assert (status.figures()["clients/connected"], status.figures()["clients/maximum"]) == ("1", "3")


@on_clock
async def test_they_are_there_for_who_subscribes_later() -> None:
    rig = Rig()
    StatusTopics(rig.broker, rig.metrics, "1.2.3").update()
    await subscribed(rig, TREE)
    rig.broker.send_retained("live", TOPIC_EXCHANGE, "$SYS.broker.version", rig.client, rig.client)
    await until(lambda: rig.client.deliveries, "the version comes")
    assert figures(rig) == {"version": "mqlift version 1.2.3"}
    assert rig.client.deliveries[0].message.headers[RETAINED] is True
    assert rig.broker.retained_messages == 0, "they take no room from clients"


@on_clock
async def test_they_are_no_part_of_everything() -> None:
    rig = Rig()
    status = StatusTopics(rig.broker, rig.metrics, "1.2.3")
    await subscribed(rig, "#")
    status.update()
    rig.broker.send_retained("live", TOPIC_EXCHANGE, "#", rig.client, rig.client)
    await until(lambda: rig.client.answers, "the answer")
    assert rig.client.deliveries == []
