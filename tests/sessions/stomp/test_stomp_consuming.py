"""SUBSCRIBE, MESSAGE, ACK, NACK and UNSUBSCRIBE."""

from __future__ import annotations

import pytest

from gateway.core.backend import QueueSpec
from gateway.core.commands import Bind, Cancel, Close, Consume, DeclareQueue, Settle
from gateway.core.errors import NotFound, Refused
from gateway.core.message import Address, Properties
from gateway.core.outcome import Outcome, Result
from gateway.protocols.stomp.errors import BadDestination, BadHeader, BadSelector, BadTransaction, UnknownMessage

MODES = ["client", "client-individual"]


def settled(line):
    return [
        (command.outcome, [delivery.message.body for delivery in command.deliveries]) for command in line.take(Settle)
    ]


class TestSubscribe:
    def test_queue(self, line):
        line.frame("SUBSCRIBE", id="0", destination="/queue/orders", receipt="r")
        declare, consume = line.done
        assert (declare.queue, declare.spec) == ("orders", QueueSpec(durable=True))
        assert (consume.queue, consume.prefetch) == ("orders", 250)
        assert line.only("RECEIPT").headers["receipt-id"] == "r"

    def test_existing_queue(self, line):
        line.frame("SUBSCRIBE", id="0", destination="/amq/queue/orders")
        (consume,) = line.done
        assert consume.queue == "orders"

    @pytest.mark.parametrize(
        ("destination", "exchange", "pattern"),
        [
            ("/topic/a.*.#", "amq.topic", "a.*.#"),
            ("/exchange/logs/a.b", "logs", "a.b"),
            ("/exchange/logs", "logs", ""),
            ("/topic/a%2Fb", "amq.topic", "a/b"),
        ],
    )
    def test_live(self, line, destination, exchange, pattern):
        line.frame("SUBSCRIBE", id="0", destination=destination)
        declare, bind, consume = line.done
        assert declare.spec.virtual
        assert not declare.spec.durable
        assert declare.queue == bind.queue == consume.queue
        assert (bind.exchange, bind.pattern) == (exchange, pattern)

    def test_live_queues_have_names_of_their_own(self, open_line):
        names = set()
        for line in (open_line(), open_line()):
            line.connect()
            line.subscribe("/topic/a", id="0")
            line.subscribe("/topic/a", id="1")
            names |= {command.queue for command in line.take(Consume)}
        assert len(names) == 4

    def test_the_receipt_comes_after_the_last_command(self, line):
        line.hold = Consume
        line.frame("SUBSCRIBE", id="0", destination="/topic/a", receipt="r")
        assert line.frames() == []
        line.release()
        line.only("RECEIPT")

    @pytest.mark.parametrize(
        ("count", "prefetch"),
        [("1", 1), ("777", 777), ("10000", 10_000), ("10001", 10_000), ("0", 10_000), ("-1", 10_000), (" 5", 5)],
    )
    def test_prefetch(self, line, count, prefetch):
        line.frame("SUBSCRIBE", id="0", destination="/queue/q", prefetch_count=count)
        assert [command.prefetch for command in line.take(Consume)] == [prefetch]

    @pytest.mark.parametrize(
        ("headers", "error"),
        [
            ({"id": "0"}, BadHeader),
            ({"id": "0", "destination": "a/q"}, BadDestination),
            ({"id": "0", "destination": "/temp-queue/q"}, BadDestination),
            ({"id": "0", "destination": "/queue/q", "ack": "sometimes"}, BadHeader),
            ({"id": "0", "destination": "/queue/q", "prefetch-count": "many"}, BadHeader),
            ({"id": "0", "destination": "/topic/t", "selector": "a ="}, BadSelector),
            ({"id": "0", "destination": "/queue/q", "x-priority": "high"}, BadHeader),
            ({"id": "0", "destination": "/queue/q", "x-stream-filter": "a"}, Refused),
            ({"destination": "/topic/t", "durable": "true"}, BadHeader),
            ({"id": "0", "destination": "/topic/t", "x-expires": "never"}, BadHeader),
        ],
    )
    def test_refused(self, line, headers, error):
        line.frame("SUBSCRIBE", receipt="7", **headers)
        assert line.only("ERROR").headers["receipt-id"] == "7"
        assert isinstance(line.closed.error, error)
        assert line.done == [line.closed]

    @pytest.mark.parametrize("headers", [{"durable": "true"}, {"auto-delete": "false"}, {"persistent": "true"}])
    def test_what_a_queue_is_anyway(self, line, headers):
        line.frame("SUBSCRIBE", id="0", destination="/queue/q", **headers)
        assert line.closed is None

    def test_the_same_id_twice(self, line):
        line.subscribe(id="0")
        line.frame("SUBSCRIBE", id="0", destination="/queue/other")
        line.only("ERROR")
        assert isinstance(line.closed.error, BadHeader)

    @pytest.mark.parametrize("kind", [DeclareQueue, Bind, Consume])
    def test_the_hub_cannot(self, line, kind):
        error = NotFound("no such queue", resource="sqs queue q")
        line.refuse = {kind: Result(Outcome.REJECTED, error)}
        line.frame("SUBSCRIBE", id="0", destination="/topic/a", receipt="r")
        answer = line.only("ERROR")
        assert (answer.headers["message"], answer.headers["receipt-id"]) == ("Subscription failed", "r")
        assert b"no such queue" in answer.body
        assert line.closed.error is error

    def test_subscriptions_are_bounded(self, open_line):
        line = open_line(max_subscriptions=2)
        line.connect()
        for number in range(2):
            line.subscribe(id=str(number))
        line.frame("UNSUBSCRIBE", id="0")
        tag = line.subscribe(id="2", ack="client")
        line.deliver(tag, b"held")
        line.frames()
        line.frame("UNSUBSCRIBE", id="2")  # ended, but it still holds a delivery
        line.frame("SUBSCRIBE", id="3", destination="/queue/q")
        line.only("ERROR")
        assert isinstance(line.closed.error, Refused)


