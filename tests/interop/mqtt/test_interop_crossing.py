"""What one client says and another reads: between versions of MQTT, and to STOMP and back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.mqtt.client import Message, Version, until
from tests.interop.mqtt.conftest import VARIANTS, Connect, Listeners, Variant
from tests.rig.clients import StompClient

USER_PROPERTIES = (("colour", "blue"), ("size", "7"), ("colour", "green"))
PLAIN_PROPERTIES = (("colour", "blue"), ("size", "7"))

_OF_V5 = [each for each in VARIANTS if each.version == Version.V5]
_OLDER = [each for each in VARIANTS if each.version < Version.V5]
every_v5 = pytest.mark.parametrize("variant", _OF_V5, ids=str)


def request_to(topic: str, user_properties: tuple[tuple[str, str], ...]) -> Message:
    return Message(
        topic=f"{topic}/request",
        payload=b'{"what": "time"}',
        qos=1,
        content_type="application/json",
        response_topic=f"{topic}/answers/1",
        correlation_data=b"ask-1",
        user_properties=user_properties,
    )


@pytest.fixture
def stomp(listeners: Listeners) -> Iterator[StompClient]:
    with StompClient(listeners.stomp) as client:
        yield client


@every_v5
@pytest.mark.parametrize("reader", _OF_V5, ids=str)
async def test_properties_between_clients_of_version_5(
    connect: Connect, variant: Variant, reader: Variant, topic: str
) -> None:
    request = request_to(topic, USER_PROPERTIES)
    receiving = await connect(reader)
    await receiving.subscribe([request.topic], 1)
    sending = await connect(variant)
    await sending.publish(request)
    [received] = await receiving.wait_received(1)
    # mqtt.js keeps values of one name together.
    assert sorted(received.user_properties) == sorted(USER_PROPERTIES)
    if "mqttjs" not in (variant.name, reader.name):
        assert received == request
    assert (received.payload, received.content_type) == (request.payload, request.content_type)
    assert (received.response_topic, received.correlation_data) == (request.response_topic, request.correlation_data)


@every_v5
@pytest.mark.parametrize("older", _OLDER, ids=str)
async def test_between_version_5_and_older_ones(connect: Connect, variant: Variant, older: Variant, topic: str) -> None:
    new, old = await connect(variant), await connect(older)
    request = request_to(topic, USER_PROPERTIES)
    assert request.response_topic is not None
    await new.subscribe([request.response_topic], 2)
    await old.subscribe([request.topic], 2)
    await new.publish(request)
    assert await old.wait_received(1) == [Message(topic=request.topic, payload=request.payload, qos=1)]
    answer = Message(topic=request.response_topic, payload=b"noon", qos=2)
    await old.publish(answer)
    assert await new.wait_received(1) == [answer]


@every_v5
async def test_a_request_to_stomp_is_answered(
    connect: Connect, variant: Variant, stomp: StompClient, topic: str
) -> None:
    request = request_to(topic, PLAIN_PROPERTIES)
    assert request.response_topic is not None
    client = await connect(variant)
    await client.subscribe([request.response_topic], 1)
    stomp.subscribe(f"/topic/{topic}.request")
    await client.publish(request)
    await until(lambda: stomp.deliveries, "STOMP has the request")
    [delivery] = stomp.deliveries
    headers = delivery.headers
    assert delivery.body == request.payload.decode()
    assert headers["destination"] == f"/topic/{topic}.request"
    assert headers["content-type"] == "application/json"
    assert (headers["colour"], headers["size"]) == ("blue", "7")
    correlation_id = headers["correlation-id"]
    assert correlation_id == "ask-1"
    stomp.send(
        headers["reply-to"], "noon", **{"correlation-id": correlation_id, "content-type": "text/plain", "zone": "UTC"}
    )
    [answer] = await client.wait_received(1)
    assert answer == Message(
        topic=request.response_topic,
        payload=b"noon",
        qos=answer.qos,
        content_type="text/plain",
        correlation_data=b"ask-1",
        user_properties=(("zone", "UTC"),),
    )


async def test_stomp_answers_to_a_topic_with_a_dot(connect: Connect, stomp: StompClient, topic: str) -> None:
    client = await connect(Variant("paho", Version.V5))
    await client.subscribe([f"{topic}/#"], 1)
    stomp.subscribe(f"/topic/{topic}.request")
    await client.publish(Message(topic=f"{topic}/request", payload=b"?", qos=1, response_topic=f"{topic}/v1.2"))
    await until(lambda: stomp.deliveries, "STOMP has the request")
    stomp.send(stomp.deliveries[0].headers["reply-to"], "noon")
    received = await client.wait_received(2)
    assert received[1].topic == f"{topic}/v1.2"


@every_v5
async def test_a_request_of_stomp_is_answered(
    connect: Connect, variant: Variant, stomp: StompClient, topic: str
) -> None:
    client = await connect(variant)
    await client.subscribe([f"{topic}/request"], 1)
    stomp.subscribe(f"/topic/{topic}.answers")
    stomp.send(
        f"/topic/{topic}.request",
        "what time?",
        **{"reply-to": f"/topic/{topic}.answers", "correlation-id": "ask-2", "zone": "UTC"},
    )
    [request] = await client.wait_received(1)
    assert request.payload == b"what time?"
    assert request.correlation_data == b"ask-2"
    assert request.response_topic == f"{topic}/answers"
    assert ("zone", "UTC") in request.user_properties
    answer = Message(topic=request.response_topic, payload=b"noon", qos=1, correlation_data=request.correlation_data)
    await client.publish(answer)
    await until(lambda: stomp.deliveries, "STOMP has the answer")
    assert stomp.deliveries[0].body == "noon"
    assert stomp.deliveries[0].headers["correlation-id"] == "ask-2"


@pytest.mark.parametrize("variant", _OLDER, ids=str)
async def test_stomp_and_older_versions_reach_each_other(
    connect: Connect, variant: Variant, stomp: StompClient, topic: str
) -> None:
    client = await connect(variant)
    await client.subscribe([f"{topic}/in"], 1)
    stomp.subscribe(f"/topic/{topic}.out")
    stomp.send(f"/topic/{topic}.in", "größer", colour="blue")
    [received] = await client.wait_received(1)
    assert (received.topic, received.payload.decode()) == (f"{topic}/in", "größer")
    await client.publish(Message(topic=f"{topic}/out", payload="kleiner, größer".encode(), qos=2))
    await until(lambda: stomp.deliveries, "STOMP has it")
    assert stomp.deliveries[0].body == "kleiner, größer"
