"""What every client has to be able to do, against RabbitMQ and mqlift."""

from __future__ import annotations

import pytest

from tests.interop.amqp.client import Client, Message, Refused
from tests.interop.amqp.conftest import CLIENTS, Connect

NAMES = [*CLIENTS, "amqplib"]
CONFIRMING = [name for name in NAMES if name != "amqp-tools"]
"""Those that have confirms and properties, and publish more than once in a connection."""

PEER = "pika-blocking"
"""Who stands on the other side of a scenario."""

MESSAGES = 20

every_client = pytest.mark.parametrize("name", NAMES)
every_confirming_client = pytest.mark.parametrize("name", CONFIRMING)


def texts(count: int) -> list[bytes]:
    return [b"message %d" % number for number in range(count)]


def bodies(client: Client) -> list[bytes]:
    return [message.body for message in client.received]


@every_client
async def test_publish_consume_and_acknowledge(connect: Connect, name: str, queue: str) -> None:
    client, _ = await connect(name)
    assert await client.declare(queue) == queue
    await client.consume(queue)
    sent = texts(MESSAGES if client.many_publishes else 3)
    for body in sent:
        await client.publish(queue, Message(body=body))
    await client.wait_received(len(sent))
    assert sorted(bodies(client)) == sorted(sent)
    await client.close()
    peer, _ = await connect(PEER)
    await peer.consume(queue)
    await peer.publish(queue, Message(body=b"the only one left"))
    await peer.wait_received(1)
    assert bodies(peer) == [b"the only one left"]


@every_confirming_client
async def test_properties_and_headers_both_ways(connect: Connect, name: str, queue: str) -> None:
    client, _ = await connect(name)
    peer, _ = await connect(PEER)
    there, back = await client.declare(f"{queue}-there"), await client.declare(f"{queue}-back")
    await peer.consume(there)
    await client.consume(back)
    message = Message(
        body=b"\x00\xff binary",
        reply_to=back,
        correlation_id="7f",
        content_type="application/x-own",
        headers={"text": "grün", "number": 7, "negative": -1, "true": True, "list": [1, "two"], "table": {"a": "b"}},
    )
    await client.publish(there, message)
    await peer.publish(back, message)
    assert await peer.wait_received(1) == [message]
    assert await client.wait_received(1) == [message]


@every_confirming_client
async def test_a_publish_that_goes_nowhere_is_told(connect: Connect, name: str, queue: str) -> None:
    client, _ = await connect(name)
    with pytest.raises(Refused):
        await client.publish(f"{queue}-none", Message(body=b"lost"))
    await client.declare(queue)
    await client.publish(queue, Message(body=b"arrives"))
    await client.consume(queue)
    await client.wait_received(1)
    assert bodies(client) == [b"arrives"]


@every_confirming_client
async def test_a_call_and_its_reply(connect: Connect, name: str, queue: str) -> None:
    caller, _ = await connect(name)
    server, _ = await connect(name)
    await server.declare(queue)
    await server.consume(queue)
    replies = await caller.declare()
    await caller.consume(replies)
    for number in range(3):
        await caller.publish(queue, Message(body=b"%d" % number, reply_to=replies, correlation_id=f"{number}"))
        call = (await server.wait_received(number + 1))[-1]
        assert call.reply_to == replies
        await server.publish(call.reply_to, Message(body=call.body * 2, correlation_id=call.correlation_id))
        await caller.wait_received(number + 1)
    assert [(each.body, each.correlation_id) for each in caller.received] == [(b"00", "0"), (b"11", "1"), (b"22", "2")]


@every_client
async def test_what_a_lost_consumer_held_comes_back(connect: Connect, name: str, queue: str) -> None:
    peer, _ = await connect(PEER)
    await peer.declare(queue)
    await peer.publish(queue, Message(body=b"held"))
    client, proxy = await connect(name)
    if name != "amqp-tools":  # which acknowledges, or takes it again and again
        await client.consume(queue, acknowledge=False)
        await client.wait_received(1)
        assert not client.received[0].redelivered
        await client.close()
    proxy.cut()
    await peer.consume(queue)
    [message] = await peer.wait_received(1)
    assert (message.body, message.redelivered) == (b"held", name != "amqp-tools")


@every_client
async def test_goes_on_after_a_lost_connection(connect: Connect, name: str, queue: str) -> None:
    client, proxy = await connect(name)
    await client.declare(queue)
    await client.consume(queue)
    await client.publish(queue, Message(body=b"before"))
    await client.wait_received(1)
    proxy.cut()
    await client.wait_lost()
    await client.connect()
    if not client.recovers:
        await client.consume(queue)
    await client.publish(queue, Message(body=b"after"))
    while b"after" not in bodies(client):  # the first may come again: its acknowledgement can have been cut off
        await client.wait_received(len(client.received) + 1)
