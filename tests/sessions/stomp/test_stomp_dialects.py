"""What a session does for each dialect: temporary queues, durable subscriptions, composites, selectors."""

from __future__ import annotations

import dataclasses

import pytest

from gateway.core.arguments import SELECTOR
from gateway.core.backend import QueueSpec
from gateway.core.commands import Bind, Cancel, Consume, DeclareQueue, DeleteQueue, Presence, Publish, Rebind, Settle
from gateway.core.errors import NotSupported, Refused, Unavailable
from gateway.core.message import Address, Origin
from gateway.core.outcome import Outcome, Result
from gateway.core.selector import CONVERTING
from gateway.core.shared import SUBSCRIPTION
from gateway.protocols.stomp.dialect import PRIVATE
from gateway.protocols.stomp.errors import BadSelector, BadTransaction, MissingHeader, SubscriptionCancelled


@pytest.fixture
def active(open_line):
    """A client of an ActiveMQ listener."""
    line = open_line(dialect="activemq")
    line.connect(client_id="c")
    line.done.clear()
    return line


def kinds(line):
    return [type(command).__name__ for command in line.done]


class TestTemporaryQueues:
    def test_rabbitmq_subscribes_to_the_answers(self, line):
        line.frame("SEND", b"?", destination="/queue/q", receipt="1", **{"reply-to": "/temp-queue/x"})
        assert kinds(line) == ["DeclareQueue", "Consume", "DeclareQueue", "Publish"]
        declare, consume, _, publish = line.done
        assert declare.spec == PRIVATE
        queue = declare.queue
        assert publish.message.properties.reply_to == queue == consume.queue
        assert line.frames() == []  # the receipt is the SEND's
        line.deliver(consume.tag, b"!", address=Address("", queue))
        answer = line.only("MESSAGE")
        assert answer.headers["subscription"] == "/temp-queue/x"
        assert "ack" not in answer.headers

    def test_once(self, line):
        for _ in range(3):
            line.frame("SEND", destination="/topic/q", **{"reply-to": "/temp-queue/x"})
        line.frame("SEND", destination="/topic/q", **{"reply-to": "/temp-queue/y"})
        assert len(line.take(Consume)) == 2

    def test_another_client_can_answer(self, open_line, line):
        line.frame("SEND", destination="/topic/q", **{"reply-to": "/temp-queue/x"})
        (publish,) = line.take(Publish)
        other = open_line()
        other.connect()
        tag = other.subscribe("/topic/q")
        other.deliver(tag, b"?", properties=publish.message.properties)
        other.frame("SEND", b"!", destination=other.only("MESSAGE").headers["reply-to"])
        assert other.take(Publish)[0].message.address == Address("", publish.message.properties.reply_to)

    def test_activemq_leaves_the_subscription_to_the_client(self, active):
        active.frame("SEND", destination="/topic/q", **{"reply-to": "/temp-queue/x"})
        active.frame("SEND", destination="/topic/q", **{"reply-to": "/temp-queue/x"})
        (declare,) = active.take(DeclareQueue)
        assert active.take(Consume) == []
        active.frame("SUBSCRIBE", id="0", destination="/temp-queue/x")
        (consume,) = active.take(Consume)
        assert consume.queue == declare.queue
        active.deliver(consume.tag, b"!", address=Address("", declare.queue))
        assert active.only("MESSAGE").headers["destination"] == "/temp-queue/x"

    def test_the_queue_of_one_client_is_not_that_of_another(self, open_line):
        queues = set()
        for line in (open_line(), open_line(dialect="activemq"), open_line()):
            line.connect()
            line.frame("SEND", destination="/topic/q", **{"reply-to": "/temp-queue/x"})
            queues |= {command.queue for command in line.take(DeclareQueue)}
        assert len(queues) == 3


