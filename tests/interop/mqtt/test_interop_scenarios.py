"""What every client has to be able to do: each scenario with each client, version and transport."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable

import pytest

from tests.interop.mqtt.client import Client, Message, Refused, Transport, Version, until
from tests.interop.mqtt.conftest import VARIANTS, Connect, Variant

PAHO = Variant("paho", Version.V5)
"""Who stands on the other side of a scenario."""

MIB = 1024 * 1024
OVERHEAD = 4096
"""Bytes of an SQS message that are more than enough for what goes along with a payload."""
MAX_PACKET = 1_310_720
"""The gateway's default, and what it tells MQTT 5 clients."""

TOPICS = 1_000

PACKET_TOO_LARGE = 0x95
SESSION_TAKEN_OVER = 0x8E

every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def texts(numbers: Iterable[int]) -> list[bytes]:
    return [b"%d" % number for number in numbers]


def payloads(client: Client) -> list[bytes]:
    return [message.payload for message in client.received]


@every_variant
@pytest.mark.parametrize("granted", [0, 1, 2])
async def test_publish_and_subscribe_at_every_qos(connect: Connect, variant: Variant, topic: str, granted: int) -> None:
    client = await connect(variant)
    await client.subscribe([f"{topic}/+"], granted)
    sent = [Message(topic=f"{topic}/{qos}", payload=b"\0\xff %d" % qos, qos=qos) for qos in (0, 1, 2)]
    for message in sent:
        await client.publish(message)
    await client.wait_received(3)
    await client.publish(Message(topic=f"{topic}/last", payload=b"", qos=2))
    received = await client.wait_received(4)
    assert sorted((each.topic, each.payload, each.qos) for each in received[:-1]) == [
        (each.topic, each.payload, min(each.qos, granted)) for each in sent
    ]
    assert (received[-1].topic, received[-1].payload, received[-1].retain) == (f"{topic}/last", b"", False)


@every_variant
@pytest.mark.parametrize("qos", [1, 2])
async def test_messages_wait_for_a_kept_session(connect: Connect, variant: Variant, topic: str, qos: int) -> None:
    first = await connect(variant, f"kept-{topic}", kept=True)
    await first.subscribe([topic], qos)
    await first.disconnect()
    other = await connect(PAHO)
    await other.publish_all([Message(topic=topic, payload=each, qos=qos) for each in texts(range(20))])
    second = await connect(variant, f"kept-{topic}", kept=True)
    if variant.name == "mosquitto":  # it has no connection without a SUBSCRIBE
        await second.subscribe([topic], qos)
    await second.wait_received(20)
    await other.publish(Message(topic=topic, payload=b"live", qos=qos))
    await second.wait_received(21)
    assert Counter(payloads(second)) == Counter([*texts(range(20)), b"live"])
    assert {each.qos for each in second.received} == {qos}
    assert first.received == []


@every_variant
async def test_a_will_is_published_for_a_lost_connection(connect: Connect, variant: Variant, topic: str) -> None:
    watcher = await connect(PAHO)
    await watcher.subscribe([f"{topic}/#"], 2)
    leaving = await connect(variant, will=Message(topic=f"{topic}/left", payload=b"no", qos=1))
    lost = await connect(variant, will=Message(topic=f"{topic}/lost", payload=b"gone", qos=1, retain=True))
    for client in (leaving, lost):
        await client.subscribe([f"{topic}-other"], 0)
    await leaving.disconnect()
    await lost.drop()
    expected = [(f"{topic}/lost", b"gone", 1, False), (f"{topic}/end", b"", 1, False)]
    if variant == Variant("mosquitto", Version.V5):  # it leaves with reason code 0x04, which asks for the will
        expected.insert(0, (f"{topic}/left", b"no", 1, False))
    await watcher.wait_received(len(expected) - 1)
    await watcher.publish(Message(topic=f"{topic}/end", payload=b"", qos=1))
    received = await watcher.wait_received(len(expected))
    assert [(each.topic, each.payload, each.qos, each.retain) for each in received] == expected
    late = await connect(PAHO)
    await late.subscribe([f"{topic}/lost"], 1)
    assert [(each.payload, each.retain) for each in await late.wait_received(1)] == [(b"gone", True)]


@every_variant
async def test_the_last_retained_message_is_kept_until_it_is_cleared(
    connect: Connect, variant: Variant, topic: str
) -> None:
    live = await connect(variant)
    await live.subscribe([topic], 1)
    for payload in (b"old", b"new"):
        await live.publish(Message(topic=topic, payload=payload, qos=1, retain=True))
    assert [(each.payload, each.retain) for each in await live.wait_received(2)] == [(b"old", False), (b"new", False)]
    late = await connect(variant)
    await late.subscribe([f"{topic}/#"], 1)
    assert [(each.payload, each.qos, each.retain) for each in await late.wait_received(1)] == [(b"new", 1, True)]
    await live.publish(Message(topic=topic, payload=b"", qos=1, retain=True))
    await live.wait_received(3)
    later = await connect(variant)
    await later.subscribe([topic], 1)
    await live.publish(Message(topic=topic, payload=b"not retained", qos=1))
    assert [(each.payload, each.retain) for each in await later.wait_received(1)] == [(b"not retained", False)]


