"""STOMP on one side, AMQP 0-9-1 on the other: what RabbitMQ does with its STOMP plugin, and mqlift in both dialects.

stomp.py and pika are the clients. Only RabbitMQ passes the frame's own headers `receipt` and `content-length` on.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from tests.conftest import serving
from tests.interop.stomp.client import LOGIN, PASSCODE
from tests.rig.amqp import PERSISTENT, AmqpClient, Got
from tests.rig.clients import StompClient, StompDelivery
from tests.rig.processes import HOST, Gateway, Ministack, free_port, gateway_config
from tests.rig.rabbitmq import RabbitMQ
from tests.rig.waiting import wait_for

Name = Literal["rabbitmq", "mqlift-rabbitmq", "mqlift-activemq"]

PASSED_ON = {"receipt", "content-length"}
OF_THE_FRAME = {"subscription", "destination", "message-id", "ack", "redelivered", "content-length"}

BODIES = {
    "text": "Grüße 漢字".encode(),
    "empty": b"",
    "NUL": b"one\0two\0",
    "every byte": bytes(range(256)),
    "line ends": b"\r\n\n\r",
    "large": b"x" * 200_000,
}


@dataclass(frozen=True, slots=True)
class Site:
    """A server that speaks both."""

    name: Name
    stomp_port: int
    amqp_port: int

    @property
    def activemq(self) -> bool:
        return self.name == "mqlift-activemq"

    @contextlib.contextmanager
    def clients(
        self, decide: Callable[[Any], Literal["ack", "nack"] | None] = lambda _: "ack"
    ) -> Iterator[tuple[StompClient, AmqpClient]]:
        """One of each."""
        stomp = StompClient(self.stomp_port, username=LOGIN, password=PASSCODE, decode=False, decide=decide)
        with stomp, AmqpClient(self.amqp_port) as amqp:
            yield stomp, amqp


@pytest.fixture(scope="module")
def gateway(
    ministack: Ministack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Gateway, Mapping[str, int]]]:
    ports = {name: free_port() for name in ("mqlift-rabbitmq", "mqlift-activemq", "amqp")}
    listeners: list[dict[str, object]] = [{"protocol": "amqp091", "host": HOST, "port": ports["amqp"]}]
    for dialect in ("rabbitmq", "activemq"):
        listener = {"protocol": "stomp", "host": HOST, "port": ports[f"mqlift-{dialect}"], "dialect": dialect}
        listeners.append(listener)
    config = gateway_config(ministack.url, listeners=listeners, receiver={"wait": 1}, prefix="stomp-amqp-")
    running = Gateway(config, tmp_path_factory.mktemp("stomp-amqp"))
    with serving(running):
        yield running, ports


def site_of(request: pytest.FixtureRequest, name: Name) -> Site:
    if name == "rabbitmq":
        broker: RabbitMQ = request.getfixturevalue("rabbitmq")
        return Site(name, broker.stomp_port, broker.port)
    _, ports = request.getfixturevalue("gateway")
    return Site(name, ports[name], ports["amqp"])


@pytest.fixture(params=["rabbitmq", "mqlift-rabbitmq"])
def site(request: pytest.FixtureRequest) -> Site:
    """RabbitMQ, and mqlift in its dialect: they have to be alike."""
    return site_of(request, request.param)


@pytest.fixture(params=["rabbitmq", "mqlift-rabbitmq", "mqlift-activemq"])
def any_site(request: pytest.FixtureRequest) -> Site:
    return site_of(request, request.param)


@pytest.fixture
def activemq(request: pytest.FixtureRequest) -> Site:
    return site_of(request, "mqlift-activemq")


def properties(got: Got) -> dict[str, Any]:
    """What of a message is set, with its own headers among it."""
    said = {name: value for name, value in vars(got.properties).items() if value is not None}
    own = {name: value for name, value in got.headers.items() if name not in PASSED_ON}
    return said | {"headers": own} if own else {name: value for name, value in said.items() if name != "headers"}


def own_headers(frame: StompDelivery) -> dict[str, str]:
    """What of a MESSAGE is the message's."""
    return {name: value for name, value in frame.headers.items() if name not in OF_THE_FRAME | PASSED_ON}