class TestRabbitMQQueues:
    def test_what_a_send_says_about_its_queue(self, line):
        line.frame("SEND", destination="/queue/q", durable="false", **{"x-message-ttl": "5"})
        (declare,) = line.take(DeclareQueue)
        assert declare.spec == QueueSpec(durable=False, arguments={"x-message-ttl": 5})

    def test_a_durable_subscription(self, line):
        line.frame("SUBSCRIBE", id="d2", destination="/topic/foo.bar", durable="true", **{"auto-delete": "false"})
        declare, bind, consume = line.done
        assert declare.queue == "stomp-subscription-JRdnkwOdCK1_vmhoGGNPGw" == bind.queue == consume.queue
        line.done.clear()
        line.frame("UNSUBSCRIBE", id="d2", receipt="1")
        assert kinds(line) == ["Cancel"]
        line.only("RECEIPT")

    def test_unsubscribe_for_good(self, line):
        line.frame("SUBSCRIBE", id="d2", destination="/topic/foo.bar", durable="true", **{"auto-delete": "false"})
        line.done.clear()
        line.hold = DeleteQueue
        line.frame("UNSUBSCRIBE", id="d2", durable="true", receipt="1")
        assert kinds(line) == ["Cancel", "DeleteQueue"]
        assert line.frames() == []
        line.release()
        line.only("RECEIPT")

    def test_priority(self, line):
        line.frame("SUBSCRIBE", id="0", destination="/queue/q", **{"x-priority": "5"})
        assert line.take(Consume)[0].priority == 5

    def test_duplicate(self, line):
        line.subscribe(id="0")
        line.frame("SUBSCRIBE", id="0", destination="/queue/other")
        assert line.only("ERROR").headers["message"] == "Duplicated subscription identifier"


class TestComposite:
    def test_one_receipt_for_all(self, active):
        active.frame("SEND", b"x", destination="/queue/a,/topic/b", receipt="1")
        first, second = active.take(Publish)
        assert [first.message.address, second.message.address] == [Address("", "a"), Address("amq.topic", "b")]
        active.answer(second)
        assert active.frames() == []
        active.answer(first)
        active.only("RECEIPT")

    def test_the_worst_result_counts(self, active):
        active.frame("SEND", b"x", destination="/queue/a,/topic/b", receipt="1")
        first, second = active.take(Publish)
        active.answer(second)
        active.answer(first, Outcome.RELEASED, Unavailable("down"))
        assert active.only("ERROR").headers["receipt-id"] == "1"

    def test_again(self, active):
        active.frame("SEND", destination="/queue/a,/queue/b")
        active.frame("SEND", destination="/queue/a,/queue/b")
        assert len(active.take(DeclareQueue)) == 2
        assert len(active.take(Publish)) == 4

    def test_in_a_transaction(self, active):
        active.frame("BEGIN", transaction="t")
        active.frame("SEND", destination="/topic/a,/topic/b", transaction="t")
        active.frame("COMMIT", transaction="t", receipt="c")
        for publish in active.take(Publish):
            assert active.frames() == []
            active.answer(publish)
        active.only("RECEIPT")

    @pytest.mark.parametrize("mode", ["client", "client-individual"])
    def test_subscription(self, active, mode):
        active.frame("SUBSCRIBE", id="0", destination="/queue/a,/queue/b", ack=mode, receipt="1")
        active.only("RECEIPT")
        first, second = active.take(Consume)
        active.deliver(first.tag, b"a", address=Address("", "a"))
        active.deliver(second.tag, b"b", address=Address("", "b"))
        one, two = active.frames()
        assert (one.headers["destination"], two.headers["destination"]) == ("/queue/a", "/queue/b")
        assert one.headers["subscription"] == two.headers["subscription"] == "0"
        assert len(active.session.unsettled()) == 2
        active.frame("ACK", id=two.headers["ack"])
        (settle,) = active.take(Settle)
        assert len(settle.deliveries) == (2 if mode == "client" else 1)
        active.frame("UNSUBSCRIBE", id="0", receipt="2")
        assert [cancel.tag for cancel in active.take(Cancel)] == [first.tag, second.tag]
        active.only("RECEIPT")

    def test_each_source_counts_as_a_subscription(self, open_line):
        line = open_line(dialect="activemq", max_subscriptions=2)
        line.connect()
        line.frame("SUBSCRIBE", id="0", destination="/queue/a,/queue/b,/queue/c")
        assert isinstance(line.closed.error, Refused)
        assert line.take(Consume) == []


