"""Versions 1.0 and 1.1, where they differ from 1.2."""

from __future__ import annotations

import pytest

from gateway.core.commands import Authenticate, Cancel, Publish, Settle
from gateway.core.outcome import Outcome
from gateway.protocols.stomp.errors import BadHeader, MalformedFrame, UnknownMessage


@pytest.fixture
def old(open_line):
    """A client of version 1.0."""
    line = open_line()
    line.frame("CONNECT", login="ann", passcode="p")
    line.only("CONNECTED")
    line.done.clear()
    return line


@pytest.fixture
def middle(open_line):
    """A client of version 1.1."""
    line = open_line()
    line.connect(accept_version="1.0,1.1", host="h")
    line.done.clear()
    return line


@pytest.mark.parametrize(
    ("accepted", "version"),
    [
        ({}, "1.0"),
        ({"accept-version": "1.0"}, "1.0"),
        ({"accept-version": "1.0,1.1"}, "1.1"),
        ({"accept-version": "1.1, 1.2"}, "1.2"),
        ({"accept-version": "1.2,1.0,2.0"}, "1.2"),
    ],
)
def test_the_highest_common_one(open_line, accepted, version):
    line = open_line()
    line.frame("CONNECT", **accepted)
    assert line.only("CONNECTED").headers["version"] == version


class TestOneZero:
    def test_heart_beats_for_who_asks(self, open_line):
        line = open_line()
        line.frame("CONNECT", heart_beat="1000,2000")
        assert line.only("CONNECTED").headers["heart-beat"] == "2000,1000"

    def test_no_heart_beats(self, open_line):
        line = open_line()
        line.frame("CONNECT")
        assert line.only("CONNECTED").headers["heart-beat"] == "0,0"
        assert line.session.tick(10_000.0) == ()

    def test_spaces_before_a_value_do_not_count(self, open_line):
        line = open_line()
        line.send(b"CONNECT\nlogin: ann\npasscode:  p \n\n\0")
        credentials = line.take(Authenticate)[0].credentials
        assert (credentials.username, credentials.password) == ("ann", b"p ")
        line.send(b"SEND\ndestination: /topic/a\ncolour: red \n\n\0")
        message = line.take(Publish)[0].message
        assert message.address.routing_key == "a"
        assert message.headers == {"colour": "red "}

    def test_nothing_is_escaped(self, old):
        old.send(b"SEND\ndestination:/topic/a\npath:c:\\new\n\n\0")
        assert old.take(Publish)[0].message.headers == {"path": "c:\\new"}
        tag = old.subscribe("/topic/a")
        old.deliver(tag, b"", headers={"path": "c:\\new", "lines": "a\nb"})
        assert b"path:c:\\new\nlines:a\xef\xbf\xbdb\n" in old.session.data_to_send()

    def test_a_destination_is_id_enough(self, old):
        old.send(b"SUBSCRIBE\ndestination:/queue/q\nack:client\n\n\0")
        tag = old.done[-1].tag
        old.deliver(tag, b"1", b"2")
        first, second = old.frames()
        assert "subscription" not in first.headers
        assert "ack" not in first.headers
        old.frame("ACK", **{"message-id": second.headers["message-id"]})
        (settle,) = old.take(Settle)
        assert [delivery.message.body for delivery in settle.deliveries] == [b"1", b"2"]
        old.send(b"UNSUBSCRIBE\ndestination:/queue/q\n\n\0")
        assert [command.tag for command in old.take(Cancel)] == [tag]

    def test_with_an_id(self, old):
        tag = old.subscribe(id="7")
        old.deliver(tag, b"1")
        assert old.only("MESSAGE").headers["subscription"] == "7"

    def test_ack_without_message_id(self, old):
        old.frame("ACK", id="1")
        assert isinstance(old.closed.error, BadHeader)

    def test_activemq_takes_it_without_id_too(self, open_line):
        line = open_line(dialect="activemq")
        line.frame("CONNECT")
        line.frames()
        line.frame("SUBSCRIBE", destination="/queue/q")
        assert line.closed is None


class TestOneOne:
    def test_carriage_returns_have_no_escape(self, middle):
        middle.send(b"SEND\ndestination:/topic/a\nx:a\\cb\\nc\n\n\0")
        assert middle.take(Publish)[0].message.headers == {"x": "a:b\nc"}
        middle.send(b"SEND\ndestination:/topic/a\nx:\\r\n\n\0")
        assert isinstance(middle.closed.error, MalformedFrame)

    @pytest.mark.parametrize(("command", "outcome"), [("ACK", Outcome.ACCEPTED), ("NACK", Outcome.RELEASED)])
    def test_acknowledged_by_message_id_and_subscription(self, middle, command, outcome):
        tag = middle.subscribe(id="7", ack="client-individual")
        middle.deliver(tag, b"1")
        message = middle.only("MESSAGE")
        assert "ack" not in message.headers
        middle.frame(command, **{"message-id": message.headers["message-id"], "subscription": "7"})
        (settle,) = middle.take(Settle)
        assert settle.outcome is outcome

    def test_the_subscription_has_to_be_the_right_one(self, middle):
        tag = middle.subscribe(id="7", ack="client-individual")
        middle.deliver(tag, b"1")
        message = middle.only("MESSAGE")
        middle.frame("ACK", **{"message-id": message.headers["message-id"], "subscription": "8"})
        assert isinstance(middle.closed.error, UnknownMessage)
        assert len(middle.session.unsettled()) == 1

    def test_rabbitmq_does_not_insist_on_an_id(self, middle):
        middle.send(b"SUBSCRIBE\ndestination:/queue/q\n\n\0")
        assert middle.closed is None

    def test_activemq_does(self, open_line):
        line = open_line(dialect="activemq")
        line.connect(accept_version="1.1")
        line.send(b"SUBSCRIBE\ndestination:/queue/q\n\n\0")
        assert line.only("ERROR").headers["message"] == "Missing header"

    def test_space_counts(self, middle):
        middle.send(b"SEND\ndestination:/topic/a\nx: a\n\n\0")
        assert middle.take(Publish)[0].message.headers == {"x": " a"}