# From STOMP


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, {}),
        ({"persistent": "true"}, {"delivery_mode": PERSISTENT}),
        ({"persistent": "false"}, {}),
        ({"content-type": "application/json", "content-encoding": "gzip"}, None),
        ({"priority": "5", "correlation-id": "c", "expiration": "60000"}, None),
        ({"amqp-message-id": "m", "timestamp": "1600000000"}, {"message_id": "m", "timestamp": 1_600_000_000}),
        ({"type": "order", "app-id": "app"}, {"type": "order", "app_id": "app"}),
        ({"reply-to": "/queue/x"}, {"reply_to": "/queue/x"}),
        ({"reply-to": "/topic/x"}, {"reply_to": "/topic/x"}),
        ({"reply-to": "plain"}, {"reply_to": "plain"}),
        ({"own": "1", "x-grün": "a:b\nc"}, {"headers": {"own": "1", "x-grün": "a:b\nc"}}),
        ({"delivery-mode": "2", "headers": "h"}, {"headers": {"delivery-mode": "2", "headers": "h"}}),
    ],
    ids=lambda value: ",".join(value) if value else "",
)
def test_headers_become_properties(
    site: Site, queue_name: str, headers: dict[str, str], expected: dict[str, Any] | None
) -> None:
    if expected is None:  # the same names, but for the hyphen
        named = {name.replace("-", "_"): value for name, value in headers.items()}
        expected = named | {name: int(value) for name, value in named.items() if name == "priority"}
    with site.clients() as (stomp, amqp):
        amqp.declare(queue_name)
        # A /queue/ with persistent:false would have to be an exclusive one, for RabbitMQ.
        stomp.send(f"/amq/queue/{queue_name}", "hello", **headers)
        got = amqp.take(queue_name)
    assert (got.body, properties(got)) == ("hello", expected)


def test_headers_of_jms_become_properties(activemq: Site, queue_name: str) -> None:
    headers = {"persistent": "true", "priority": "12", "correlation-id": "c", "type": "order", "reply-to": "/queue/r"}
    with activemq.clients() as (stomp, amqp):
        amqp.declare(queue_name)
        stomp.send(f"/queue/{queue_name}", "hello", own="1", JMSXGroupID="g", expires="0", **headers)
        got = amqp.take(queue_name)
    said = properties(got)
    assert said.pop("message_id").startswith("ID:")
    assert said.pop("timestamp") > 1_600_000_000
    assert said == {
        "delivery_mode": PERSISTENT,
        "priority": 9,
        "correlation_id": "c",
        "type": "order",
        "reply_to": "/queue/r",
        "headers": {"own": "1", "JMSXGroupID": "g"},
    }


@pytest.mark.parametrize("name", BODIES)
def test_bodies_cross_both_ways(any_site: Site, queue_name: str, name: str) -> None:
    body = BODIES[name]
    with any_site.clients() as (stomp, amqp):
        amqp.declare(queue_name)
        stomp.send(f"/queue/{queue_name}", body)
        assert amqp.take(queue_name).octets == body
        stomp.subscribe(f"/queue/{queue_name}")
        amqp.publish(queue_name, body)
        [delivery] = stomp.wait_deliveries(1)
        assert (delivery.body or b"") == body