class TestDurableSubscribers:
    def test_it_lasts(self, active):
        name = {"activemq.subscriptionName": "n"}
        active.frame("SUBSCRIBE", id="0", destination="/topic/t.>", **name)
        declare, bind, consume = active.done
        # A subscriber that comes back with another topic is rid of the one it had, and of what came by it.
        assert (declare.spec, declare.presence) == (QueueSpec(arguments={SUBSCRIPTION: "t.#"}), Presence.RENEWED)
        assert (type(bind), bind.queue, bind.bindings) == (Rebind, declare.queue, (("amq.topic", "t.#"),))
        assert consume.exclusive  # there is one subscriber of a name
        active.done.clear()
        active.frame("UNSUBSCRIBE", id="0")
        assert kinds(active) == ["Cancel"]
        active.frame("UNSUBSCRIBE", receipt="1", **name)
        assert [command.queue for command in active.take(DeleteQueue)] == [declare.queue]
        active.only("RECEIPT")

    def test_both_at_once(self, active):
        active.frame("SUBSCRIBE", id="0", destination="/topic/t", **{"durable-subscription-name": "n"})
        active.done.clear()
        active.frame("UNSUBSCRIBE", id="0", **{"durable-subscription-name": "n"})
        assert kinds(active) == ["Cancel", "DeleteQueue"]

    def test_without_client_id(self, open_line):
        line = open_line(dialect="activemq")
        line.connect()
        line.frame("SUBSCRIBE", id="0", destination="/topic/t", **{"activemq.subscriptionName": "n"})
        assert isinstance(line.closed.error, MissingHeader)

    def test_a_virtual_topic(self, active):
        active.frame("SUBSCRIBE", id="0", destination="/queue/Consumer.A.VirtualTopic.Orders")
        declare, bind, _ = active.done
        assert declare.spec == QueueSpec(durable=True)
        assert (bind.queue, bind.exchange, bind.pattern) == (declare.queue, "amq.topic", "VirtualTopic.Orders")
        tag = active.done[-1].tag
        for address in (Address("amq.topic", "VirtualTopic.Orders"), Address("", declare.queue)):
            active.deliver(tag, b"", address=address)
        through, direct = active.frames()
        assert through.headers["destination"] == direct.headers["destination"] == f"/queue/{declare.queue}"
        assert through.headers["original-destination"] == "/topic/VirtualTopic.Orders"
        assert "original-destination" not in direct.headers


class TestRefusals:
    """ActiveMQ takes a message that its consumer refuses for a poisonous one."""

    def held(self, line, mode="client", *bodies):
        tag = line.subscribe(ack=mode)
        line.deliver(tag, *bodies)
        line.done.clear()
        return [frame.headers["ack"] for frame in line.frames()]

    @pytest.mark.parametrize("mode", ["client", "client-individual"])
    def test_a_message_moves_to_the_dead_letters(self, active, mode):
        one, two, three = self.held(active, mode, b"1", b"2", b"3")
        active.frame("NACK", id=two, receipt="r")
        declare, publish = active.done
        assert (declare.queue, declare.spec) == ("ActiveMQ.DLQ", QueueSpec(durable=True))
        assert (publish.message.address, publish.message.body) == (Address("", "ActiveMQ.DLQ"), b"2")
        assert publish.message.headers["x-first-death-queue"] == "q"
        assert active.frames() == []  # no acknowledgement before it is there
        assert {each.message.body for each in active.session.unsettled()} == {b"1", b"2", b"3"}
        active.answer(publish)
        assert active.only("RECEIPT").headers == {"receipt-id": "r"}
        (settle,) = active.take(Settle)
        assert (settle.outcome, [each.message.body for each in settle.deliveries]) == (Outcome.ACCEPTED, [b"2"])
        # The others are still held, those before it too.
        active.done.clear()
        for ack in (one, three):
            active.frame("ACK", id=ack)
        settled = [each.message.body for command in active.take(Settle) for each in command.deliveries]
        assert settled == [b"1", b"3"]

    def test_the_queue_is_declared_once(self, active):
        for ack in self.held(active, "client-individual", b"1", b"2"):
            active.frame("NACK", id=ack)
        assert kinds(active) == ["DeclareQueue", "Publish", "Publish"]

    def test_what_cannot_be_moved_comes_back(self, active):
        (one,) = self.held(active, "client", b"1")
        active.frame("NACK", id=one, receipt="r")
        active.answer(active.take(Publish)[0], Outcome.RELEASED, Unavailable("away"))
        assert active.only("ERROR").headers["receipt-id"] == "r"
        assert active.take(Settle) == []
        assert [each.message.body for each in active.session.unsettled()] == [b"1"]

    def test_in_a_transaction(self, active):
        one, two = self.held(active, "client-individual", b"1", b"2")
        active.frame("BEGIN", transaction="t")
        active.frame("ACK", id=one, transaction="t")
        active.frame("NACK", id=two, transaction="t")
        assert kinds(active) == []
        active.frame("COMMIT", transaction="t", receipt="r")
        active.answer(active.take(Publish)[0])
        settled = [each.message.body for command in active.take(Settle) for each in command.deliveries]
        assert settled == [b"1", b"2"]
        active.only("RECEIPT")

    def test_aborted(self, active):
        (one,) = self.held(active, "client-individual", b"1")
        active.frame("BEGIN", transaction="t")
        active.frame("NACK", id=one, transaction="t")
        active.frame("ABORT", transaction="t")
        assert kinds(active) == []
        assert [each.message.body for each in active.session.unsettled()] == [b"1"]


