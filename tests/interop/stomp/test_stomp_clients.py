"""What every client has to be able to do, with mqlift in each dialect and with the brokers that it stands in for."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from typing import Literal

import pytest

from tests.interop.stomp.client import Client, Message, Refused, until
from tests.interop.stomp.conftest import Connect, ServerName
from tests.interop.stomp.variants import VARIANTS, Variant

SERVERS: tuple[ServerName, ...] = ("mqlift-rabbitmq", "mqlift-activemq", "rabbitmq", "activemq")
OTHER = Variant("stomppy", "1.2")
"""Who stands on the other side of a scenario."""
BEATS = 3

_queues = itertools.count(1)

PAIRS = [
    (server, variant)
    for server in SERVERS
    for variant in VARIANTS
    # The brokers have no WebSockets here. With them it is the scenarios that are tested: one version will do.
    if server.startswith("mqlift") or (variant.transport, variant.version) == ("tcp", "1.2")
    if (server, variant.name) != ("rabbitmq", "stompman")  # which sends the address as `host`, that is no virtual host
]
every_variant = pytest.mark.parametrize(("server", "variant"), PAIRS, ids=str)
every_nack = pytest.mark.parametrize(
    ("server", "variant"),
    # ActiveMQ takes a refused message for a poisonous one; STOMP 1.0 has no NACK.
    [(server, variant) for server, variant in PAIRS if server.endswith("rabbitmq") and variant.version != "1.0"],
    ids=str,
)


@pytest.fixture
def queue() -> str:
    """The destination of a queue that no other test uses."""
    return f"/queue/clients-{next(_queues)}"


def bodies(client: Client) -> list[bytes]:
    return [message.body for message in client.received]


async def take_rest(connect: Connect, server: ServerName, queue: str) -> Counter[bytes]:
    """What a queue still holds: everything before a message of ours, on a standard queue too."""
    client = await connect(server, OTHER)
    await client.send(queue, b"end", {})
    await client.subscribe(queue, "auto")
    await until(lambda: b"end" in bodies(client), lambda: f"the end of {bodies(client)}")
    await client.disconnect()
    return Counter(bodies(client)) - Counter([b"end"])


async def leave(client: Client, how: Literal["disconnect", "drop"]) -> None:
    if how == "drop" and client.drops:
        await client.drop()
    else:
        await client.disconnect()


@every_variant
async def test_what_is_sent_with_a_receipt_is_received(
    connect: Connect, server: ServerName, variant: Variant, queue: str
) -> None:
    client = await connect(server, variant)
    await client.subscribe(queue, "auto")
    sent = [b"plain", "Grüße".encode(), bytes(range(256)), b"x" * 100_000]
    if variant.transport == "websocket":  # text frames hold no other bytes
        sent.remove(bytes(range(256)))
    own = "mine: yes" if variant.version == "1.2" else "mine"  # stompjs undoes the escapes of 1.2 only
    for body in sent:
        await client.send(queue, body, {"x-own": own})
    received = await client.wait_received(len(sent))
    assert Counter(bodies(client)) == Counter(sent)
    assert {each.headers["x-own"] for each in received} == {own}
    assert {each.headers["destination"] for each in received} == {queue}
    await client.disconnect()
    assert not await take_rest(connect, server, queue)


@pytest.mark.parametrize(
    ("server", "variant"),
    # STOMP 1.0 knows no client-individual, and ActiveMQ takes it for cumulative there.
    [(server, variant) for server, variant in PAIRS if variant.version != "1.0" or server.endswith("rabbitmq")],
    ids=str,
)
async def test_single_acknowledgements(connect: Connect, server: ServerName, variant: Variant, queue: str) -> None:
    client = await connect(server, variant)
    for body in (b"1", b"2", b"3"):
        await client.send(queue, body, {})
    await client.subscribe(queue, "client-individual")
    received = await client.wait_received(3)
    await client.ack(next(each for each in received if each.body == b"2"))
    await client.send(f"{queue}-after", b"the ACK", {})
    await leave(client, "disconnect")
    assert await take_rest(connect, server, queue) == Counter([b"1", b"3"])


@every_variant
@pytest.mark.parametrize("how", ["disconnect", "drop"])
async def test_cumulative_acknowledgements(
    connect: Connect, server: ServerName, variant: Variant, queue: str, how: Literal["disconnect", "drop"]
) -> None:
    client = await connect(server, variant)
    for body in (b"1", b"2", b"3"):
        await client.send(queue, body, {})
    await client.subscribe(queue, "client")
    received = list(await client.wait_received(3))
    await client.ack(received[1])
    await client.send(f"{queue}-after", b"the ACK", {})
    await leave(client, how)
    assert await take_rest(connect, server, queue) == Counter([received[2].body])


@every_nack
async def test_a_refused_message_comes_back(connect: Connect, server: ServerName, variant: Variant, queue: str) -> None:
    client = await connect(server, variant)
    await client.subscribe(queue, "client-individual")
    await client.send(queue, b"again", {})
    [first] = await client.wait_received(1)
    await client.nack(first)
    second = (await client.wait_received(2))[1]
    assert (second.body, second.headers["redelivered"]) == (b"again", "true")
    await client.ack(second)
    await client.send(f"{queue}-after", b"the ACK", {})
    await client.disconnect()
    assert not await take_rest(connect, server, queue)


@every_variant
async def test_transactions(connect: Connect, server: ServerName, variant: Variant, queue: str) -> None:
    client = await connect(server, variant)
    await client.transact(queue, [b"never 1", b"never 2"], commit=False)
    await client.transact(queue, [b"1", b"2"], commit=True)
    await client.send(queue, b"3", {})
    await client.disconnect()
    assert await take_rest(connect, server, queue) == Counter([b"1", b"2", b"3"])


@every_variant
async def test_a_client_that_comes_back_goes_on(
    connect: Connect, server: ServerName, variant: Variant, queue: str
) -> None:
    first = await connect(server, variant)
    await first.subscribe(queue, "client")
    await first.send(queue, b"unfinished", {})
    await first.wait_received(1)
    await leave(first, "drop")
    second = await connect(server, variant)
    await second.subscribe(queue, "client")
    [message] = await second.wait_received(1)
    assert (message.body, message.headers["redelivered"]) == (b"unfinished", "true")
    await second.ack(message)
    await second.send(f"{queue}-after", b"the ACK", {})
    await second.disconnect()
    assert not await take_rest(connect, server, queue)


@pytest.mark.parametrize("server", ["mqlift-rabbitmq", "mqlift-activemq"])
async def test_heart_beats_keep_connections(connect: Connect, server: ServerName, queue: str) -> None:
    beating = [variant for each, variant in PAIRS if each == server and variant.version != "1.0"]
    clients = [await connect(server, variant, heart_beat=1000) for variant in beating]
    until_then = time.monotonic() + BEATS
    await until(lambda: time.monotonic() > until_then, lambda: "some heart-beats")
    assert [str(variant) for variant, client in zip(beating, clients, strict=True) if client.ended] == []
    for client in clients:
        await client.send(queue, b"alive", {})


@pytest.mark.parametrize(("server", "variant"), [pair for pair in PAIRS if pair[0] == "mqlift-rabbitmq"], ids=str)
async def test_an_error_is_heard(connect: Connect, server: ServerName, variant: Variant) -> None:
    client = await connect(server, variant)
    with pytest.raises(Refused):
        await client.send("/nowhere/at/all", b"x", {})


def test_messages_are_compared_without_their_handles() -> None:
    assert Message(b"x", {}, 1) == Message(b"x", {}, 2)