def test_text_and_bytes_are_told_apart(activemq: Site, queue_name: str) -> None:
    with activemq.clients() as (stomp, amqp):
        amqp.declare(queue_name)
        stomp.send(f"/queue/{queue_name}", "text", **{"amq-msg-type": "text"})
        assert amqp.take(queue_name).headers["amq-msg-type"] == "text"
        stomp.subscribe(f"/queue/{queue_name}")
        amqp.publish(queue_name, "text", headers={"amq-msg-type": "text"})
        amqp.publish(queue_name, "bytes")
        frames = {bytes(frame.body): frame.headers for frame in stomp.wait_deliveries(2)}
    assert "content-length" not in frames[b"text"]
    assert frames[b"bytes"]["content-length"] == "5"


@pytest.mark.parametrize(
    ("destination", "exchange", "pattern", "key"),
    [
        ("/topic/{}.a", "amq.topic", "{}.#", "{}.a"),
        ("/exchange/amq.direct/{}", "amq.direct", "{}", "{}"),
        ("/exchange/amq.fanout", "amq.fanout", "", ""),
        ("/exchange/amq.fanout/{}", "amq.fanout", "", "{}"),
        ("/queue/{}", "", "", "{}"),
        ("/amq/queue/{}", "", "", "{}"),
    ],
)
def test_destinations_are_exchanges_and_keys(
    site: Site, queue_name: str, destination: str, exchange: str, pattern: str, key: str
) -> None:
    with site.clients() as (stomp, amqp):
        queue = amqp.declare(queue_name if not exchange else "")
        if exchange:
            amqp.channel.queue_bind(queue, exchange, pattern.format(queue_name))
        stomp.send(destination.format(queue_name), "x", own="1")
        assert amqp.take(queue).routing_key == key.format(queue_name)


def test_a_headers_exchange_sees_the_headers_of_a_send(site: Site, queue_name: str) -> None:
    with site.clients() as (stomp, amqp):
        queue = amqp.declare()
        amqp.channel.exchange_declare(queue_name, "headers")
        amqp.channel.queue_bind(queue, queue_name, "", {"x-match": "all", "colour": "red"})
        for colour in ("blue", "red"):
            stomp.send(f"/exchange/{queue_name}", colour, colour=colour)
        assert amqp.take(queue).body == "red"


def test_a_transaction_arrives_whole_or_not_at_all(any_site: Site, queue_name: str) -> None:
    with any_site.clients() as (stomp, amqp):
        amqp.declare(queue_name)
        for end in (stomp.connection.abort, stomp.connection.commit):
            transaction = stomp.connection.begin()
            for number in range(5):
                stomp.connection.send(
                    f"/queue/{queue_name}", f"{end.__name__} {number}", headers={"transaction": transaction}
                )
            end(transaction)
        stomp.send(f"/queue/{queue_name}", "after")
        bodies = {amqp.take(queue_name).body for _ in range(6)}
    assert bodies == {*(f"commit {number}" for number in range(5)), "after"}


def test_priorities_count_in_both_directions(site: Site, queue_name: str) -> None:
    with site.clients() as (stomp, amqp):
        amqp.declare(queue_name, x_max_priority=9)
        for priority in (1, 5, 9):
            stomp.send(f"/amq/queue/{queue_name}", str(priority), priority=str(priority))
        assert [amqp.take(queue_name).body for _ in range(3)] == ["9", "5", "1"]
        for priority in (1, 5, 9):
            amqp.publish(queue_name, str(priority), priority=priority)
        stomp.subscribe(f"/amq/queue/{queue_name}", **{"prefetch-count": "1"})
        frames = stomp.wait_deliveries(3)
    assert [(frame.body, frame.headers["priority"]) for frame in frames] == [(b"9", "9"), (b"5", "5"), (b"1", "1")]


