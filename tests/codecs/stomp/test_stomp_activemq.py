"""ActiveMQ's destinations and headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.backend import QueueSpec
from gateway.core.errors import Refused
from gateway.core.message import NO_HEADERS, NO_PROPERTIES, Address, Message, Origin, Properties
from gateway.core.shared import SUBSCRIPTION
from gateway.protocols.stomp.activemq import MAX_COMPOSITE, ActiveMQ, durable_subscriber_queue
from gateway.protocols.stomp.codec import FrameLimits, FrameParser
from gateway.protocols.stomp.dialect import DURABLE, LIVE, PRIVATE, Owner, ReplyTo, Sender, Source, Target, Wishes
from gateway.protocols.stomp.errors import BadDestination, BadHeader, InvalidDestination, MissingHeader
from gateway.protocols.stomp.versions import V1_2

ACTIVEMQ = ActiveMQ()
OWNER = Owner("S", "client")
OTHER = Owner("O")
NOW = 1_700_000_000.25
ORIGIN = Origin("stomp")
ADDRESS = Address("", "q")


def sent(body: bytes = b"body", **headers: str) -> Message:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ACTIVEMQ.to_message({"destination": "/queue/q", **named}, ADDRESS, body, Sender(ORIGIN, lambda: NOW, "S"))


def received(message: Message, owner: Owner = OWNER) -> dict[str, str]:
    parser = FrameParser(FrameLimits(100, 1 << 16, 1 << 16, 1 << 16))
    parser.receive_data(f"MESSAGE\n{ACTIVEMQ.message_lines(message, V1_2, owner)}\n".encode() + message.body + b"\0")
    frame = parser.next_frame()
    assert frame is not None
    assert frame.body == message.body
    return frame.headers


def sources(**headers: str) -> list[Source]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return list(ACTIVEMQ.sources(named, OWNER, "live"))


class TestTargets:
    @pytest.mark.parametrize(
        ("destination", "target"),
        [
            ("/queue/A.B", Target(Address("", "A.B"), Source("A.B", DURABLE))),
            ("/queue/a/b", Target(Address("", "a/b"), Source("a/b", DURABLE))),
            (" /queue/a ", Target(Address("", "a"), Source("a", DURABLE))),
            ("/topic/A.B", Target(Address("amq.topic", "A.B"))),
            ("/topic/VirtualTopic.Orders", Target(Address("amq.topic", "VirtualTopic.Orders"))),
            (
                "/queue/Consumer.A.VirtualTopic.Orders.EU",
                Target(
                    Address("", "Consumer.A.VirtualTopic.Orders.EU"),
                    Source(
                        "Consumer.A.VirtualTopic.Orders.EU",
                        DURABLE,
                        (Address("amq.topic", "VirtualTopic.Orders.EU"),),
                    ),
                ),
            ),
            ("/temp-queue/x", Target(Address("", "stomp-temp-S-x"), Source("stomp-temp-S-x", PRIVATE))),
            ("/temp-topic/x", Target(Address("amq.topic", "stomp-temp-S-x"))),
            ("/remote-temp-queue/stomp-temp-O-x", Target(Address("", "stomp-temp-O-x"))),
            ("/remote-temp-topic/stomp-temp-O-x", Target(Address("amq.topic", "stomp-temp-O-x"))),
        ],
    )
    def test_one(self, destination, target):
        assert list(ACTIVEMQ.targets(destination, {}, OWNER)) == [target]

    def test_composite(self):
        targets = ACTIVEMQ.targets("/queue/a,/topic/b,/queue/c", {}, OWNER)
        assert [target.address for target in targets] == [
            Address("", "a"),
            Address("amq.topic", "b"),
            Address("", "c"),
        ]

    @pytest.mark.parametrize(
        ("destination", "error"),
        [
            ("", BadDestination),
            ("a", BadDestination),
            ("/exchange/x/y", BadDestination),
            ("/queue/a,", InvalidDestination),
            ("a,/queue/b", BadDestination),
            ("/queue/", InvalidDestination),
            ("/queue/*", InvalidDestination),
            ("/queue/a.>", InvalidDestination),
            ("/topic/a.*.b", InvalidDestination),
            ("/queue/" + "é" * 128, BadDestination),
            ("/remote-temp-queue/orders", InvalidDestination),
            ("/queue/a?consumer.prefetchSize=1", Refused),
            (",".join(["/queue/a"] * (MAX_COMPOSITE + 1)), InvalidDestination),
        ],
    )
    def test_refused(self, destination, error):
        with pytest.raises(error):
            ACTIVEMQ.targets(destination, {}, OWNER)

    @pytest.mark.parametrize(
        ("address", "owner", "text"),
        [
            (Address("", "A.B"), OWNER, "/queue/A.B"),
            (Address("amq.topic", "A.B"), OWNER, "/topic/A.B"),
            (Address("", "stomp-temp-S-x"), OWNER, "/temp-queue/x"),
            (Address("", "stomp-temp-S-x"), OTHER, "/remote-temp-queue/stomp-temp-S-x"),
            (Address("amq.topic", "stomp-temp-S-x"), OWNER, "/temp-topic/x"),
            (Address("amq.topic", "stomp-temp-S-x"), OTHER, "/remote-temp-topic/stomp-temp-S-x"),
            (Address("x", "k"), OWNER, "/exchange/x/k"),
        ],
    )
    def test_written(self, address, owner, text):
        assert ACTIVEMQ.format(address, owner) == text
        if address.exchange != "x":
            (target,) = ACTIVEMQ.targets(text, {}, owner)
            assert target.address == address

    @pytest.mark.parametrize(
        ("reply_to", "stands_for", "shown"),
        [
            ("/queue/r", None, "/queue/r"),
            ("/topic/r", None, "/topic/r"),
            ("/temp-queue/r", ReplyTo("stomp-temp-S-r", "stomp-temp-S-r"), "/remote-temp-queue/stomp-temp-S-r"),
            ("/temp-topic/r", ReplyTo("/topic/stomp-temp-S-r"), "/remote-temp-topic/stomp-temp-S-r"),
        ],
    )
    def test_somebody_else_can_answer(self, reply_to, stands_for, shown):
        got = ACTIVEMQ.reply_to(reply_to, OWNER)
        assert got == stands_for
        message = sent(reply_to=reply_to if got is None else got.text)
        assert received(message, OTHER)["reply-to"] == shown
        (target,) = ACTIVEMQ.targets(shown, {}, OTHER)
        assert target.address.routing_key in ("r", "stomp-temp-S-r")

    @pytest.mark.parametrize("reply_to", ["/temp-queue/", "/temp-queue/" + "x" * 255])
    def test_a_temporary_destination_that_cannot_be(self, reply_to):
        with pytest.raises(BadDestination):
            ACTIVEMQ.reply_to(reply_to, OWNER)


class TestSources:
    @pytest.mark.parametrize(
        ("destination", "pattern"),
        [
            ("/topic/A.B", "A.B"),
            ("/topic/A.*.B", "A.*.B"),
            ("/topic/A.>", "A.#"),
            ("/topic/>", "#"),
            ("/topic/A>", "A>"),
            ("/temp-topic/x", "stomp-temp-S-x"),
        ],
    )
    def test_topic(self, destination, pattern):
        assert sources(destination=destination) == [Source("live", LIVE, (Address("amq.topic", pattern),))]

    def test_queues(self):
        assert sources(destination="/queue/a") == [Source("a", DURABLE)]
        assert sources(destination="/temp-queue/a") == [Source("stomp-temp-S-a", PRIVATE)]
        (consumer,) = sources(destination="/queue/Consumer.A.VirtualTopic.Orders")
        assert consumer.bindings == (Address("amq.topic", "VirtualTopic.Orders"),)
        assert consumer.spec == QueueSpec(durable=True)

    def test_composite(self):
        assert sources(destination="/queue/a,/topic/t.>,/topic/u,/queue/b") == [
            Source("a", DURABLE),
            Source("b", DURABLE),
            Source("live", LIVE, (Address("amq.topic", "t.#"), Address("amq.topic", "u"))),
        ]

    @pytest.mark.parametrize("name", ["activemq.subscriptionName", "durable-subscription-name"])
    def test_durable(self, name):
        queue = durable_subscriber_queue("client", "mine")
        got = list(ACTIVEMQ.sources({"destination": "/topic/t", name: "mine"}, OWNER, "live"))
        spec = QueueSpec(arguments={SUBSCRIPTION: "t"})
        assert got == [Source(queue, spec, (Address("amq.topic", "t"),), exact=True)]
        assert ACTIVEMQ.forgotten({name: "mine"}, OWNER, ()) == (queue,)
        assert ACTIVEMQ.forgotten({"id": "0"}, OWNER, got) == ()

    def test_a_durable_subscription_is_another_when_its_topics_are(self):
        def spec(destination):
            headers = {"destination": destination, "activemq.subscriptionName": "n"}
            (source,) = ACTIVEMQ.sources(headers, OWNER, "live")
            return source.spec

        assert spec("/topic/a,/topic/b") == spec("/topic/b,a,b")
        assert len({spec(each).arguments[SUBSCRIPTION] for each in ("/topic/a", "/topic/a.>", "/topic/a,b")}) == 3

    @pytest.mark.parametrize("name", ["amq.gen-x", "amq.rabbitmq.reply-to.g-x"])
    def test_a_queue_for_answers_to_amqp_is_not_made(self, name):
        assert list(ACTIVEMQ.targets(f"/queue/{name}", {}, OWNER)) == [Target(Address("", name))]
        assert ACTIVEMQ.targets("/queue/amq.orders", {}, OWNER)[0].queue == Source("amq.orders", DURABLE)

    def test_durable_subscribers_have_queues_of_their_own(self):
        names = {durable_subscriber_queue(*pair) for pair in (("a", "b:c"), ("a:b", "c"), ("a%3Ab", "c"), ("a", "b"))}
        assert len(names) == 4

    def test_durable_without_client_id(self):
        with pytest.raises(MissingHeader, match="client-id"):
            ACTIVEMQ.sources({"destination": "/topic/t", "activemq.subscriptionName": "n"}, Owner("S"), "live")

    @pytest.mark.parametrize(
        ("headers", "error"),
        [
            ({"destination": "/queue/a", "browser": "true"}, Refused),
            ({"destination": "/queue/a.*"}, Refused),
            ({"destination": "/queue/Consumer.A.VirtualTopic.>"}, Refused),
            ({"destination": "/topic/a.#"}, InvalidDestination),
            ({"destination": "/queue/a", "activemq.subscriptionName": "n"}, InvalidDestination),
            ({"destination": "/remote-temp-queue/stomp-temp-O-x"}, InvalidDestination),
            ({"destination": "/remote-temp-topic/stomp-temp-O-x"}, InvalidDestination),
            ({"destination": "a"}, BadDestination),
        ],
    )
    def test_refused(self, headers, error):
        with pytest.raises(error):
            ACTIVEMQ.sources(headers, OWNER, "live")

    @pytest.mark.parametrize("name", ["activemq.prefetchSize", "prefetch-count"])
    def test_prefetch(self, name):
        assert ACTIVEMQ.wishes({name: "7"}) == Wishes(prefetch=7)
        with pytest.raises(BadHeader, match=name):
            ACTIVEMQ.wishes({name: "many"})

    def test_wishes(self):
        assert ACTIVEMQ.wishes({}) == Wishes()
        assert ACTIVEMQ.wishes({"activemq.priority": " -3"}) == Wishes(priority=-3)
        assert ACTIVEMQ.wishes({"activemq.exclusive": "true"}) == Wishes(sole=True)
        assert ACTIVEMQ.wishes({"activemq.noLocal": "TRUE"}) == Wishes(others_only=True)
        # Without a recovery policy ActiveMQ has nothing to give that came before, either.
        assert ACTIVEMQ.wishes({"activemq.retroactive": "true", "activemq.noLocal": "false"}) == Wishes()
        with pytest.raises(BadHeader):
            ACTIVEMQ.wishes({"activemq.priority": "high"})

    @pytest.mark.parametrize(
        ("selector", "read"),
        [
            ("a = 1", "convert_string_expressions:a = 1"),
            ("convert_string_expressions:a = 1", "convert_string_expressions:a = 1"),
            ("no_convert_string_expressions:a = 1", "a = 1"),
            ("convert_string_expressions:no_convert_string_expressions:a = 1", "a = 1"),
        ],
    )
    def test_selector(self, selector, read):
        assert ACTIVEMQ.selector(selector) == read


class TestHeaders:
    def test_a_plain_message(self):
        message = sent()
        assert message.properties == Properties(timestamp=1_700_000_000, message_id="ID:S-1")
        assert message.headers == {"amq-msg-type": "text"}
        assert received(message) == {"expires": "0", "priority": "4", "timestamp": "1700000000000"}

    def test_all(self):
        message = sent(
            content_type="text/plain",
            persistent="true",
            priority="7",
            correlation_id="c:1",
            reply_to="/queue/r",
            type="order",
            expires="1700000060250",
            JMSXGroupID="g",
            colour="red",
            content_length="4",
        )
        assert message.properties == Properties(
            content_type="text/plain",
            delivery_mode=2,
            priority=7,
            correlation_id="c:1",
            reply_to="/queue/r",
            type="order",
            message_id="ID:S-1",
            expiration=60_000,
            timestamp=1_700_000_000,
        )
        assert message.headers == {"JMSXGroupID": "g", "colour": "red"}
        assert received(message) == {
            "expires": "1700000060000",
            "priority": "7",
            "timestamp": "1700000000000",
            "persistent": "true",
            "correlation-id": "c:1",
            "type": "order",
            "content-type": "text/plain",
            "reply-to": "/queue/r",
            "JMSXGroupID": "g",
            "colour": "red",
            "content-length": "4",
        }

    @pytest.mark.parametrize(
        ("headers", "has_length"),
        [
            ({}, False),
            ({"content_length": "4"}, True),
            ({"amq_msg_type": "bytes"}, True),
            ({"amq_msg_type": "text", "content_length": "4"}, False),
        ],
    )
    def test_text_and_bytes(self, headers, has_length):
        got = received(sent(**headers))
        assert ("content-length" in got) is has_length
        assert "amq-msg-type" not in got

    def test_a_text_that_would_end_the_frame(self):
        assert received(sent(b"a\0b"))["content-length"] == "3"

    @pytest.mark.parametrize("publisher", ["mqtt", "stomp"])
    def test_messages_of_others_are_bytes(self, publisher):
        message = Message(ADDRESS, b"\xff", NO_PROPERTIES, NO_HEADERS, Origin(publisher))
        assert received(message) == {"expires": "0", "priority": "4", "timestamp": "0", "content-length": "1"}

    @pytest.mark.parametrize(("priority", "kept"), [("0", 0), ("9", 9), ("10", 9), ("2000000000", 9)])
    def test_priority(self, priority, kept):
        assert sent(priority=priority).properties.priority == kept

    @pytest.mark.parametrize(
        ("expires", "expiration"),
        [("0", None), ("1700000000251", 1), ("1700000000250", 0), ("5", 0), (str(2**62), 2**32 - 1)],
    )
    def test_expires(self, expires, expiration):
        assert sent(expires=expires).properties.expiration == expiration

    def test_delay(self):
        message = ACTIVEMQ.to_message({"AMQ_SCHEDULED_DELAY": "1500"}, ADDRESS, b"", Sender(ORIGIN, lambda: NOW, "S"))
        assert message.not_before == NOW + 1.5
        assert "AMQ_SCHEDULED_DELAY" not in message.headers

    @pytest.mark.parametrize(
        ("headers", "error"),
        [
            ({"priority": "high"}, BadHeader),
            ({"expires": "-1"}, BadHeader),
            ({"AMQ_SCHEDULED_DELAY": "soon"}, BadHeader),
            ({"AMQ_SCHEDULED_DELAY": str(10**12)}, BadHeader),
            ({"AMQ_SCHEDULED_CRON": "* * * * *"}, Refused),
            ({"AMQ_SCHEDULED_PERIOD": "1"}, Refused),
            ({"AMQ_SCHEDULED_REPEAT": "1"}, Refused),
            ({"transformation": "jms-map-xml"}, Refused),
            ({"amq-msg-type": "map"}, BadHeader),
        ],
    )
    def test_refused(self, headers, error):
        with pytest.raises(error):
            ACTIVEMQ.to_message(headers, ADDRESS, b"", Sender(ORIGIN, lambda: NOW, "S"))

    def test_what_the_broker_says_cannot_be_forged(self):
        forged = dict.fromkeys(["message-id", "timestamp", "redelivered", "subscription", "JMSXUserID"], "x")
        message = ACTIVEMQ.to_message({**forged, "mine": "y"}, ADDRESS, b"", Sender(ORIGIN, lambda: NOW, "S"))
        assert message.headers == {"mine": "y", "amq-msg-type": "text"}
        foreign = Message(ADDRESS, b"", NO_PROPERTIES, {**forged, "expires": "1", "ack": "1"})
        assert received(foreign) == {
            "expires": "0",
            "priority": "4",
            "timestamp": "0",
            "JMSXUserID": "x",
            "content-length": "0",
        }

    def test_every_message_has_an_id_of_its_own(self):
        sender = Sender(ORIGIN, lambda: NOW, "S")
        messages = [ACTIVEMQ.to_message({}, ADDRESS, b"", sender) for _ in range(2)]
        assert [message.properties.message_id for message in messages] == ["ID:S-1", "ID:S-2"]

    def test_a_map_as_json_is_text(self):
        message = sent(b'{"map":{}}', transformation="jms-map-json")
        assert message.body == b'{"map":{}}'
        assert received(message)["transformation"] == "jms-map-json"

    @pytest.mark.parametrize(
        ("destination", "original"),
        [
            ("/queue/a", None),
            ("/queue/a,b", "/queue/a,queue://b"),
            ("/queue/a, /topic/b,topic://c", "/queue/a,topic://b,topic://c"),
        ],
    )
    def test_a_composite_is_shown(self, destination, original):
        message = sent(destination=destination)
        assert message.headers.get("original-destination") == original
        assert received(message).get("original-destination") == original

    @given(
        st.dictionaries(
            st.text(st.characters(codec="utf-8", exclude_characters="\0_"), min_size=1).map("x".__add__),
            st.text(st.characters(codec="utf-8", exclude_characters="\0")),
            max_size=5,
        )
    )
    def test_own_headers_come_back(self, headers):
        got = received(ACTIVEMQ.to_message(headers, ADDRESS, b"", Sender(ORIGIN, lambda: NOW, "S")))
        assert {name: got[name] for name in headers} == headers