class TestSelectors:
    @pytest.mark.parametrize("dialect", ["rabbitmq", "activemq"])
    def test_on_a_topic(self, open_line, dialect):
        line = open_line(dialect=dialect)
        line.connect()
        line.frame("SUBSCRIBE", id="0", destination="/topic/a", selector="colour = 'red'")
        prefix = "" if dialect == "rabbitmq" else CONVERTING
        assert line.take(DeclareQueue)[0].spec.arguments == {SELECTOR: f"{prefix}colour = 'red'"}
        assert line.take(Consume)[0].selector == ""

    @pytest.mark.parametrize(
        ("written", "read"),
        [
            ("n > 4", "convert_string_expressions:n > 4"),
            ("convert_string_expressions\\cn > 4", "convert_string_expressions:n > 4"),
            ("no_convert_string_expressions\\cn > 4", "n > 4"),
        ],
    )
    def test_texts_as_numbers(self, active, written, read):
        active.frame("SUBSCRIBE", id="0", destination="/topic/a", selector=written)
        assert active.take(DeclareQueue)[0].spec.arguments == {SELECTOR: read}

    def test_of_a_durable_subscription(self, active):
        headers = {"activemq.subscriptionName": "n", "selector": "b = 1"}
        active.frame("SUBSCRIBE", id="0", destination="/topic/a", **headers)
        declare = active.take(DeclareQueue)[0]
        assert declare.spec.arguments == {SUBSCRIPTION: "a", SELECTOR: f"{CONVERTING}b = 1"}
        assert declare.presence is Presence.RENEWED
        assert active.take(Consume)[0].selector == ""

    @pytest.mark.parametrize(
        "headers",
        [
            {"destination": "/queue/a"},
            {"destination": "/amq/queue/a"},
            {"destination": "/topic/a", "durable": "true"},
            {"destination": "/topic/a", "x_queue_name": "shared"},
        ],
    )
    def test_on_a_queue_that_others_may_consume_it_is_the_consumers(self, line, headers):
        line.frame("SUBSCRIBE", id="0", selector="b = 1", **headers)
        assert all(declare.spec.arguments == {} for declare in line.take(DeclareQueue))
        assert line.take(Consume)[0].selector == "b = 1"

    def test_of_a_composite(self, active):
        active.frame("SUBSCRIBE", id="0", destination="/queue/a,/topic/b", selector="b = 1")
        assert [each.spec.arguments for each in active.take(DeclareQueue)] == [{}, {SELECTOR: f"{CONVERTING}b = 1"}]
        assert [each.selector for each in active.take(Consume)] == [f"{CONVERTING}b = 1", ""]

    def test_what_the_hub_says_of_one_is_told(self, active):
        active.refuse[Consume] = Result(Outcome.REJECTED, NotSupported("a rule has to allow it"))
        active.frame("SUBSCRIBE", id="0", destination="/queue/a", selector="b = 1")
        assert b"a rule has to allow it" in active.only("ERROR").body

    @pytest.mark.parametrize(
        "headers",
        [
            {"destination": "/queue/a"},
            {"destination": "/topic/a"},
            {"destination": "/topic/a", "activemq.subscriptionName": "n"},
        ],
    )
    def test_one_that_is_none(self, active, headers):
        active.frame("SUBSCRIBE", id="0", receipt="1", selector="b =", **headers)
        assert active.only("ERROR").headers["receipt-id"] == "1"
        assert isinstance(active.closed.error, BadSelector)
        assert kinds(active) == ["Close"]