class TestMessage:
    def test_auto(self, line):
        tag = line.subscribe(id="s\\c1")
        _, held = line.deliver(tag, b"hello")
        assert held == [False]
        message = line.only("MESSAGE")
        assert message.headers.pop("message-id")
        assert message.headers == {
            "subscription": "s:1",
            "destination": "/queue/q",
            "redelivered": "false",
            "content-length": "5",
        }
        assert message.body == b"hello"
        assert line.session.unsettled() == []

    @pytest.mark.parametrize("mode", MODES)
    def test_client(self, line, mode):
        tag = line.subscribe(ack=mode)
        deliveries, held = line.deliver(tag, b"a\0b", b"", attempt=2)
        assert held == [True, True]
        first, second = line.frames()
        assert first.headers["ack"] != second.headers["ack"]
        assert first.headers["message-id"] != second.headers["message-id"]
        assert first.headers["redelivered"] == "true"
        assert (first.body, second.body) == (b"a\0b", b"")
        assert list(line.session.unsettled()) == deliveries

    def test_destination_is_where_it_was_published(self, line):
        tag = line.subscribe("/topic/#")
        for address in (Address("amq.topic", "a.b"), Address("amq.topic", "a.b"), Address("x", "k"), Address("", "q")):
            line.deliver(tag, b"", address=address)
        assert [frame.headers["destination"] for frame in line.frames()] == [
            "/topic/a.b",
            "/topic/a.b",
            "/exchange/x/k",
            "/queue/q",
        ]

    def test_properties_and_headers(self, line):
        tag = line.subscribe()
        line.deliver(
            tag,
            b"",
            properties=Properties(content_type="text/plain", correlation_id="c:1", delivery_mode=2),
            headers={"colour": "r\ned", "destination": "/queue/forged"},
        )
        headers = line.only("MESSAGE").headers
        assert headers["content-type"] == "text/plain"
        assert headers["correlation-id"] == "c:1"
        assert headers["persistent"] == "true"
        assert headers["colour"] == "r\ned"
        assert headers["destination"] == "/queue/q"

    def test_each_subscription_gets_its_own(self, line):
        first, second = line.subscribe(id="a"), line.subscribe("/queue/other", id="b")
        line.deliver(second, b"for b")
        line.deliver(first, b"for a")
        assert [(frame.headers["subscription"], frame.body) for frame in line.frames()] == [
            ("b", b"for b"),
            ("a", b"for a"),
        ]


