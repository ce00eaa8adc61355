"""Headers of SEND and MESSAGE frames from and to hub messages, and destinations."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.backend import QueueSpec
from gateway.core.message import (
    NO_HEADERS,
    NO_PROPERTIES,
    PERSISTENT,
    TRANSIENT,
    Address,
    LongString,
    Message,
    Origin,
    Properties,
)
from gateway.protocols.stomp.codec import FrameLimits, FrameParser
from gateway.protocols.stomp.dialect import Owner, ReplyTo, Sender, Source, Target, Wishes
from gateway.protocols.stomp.errors import BadDestination, BadHeader, MissingHeader, ReservedName
from gateway.protocols.stomp.rabbitmq import RabbitMQ
from gateway.protocols.stomp.versions import V1_2

ORIGIN = Origin("stomp", "c", "u")
ADDRESS = Address("", "q")
RABBITMQ = RabbitMQ()
OWNER = Owner("S")

PROPERTIES = {
    "content-type": ("text/plain; charset=utf-8", {"content_type": "text/plain; charset=utf-8"}),
    "content-encoding": ("gzip", {"content_encoding": "gzip"}),
    "persistent": ("true", {"delivery_mode": 2}),
    "priority": ("9", {"priority": 9}),
    "correlation-id": ("c:1", {"correlation_id": "c:1"}),
    "reply-to": ("/queue/answers", {"reply_to": "/queue/answers"}),
    "expiration": ("60000", {"expiration": 60000}),
    "amqp-message-id": ("m-1", {"message_id": "m-1"}),
    "timestamp": ("1700000000", {"timestamp": 1700000000}),
    "type": ("order", {"type": "order"}),
    "user-id": ("ann", {"user_id": "ann"}),
    "app-id": ("shop", {"app_id": "shop"}),
}


def sent(headers: dict[str, str]) -> Message:
    return RABBITMQ.to_message(headers, ADDRESS, b"body", Sender(ORIGIN, lambda: 0.0, "S"))


def received(message: Message) -> dict[str, str]:
    """The headers as a client reads them; a repeated one fails."""
    lines = RABBITMQ.message_lines(message, V1_2).removesuffix("content-length:4\n")
    parser = FrameParser(FrameLimits(100, 1 << 16, 1 << 16, 1))
    parser.receive_data(f"MESSAGE\n{lines}\n\0".encode())
    frame = parser.next_frame()
    assert frame is not None
    assert parser.buffered == 0
    assert len(frame.headers) == lines.count("\n")
    return frame.headers


def message(properties: Properties = NO_PROPERTIES, headers=NO_HEADERS) -> Message:
    return Message(ADDRESS, b"body", properties, headers, ORIGIN)


class TestProperties:
    @pytest.mark.parametrize("name", PROPERTIES)
    def test_one_at_a_time(self, name):
        value, fields = PROPERTIES[name]
        got = sent({"destination": "/queue/q", name: value})
        assert got == message(Properties(**fields))
        assert received(got) == {name: value}

    def test_all(self):
        headers = {name: value for name, (value, _) in PROPERTIES.items()}
        fields = {key: value for _, part in PROPERTIES.values() for key, value in part.items()}
        assert sent(headers) == message(Properties(**fields))
        assert received(message(Properties(**fields))) == headers

    @pytest.mark.parametrize("value", ["false", "True", "1", ""])
    def test_only_true_is_persistent(self, value):
        assert sent({"persistent": value}).properties.delivery_mode is None

    def test_not_persistent_is_not_said(self):
        assert received(message(TRANSIENT)) == {}
        assert received(message(PERSISTENT)) == {"persistent": "true"}

    def test_repeated_properties_are_shared(self):
        headers = {"content-type": "application/json", "persistent": "true"}
        assert sent(headers).properties is sent(dict(headers)).properties
        named = headers | {"correlation-id": "1"}
        assert sent(named).properties == sent(named).properties
        assert sent(named).properties is not sent(named).properties

    @pytest.mark.parametrize(("name", "most"), [("priority", 255), ("expiration", 2**32 - 1), ("timestamp", 2**63 - 1)])
    def test_numbers(self, name, most):
        assert getattr(sent({name: f" {most} "}).properties, name) == most
        for wrong in (str(most + 1), "-1", "1.0", "", "x", "\u0663", "9" * 5000):
            with pytest.raises(BadHeader):
                sent({name: wrong})

    @pytest.mark.parametrize(
        ("reply_to", "shown"),
        [("answers", "/reply-queue/answers"), ("/queue/answers", "/queue/answers"), ("/topic/a", "/topic/a")],
    )
    def test_reply_to_can_be_sent_to(self, reply_to, shown):
        headers = received(message(Properties(reply_to=reply_to)))
        assert headers == {"reply-to": shown}
        (target,) = RABBITMQ.targets(shown, {}, OWNER)
        assert target.address.routing_key in ("answers", "a")

    @pytest.mark.parametrize(("value", "shown"), [(b"abc", "abc"), (b"\xff\x00", "/wA=")])
    def test_binary_correlation_id(self, value, shown):
        assert received(message(Properties(correlation_id=value))) == {"correlation-id": shown}


class TestUserHeaders:
    def test_what_is_of_the_frame_is_not_of_the_message(self):
        headers = {"destination": "/queue/q", "receipt": "1", "content-length": "4", "colour": "red", "id": "x"}
        assert sent(headers).headers == {"colour": "red", "id": "x"}

    def test_none(self):
        assert sent({"destination": "/queue/q"}).headers is NO_HEADERS

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("a:b\nc\\", "a:b\nc\\"),
            (True, "true"),
            (False, "false"),
            (7, "7"),
            (2**70, str(2**70)),
            (1.5, "1.5"),
            (Decimal("1.10"), "1.10"),
            (b"bytes", "bytes"),
            (b"\xff", "/w=="),
            (LongString(b"\xff"), "/w=="),
            (datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), "1700000000"),
            (None, ""),
            ([1, "a", b"\xff", None], '[1,"a","/w==",null]'),
            ({"a": {"b": Decimal("1.5")}}, '{"a":{"b":"1.5"}}'),
            ("nul\0", "nul\ufffd"),
        ],
    )
    def test_as_text(self, value, text):
        assert received(message(headers={"h": value})) == {"h": text}

    def test_frame_headers_cannot_be_forged(self):
        forged = dict.fromkeys(
            ["subscription", "destination", "message-id", "ack", "redelivered", "content-length", "receipt"], "x"
        )
        assert received(message(headers={**forged, "": "x", "mine": "y"})) == {"mine": "y"}

    def test_a_property_wins_over_a_header_of_its_name(self):
        headers = {"priority": "high", "type": "t"}
        assert received(message(Properties(priority=4), headers)) == {"priority": "4", "type": "t"}

    @given(
        st.dictionaries(
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
            st.text(st.characters(codec="utf-8", exclude_characters="\0")),
            max_size=5,
        )
    )
    def test_round_trip(self, headers):
        reserved = {*PROPERTIES, "destination", "receipt", "transaction", "content-length"}
        reserved |= {"subscription", "message-id", "ack", "redelivered"}
        mine = {name: value for name, value in headers.items() if name not in reserved}
        assert received(sent(mine)) == mine


def target(destination: str, headers=NO_HEADERS) -> Target:
    (only,) = RABBITMQ.targets(destination, headers, OWNER)
    return only


def source(**headers: str) -> Source:
    (only,) = RABBITMQ.sources({name.replace("_", "-"): value for name, value in headers.items()}, OWNER, "live")
    return only


DESTINATIONS = {
    "/queue/q": Address("", "q"),
    "/queue/a.b-c d": Address("", "a.b-c d"),
    "/queue/a%2Fb": Address("", "a/b"),
    "/topic/a.*.#": Address("amq.topic", "a.*.#"),
    "/exchange/x": Address("x", ""),
    "/exchange/x/k.l": Address("x", "k.l"),
}


class TestDestinations:
    @pytest.mark.parametrize(("text", "address"), DESTINATIONS.items())
    def test_read_and_written(self, text, address):
        assert target(text).address == address
        assert RABBITMQ.format(address) == text

    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("q", Address("", "q")),
            ("/amq/queue/q", Address("", "q")),
            ("/reply-queue/a/b", Address("", "a/b")),
            ("/exchange/x/", Address("x", "")),
            ("/queue/é", Address("", "é")),
            ("/queue/100%", Address("", "100%")),
            # The plugin reads back the slash alone of what it escapes.
            ("/queue/a%20b%2f%C3%A9%252F", Address("", "a%20b%2f%C3%A9%252F")),
        ],
    )
    def test_read(self, text, address):
        assert target(text).address == address

    @pytest.mark.parametrize("text", ["/queue/q", "q"])
    def test_a_queue_is_declared(self, text):
        assert target(text).queue == Source("q", QueueSpec(durable=True))

    @pytest.mark.parametrize("text", ["/amq/queue/q", "/reply-queue/q", "/topic/t", "/exchange/x/k"])
    def test_others_are_not(self, text):
        assert target(text).queue is None

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "/",
            "queue/q",
            "/queue",
            "/queue/",
            "/queue//q",
            "/queue/a/b",
            "/topic/a/b",
            "/amq/queue/",
            "/reply-queue/",
            "/exchange/",
            "/exchange//k",
            "/exchange/x/k/l",
            "/temp-queue/x",
            "/dsub/x",
            "/queue/" + "é" * 128,
            "/queue/amq.gen-x",
        ],
    )
    def test_refused(self, text):
        with pytest.raises(BadDestination):
            target(text)

    @pytest.mark.parametrize(
        ("name", "text"),
        [("a b", "/queue/a b"), ("a%", "/queue/a%25"), ("é", "/queue/%C3%A9"), ("\x01\t~\x7f", "/queue/%01%09~\x7f")],
    )
    def test_written(self, name, text):
        assert RABBITMQ.format(Address("", name)) == text

    @given(st.text(st.characters(codec="ascii", min_codepoint=32, exclude_characters="%"), min_size=1, max_size=60))
    def test_round_trip(self, name):
        assert target(RABBITMQ.format(Address("", name))).address == Address("", name)
        assert target(RABBITMQ.format(Address("x" + name, name))).address == Address("x" + name, name)


TOPIC = Address("amq.topic", "foo.bar")


def test_names_that_are_not_for_clients():
    for headers in ({"destination": "/queue/amq.x"}, {"destination": "/topic/a", "x-queue-name": "amq.x"}):
        with pytest.raises(ReservedName, match=r"queue name .amq\.x. contains reserved prefix"):
            RABBITMQ.sources(headers, OWNER, "live")
    assert source(destination="/amq/queue/amq.gen-x") == Source("amq.gen-x", None)


def test_wishes():
    assert RABBITMQ.wishes({}) == Wishes()
    headers = {"prefetch-count": "5", "x-priority": "-1", "x-stream-offset": "first", "activemq.exclusive": "true"}
    assert RABBITMQ.wishes(headers) == Wishes(prefetch=5, priority=-1, arguments={"x-stream-offset": "first"})
    with pytest.raises(BadHeader, match="prefetch-count"):
        RABBITMQ.wishes({"prefetch-count": "many"})


class TestQueues:
    def test_arguments_have_the_types_of_the_plugin(self):
        headers = {
            "x-message-ttl": " 6000 ",
            "x-max-priority": "5",
            "x-dead-letter-exchange": " dlx ",
            "x-queue-type": "classic",
            "x-colour": "red",
        }
        spec = target("/queue/q", headers).queue.spec
        assert spec.arguments == {
            "x-message-ttl": 6000,
            "x-max-priority": 5,
            "x-dead-letter-exchange": "dlx",
            "x-queue-type": "classic",
        }

    @pytest.mark.parametrize("value", ["soon", "-1", "1.5", "", str(2**63)])
    def test_an_argument_that_is_no_number(self, value):
        with pytest.raises(BadHeader, match="x-expires"):
            target("/queue/q", {"x-expires": value})

    @pytest.mark.parametrize(
        ("headers", "spec"),
        [
            ({}, QueueSpec(durable=True)),
            ({"durable": "false"}, QueueSpec(durable=False)),
            ({"auto_delete": "true"}, QueueSpec(durable=True, auto_delete=True)),
            ({"exclusive": "true"}, QueueSpec(durable=True, exclusive=True)),
            ({"exclusive": "maybe"}, QueueSpec(durable=True)),
            ({"persistent": "false"}, QueueSpec(durable=False)),
        ],
    )
    def test_a_queue(self, headers, spec):
        assert source(destination="/queue/q", **headers) == Source("q", spec)

    @pytest.mark.parametrize("destination", ["/amq/queue/q", "/reply-queue/q"])
    def test_somebody_elses(self, destination):
        assert source(destination=destination, id="0") == Source("q", None)

    # What rabbitmqctl has shown for each of these.
    @pytest.mark.parametrize(
        ("headers", "queue", "durable", "auto_delete", "exclusive"),
        [
            ({}, "live", False, True, True),
            (
                {"durable": "true", "auto_delete": "false", "id": "d2"},
                "stomp-subscription-JRdnkwOdCK1_vmhoGGNPGw",
                True,
                False,
                False,
            ),
            (
                {"persistent": "true", "auto_delete": "false", "id": "d5"},
                "stomp-subscription-wUm-otcnGD_rQrsvTqyGmA",
                True,
                False,
                False,
            ),
            (
                {"durable": "true", "id": "d3"},
                "stomp-subscription-3LbqxvI5FPkvfDS6FFY5RQ",
                True,
                True,
                False,
            ),
            ({"x_queue_name": "mine"}, "mine", False, True, False),
            ({"x_queue_name": "mine", "durable": "true", "id": "0"}, "mine", True, True, False),
        ],
    )
    def test_a_subscription(self, headers, queue, durable, auto_delete, exclusive):
        got = source(destination="/topic/foo.bar", **headers)
        assert (got.queue, got.bindings) == (queue, (TOPIC,))
        assert (got.spec.durable, got.spec.auto_delete, got.spec.exclusive) == (durable, auto_delete, exclusive)
        assert got.spec.lossy is not durable

    def test_a_durable_subscription_needs_an_id(self):
        with pytest.raises(MissingHeader):
            source(destination="/topic/foo.bar", durable="true")

    @pytest.mark.parametrize(
        ("destination", "headers", "forgotten"),
        [
            ("/topic/t", {"durable": "true"}, True),
            ("/topic/t", {"persistent": "true"}, True),
            ("/topic/t", {}, False),
            ("/exchange/x/t", {"durable": "true"}, False),
            ("/queue/t", {"durable": "true"}, False),
        ],
    )
    def test_what_unsubscribe_forgets(self, destination, headers, forgotten):
        held = source(destination=destination, id="0", durable="true", auto_delete="false")
        assert list(RABBITMQ.forgotten(headers, OWNER, [held])) == ([held.queue] if forgotten else [])

    def test_reply_to(self):
        assert RABBITMQ.reply_to("/queue/q", OWNER) is None
        assert RABBITMQ.reply_to("/temp-queue/x", OWNER) == ReplyTo("stomp-temp-S-x", "stomp-temp-S-x", "/temp-queue/x")
        with pytest.raises(BadDestination):
            RABBITMQ.reply_to("/temp-queue/", OWNER)
