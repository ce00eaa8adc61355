"""SEND, its receipts and its errors; DISCONNECT, and other endings."""

from __future__ import annotations

import pytest

from gateway.core.backend import QueueSpec
from gateway.core.commands import Close, DeclareQueue, Publish
from gateway.core.errors import AccessDenied, Locked, NotFound, Refused, Throttled, TooLarge
from gateway.core.message import NO_HEADERS, NO_PROPERTIES, PERSISTENT, Address, Origin
from gateway.core.outcome import ACCEPTED, Outcome, Result
from gateway.protocols.stomp.errors import BadDestination, BadHeader, BadTransaction
from gateway.protocols.stomp.sending import MAX_KNOWN_DESTINATIONS


class TestSend:
    @pytest.mark.parametrize(
        ("destination", "address"),
        [
            ("/queue/orders", Address("", "orders")),
            ("orders", Address("", "orders")),
            ("/amq/queue/orders", Address("", "orders")),
            ("/reply-queue/amq.gen-x/y", Address("", "amq.gen-x/y")),
            ("/topic/a.b", Address("amq.topic", "a.b")),
            ("/exchange/x/key", Address("x", "key")),
            ("/exchange/x", Address("x", "")),
        ],
    )
    def test_address(self, line, destination, address):
        line.frame("SEND", b"hello", destination=destination)
        (publish,) = line.take(Publish)
        assert publish.message.address == address
        assert publish.message.body == b"hello"
        assert (publish.message.properties, publish.message.headers) == (NO_PROPERTIES, NO_HEADERS)

    def test_properties_and_headers(self, line):
        line.frame("SEND", b"", destination="/topic/a", persistent="true", receipt="1", **{"x-colour": "r\\ce\\nd"})
        (publish,) = line.take(Publish)
        assert publish.message.properties == PERSISTENT
        assert publish.message.headers == {"x-colour": "r:e\nd"}

    def test_origin_is_shared(self, open_line):
        line = open_line()
        line.connect(login="ann", **{"client-id": "c1"})
        line.frame("SEND", destination="/topic/a")
        line.frame("SEND", destination="/topic/b")
        first, second = line.take(Publish)
        assert first.message.origin == Origin("stomp", "c1", "ann")
        assert first.message.origin is second.message.origin

    def test_the_first_send_declares_the_queue(self, line):
        for body in (b"1", b"2"):
            line.frame("SEND", body, destination="/queue/orders")
        line.frame("SEND", b"3", destination="/queue/other")
        kinds = [(type(command), getattr(command, "queue", None)) for command in line.done]
        assert kinds == [
            (DeclareQueue, "orders"),
            (Publish, None),
            (Publish, None),
            (DeclareQueue, "other"),
            (Publish, None),
        ]
        assert line.done[0].spec == QueueSpec(durable=True)

    @pytest.mark.parametrize("destination", ["/amq/queue/q", "/topic/t", "/exchange/x/k", "/reply-queue/q"])
    def test_others_declare_nothing(self, line, destination):
        line.frame("SEND", destination=destination)
        assert line.take(DeclareQueue) == []

    def test_known_destinations_are_bounded(self, line):
        for number in range(MAX_KNOWN_DESTINATIONS + 1):
            line.frame("SEND", destination=f"/topic/{number}")
        assert len(line.session._sending._known) <= MAX_KNOWN_DESTINATIONS
        line.frame("SEND", destination="/queue/q")
        line.frame("SEND", destination="/queue/q")
        assert len(line.take(DeclareQueue)) == 1

    def test_a_queue_that_cannot_be(self, line):
        error = AccessDenied("denied", resource="sqs queue q", action="sqs:CreateQueue")
        line.refuse = {DeclareQueue: Result(Outcome.RELEASED, error)}
        line.frame("SEND", b"1", destination="/queue/q", receipt="r1")
        answer = line.only("ERROR")
        assert answer.headers["receipt-id"] == "r1"
        assert b"sqs:CreateQueue" in answer.body
        assert line.closed.error is error
        assert line.take(Publish) == []

    def test_a_queue_of_another_connection_can_be_sent_to(self, line):
        line.refuse = {DeclareQueue: Result(Outcome.REJECTED, Locked("q"))}
        line.frame("SEND", b"1", destination="/queue/q", receipt="r1")
        (publish,) = line.take(Publish)
        line.answer(publish)
        line.only("RECEIPT")
        line.frame("SUBSCRIBE", id="0", destination="/queue/q")
        assert line.only("ERROR").headers["message"] == "resource_locked"

    @pytest.mark.parametrize(
        ("headers", "error"),
        [
            ({}, BadHeader),
            ({"destination": ""}, BadHeader),
            ({"destination": "a/b"}, BadDestination),
            ({"destination": "/queue/"}, BadDestination),
            ({"destination": "/queue/a/b"}, BadDestination),
            ({"destination": "/exchange/"}, BadDestination),
            ({"destination": "/queue/" + "x" * 256}, BadDestination),
            ({"destination": "/temp-queue/a"}, BadDestination),
            ({"destination": "/topic/a", "transaction": "t"}, BadTransaction),
            ({"destination": "/topic/a", "message-id": "m"}, BadHeader),
            ({"destination": "/topic/a", "priority": "high"}, BadHeader),
            ({"destination": "/topic/a", "priority": "256"}, BadHeader),
            ({"destination": "/topic/a", "expiration": "-1"}, BadHeader),
            ({"destination": "/topic/a", "timestamp": "1.5"}, BadHeader),
            ({"destination": "/topic/a", "user-id": "root"}, BadHeader),
            ({"destination": "/queue/a", "x-message-ttl": "soon"}, BadHeader),
            ({"destination": "/topic/a", "reply-to": "/temp-queue/"}, BadDestination),
        ],
    )
    def test_refused(self, line, headers, error):
        line.frame("SEND", b"1", receipt="7", **headers)
        answer = line.only("ERROR")
        assert answer.headers["receipt-id"] == "7"
        assert answer.body
        assert isinstance(line.closed.error, error)
        assert line.take(Publish) == []

    def test_a_refused_message_declares_nothing(self, line):
        line.frame("SEND", destination="/queue/new", priority="high")
        line.only("ERROR")
        assert line.take(DeclareQueue) == []

    def test_own_user_id(self, open_line):
        line = open_line()
        line.connect(login="ann")
        line.frame("SEND", destination="/topic/a", **{"user-id": "ann"})
        (publish,) = line.take(Publish)
        assert publish.message.properties.user_id == "ann"

    def test_what_a_peer_sent_is_not_repeated_at_length(self, line):
        line.frame("SEND", destination="/nowhere/" + "x" * 5000)
        assert len(line.only("ERROR").body) < 500


