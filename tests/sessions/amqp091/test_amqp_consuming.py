"""Consumers, basic.get, and acknowledgements."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pamqp import frame as pamqp_frame
from pamqp.commands import Basic, Channel, Queue

from gateway.core.commands import (
    Cancel,
    ChangePrefetch,
    Consume,
    DeclareQueue,
    DeleteQueue,
    Get,
    Got,
    Prefetch,
    Publish,
    Settle,
)
from gateway.core.errors import InUse, Locked
from gateway.core.message import Properties
from gateway.core.outcome import UNROUTED, Outcome
from gateway.core.topology import UnknownExchange, UnknownQueue
from tests.sessions.amqp091.peer import CAPABILITIES, Peer, connected, delivery, refused

ACCEPTED, RELEASED, REJECTED = Outcome.ACCEPTED, Outcome.RELEASED, Outcome.REJECTED


class TestConsume:
    def test_what_is_asked_for(self) -> None:
        peer = connected()
        peer.send(
            1, Basic.Consume(queue="q", consumer_tag="c", exclusive=True, arguments={"x-priority": 5, "x-other": 1})
        )
        (consume,) = peer.take(Consume)
        assert (consume.queue, consume.exclusive, consume.priority, consume.cancellable) == ("q", True, 5, True)
        assert consume.prefetch == 1_000
        assert peer.only(Basic.ConsumeOk).consumer_tag == "c"

    def test_the_server_gives_tags(self) -> None:
        peer = connected()
        peer.send(1, Basic.Consume(queue="q"), Basic.Consume(queue="q"))
        tags = {each.consumer_tag for each in peer.methods()}
        assert len(tags) == 2
        assert all(re.fullmatch(r"amq\.ctag-[A-Za-z0-9_-]{22}", tag) for tag in tags)

    def test_a_tag_is_used_once_in_a_channel(self) -> None:
        peer = connected(1, 2)
        peer.consume(1)
        peer.consume(2)
        peer.send(1, Basic.Consume(queue="q", consumer_tag="c"))
        peer.closed_connection(530, "NOT_ALLOWED - attempt to reuse consumer tag 'c'", Basic.Consume)

    def test_and_again_after_it_was_cancelled_or_has_ended(self) -> None:
        peer = connected()
        tag = peer.consume()
        peer.send(1, Basic.Cancel("c"))
        peer.received()
        tag = peer.consume()
        peer.run(peer.session.cancelled(tag))
        peer.received()
        assert peer.consume() != tag

    def test_no_delivery_comes_before_consume_ok(self) -> None:
        peer = connected()
        peer.hold = (Consume,)
        peer.send(1, Basic.Consume(queue="q", consumer_tag="c"))
        (consume,) = peer.held
        assert isinstance(consume, Consume)
        peer.deliver(consume.tag, b"early")
        assert [type(each) for each in peer.methods()] == [Basic.ConsumeOk, Basic.Deliver]
        peer.release()
        assert not peer.received()

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            (
                {"x-priority": "high"},
                "invalid arg 'x-priority' for queue 'q' in vhost '/': \"expected integer, got longstr\"",
            ),
        ],
    )
    def test_arguments_that_cannot_be_had(self, arguments: dict[str, Any], problem: str) -> None:
        peer = connected()
        peer.send(1, Basic.Consume(queue="q", arguments=arguments))
        assert not peer.take(Consume)
        peer.closed_channel(406, f"PRECONDITION_FAILED - {problem}", Basic.Consume)

    def test_an_exclusive_consumer_is_in_the_way(self) -> None:
        peer = connected()
        peer.answers[Consume] = refused(InUse("exclusive"))
        peer.send(1, Basic.Consume(queue="q"))
        peer.closed_channel(403, "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use", Basic.Consume)

    def test_no_more_consumers_than_there_is_room_for(self) -> None:
        peer = connected(max_consumers=1)
        peer.consume()
        peer.send(1, Basic.Consume(queue="q"))
        assert peer.only(Channel.Close).reply_code == 506


class TestPrefetch:
    def test_of_consumers_that_come_later(self) -> None:
        peer = connected()
        peer.consume(tag="a")
        peer.send(1, Basic.Qos(prefetch_count=7))
        peer.only(Basic.QosOk)
        peer.send(1, Basic.Consume(queue="q", consumer_tag="b"), Basic.Consume(queue="q", no_ack=True))
        assert [each.prefetch for each in peer.take(Consume)] == [7, 1_000]

    def test_no_more_than_the_operator_allows(self) -> None:
        peer = connected(max_prefetch=100)
        peer.send(1, Basic.Qos(prefetch_count=101), Basic.Consume(queue="q"))
        assert peer.take(Consume)[0].prefetch == 100

    def test_of_the_channel(self) -> None:
        peer = connected()
        peer.send(1, Basic.Consume(queue="q"), Basic.Consume(queue="q", no_ack=True))
        with_limit, without = peer.take(Consume)
        assert isinstance(with_limit.shared, Prefetch)
        assert without.shared is None
        peer.send(1, Basic.Qos(prefetch_count=5, global_=True))
        (change,) = peer.take(ChangePrefetch)
        assert (change.shared, change.limit) == (with_limit.shared, 5)

    def test_sizes_are_not_implemented(self) -> None:
        peer = connected()
        peer.send(1, Basic.Qos(prefetch_size=100))
        peer.closed_connection(540, "NOT_IMPLEMENTED - prefetch_size!=0 (100)", Basic.Qos)


class TestDeliver:
    def test_the_message(self) -> None:
        peer = connected()
        tag = peer.consume()
        message = {"properties": Properties(content_type="text/plain", expiration=5), "headers": {"a": 1}}
        assert peer.deliver(tag, b"body", exchange="x", key="k", **message) == [True]
        ((method, properties, body),) = peer.contents()
        assert isinstance(method, Basic.Deliver)
        assert (method.consumer_tag, method.delivery_tag, method.redelivered) == ("c", 1, False)
        assert (method.exchange, method.routing_key, body) == ("x", "k", b"body")
        assert (properties.content_type, properties.expiration, properties.headers) == ("text/plain", "5", {"a": 1})

    def test_one_that_comes_again(self) -> None:
        peer = connected()
        peer.deliver(peer.consume(), b"body", attempt=3, headers={"a": 1})
        ((method, properties, _),) = peer.contents()
        assert method.redelivered
        assert properties.headers == {"a": 1, "x-delivery-count": 2}

    def test_tags_count_all_deliveries_of_a_channel(self) -> None:
        peer = connected(1, 2)
        held, gone, other = peer.consume(1, tag="a"), peer.consume(1, tag="b", no_ack=True), peer.consume(2)
        assert peer.deliver(held, b"1") + peer.deliver(gone, b"2") + peer.deliver(held, b"3") == [True, False, True]
        peer.deliver(other, b"1")
        tags = [(channel, each.delivery_tag) for channel, each in peer.received() if isinstance(each, Basic.Deliver)]
        assert tags == [(1, 1), (1, 2), (1, 3), (2, 1)]

    def test_in_another_virtual_host(self) -> None:
        peer = connected(vhosts={"/": "o."})
        tag = peer.consume()
        peer.deliver(tag, b"", exchange="o.x", key="o.k")
        peer.deliver(tag, b"", exchange="", key="o.q")
        addresses = [(method.exchange, method.routing_key) for method, _, _ in peer.contents()]
        assert addresses == [("x", "o.k"), ("", "q")]


class TestCancel:
    def test_deliveries_stop_and_what_is_held_stays(self) -> None:
        peer = connected()
        tag = peer.consume()
        peer.deliver(tag, b"one")
        peer.received()
        peer.send(1, Basic.Cancel("c"))
        assert [each.tag for each in peer.take(Cancel)] == [tag]
        assert peer.only(Basic.CancelOk).consumer_tag == "c"
        peer.send(1, Basic.Ack(1))
        assert peer.settled() == [(b"one", ACCEPTED)]

    def test_one_that_is_not_there(self) -> None:
        peer = connected()
        peer.send(1, Basic.Cancel("unknown"), Basic.Cancel("unknown", nowait=True))
        assert peer.only(Basic.CancelOk).consumer_tag == "unknown"

    def test_the_queue_is_gone(self) -> None:
        peer = connected()
        peer.run(peer.session.cancelled(peer.consume()))
        cancel = peer.only(Basic.Cancel)
        assert (cancel.consumer_tag, cancel.nowait) == ("c", True)

    def test_a_client_that_does_not_want_to_know(self) -> None:
        peer = Peer()
        peer.connect(capabilities={**CAPABILITIES, "consumer_cancel_notify": False})
        peer.open(1)
        peer.run(peer.session.cancelled(peer.consume()))
        assert not peer.received()


class TestGet:
    def test_a_message(self) -> None:
        peer = connected()
        peer.answers[Get] = Got(delivery(b"one", exchange="x", key="k"), 3)
        peer.send(1, Basic.Get(queue="q"))
        ((method, _, body),) = peer.contents()
        assert isinstance(method, Basic.GetOk)
        assert (method.delivery_tag, method.redelivered, method.message_count) == (1, False, 3)
        assert (method.exchange, method.routing_key, body) == ("x", "k", b"one")
        peer.send(1, Basic.Ack(1))
        assert peer.settled() == [(b"one", ACCEPTED)]

    def test_no_message(self) -> None:
        peer = connected()
        peer.send(1, Basic.Get(queue="q"))
        peer.only(Basic.GetEmpty)

    def test_without_acknowledgement_it_is_settled_once_it_has_been_written(self) -> None:
        peer = connected()
        peer.answers[Get] = Got(delivery(b"one"))
        peer.send(1, Basic.Get(queue="q", no_ack=True))
        assert not peer.take(Settle)
        assert len(peer.session.unsettled()) == 1
        assert peer.session.deadline <= peer.now
        assert peer.contents()
        peer.tick()
        assert peer.settled() == [(b"one", ACCEPTED)]
        assert not peer.session.unsettled()
        assert peer.session.deadline > peer.now

    def test_no_more_than_there_is_room_for(self) -> None:
        peer = connected(max_unacknowledged=2)
        peer.answers[Get] = lambda _: Got(delivery(b"one"))
        peer.send(1, *[Basic.Get(queue="q")] * 3)
        assert [type(each) for each in peer.methods()] == [Basic.GetOk, Basic.GetOk, Channel.Close]
        assert peer.settled() == [(b"one", RELEASED)] * 2

    def test_somebody_else_s_queue(self) -> None:
        peer = connected()
        peer.answers[Get] = refused(Locked("q"))
        peer.send(1, Basic.Get(queue="q"))
        assert peer.only(Channel.Close).reply_code == 405


def _recover_async() -> Basic.RecoverAsync:
    with pytest.warns(DeprecationWarning, match="deprecated"):
        return Basic.RecoverAsync(requeue=True)


class TestAcknowledging:
    def holding(self, *bodies: bytes) -> Peer:
        peer = connected()
        peer.deliver(peer.consume(), *bodies)
        peer.received()
        return peer

    @pytest.mark.parametrize(
        ("method", "settled"),
        [
            (Basic.Ack(2), [(b"2", ACCEPTED)]),
            (Basic.Ack(2, multiple=True), [(b"1", ACCEPTED), (b"2", ACCEPTED)]),
            (Basic.Ack(0, multiple=True), [(b"1", ACCEPTED), (b"2", ACCEPTED), (b"3", ACCEPTED)]),
            (Basic.Nack(2), [(b"2", RELEASED)]),
            (Basic.Nack(2, multiple=True), [(b"1", RELEASED), (b"2", RELEASED)]),
            (Basic.Nack(2, requeue=False), [(b"2", REJECTED)]),
            (Basic.Reject(2), [(b"2", RELEASED)]),
            (Basic.Reject(2, requeue=False), [(b"2", REJECTED)]),
            (Basic.Recover(requeue=True), [(b"1", RELEASED), (b"2", RELEASED), (b"3", RELEASED)]),
            (_recover_async(), [(b"1", RELEASED), (b"2", RELEASED), (b"3", RELEASED)]),
        ],
    )
    def test_what_is_settled(self, method: Any, settled: list[tuple[bytes, Outcome]]) -> None:
        peer = self.holding(b"1", b"2", b"3")
        peer.send(1, method)
        assert peer.settled() == settled
        left = [each.message.body for each in peer.session.unsettled()]
        assert left == [body for body in (b"1", b"2", b"3") if body not in dict(settled)]
        assert [type(each) for each in peer.methods()] == [Basic.RecoverOk] * isinstance(method, Basic.Recover)

    @pytest.mark.parametrize(
        "method",
        [
            Basic.Ack(0),
            Basic.Ack(4),
            Basic.Ack(4, multiple=True),
            Basic.Nack(4),
            Basic.Reject(4),
            Basic.Ack(2),
            Basic.Ack(2, multiple=True),
        ],
    )
    def test_what_is_not_held(self, method: Any) -> None:
        peer = self.holding(b"1", b"2", b"3")
        peer.send(1, Basic.Ack(2))
        peer.take(Settle)
        peer.send(1, method)
        text = f"PRECONDITION_FAILED - unknown delivery tag {method.delivery_tag}"
        peer.closed_channel(406, text, method)
        assert peer.settled() == [(b"1", RELEASED), (b"3", RELEASED)]

    def test_nothing_is_outstanding(self) -> None:
        peer = self.holding()
        peer.send(1, Basic.Ack(0, multiple=True), Basic.Recover(requeue=True))
        assert not peer.take(Settle)
        peer.only(Basic.RecoverOk)

    def test_not_again_in_the_same_consumer_without_requeueing(self) -> None:
        peer = self.holding(b"1")
        peer.send(1, Basic.Recover(requeue=False))
        peer.closed_connection(540, "NOT_IMPLEMENTED - requeue=false", Basic.Recover)

    def test_those_of_one_read_are_one_command(self) -> None:
        peer = self.holding(b"1", b"2", b"3", b"4")
        data = [Basic.Ack(1), Basic.Ack(3, multiple=True), Basic.Nack(4)]
        peer.feed(b"".join(pamqp_frame.marshal(each, 1) for each in data))
        assert [len(each.deliveries) for each in peer.take(Settle)] == [3, 1]

    def test_in_order_with_what_else_is_asked_for(self) -> None:
        peer = self.holding(b"1", b"2")
        peer.done.clear()
        peer.feed(
            b"".join(
                pamqp_frame.marshal(each, 1)
                for each in (Basic.Ack(1), Queue.Purge(queue="q", nowait=True), Basic.Ack(2))
            )
        )
        assert [type(each).__name__ for each in peer.done] == ["Settle", "PurgeQueue", "Settle"]


class TestDirectReplyTo:
    def consuming(self) -> tuple[Peer, str, str]:
        """With the hub's tag, and the name of the queue."""
        peer = connected(1, 2)
        tag = peer.consume(1, queue="amq.rabbitmq.reply-to", no_ack=True)
        (declare,) = peer.take(DeclareQueue)
        assert declare.spec.exclusive
        assert not declare.spec.durable
        return peer, tag, declare.queue

    def test_a_request_says_where_replies_go(self) -> None:
        peer, tag, queue = self.consuming()
        assert re.fullmatch(r"amq\.rabbitmq\.reply-to\.g-[A-Za-z0-9_-]{32}", queue)
        peer.publish(reply_to="amq.rabbitmq.reply-to", correlation_id="7")
        (request,) = peer.take(Publish)
        assert request.message.properties.reply_to == queue
        assert request.message.properties.correlation_id == "7"
        assert peer.deliver(tag, b"reply", key=queue) == [False]
        ((method, _, body),) = peer.contents()
        assert (method.consumer_tag, method.routing_key, body) == ("c", queue, b"reply")

    def test_only_on_the_channel_that_consumes_them(self) -> None:
        peer, _, _ = self.consuming()
        peer.publish(2, reply_to="amq.rabbitmq.reply-to")
        text = "PRECONDITION_FAILED - fast reply consumer does not exist"
        peer.closed_channel(406, text, Basic.Publish)

    def test_after_it_was_cancelled_nobody_waits(self) -> None:
        peer, _, queue = self.consuming()
        peer.publish(reply_to="amq.rabbitmq.reply-to")
        peer.send(1, Basic.Cancel("c"))
        peer.only(Basic.CancelOk)
        assert [each.queue for each in peer.take(DeleteQueue)] == [queue]
        peer.publish(reply_to="amq.rabbitmq.reply-to")
        assert peer.only(Channel.Close).reply_code == 406

    def test_the_end_of_the_channel_ends_it(self) -> None:
        peer, _, queue = self.consuming()
        peer.send(1, Channel.Close(200, "bye", 0, 0))
        assert [each.queue for each in peer.take(DeleteQueue)] == [queue]

    def test_nor_is_a_queue_left_when_the_channel_ends_before_it_was_there(self) -> None:
        peer = connected(1)
        peer.hold = (DeclareQueue,)
        peer.publish(exchange="x")
        peer.send(1, Basic.Consume(queue="amq.rabbitmq.reply-to", no_ack=True))
        peer.settle_publishes(refused(UnknownExchange("x")))
        (declare,) = peer.held
        peer.release()
        assert isinstance(declare, DeclareQueue)
        assert [each.queue for each in peer.take(DeleteQueue)] == [declare.queue]

    def test_a_reply_that_comes_too_late(self) -> None:
        peer, _, queue = self.consuming()
        peer.publish(2, key=queue, mandatory=True)
        peer.settle_publishes(UNROUTED)
        assert isinstance(peer.methods()[0], Basic.Return)

    def test_it_cannot_acknowledge(self) -> None:
        peer = connected()
        peer.send(1, Basic.Consume(queue="amq.rabbitmq.reply-to"))
        peer.closed_channel(406, "PRECONDITION_FAILED - reply consumer cannot acknowledge", Basic.Consume)

    def test_there_is_one_for_a_channel(self) -> None:
        peer, _, _ = self.consuming()
        peer.send(1, Basic.Consume(queue="amq.rabbitmq.reply-to", no_ack=True))
        peer.closed_channel(406, "PRECONDITION_FAILED - reply consumer already set", Basic.Consume)

    def test_whether_somebody_still_waits(self) -> None:
        peer, _, queue = self.consuming()
        peer.answers[DeclareQueue] = refused(Locked(queue))
        peer.send(2, Queue.Declare(queue=queue), Queue.Declare(queue="amq.rabbitmq.reply-to", passive=True))
        assert [(each.queue, each.consumer_count) for each in peer.methods()] == [
            (queue, 1),
            ("amq.rabbitmq.reply-to", 1),
        ]
        peer.answers[DeclareQueue] = refused(UnknownQueue(queue))
        peer.send(2, Queue.Declare(queue=queue, passive=True))
        peer.closed_channel(404, f"NOT_FOUND - no queue '{queue}' in vhost '/'", Queue.Declare)