# From AMQP


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"delivery_mode": 2}, {"persistent": "true"}),
        (
            {"content_type": "text/plain", "content_encoding": "gzip", "priority": 4, "correlation_id": "c"},
            {"persistent": "true", "content-type": "text/plain", "content-encoding": "gzip", "priority": "4"}
            | {"correlation-id": "c"},
        ),
        (
            {"expiration": "60000", "message_id": "m", "timestamp": 1_600_000_000, "type": "t", "app_id": "a"},
            {"persistent": "true", "expiration": "60000", "amqp-message-id": "m", "timestamp": "1600000000"}
            | {"type": "t", "app-id": "a"},
        ),
        ({"reply_to": "plain"}, {"persistent": "true", "reply-to": "/reply-queue/plain"}),
        ({"reply_to": "/queue/x"}, {"persistent": "true", "reply-to": "/queue/x"}),
        (
            {"headers": {"own": "grün", "n": 5, "big": 2**40, "a:b": "c\nd", "empty": ""}},
            {"persistent": "true", "own": "grün", "n": "5", "big": str(2**40), "a:b": "c\nd", "empty": ""},
        ),
    ],
    ids=lambda value: ",".join(value) if value else "",
)
def test_properties_become_headers(
    site: Site, queue_name: str, given: dict[str, Any], expected: dict[str, str]
) -> None:
    with site.clients() as (stomp, amqp):
        amqp.declare(queue_name)
        stomp.subscribe(f"/queue/{queue_name}")
        amqp.publish(queue_name, "hello", **given)
        [frame] = stomp.wait_deliveries(1)
    assert (frame.headers["destination"], own_headers(frame)) == (f"/queue/{queue_name}", expected)


def test_properties_become_headers_of_jms(activemq: Site, queue_name: str) -> None:
    given = {"priority": 4, "correlation_id": "c", "type": "t", "content_type": "text/plain", "reply_to": "answers"}
    with activemq.clients() as (stomp, amqp):
        amqp.declare(queue_name)
        stomp.subscribe(f"/queue/{queue_name}")
        amqp.publish(queue_name, "hello", headers={"own": 1}, timestamp=1_600_000_000, expiration="4000000000", **given)
        [frame] = stomp.wait_deliveries(1)
    assert own_headers(frame) == {
        "priority": "4",
        "timestamp": "1600000000000",
        "expires": "1604000000000",
        "persistent": "true",
        "correlation-id": "c",
        "type": "t",
        "content-type": "text/plain",
        "reply-to": "/queue/answers",
        "own": "1",
    }


@pytest.mark.parametrize(
    ("destination", "exchange", "key", "shown"),
    [
        ("/topic/{}.*", "amq.topic", "{}.a", "/topic/{}.a"),
        ("/topic/{}.#", "amq.topic", "{}.a.b", "/topic/{}.a.b"),
        ("/exchange/amq.topic/{}.#", "amq.topic", "{}", "/topic/{}"),
        ("/exchange/amq.direct/{}", "amq.direct", "{}", "/exchange/amq.direct/{}"),
        ("/exchange/amq.fanout", "amq.fanout", "{}", "/exchange/amq.fanout/{}"),
        ("/exchange/amq.fanout", "amq.fanout", "", "/exchange/amq.fanout"),
    ],
)
def test_exchanges_and_keys_are_destinations(
    site: Site, queue_name: str, destination: str, exchange: str, key: str, shown: str
) -> None:
    with site.clients() as (stomp, amqp):
        stomp.subscribe(destination.format(queue_name), ack="auto")
        amqp.publish(key.format(queue_name), "x", exchange)
        [frame] = stomp.wait_deliveries(1)
    assert frame.headers["destination"] == shown.format(queue_name)


def test_a_topic_of_activemq_is_a_key_of_amq_topic(activemq: Site, queue_name: str) -> None:
    with activemq.clients() as (stomp, amqp):
        stomp.subscribe(f"/topic/{queue_name}.>", ack="auto")
        amqp.publish(f"{queue_name}.a.b", "from amqp", "amq.topic")
        [frame] = stomp.wait_deliveries(1)
        assert frame.headers["destination"] == f"/topic/{queue_name}.a.b"
        queue = amqp.declare()
        amqp.channel.queue_bind(queue, "amq.topic", f"{queue_name}.*")
        stomp.send(f"/topic/{queue_name}.c", "from stomp")
        assert amqp.take(queue).routing_key == f"{queue_name}.c"