class TestReceipts:
    def test_not_before_the_hub_accepted(self, line):
        line.frame("SEND", b"1", destination="/topic/a", receipt="r\\c1")
        assert line.frames() == []
        (publish,) = line.take(Publish)
        line.answer(publish)
        assert line.only("RECEIPT").headers == {"receipt-id": "r:1"}
        assert line.closed is None

    def test_in_any_order(self, line):
        for number in range(3):
            line.frame("SEND", destination="/topic/a", receipt=str(number))
        first, second, third = line.take(Publish)
        for publish in (third, first, second):
            line.answer(publish)
        assert [frame.headers["receipt-id"] for frame in line.frames()] == ["2", "0", "1"]

    def test_empty_receipt_is_a_receipt(self, line):
        line.frame("SEND", destination="/topic/a", receipt="")
        (publish,) = line.take(Publish)
        line.answer(publish)
        assert line.only("RECEIPT").headers == {"receipt-id": ""}

    def test_without_receipt_success_is_silent(self, line):
        line.frame("SEND", destination="/topic/a")
        (publish,) = line.take(Publish)
        assert publish.token is not None
        line.answer(publish)
        assert line.frames() == []

    def test_unroutable_is_acknowledged(self, line):
        line.frame("SEND", destination="/topic/a", receipt="r")
        (publish,) = line.take(Publish)
        line.run(line.session.answer(publish.token, Result(Outcome.ACCEPTED, routed=False), line.now))
        line.only("RECEIPT")

    @pytest.mark.parametrize("receipt", ["r1", None])
    @pytest.mark.parametrize(
        ("outcome", "error", "title"),
        [
            (Outcome.RELEASED, Throttled("slow down", resource="sqs queue q"), "Message not accepted"),
            (Outcome.REJECTED, TooLarge("over 1 MiB", resource="sqs queue q"), "Message rejected"),
            (Outcome.REJECTED, None, "Message rejected"),
        ],
    )
    def test_failure_is_an_error_and_the_end(self, line, receipt, outcome, error, title):
        line.frame("SEND", destination="/topic/a", **({"receipt": receipt} if receipt else {}))
        line.frame("SEND", destination="/topic/a", receipt="another")
        failing, another = line.take(Publish)
        line.answer(failing, outcome, error)
        answer = line.only("ERROR")
        assert answer.headers["message"] == title
        assert answer.headers.get("receipt-id") == receipt
        assert answer.body == (str(error).encode() if error else b"no reason was given")
        assert line.closed.error is error or error is None
        line.answer(another, Outcome.REJECTED)
        line.send(b"SEND\ndestination:/topic/a\n\n\0")
        assert line.frames() == []
        assert line.take(Publish) == []

    def test_unanswered_are_bounded(self, open_line):
        line = open_line(max_unanswered=3)
        line.connect()
        line.send(b"SEND\ndestination:/topic/a\n\n\0" * 4)
        assert len(line.take(Publish)) == 3
        line.only("ERROR")
        assert isinstance(line.closed.error, Refused)

    def test_answers_make_room(self, open_line):
        line = open_line(max_unanswered=1)
        line.connect()
        for _ in range(3):
            line.frame("SEND", destination="/topic/a")
            (publish,) = line.take(Publish)
            line.answer(publish)
        assert line.closed is None