def acks_of(line):
    return {frame.body: frame.headers["ack"] for frame in line.frames()}


class TestAcknowledgement:
    def test_individual(self, line):
        tag = line.subscribe(ack="client-individual")
        line.deliver(tag, b"1", b"2", b"3")
        acks = acks_of(line)
        line.frame("ACK", id=acks[b"2"])
        assert settled(line) == [(Outcome.ACCEPTED, [b"2"])]
        assert [delivery.message.body for delivery in line.session.unsettled()] == [b"1", b"3"]

    def test_cumulative(self, line):
        tag = line.subscribe(ack="client")
        line.deliver(tag, b"1", b"2", b"3")
        acks = acks_of(line)
        line.frame("ACK", id=acks[b"2"])
        assert settled(line) == [(Outcome.ACCEPTED, [b"1", b"2"])]
        line.frame("ACK", id=acks[b"3"])
        assert settled(line) == [(Outcome.ACCEPTED, [b"3"])]
        assert line.session.unsettled() == []

    def test_cumulative_within_its_subscription(self, line):
        first, second = line.subscribe(id="a", ack="client"), line.subscribe(id="b", ack="client")
        line.deliver(first, b"a1")
        line.deliver(second, b"b1")
        line.frame("ACK", id=acks_of(line)[b"b1"])
        assert settled(line) == [(Outcome.ACCEPTED, [b"b1"])]
        assert [delivery.message.body for delivery in line.session.unsettled()] == [b"a1"]

    @pytest.mark.parametrize(("mode", "bodies"), [("client", [b"1", b"2"]), ("client-individual", [b"2"])])
    def test_nack_gives_back(self, line, mode, bodies):
        tag = line.subscribe(ack=mode)
        line.deliver(tag, b"1", b"2")
        line.frame("NACK", id=acks_of(line)[b"2"])
        assert settled(line) == [(Outcome.RELEASED, bodies)]

    @pytest.mark.parametrize(("requeue", "outcome"), [("false", Outcome.REJECTED), ("true", Outcome.RELEASED)])
    def test_nack_with_requeue(self, line, requeue, outcome):
        tag = line.subscribe(ack="client")
        line.deliver(tag, b"1")
        line.frame("NACK", id=acks_of(line)[b"1"], requeue=requeue)
        assert settled(line) == [(outcome, [b"1"])]

    @pytest.mark.parametrize("command", ["ACK", "NACK"])
    def test_receipt(self, line, command):
        tag = line.subscribe(ack="client")
        line.deliver(tag, b"1")
        line.frame(command, id=acks_of(line)[b"1"], receipt="r")
        assert line.only("RECEIPT").headers["receipt-id"] == "r"

    def test_consecutive_acks_are_one_command(self, line):
        tag = line.subscribe(ack="client-individual")
        line.deliver(tag, b"1", b"2", b"3", b"4", b"5")
        acks = acks_of(line)
        frames = [("ACK", b"1"), ("ACK", b"3"), ("NACK", b"2"), ("ACK", b"4"), ("ACK", b"5")]
        line.send(b"".join(f"{command}\nid:{acks[body]}\n\n\0\n".encode() for command, body in frames))
        assert settled(line) == [
            (Outcome.ACCEPTED, [b"1", b"3"]),
            (Outcome.RELEASED, [b"2"]),
            (Outcome.ACCEPTED, [b"4", b"5"]),
        ]

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda ack: ack, id="twice"),
            pytest.param(lambda ack: ack[:-1] + "9", id="not yet delivered"),
            pytest.param(lambda ack: ack[:-1] + "0", id="number 0"),
            pytest.param(lambda ack: ack[:-1] + "-1", id="negative"),
            pytest.param(lambda ack: ack[:-1], id="no number"),
            pytest.param(lambda ack: ack + "x", id="no number at all"),
            pytest.param(lambda ack: ack + "9" * 5000, id="many digits"),
            pytest.param(lambda ack: "x" + ack, id="of another session"),
            pytest.param(lambda ack: "a@@b@@1", id="of another broker"),
        ],
    )
    def test_unknown(self, line, mode, change):
        tag = line.subscribe(ack=mode)
        line.deliver(tag, b"1", b"2")
        ack = acks_of(line)[b"1"]
        line.frame("ACK", id=ack)
        assert settled(line) == [(Outcome.ACCEPTED, [b"1"])]
        line.frame("ACK", id=change(ack), receipt="7")
        answer = line.only("ERROR")
        assert (answer.headers["message"], answer.headers["receipt-id"]) == ("Subscription not found", "7")
        assert isinstance(line.closed.error, UnknownMessage)
        assert settled(line) == []
        assert [delivery.message.body for delivery in line.session.unsettled()] == [b"2"]

    def test_an_ack_for_an_earlier_connection_settles_nothing(self, open_line):
        earlier, later = open_line(), open_line()
        for line in (earlier, later):
            line.connect()
            tag = line.subscribe(ack="client-individual")
            line.deliver(tag, b"1")
        later.frames()
        later.frame("ACK", id=acks_of(earlier)[b"1"])
        assert settled(later) == []
        assert isinstance(later.closed.error, UnknownMessage)

    def test_auto_has_nothing_to_acknowledge(self, line):
        tag = line.subscribe()
        line.deliver(tag, b"1")
        line.frame("ACK", id=line.only("MESSAGE").headers["message-id"])
        assert isinstance(line.closed.error, UnknownMessage)

    @pytest.mark.parametrize("command", ["ACK", "NACK"])
    @pytest.mark.parametrize(
        ("headers", "error"),
        [({}, BadHeader), ({"id": "1"}, BadHeader), ({"id": "T_0@@s@@1", "transaction": "t"}, BadTransaction)],
    )
    def test_refused(self, line, command, headers, error):
        line.frame(command, **headers)
        line.only("ERROR")
        assert isinstance(line.closed.error, error)

    def test_a_held_back_publish_does_not_part_acks_from_their_order(self, line):
        tag = line.subscribe(ack="client-individual")
        line.deliver(tag, b"1", b"2")
        acks = acks_of(line)
        line.done.clear()
        line.send(
            f"ACK\nid:{acks[b'1']}\n\n\0SEND\ndestination:/topic/a\n\n\0ACK\nid:{acks[b'2']}\n\n\0".encode(),
        )
        assert [type(command).__name__ for command in line.done] == ["Settle", "Publish", "Settle"]