@pytest.mark.parametrize("suffix", ["a b", "é", "a%20b", "a%2Fb", "a+b"])
def test_a_name_is_the_same_queue_for_both(site: Site, queue_name: str, suffix: str) -> None:
    """Of a name's escapes the plugin undoes the slash's, and no other."""
    with site.clients() as (stomp, amqp):
        queue = queue_name + suffix.replace("%2F", "/")
        amqp.declare(queue)
        stomp.send(f"/queue/{queue_name}{suffix}", "x")
        assert amqp.take(queue).body == "x"


# Requests and answers


def test_stomp_asks_and_amqp_answers(any_site: Site, queue_name: str) -> None:
    with any_site.clients() as (stomp, amqp):
        amqp.declare(queue_name)
        if any_site.activemq:
            stomp.subscribe("/temp-queue/answers", "answers", ack="auto")
        for question in ("1", "2", "3"):
            stomp.send(
                f"/queue/{queue_name}", question, **{"reply-to": "/temp-queue/answers", "correlation-id": question}
            )
        for _ in range(3):
            request = amqp.take(queue_name)
            about = request.properties
            amqp.publish(about.reply_to, request.body * 2, correlation_id=about.correlation_id)
        answers = {frame.headers["correlation-id"]: frame.body for frame in stomp.wait_deliveries(3)}
    assert answers == {"1": b"11", "2": b"22", "3": b"33"}


@pytest.mark.parametrize("direct", [True, False], ids=["direct reply-to", "exclusive queue"])
def test_amqp_asks_and_stomp_answers(any_site: Site, queue_name: str, direct: bool) -> None:
    with any_site.clients() as (stomp, amqp):
        amqp.declare(queue_name)
        answers = "amq.rabbitmq.reply-to" if direct else amqp.declare()
        amqp.consume(answers, no_ack=True)
        for question in ("1", "2", "3"):
            amqp.publish(queue_name, question, reply_to=answers, correlation_id=question)
        stomp.subscribe(f"/queue/{queue_name}")
        for request in stomp.wait_deliveries(3):
            headers = {"correlation-id": request.headers["correlation-id"]}
            stomp.send(request.headers["reply-to"], request.body * 2, **headers)
        got = {each.properties.correlation_id: each.body for each in amqp.wait_received(3)}
    assert got == {"1": "11", "2": "22", "3": "33"}


def test_an_answer_that_nobody_waits_for_does_no_harm(any_site: Site, queue_name: str) -> None:
    with any_site.clients() as (stomp, amqp):
        amqp.declare(queue_name)
        amqp.publish(queue_name, "?", reply_to=amqp.declare())
        amqp.connection.close()
        stomp.subscribe(f"/queue/{queue_name}")
        [request] = stomp.wait_deliveries(1)
        stomp.send(request.headers["reply-to"], "!")
        stomp.send(f"/queue/{queue_name}-after", "it lives on")


# Refusals and competition


def test_what_stomp_refuses_is_a_dead_letter_for_amqp(site: Site, queue_name: str) -> None:
    with site.clients(decide=lambda _: None) as (stomp, amqp):
        dead = amqp.declare(f"{queue_name}-dead")
        amqp.declare(queue_name, x_dead_letter_exchange="", x_dead_letter_routing_key=dead)
        amqp.publish(queue_name, "poison", headers={"own": "1"})
        stomp.subscribe(f"/amq/queue/{queue_name}")
        [frame] = stomp.wait_deliveries(1)
        stomp.connection.nack(frame.headers["ack"], requeue="false")
        letter = amqp.take(dead)
    [death] = letter.headers["x-death"]
    assert (letter.body, letter.headers["own"]) == ("poison", "1")
    assert (death["queue"], death["reason"], death["count"]) == (queue_name, "rejected", 1)
    assert death["routing-keys"] == [queue_name]