class TestConsumerOptions:
    def test_exclusive(self, active):
        active.frame("SUBSCRIBE", id="0", destination="/queue/a", **{"activemq.exclusive": "true"})
        (consume,) = active.take(Consume)
        assert (consume.sole, consume.exclusive) == (True, False)

    @pytest.mark.parametrize("selector", [{}, {"selector": "colour = 'red'"}])
    def test_no_local(self, active, selector):
        active.frame("SUBSCRIBE", id="0", destination="/topic/a", **{"activemq.noLocal": "true"}, **selector)
        spec = active.take(DeclareQueue)[0].spec
        assert (SELECTOR in spec.arguments) is bool(selector)
        accepts = spec.accepts
        active.frame("SEND", destination="/topic/a", colour="red")
        own = active.take(Publish)[0].message
        assert not accepts(own)
        # Another connection of the same client and user.
        assert accepts(dataclasses.replace(own, origin=dataclasses.replace(own.origin)))
        assert accepts(dataclasses.replace(own, origin=Origin("mqtt")))

    @pytest.mark.parametrize(
        "headers", [{"destination": "/queue/a"}, {"destination": "/topic/a", "activemq.subscriptionName": "n"}]
    )
    def test_no_local_without_a_live_subscription(self, active, headers):
        active.frame("SUBSCRIBE", id="0", **{"activemq.noLocal": "true"}, **headers)
        assert b"noLocal" in active.only("ERROR").body
        assert isinstance(active.closed.error, Refused)

    def test_browser(self, active):
        active.frame("SUBSCRIBE", id="0", destination="/queue/a", browser="true")
        assert b"browser" in active.only("ERROR").body


class TestActiveMQFrames:
    def test_message_ids_look_like_those_of_jms(self, active):
        tag = active.subscribe(ack="client-individual")
        active.deliver(tag, b"1")
        headers = active.only("MESSAGE").headers
        assert headers["message-id"].startswith("ID:")
        active.frame("ACK", id=headers["ack"].replace(":", "\\c"))
        assert len(active.take(Settle)) == 1

    def test_a_message_id_of_the_client_is_dropped(self, active):
        active.frame("SEND", destination="/topic/a", **{"message-id": "x"})
        assert "message-id" not in active.take(Publish)[0].message.headers

    def test_prefetch(self, active):
        active.frame("SUBSCRIBE", id="0", destination="/queue/a", **{"activemq.prefetchSize": "3"})
        assert active.take(Consume)[0].prefetch == 3


def test_a_subscription_whose_queue_is_gone(line):
    tag = line.subscribe(id="7")
    assert line.done[-1].cancellable
    line.run(line.session.cancelled(tag))
    assert line.only("ERROR").headers["message"] == "Server cancelled subscription"
    assert isinstance(line.closed.error, SubscriptionCancelled)
    assert line.session.cancelled(tag) == ()


def test_a_subscription_that_has_ended_is_not_missed(line):
    tag = line.subscribe(id="7", ack="client")
    line.deliver(tag, b"1")
    line.frame("UNSUBSCRIBE", id="7")
    assert line.session.cancelled(tag) == ()


def test_nothing_is_bound_without_need(line):
    line.subscribe("/queue/q")
    assert line.take(Bind) == []


def test_a_transaction_that_is_none_publishes_nothing(active):
    active.frame("SEND", destination="/topic/a", transaction="t")
    assert isinstance(active.closed.error, BadTransaction)
    assert active.take(Publish) == []