class TestUnsubscribe:
    def test_queue(self, line):
        tag = line.subscribe()
        line.done.clear()
        line.frame("UNSUBSCRIBE", id="0", receipt="r")
        (cancel,) = line.done
        assert (type(cancel), cancel.tag) == (Cancel, tag)
        line.only("RECEIPT")
        assert line.session._subscribing._by_tag == {}

    def test_live(self, line):
        line.subscribe("/exchange/x/a.*")
        line.done.clear()
        line.frame("UNSUBSCRIBE", id="0")
        (cancel,) = line.done  # its queue ends with its consumer, and takes its bindings along
        assert isinstance(cancel, Cancel)

    @pytest.mark.parametrize("mode", MODES)
    def test_what_was_delivered_can_still_be_acknowledged(self, line, mode):
        tag = line.subscribe(ack=mode)
        line.deliver(tag, b"1", b"2")
        acks = acks_of(line)
        line.frame("UNSUBSCRIBE", id="0")
        assert len(line.session.unsettled()) == 2
        line.frame("ACK", id=acks[b"1"])
        line.frame("NACK", id=acks[b"2"])
        assert settled(line) == [(Outcome.ACCEPTED, [b"1"]), (Outcome.RELEASED, [b"2"])]
        assert line.session._subscribing._by_tag == {}

    def test_the_id_is_free_again_and_its_acks_are_not_mixed_up(self, line):
        first = line.subscribe(ack="client-individual")
        line.deliver(first, b"old")
        old = acks_of(line)[b"old"]
        line.frame("UNSUBSCRIBE", id="0")
        second = line.subscribe(ack="client-individual")
        assert first != second
        line.deliver(second, b"new")
        assert acks_of(line)[b"new"] != old
        line.frame("ACK", id=old)
        assert settled(line) == [(Outcome.ACCEPTED, [b"old"])]

    @pytest.mark.parametrize("mode", ["auto", *MODES])
    def test_what_comes_too_late_is_not_shown_and_goes_back(self, line, mode):
        tag = line.subscribe(ack=mode)
        line.hold = Cancel
        line.frame("UNSUBSCRIBE", id="0", receipt="r")
        deliveries, held = line.deliver(tag, b"late")
        assert held == [True]
        assert line.frames() == []
        assert list(line.session.unsettled()) == deliveries
        line.release()
        assert settled(line) == [(Outcome.RELEASED, [b"late"])]
        assert line.session.unsettled() == []
        line.only("RECEIPT")

    def test_unknown(self, line):
        line.frame("UNSUBSCRIBE", id="0")
        line.only("ERROR")
        assert isinstance(line.closed.error, BadHeader)

    @pytest.mark.parametrize("headers", [{}, {"destination": "/queue/q"}])
    def test_without_id(self, line, headers):
        line.subscribe()
        line.frames()
        line.frame("UNSUBSCRIBE", **headers)
        line.only("ERROR")
        assert isinstance(line.closed.error, BadHeader)

    def test_the_hub_cannot(self, line):
        line.subscribe()
        line.refuse = {Cancel: Result(Outcome.RELEASED, NotFound("gone"))}
        line.frame("UNSUBSCRIBE", id="0", receipt="r")
        answer = line.only("ERROR")
        assert (answer.headers["message"], answer.headers["receipt-id"]) == ("Unsubscription failed", "r")


class TestEnd:
    @pytest.mark.parametrize("mode", ["auto", *MODES])
    def test_nothing_is_delivered_after_the_end(self, line, mode):
        tag = line.subscribe(ack=mode)
        line.frame("DISCONNECT")
        deliveries, held = line.deliver(tag, b"late")
        assert held == [True]
        assert line.frames() == []
        assert list(line.session.unsettled()) == deliveries

    def test_unsettled_of_all_subscriptions(self, line):
        tags = [line.subscribe(id="a", ack="client"), line.subscribe(id="b", ack="client-individual")]
        for tag in tags:
            line.deliver(tag, b"x", b"y")
        line.session.connection_lost()
        assert len(line.session.unsettled()) == 4

    def test_acks_before_disconnect_count(self, line):
        tag = line.subscribe(ack="client")
        line.deliver(tag, b"1")
        line.send(f"ACK\nid:{acks_of(line)[b'1']}\n\n\0DISCONNECT\nreceipt:r\n\n\0".encode())
        assert settled(line) == [(Outcome.ACCEPTED, [b"1"])]
        assert line.closed == Close("disconnected")
        assert line.session.unsettled() == []