class TestDisconnect:
    def test_with_receipt(self, line):
        line.frame("DISCONNECT", receipt="77")
        assert line.only("RECEIPT").headers["receipt-id"] == "77"
        assert line.closed == Close("disconnected")

    def test_without_receipt(self, line):
        line.frame("DISCONNECT")
        assert line.frames() == []
        assert line.closed == Close("disconnected")

    def test_after_all_that_came_before(self, line):
        line.hold = DeclareQueue
        line.send(
            b"SEND\ndestination:/topic/a\nreceipt:1\n\n\0SEND\ndestination:/queue/q\nreceipt:2\n\n\0"
            b"DISCONNECT\nreceipt:3\n\n\0SEND\ndestination:/topic/late\nreceipt:4\n\n\0"
        )
        (first,) = line.take(Publish)
        line.answer(first)
        assert [frame.headers["receipt-id"] for frame in line.frames()] == ["1"]
        line.release()
        assert line.closed is None
        (second,) = line.take(Publish)
        line.answer(second)
        assert [frame.headers["receipt-id"] for frame in line.frames()] == ["2", "3"]
        assert line.closed == Close("disconnected")

    def test_an_earlier_failure_wins(self, line):
        line.send(b"SEND\ndestination:/topic/a\nreceipt:1\n\n\0DISCONNECT\nreceipt:2\n\n\0")
        (publish,) = line.take(Publish)
        error = NotFound("gone", resource="sqs queue q")
        line.answer(publish, Outcome.RELEASED, error)
        assert line.only("ERROR").headers["receipt-id"] == "1"
        assert line.closed.error is error

    def test_nothing_after_it_is_read(self, line):
        line.frame("DISCONNECT")
        assert line.send(b"garbage \xff\n\n\0") == ()


class TestOtherEndings:
    def test_shutdown_answers_what_is_under_way(self, line):
        line.frame("SEND", destination="/topic/a", receipt="1")
        (publish,) = line.take(Publish)
        line.run(line.session.shutdown())
        assert line.closed is None
        line.answer(publish)
        receipt, error = line.frames()
        assert (receipt.command, error.command) == ("RECEIPT", "ERROR")
        assert error.headers["message"] == "Shutdown"
        assert line.closed == Close("the gateway stops")

    def test_shutdown_of_an_idle_connection(self, line):
        line.run(line.session.shutdown())
        line.only("ERROR")
        assert line.closed is not None
        assert line.session.shutdown() == ()

    def test_shutdown_during_login(self, open_line):
        from gateway.core.commands import Authenticate

        line = open_line()
        line.hold = Authenticate
        line.send(b"CONNECT\naccept-version:1.2\n\n\0")
        line.run(line.session.shutdown())
        line.release()
        assert [frame.command for frame in line.frames()] == ["ERROR"]
        assert line.closed is not None
        assert not line.session.established

    def test_taken_over(self, line):
        line.run(line.session.taken_over())
        line.only("ERROR")
        assert line.closed is not None
        assert line.session.taken_over() == ()

    def test_connection_lost(self, line):
        line.frame("SEND", destination="/topic/a", receipt="1")
        (publish,) = line.take(Publish)
        assert line.session.connection_lost() == ()
        assert line.session.answer(publish.token, ACCEPTED, line.now) == ()
        assert line.session.data_to_send() == b""
        assert line.session.receive_data(b"SEND\ndestination:/topic/a\n\n\0", line.now) == ()
        assert line.session.tick(line.now) == ()
        assert line.session.shutdown() == ()