@every_variant
async def test_a_mebibyte_less_the_overhead_goes_through_sqs(connect: Connect, variant: Variant, topic: str) -> None:
    client = await connect(variant, f"kept-{topic}", kept=True)
    await client.subscribe([topic], 1)
    payload = b"0123456789abcdef" * ((MIB - OVERHEAD) // 16)
    await client.publish(Message(topic=topic, payload=payload, qos=1))
    [received] = await client.wait_received(1)
    assert received.payload == payload


@every_variant
async def test_more_than_sqs_takes_is_refused(connect: Connect, variant: Variant, topic: str) -> None:
    keeper = await connect(PAHO, f"kept-{topic}", kept=True)
    await keeper.subscribe([topic], 1)
    client = await connect(variant)
    heard = client.hears_refusals or variant.version < Version.V5  # which only have the connection's end
    with pytest.raises(Refused) if heard else contextlib.nullcontext():
        await client.publish(Message(topic=topic, payload=b"x" * (MIB + 1), qos=1))
    other = await connect(variant)
    await other.publish(Message(topic=topic, payload=b"small", qos=1))
    await keeper.wait_received(1)
    assert payloads(keeper) == [b"small"]


# mosquitto_pub of version 5 keeps to the limit that it was told, and says nothing about what it does not send.
@pytest.mark.parametrize("variant", [each for each in VARIANTS if each != Variant("mosquitto", Version.V5)], ids=str)
async def test_a_packet_over_the_limit_is_refused(connect: Connect, variant: Variant, topic: str) -> None:
    client = await connect(variant)
    with pytest.raises(Refused):
        await client.publish(Message(topic=topic, payload=b"x" * MAX_PACKET, qos=1))


@pytest.mark.parametrize("transport", ["tcp", "websocket"])
async def test_a_packet_over_the_limit_ends_with_packet_too_large(
    connect: Connect, topic: str, transport: Transport
) -> None:
    client = await connect(Variant("paho", Version.V5, transport))
    with pytest.raises(Refused):
        await client.publish(Message(topic=topic, payload=b"x" * MAX_PACKET, qos=1))
    await client.wait_ended()
    assert client.end_reason == PACKET_TOO_LARGE


@every_variant
async def test_a_thousand_topics(connect: Connect, variant: Variant, topic: str) -> None:
    client = await connect(variant)
    topics = [f"{topic}/{number}" for number in range(TOPICS)]
    await client.subscribe(topics, 1)
    publisher = client if client.many_publishes else await connect(PAHO)
    await publisher.publish_all([Message(topic=each, payload=each.encode(), qos=1) for each in topics])
    received = await client.wait_received(TOPICS)
    assert sorted((each.topic, each.payload) for each in received) == sorted((each, each.encode()) for each in topics)


# Before MQTT 5 nobody tells mosquitto_sub why its connection has ended: it connects again, for ever.
@pytest.mark.parametrize(
    "variant", [each for each in VARIANTS if each.name != "mosquitto" or each.version == Version.V5], ids=str
)
async def test_a_second_connection_takes_over(connect: Connect, variant: Variant, topic: str) -> None:
    first = await connect(variant, f"twin-{topic}", will=Message(topic=f"{topic}/will", payload=b"over", qos=1))
    await first.subscribe([f"{topic}/a"], 1)
    watcher = await connect(PAHO)
    await watcher.subscribe([f"{topic}/will"], 1)
    second = await connect(variant, f"twin-{topic}")
    await second.subscribe([f"{topic}/b"], 1)
    await first.wait_ended()
    if variant.version == Version.V5 and variant.name in ("paho", "mqttjs"):  # which tell
        assert first.end_reason == SESSION_TAKEN_OVER
    assert [each.payload for each in await watcher.wait_received(1)] == [b"over"]
    await watcher.publish_all([Message(topic=f"{topic}/{each}", payload=b"", qos=1) for each in "ab"])
    assert [each.topic for each in await second.wait_received(1)] == [f"{topic}/b"]


@every_variant
async def test_a_shared_subscription_is_shared_out(connect: Connect, variant: Variant, topic: str) -> None:
    workers = [await connect(variant) for _ in range(2)]
    for worker in workers:
        await worker.subscribe([f"$share/group/{topic}/#"], 1)
    other = await connect(PAHO)
    await other.subscribe([f"{topic}/#"], 1)
    await other.publish_all([Message(topic=f"{topic}/work", payload=each, qos=1) for each in texts(range(100))])
    await until(
        lambda: sum(len(worker.received) for worker in workers) >= 100,
        lambda: f"all work is shared out, not {[len(worker.received) for worker in workers]}",
    )
    await other.wait_received(100)
    assert Counter(payloads(workers[0]) + payloads(workers[1])) == Counter(texts(range(100)))
    assert all(worker.received for worker in workers), "both take part"
