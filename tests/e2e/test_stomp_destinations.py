"""Where STOMP messages go, in both dialects, and what outlives connections and gateways."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import serving
from tests.e2e.stomp_peer import Peer, Ports, dialects_gateway, what_is_left
from tests.rig.clients import MqttPublisher, MqttSubscriber
from tests.rig.counting import SqsClient
from tests.rig.processes import Gateway, Ministack

DELAY = 1.0
"""Seconds."""


@pytest.fixture(scope="module")
def ports(ministack: Ministack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    gateway, ports = dialects_gateway(ministack.url, tmp_path_factory.mktemp("destinations"))
    with serving(gateway):
        yield ports


class TestRequestAndReply:
    def test_rabbitmq(self, ports: Ports, sqs: SqsClient, queue_name: str) -> None:
        with Peer(ports.rabbitmq) as asker, Peer(ports.rabbitmq) as answerer:
            answerer.subscribes(f"/queue/{queue_name}")
            for question in (b"1", b"2", b"3"):
                headers = {"reply_to": "/temp-queue/answers", "correlation_id": question.decode()}
                asker.asks("SEND", question, destination=f"/queue/{queue_name}", **headers)
            for request in answerer.gets(3):
                answerer.asks(
                    "SEND",
                    request.body * 2,
                    destination=request.header("reply-to"),
                    correlation_id=request.header("correlation-id"),
                )
            answers = {frame.header("correlation-id"): frame.body for frame in asker.gets(3)}
            assert answers == {"1": b"11", "2": b"22", "3": b"33"}
            urls = sqs.list_queues().get("QueueUrls", ())
            assert [url for url in urls if "stomp-temp" in url] == []  # replies need no queue in SQS

    @pytest.mark.parametrize("kind", ["queue", "topic"])
    def test_activemq(self, ports: Ports, queue_name: str, kind: str) -> None:
        with Peer(ports.activemq) as asker, Peer(ports.activemq) as answerer:
            answerer.subscribes(f"/queue/{queue_name}")
            asker.subscribes(f"/temp-{kind}/answers", "temp")
            asker.asks("SEND", b"?", destination=f"/queue/{queue_name}", reply_to=f"/temp-{kind}/answers")
            [request] = answerer.gets(1)
            reply_to = request.header("reply-to")
            assert reply_to.startswith(f"/remote-temp-{kind}/")
            answerer.asks("SEND", b"!", destination=reply_to)
            [answer] = asker.gets(1)
            assert (answer.body, answer.header("destination")) == (b"!", f"/temp-{kind}/answers")


class TestDurableSubscriptions:
    @pytest.fixture
    def own(self, ministack: Ministack, tmp_path: Path) -> Iterator[tuple[Gateway, Ports]]:
        gateway, ports = dialects_gateway(ministack.url, tmp_path)
        with serving(gateway):
            yield gateway, ports

    def test_they_outlive_connections_and_gateways(
        self, own: tuple[Gateway, Ports], restart: Callable[[Gateway], None], queue_name: str
    ) -> None:
        gateway, ports = own
        topic = f"/topic/{queue_name}.news"

        def comes_back() -> tuple[Peer, Peer]:
            rabbitmq, activemq = Peer(ports.rabbitmq), Peer(ports.activemq, client_id=queue_name)
            rabbitmq.subscribes(topic, f"{queue_name}-durable", durable="true", auto_delete="false")
            activemq.subscribes(topic, **{"activemq.subscriptionName": "news"})
            return rabbitmq, activemq

        def publishes(*bodies: bytes) -> None:
            with Peer(ports.rabbitmq) as publisher:
                for body in bodies:
                    publisher.asks("SEND", body, destination=topic)

        subscribers = comes_back()
        publishes(b"heard")
        for subscriber in subscribers:
            assert subscriber.gets_bodies(1) == [b"heard"]
            subscriber.leaves()
        publishes(b"missed 1", b"missed 2")
        restart(gateway)
        publishes(b"missed 3")  # nobody has subscribed since
        subscribers = comes_back()
        publishes(b"live")
        for subscriber in subscribers:
            assert subscriber.gets_bodies(4) == [b"live", b"missed 1", b"missed 2", b"missed 3"]
            subscriber.leaves()

    def test_who_unsubscribes_for_good_misses_what_follows(self, ports: Ports, queue_name: str) -> None:
        topic, name = f"/topic/{queue_name}", {"activemq.subscriptionName": "n"}
        with Peer(ports.activemq, client_id=queue_name) as peer:
            peer.subscribes(topic, **name)
            peer.asks("UNSUBSCRIBE", id="0", **name)
            peer.asks("SEND", b"unheard", destination=topic)
            peer.subscribes(topic, **name)
            peer.asks("SEND", b"heard", destination=topic)
            assert peer.gets_bodies(1) == [b"heard"]

    def test_another_topic_takes_the_place_of_the_first(self, ports: Ports, queue_name: str) -> None:
        name = {"activemq.subscriptionName": "n"}
        with Peer(ports.activemq, client_id=queue_name) as first:
            first.subscribes(f"/topic/{queue_name}.old", **name)
            first.leaves()
        with Peer(ports.activemq, client_id=queue_name) as second:
            second.subscribes(f"/topic/{queue_name}.new", **name)
            second.asks("SEND", b"old", destination=f"/topic/{queue_name}.old")
            second.asks("SEND", b"new", destination=f"/topic/{queue_name}.new")
            assert second.gets_bodies(1) == [b"new"]

    def test_what_waited_of_the_first_topic_goes_with_it(
        self, own: tuple[Gateway, Ports], restart: Callable[[Gateway], None], sqs: SqsClient, queue_name: str
    ) -> None:
        gateway, ports = own
        name = {"activemq.subscriptionName": "n"}
        old, new = f"/topic/{queue_name}.old", f"/topic/{queue_name}.new"
        with Peer(ports.activemq, client_id=queue_name) as first, Peer(ports.rabbitmq) as publisher:
            first.subscribes(old, ack="client", **name)
            for body in (b"held", b"waits"):
                publisher.asks("SEND", body, destination=old)
            first.gets(1)
            first.leaves()
        restart(gateway)
        with Peer(ports.activemq, client_id=queue_name) as second:
            second.subscribes(new, **name)
            second.asks("SEND", b"unheard", destination=old)
            second.asks("SEND", b"heard", destination=new)
            assert second.gets_bodies(1) == [b"heard"]
            second.leaves()
        [url] = [url for url in sqs.list_queues().get("QueueUrls", ()) if f"durable-{queue_name}" in url]
        restart(gateway)
        with Peer(ports.activemq, client_id=queue_name) as third:
            third.asks("SEND", b"waits", destination=new)
            third.subscribes(new, **name)
            assert third.gets_bodies(1) == [b"waits"]
            third.asks("UNSUBSCRIBE", id="0")
            third.asks("UNSUBSCRIBE", **name)
        assert url not in sqs.list_queues().get("QueueUrls", ())

    def test_there_is_one_subscriber_of_a_name(self, ports: Ports, queue_name: str) -> None:
        name = {"activemq.subscriptionName": "n"}
        with Peer(ports.activemq, client_id=queue_name) as peer:
            peer.subscribes(f"/topic/{queue_name}", **name)
            peer.sends("SUBSCRIBE", id="1", destination=f"/topic/{queue_name}", receipt="again", **name)
            assert peer.gets_error().header("receipt-id") == "again"

    def test_a_client_id_is_one_connections(self, ports: Ports, queue_name: str) -> None:
        for end in (Peer.leaves, Peer.cut):
            first = Peer(ports.activemq, client_id=queue_name)
            with pytest.raises(AssertionError, match="already connected"):
                Peer(ports.activemq, client_id=queue_name)
            first.asks("SEND", destination=f"/topic/{queue_name}")  # it lives on
            end(first)
        # What was cut off is noticed at once, and somebody else's end ends no claim.
        Peer(ports.activemq, client_id=queue_name).leaves()
        with Peer(ports.rabbitmq, client_id=queue_name), Peer(ports.rabbitmq, client_id=queue_name):
            pass


class TestActiveMQ:
    def test_composites(self, ports: Ports, queue_name: str) -> None:
        one, two, topic = f"{queue_name}.1", f"{queue_name}.2", f"{queue_name}.3"
        with Peer(ports.activemq) as peer:
            peer.subscribes(f"/topic/{topic}")
            peer.asks("SEND", b"x", destination=f"/queue/{one},{two},/topic/{topic}")
            [live] = peer.gets(1)
            assert live.header("original-destination") == rf"/queue/{one},queue\c//{two},topic\c//{topic}"
            peer.subscribes(f"/queue/{one},/queue/{two}", "both", ack="client-individual")
            for frame in peer.gets(2):
                assert (frame.body, frame.header("subscription")) == (b"x", "both")
                peer.acks(frame)
        assert what_is_left(ports.activemq, f"/queue/{one}") == what_is_left(ports.activemq, f"/queue/{two}") == []

    def test_virtual_topics(self, ports: Ports, queue_name: str) -> None:
        topic = f"VirtualTopic.{queue_name}"
        with Peer(ports.activemq) as first, Peer(ports.activemq) as second, Peer(ports.activemq) as other:
            for peer, group in ((first, "A"), (second, "A"), (other, "B")):
                peer.subscribes(f"/queue/Consumer.{group}.{topic}", ack="client-individual", prefetch_count="1")
            for body in (b"1", b"2"):
                other.asks("SEND", body, destination=f"/topic/{topic}")
            # The consumers of one group share its messages, and each group gets all.
            [one], [two] = first.gets(1), second.gets(1)
            assert sorted([one.body, two.body]) == [b"1", b"2"]
            assert one.header("original-destination") == f"/topic/{topic}"
            for expected in (b"1", b"2"):
                [frame] = other.gets(1)
                assert frame.body == expected
                other.acks(frame)

    def test_selectors(self, ports: Ports, queue_name: str) -> None:
        with Peer(ports.activemq) as peer:
            peer.subscribes(f"/topic/{queue_name}", selector="colour = 'red' AND weight > 2")
            for colour, weight in (("red", 1), ("blue", 5), ("red", 3), ("red", 4)):
                peer.asks(
                    "SEND",
                    f"{colour} {weight}".encode(),
                    destination=f"/topic/{queue_name}",
                    colour=colour,
                    weight=str(weight),
                )
            assert peer.gets_bodies(2) == [b"red 3", b"red 4"]
            peer.sends("SUBSCRIBE", id="1", destination=f"/queue/{queue_name}", selector="a = 1")
            assert b"selector" in peer.gets_error().body

    def test_an_exclusive_consumer_gets_everything(self, ports: Ports, queue_name: str) -> None:
        queue = f"/queue/{queue_name}"
        with Peer(ports.activemq) as other, Peer(ports.activemq) as first, Peer(ports.activemq) as second:
            other.subscribes(queue)
            for peer in (first, second):
                peer.subscribes(queue, ack="client", **{"activemq.exclusive": "true"})
            for body in (b"1", b"2", b"3"):
                other.asks("SEND", body, destination=queue)
            assert first.gets_bodies(3) == [b"1", b"2", b"3"]
            first.leaves()
            assert second.gets_bodies(3) == [b"1", b"2", b"3"]
            second.leaves()
            assert other.gets_bodies(3) == [b"1", b"2", b"3"]

    def test_a_subscription_without_what_its_connection_sends(self, ports: Ports, queue_name: str) -> None:
        topic = f"/topic/{queue_name}"
        with Peer(ports.activemq) as peer, Peer(ports.activemq) as other:
            peer.subscribes(topic, **{"activemq.noLocal": "true"})
            other.subscribes(topic)
            peer.asks("SEND", b"own", destination=topic)
            other.asks("SEND", b"another's", destination=topic)
            assert peer.gets_bodies(1) == [b"another's"]
            assert other.gets_bodies(2) == [b"another's", b"own"]

    @pytest.mark.parametrize("kind", ["queue", "topic"])
    def test_scheduled_delivery(self, ports: Ports, queue_name: str, kind: str) -> None:
        with Peer(ports.activemq) as peer:
            peer.subscribes(f"/{kind}/{queue_name}")
            sent = time.monotonic()
            late = str(int(DELAY * 1000))
            peer.asks("SEND", b"late", destination=f"/{kind}/{queue_name}", AMQ_SCHEDULED_DELAY=late)
            peer.asks("SEND", b"soon", destination=f"/{kind}/{queue_name}")
            assert [frame.body for frame in peer.gets(2)] == [b"soon", b"late"]
            assert time.monotonic() - sent >= DELAY


class TestDeadLetters:
    def test_a_subscription_that_names_an_exchange(self, ports: Ports, queue_name: str) -> None:
        arguments = {"x_dead_letter_exchange": "amq.topic", "x_dead_letter_routing_key": f"{queue_name}.dead"}
        queue = f"/queue/{queue_name}"
        with Peer(ports.rabbitmq) as peer:
            peer.subscribes(f"/topic/{queue_name}.dead", "dead")
            peer.subscribes(queue, "0", ack="client-individual", **arguments)
            for body in (b"refused", b"again"):
                peer.asks("SEND", body, destination=queue)
            frames = {frame.body: frame for frame in peer.gets(2)}
            peer.acks(frames[b"refused"], "NACK", requeue="false")
            [dead] = peer.gets(1)
            assert (dead.body, dead.header("subscription")) == (b"refused", "dead")
            assert (dead.header("x-first-death-queue"), dead.header("x-first-death-reason")) == (queue_name, "rejected")
            peer.acks(frames[b"again"], "NACK")
            [again] = peer.gets(1)
            assert (again.body, again.header("redelivered")) == (b"again", "true")
            peer.acks(again)
        assert what_is_left(ports.rabbitmq, queue) == []

    def test_without_one_a_refused_message_is_gone(self, ports: Ports, queue_name: str) -> None:
        queue = f"/queue/{queue_name}"
        with Peer(ports.rabbitmq) as peer:
            peer.asks("SEND", b"refused", destination=queue)
            peer.subscribes(queue, ack="client-individual")
            [frame] = peer.gets(1)
            peer.acks(frame, "NACK", requeue="false")
            peer.leaves()
        assert what_is_left(ports.rabbitmq, queue) == []

    @pytest.mark.parametrize("transaction", [False, True])
    def test_activemq_has_one_queue_for_all(self, ports: Ports, queue_name: str, transaction: bool) -> None:
        queue = f"/queue/{queue_name}"
        with Peer(ports.activemq) as peer:
            for body in (b"1", b"2", b"3"):
                peer.asks("SEND", body, destination=queue)
            peer.subscribes(queue, ack="client", prefetch_count="10")
            frames = peer.gets(3)
            if transaction:
                peer.sends("BEGIN", transaction="t")
                peer.sends("NACK", id=frames[1].header("ack"), transaction="t")
                peer.asks("COMMIT", transaction="t")
            else:
                peer.acks(frames[1], "NACK")
            refused = frames[1].body
            peer.leaves()
        assert what_is_left(ports.activemq, queue) == sorted({b"1", b"2", b"3"} - {refused})
        with Peer(ports.activemq) as reader:
            reader.subscribes("/queue/ActiveMQ.DLQ")
            [dead] = reader.gets(1)
            assert (dead.body, dead.header("x-first-death-queue")) == (refused, queue_name)
            reader.leaves()


class TestCrossing:
    """One topic, two protocols."""

    @pytest.mark.parametrize("dialect", ["rabbitmq", "activemq"])
    def test_mqtt_and_stomp(self, ports: Ports, queue_name: str, dialect: str) -> None:
        port = int(getattr(ports, dialect))
        with Peer(port) as peer, MqttSubscriber(ports.mqtt) as subscriber, MqttPublisher(ports.mqtt) as publisher:
            peer.subscribes(f"/topic/{queue_name}.*.temperature")
            subscriber.subscribe(f"{queue_name}/+/temperature")
            publisher.publish(f"{queue_name}/north/temperature", "21")
            [frame] = peer.gets(1)
            assert (frame.body, frame.header("destination")) == (b"21", f"/topic/{queue_name}.north.temperature")
            assert frame.header("persistent") == "true"  # QoS 1
            peer.asks("SEND", b"\x00\xff", destination=f"/topic/{queue_name}.south.temperature", content_length="2")
            messages = subscriber.wait_messages(2)
            assert (messages[1].topic, messages[1].body) == (f"{queue_name}/south/temperature", b"\x00\xff")

    def test_what_one_dialect_says_the_other_understands(self, ports: Ports, queue_name: str) -> None:
        """Through SQS: properties are the hub's, headers keep their names."""
        queue = f"/queue/{queue_name}"
        properties = {
            "persistent": "true",
            "priority": "7",
            "correlation_id": "c-1",
            "reply_to": "/queue/answers",
            "type": "order",
            "content_type": "text/plain",
            "own": "ü",
        }
        with Peer(ports.activemq) as activemq, Peer(ports.rabbitmq) as rabbitmq:
            activemq.asks("SEND", b"there", destination=queue, **properties)
            rabbitmq.subscribes(queue)
            [there] = rabbitmq.gets(1)
            rabbitmq.asks("UNSUBSCRIBE", id="0")
            rabbitmq.asks("SEND", b"back", destination=queue, **properties)
            activemq.subscribes(queue)
            [back] = activemq.gets(1)
        for frame in (there, back):
            got = {name: frame.header(name.replace("_", "-")) for name in properties}
            assert got == properties
        assert there.header("amqp-message-id").startswith(r"ID\c")
        assert (back.header("expires"), back.header("content-length")) == ("0", "4")