def test_what_amqp_refuses_is_a_dead_letter_for_stomp(site: Site, queue_name: str) -> None:
    with site.clients() as (stomp, amqp):
        dead = amqp.declare(f"{queue_name}-dead")
        amqp.declare(queue_name, x_dead_letter_exchange="", x_dead_letter_routing_key=dead)
        stomp.subscribe(f"/amq/queue/{dead}")
        stomp.send(f"/amq/queue/{queue_name}", "poison", own="1")
        amqp.consume(queue_name)
        [poison] = amqp.wait_received(1)
        poison.nack(requeue=False)
        amqp.pump(lambda: stomp.deliveries, "a dead letter")
        [letter] = stomp.deliveries
    assert (letter.body, letter.headers["own"]) == (b"poison", "1")
    assert letter.headers["x-first-death-queue"] == queue_name
    assert letter.headers["x-first-death-reason"] == "rejected"


def test_what_expires_on_its_way_from_stomp_is_a_dead_letter_for_amqp(site: Site, queue_name: str) -> None:
    with site.clients() as (stomp, amqp):
        dead = amqp.declare(f"{queue_name}-dead")
        amqp.declare(queue_name, x_dead_letter_exchange="", x_dead_letter_routing_key=dead)
        stomp.send(f"/amq/queue/{queue_name}", "late", expiration="200")
        letter = amqp.take(dead)
    [death] = letter.headers["x-death"]
    assert (death["reason"], death["original-expiration"]) == ("expired", "200")
    assert letter.properties.expiration is None


def test_what_activemq_takes_for_poison_is_there_for_amqp(activemq: Site, queue_name: str) -> None:
    with activemq.clients(decide=lambda _: "nack") as (stomp, amqp):
        stomp.subscribe(f"/queue/{queue_name}")
        amqp.publish(queue_name, f"poison {queue_name}")
        assert stomp.wait_deliveries(1)
        amqp.declare("ActiveMQ.DLQ")
        letter = amqp.take("ActiveMQ.DLQ")
    [death] = letter.headers["x-death"]
    assert (letter.body, death["queue"], death["reason"]) == (f"poison {queue_name}", queue_name, "rejected")


def test_what_one_protocol_gives_back_the_other_gets(any_site: Site, queue_name: str) -> None:
    with any_site.clients(decide=lambda _: None) as (stomp, amqp):
        amqp.declare(queue_name)
        amqp.publish(queue_name, "x")
        stomp.subscribe(f"/queue/{queue_name}")
        stomp.wait_deliveries(1)
        stomp.drop()
        amqp.consume(queue_name)
        [again] = amqp.wait_received(1)
        assert (again.body, again.redelivered) == ("x", True)


def test_both_compete_for_one_queue(any_site: Site, queue_name: str) -> None:
    count = 60
    with any_site.clients() as (stomp, amqp):
        amqp.declare(queue_name)
        stomp.subscribe(f"/queue/{queue_name}", **{"prefetch-count": "5"})
        amqp.consume(queue_name, no_ack=True)
        for number in range(count):
            amqp.publish(queue_name, str(number))
        amqp.pump(lambda: len(amqp.received) + len(stomp.deliveries) >= count, "everything")
        bodies = Counter([each.body for each in amqp.received] + [each.body.decode() for each in stomp.deliveries])
        wait_for(lambda: stomp.deliveries and amqp.received, "each has its share")
    assert bodies == Counter(str(number) for number in range(count))


def test_a_delay_of_activemq_counts_for_amqp(activemq: Site, queue_name: str) -> None:
    with activemq.clients() as (stomp, amqp):
        amqp.declare(queue_name)
        stomp.send(f"/queue/{queue_name}", "late", AMQ_SCHEDULED_DELAY="1500")
        stomp.send(f"/queue/{queue_name}", "soon")
        assert [amqp.take(queue_name).body for _ in range(2)] == ["soon", "late"]
