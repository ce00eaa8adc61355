"""Headers of SEND and MESSAGE frames from and to hub messages, and destinations."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Refused
from gateway.core.message import NO_HEADERS, NO_PROPERTIES, PERSISTENT, TRANSIENT, Address, Message, Origin, Properties
from gateway.protocols.stomp.codec import FrameLimits, FrameParser
from gateway.protocols.stomp.convert import message_headers, to_message
from gateway.protocols.stomp.dialects import DIALECTS, Destination, Kind
from gateway.protocols.stomp.errors import BadDestination, BadHeader
from gateway.protocols.stomp.versions import V1_2

ORIGIN = Origin("stomp", "c", "u")
ADDRESS = Address("", "q")
RABBITMQ = DIALECTS["rabbitmq"]

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
    return to_message(headers, ADDRESS, b"body", ORIGIN)


def received(message: Message) -> dict[str, str]:
    """The headers as a client reads them; a repeated one fails."""
    lines = message_headers(message, RABBITMQ, V1_2)
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
        assert RABBITMQ.parse(shown).address.routing_key in ("answers", "a")

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


DESTINATIONS = {
    "/queue/q": Destination(Kind.QUEUE, Address("", "q")),
    "/queue/a.b-c d": Destination(Kind.QUEUE, Address("", "a.b-c d")),
    "/queue/a%2Fb%25": Destination(Kind.QUEUE, Address("", "a/b%")),
    "/queue/%C3%A9": Destination(Kind.QUEUE, Address("", "é")),
    "/topic/a.*.#": Destination(Kind.EXCHANGE, Address("amq.topic", "a.*.#")),
    "/exchange/x": Destination(Kind.EXCHANGE, Address("x", "")),
    "/exchange/x/k.l": Destination(Kind.EXCHANGE, Address("x", "k.l")),
}


class TestRabbitMQDestinations:
    @pytest.mark.parametrize(("text", "destination"), DESTINATIONS.items())
    def test_read_and_written(self, text, destination):
        assert RABBITMQ.parse(text) == destination
        assert RABBITMQ.format(destination.address) == text

    @pytest.mark.parametrize(
        ("text", "destination"),
        [
            ("/amq/queue/q", Destination(Kind.EXISTING_QUEUE, Address("", "q"))),
            ("/reply-queue/a/b", Destination(Kind.REPLY_QUEUE, Address("", "a/b"))),
            ("/exchange/x/", Destination(Kind.EXCHANGE, Address("x", ""))),
            ("/queue/é", Destination(Kind.QUEUE, Address("", "é"))),
            ("/queue/100%", Destination(Kind.QUEUE, Address("", "100%"))),
        ],
    )
    def test_read(self, text, destination):
        assert RABBITMQ.parse(text) == destination

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "/",
            "q",
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
            "/exchange/amq.default/q",
            "/dsub/x",
            "/queue/%ff",
            "/queue/" + "é" * 128,
        ],
    )
    def test_refused(self, text):
        with pytest.raises(BadDestination):
            RABBITMQ.parse(text)

    def test_known_but_not_offered(self):
        with pytest.raises(Refused, match="not available"):
            RABBITMQ.parse("/temp-queue/x")

    @given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
    def test_round_trip(self, name):
        assert RABBITMQ.parse(RABBITMQ.format(Address("", name))).address == Address("", name)
        assert RABBITMQ.parse(RABBITMQ.format(Address("x" + name, name))).address == Address("x" + name, name)
