"""Channels: open, closed by either side, independent of each other, and in order within themselves."""

from __future__ import annotations

from typing import Any

import pytest
from pamqp import frame as pamqp_frame
from pamqp.body import ContentBody
from pamqp.commands import Basic, Channel, Confirm, Connection, Queue
from pamqp.header import ContentHeader

from gateway.core.commands import Cancel, DeclareQueue, Get, Got, Publish
from gateway.core.outcome import UNROUTED, Outcome
from gateway.core.topology import UnknownExchange, UnknownQueue
from tests.fuzz.footprint import footprint
from tests.sessions.amqp091.peer import Peer, connected, delivery, published, refused

NO_QUEUE = refused(UnknownQueue("q"))
NO_EXCHANGE = refused(UnknownExchange("x"))
NOT_FOUND = "NOT_FOUND - no queue 'q' in vhost '/'"


class TestOpening:
    def test_again_after_it_was_closed(self) -> None:
        peer = connected(1)
        peer.send(1, Channel.Close(200, "bye", 0, 0))
        peer.only(Channel.CloseOk)
        peer.open(1)

    def test_twice(self) -> None:
        peer = connected(1)
        peer.send(1, Channel.Open())
        peer.closed_connection(504, "CHANNEL_ERROR - second 'channel.open' seen", Channel.Open)

    @pytest.mark.parametrize("method", [Basic.Qos(), Basic.Ack(1), Channel.Close(200, "", 0, 0)])
    def test_not_yet(self, method: Any) -> None:
        peer = connected(1)
        peer.send(2, method)
        peer.closed_connection(504, "CHANNEL_ERROR - expected 'channel.open'", method)

    def test_publishing_without_it(self) -> None:
        peer = connected(1)
        peer.publish(2)
        peer.closed_connection(504, "CHANNEL_ERROR - expected 'channel.open'", Basic.Publish)

    @pytest.mark.parametrize("method", [Channel.Open(), Queue.Declare(queue="q"), Channel.Flow(True)])
    def test_channel_0_is_the_connection_s(self, method: Any) -> None:
        peer = connected(1)
        peer.send(0, method)
        peer.closed_connection(504, "CHANNEL_ERROR - unexpected method in connection state running", method)

    @pytest.mark.parametrize("method", [Connection.Close(200, "", 0, 0), Queue.DeclareOk("q", 0, 0), Basic.GetEmpty()])
    def test_methods_that_belong_to_nobody_here(self, method: Any) -> None:
        peer = connected(1)
        peer.send(1, method)
        peer.closed_connection(503, "COMMAND_INVALID - unimplemented method", method)


class TestErrors:
    def test_close_one_channel_and_no_other(self) -> None:
        peer = connected(1, 2)
        peer.answers[DeclareQueue] = NO_QUEUE
        peer.send(1, Queue.Declare(queue="q", passive=True))
        peer.closed_channel(404, NOT_FOUND, Queue.Declare)
        del peer.answers[DeclareQueue]
        peer.send(2, Queue.Declare(queue="q", passive=True))
        peer.only(Queue.DeclareOk)
        peer.open(1)

    def test_what_follows_counts_no_more(self) -> None:
        peer = connected(1)
        peer.answers[DeclareQueue] = NO_QUEUE
        declare = pamqp_frame.marshal(Queue.Declare(queue="q", passive=True), 1)
        peer.feed(declare + published(1) + declare + published(1, body=b"longer", pieces=3))
        peer.closed_channel(404, NOT_FOUND, Queue.Declare)
        assert not peer.publishes
        assert len(peer.take(DeclareQueue)) == 1

    def test_nothing_is_confirmed_on_a_channel_that_was_closed(self) -> None:
        peer = connected(1)
        peer.send(1, Confirm.Select())
        peer.received()
        peer.feed(published(1, exchange="x") + published(1, mandatory=True))
        first, second = peer.publishes
        peer.answer(first, NO_EXCHANGE)
        assert [type(each) for each in peer.methods()] == [Channel.Close]
        peer.answer(second, UNROUTED)
        assert not peer.received()

    def test_both_sides_close_at_once(self) -> None:
        peer = connected(1)
        peer.hold = (DeclareQueue,)
        peer.send(1, Queue.Declare(queue="q"), Channel.Close(200, "bye", 0, 0))
        peer.release(NO_QUEUE)
        assert [type(each) for each in peer.methods()] == [Channel.Close, Channel.CloseOk]
        peer.send(1, Channel.CloseOk())
        peer.open(1)

    def test_a_message_that_comes_for_a_closed_channel_goes_back(self) -> None:
        peer = connected(1)
        peer.hold = (Get,)
        peer.feed(published(1, exchange="x"))
        peer.send(1, Basic.Get(queue="q"))
        peer.settle_publishes(NO_EXCHANGE)
        peer.closed_channel(404, "NOT_FOUND - no exchange 'x' in vhost '/'", Basic.Publish)
        peer.release(Got(delivery(b"one")))
        assert peer.settled() == [(b"one", Outcome.RELEASED)]
        assert not peer.received()

    def test_and_one_for_a_connection_that_is_closed(self) -> None:
        peer = connected(1)
        peer.hold = (Get,)
        peer.send(1, Basic.Get(queue="q"))
        peer.run(peer.session.shutdown())
        peer.release(Got(delivery(b"one")))
        assert [each.message.body for each in peer.session.unsettled()] == [b"one"]


class TestOrder:
    def test_a_channel_waits_and_the_others_do_not(self) -> None:
        peer = connected(1, 2)
        peer.hold = (DeclareQueue,)
        peer.send(1, Queue.Declare(queue="q"))
        peer.publish(1, body=b"behind")
        peer.publish(2, body=b"beside")
        assert [each.message.body for each in peer.publishes] == [b"beside"]
        peer.release()
        assert [each.message.body for each in peer.publishes] == [b"beside", b"behind"]
        assert [each.message.body for each in peer.take(Publish)] == [b"beside", b"behind"]

    def test_what_was_published_before_goes_before(self) -> None:
        peer = connected(1)
        peer.feed(published(1) + pamqp_frame.marshal(Queue.Delete(queue="q"), 1) + published(1))
        assert [type(each).__name__ for each in peer.done] == ["Publish", "DeleteQueue", "Publish"]

    def test_contents_of_channels_may_be_mixed(self) -> None:
        peer = connected(1, 2)

        def frames(channel: int, body: bytes) -> list[bytes]:
            return [
                pamqp_frame.marshal(each, channel)
                for each in (
                    Basic.Publish(routing_key="q"),
                    ContentHeader(body_size=len(body)),
                    ContentBody(body[:2]),
                    ContentBody(body[2:]),
                )
            ]

        for one, other in zip(frames(1, b"first"), frames(2, b"second"), strict=True):
            peer.feed(one + other)
        assert [each.message.body for each in peer.publishes] == [b"first", b"second"]

    def test_too_much_that_waits_stops_the_reading(self) -> None:
        peer = connected(1, max_held_bytes=10_000)
        peer.hold = (DeclareQueue,)
        peer.send(1, Queue.Declare(queue="q"))
        peer.publish(1, body=b"x" * 9_000)
        assert not peer.session.congested
        peer.publish(1, body=b"x" * 1_000)
        assert peer.session.congested
        peer.release()
        assert not peer.session.congested
        assert len(peer.publishes) == 2

    def test_headers_that_wait_count_too(self) -> None:
        peer = connected(1, max_held_bytes=10_000)
        peer.hold = (DeclareQueue,)
        peer.send(1, Queue.Declare(queue="q"))
        peer.publish(1, body=b"", headers={"x": "y" * 10_000})
        assert peer.session.congested

    def test_frames_of_a_failed_channel_are_not_held_any_more(self) -> None:
        peer = connected(1, max_held_bytes=0)
        peer.hold = (DeclareQueue,)
        peer.send(1, Queue.Declare(queue="q"), Queue.Declare(queue="q"))
        assert peer.session.congested
        peer.release(NO_QUEUE)
        assert not peer.session.congested


class TestFlow:
    def test_it_is_on(self) -> None:
        peer = connected(1)
        peer.send(1, Channel.Flow(True))
        assert peer.only(Channel.FlowOk).active

    def test_and_cannot_be_stopped(self) -> None:
        peer = connected(1)
        peer.send(1, Channel.Flow(False))
        peer.closed_connection(540, "NOT_IMPLEMENTED - active=false", Channel.Flow)


class TestClosing:
    def test_consumers_stop_and_what_they_hold_goes_back(self) -> None:
        peer = connected(1)
        tag = peer.consume()
        peer.deliver(tag, b"one", b"two")
        peer.received()
        peer.send(1, Channel.Close(200, "bye", 0, 0))
        peer.only(Channel.CloseOk)
        assert [each.tag for each in peer.take(Cancel)] == [tag]
        assert peer.settled() == [(b"one", Outcome.RELEASED), (b"two", Outcome.RELEASED)]
        assert not peer.session.unsettled()

    def test_what_comes_for_them_all_the_same_goes_back_too(self) -> None:
        peer = connected(1)
        tag = peer.consume()
        peer.send(1, Channel.Close(200, "bye", 0, 0))
        peer.received()
        assert peer.deliver(tag, b"late") == [True]
        assert [each.message.body for each in peer.session.unsettled()] == [b"late"]
        assert peer.session.deadline <= peer.now
        peer.tick()
        assert peer.settled() == [(b"late", Outcome.RELEASED)]
        assert not peer.received()

    def test_results_that_come_late_concern_nobody(self) -> None:
        peer = connected(1)
        peer.send(1, Confirm.Select())
        peer.publish(1)
        peer.send(1, Channel.Close(200, "bye", 0, 0))
        peer.received()
        peer.open(1)
        peer.send(1, Confirm.Select())
        peer.received()
        peer.settle_publishes()
        assert not peer.received()


CONTENT = {
    "a method where a header is expected": (
        [Basic.Publish(routing_key="q"), Basic.Qos()],
        "expected content header for class 60, got non content header frame instead",
        Basic.Publish,
    ),
    "a body where a header is expected": (
        [Basic.Publish(routing_key="q"), ContentBody(b"x")],
        "expected content header for class 60, got non content header frame instead",
        Basic.Publish,
    ),
    "a method where a body is expected": (
        [Basic.Publish(routing_key="q"), ContentHeader(body_size=2), Basic.Qos()],
        "expected content body, got non content body frame instead",
        Basic.Publish,
    ),
    "another publish where a body is expected": (
        [Basic.Publish(routing_key="q"), ContentHeader(body_size=2), Basic.Publish(), ContentHeader(body_size=0)],
        "expected content body, got non content body frame instead",
        Basic.Publish,
    ),
    "a second header": (
        [Basic.Publish(routing_key="q"), ContentHeader(body_size=2), ContentHeader(body_size=2)],
        "expected content body, got non content body frame instead",
        Basic.Publish,
    ),
    "more than was announced": (
        [Basic.Publish(routing_key="q"), ContentHeader(body_size=2), ContentBody(b"xxx")],
        "expected content body, got non content body frame instead",
        Basic.Publish,
    ),
    "a header where a method is expected": (
        [ContentHeader(body_size=2)],
        "expected method frame, got non method frame instead",
        None,
    ),
    "a body where a method is expected": (
        [ContentBody(b"x")],
        "expected method frame, got non method frame instead",
        None,
    ),
}


@pytest.mark.parametrize(("frames", "text", "method"), CONTENT.values(), ids=CONTENT)
def test_frames_where_others_are_expected(frames: list[Any], text: str, method: Any) -> None:
    peer = connected(1)
    peer.feed(b"".join(pamqp_frame.marshal(each, 1) for each in frames))
    peer.closed_connection(505, f"UNEXPECTED_FRAME - {text}", method)
    assert not peer.publishes


class TestSizes:
    def test_a_message_that_is_too_large_is_refused_when_it_is_announced(self) -> None:
        peer = connected(1, max_message_size=10)
        peer.publish(1, body=b"x" * 11, pieces=2)
        text = "PRECONDITION_FAILED - message size 11 is larger than configured max size 10"
        peer.closed_channel(406, text, Basic.Publish)
        assert not peer.publishes

    def test_one_that_is_just_not_too_large(self) -> None:
        peer = connected(1, max_message_size=10)
        peer.publish(1, body=b"x" * 10, pieces=2)
        assert len(peer.publishes) == 1

    def test_pieces_that_hold_nothing_keep_nothing(self) -> None:
        peer = connected(1)
        begun = [Basic.Publish(routing_key="q"), ContentHeader(body_size=6)]
        peer.feed(b"".join(pamqp_frame.marshal(each, 1) for each in begun))
        before = footprint(peer.session)
        peer.feed(pamqp_frame.marshal(ContentBody(b""), 1) * 1000)
        assert footprint(peer.session) - before < 2000
        assert not peer.publishes

    def test_all_that_is_unfinished_together(self) -> None:
        peer = connected(1, 2, 3, max_unfinished_bytes=10)
        begun = [Basic.Publish(routing_key="q"), ContentHeader(body_size=6)]
        peer.feed(b"".join(pamqp_frame.marshal(each, 1) for each in begun))
        peer.feed(b"".join(pamqp_frame.marshal(each, 2) for each in begun))
        close = peer.only(Channel.Close)
        assert close.reply_code == 506
        peer.feed(pamqp_frame.marshal(ContentBody(b"x" * 6), 1))  # and there is room again
        peer.feed(b"".join(pamqp_frame.marshal(each, 3) for each in begun))
        assert not peer.received()

    def test_what_a_closed_channel_had_begun_is_forgotten(self) -> None:
        peer = connected(1, max_unfinished_bytes=10)
        begun = [Basic.Publish(routing_key="q"), ContentHeader(body_size=6)]
        peer.publish(1, exchange="x", body=b"")
        peer.feed(b"".join(pamqp_frame.marshal(each, 1) for each in begun))
        peer.settle_publishes(NO_EXCHANGE)
        peer.closed_channel(404, "NOT_FOUND - no exchange 'x' in vhost '/'", Basic.Publish)
        peer.open(1)
        peer.feed(b"".join(pamqp_frame.marshal(each, 1) for each in begun))
        assert not peer.received()


def test_an_idle_channel_is_small() -> None:
    peer = Peer()
    peer.connect()
    before = footprint(peer.session)
    peer.open(*range(1, 101))
    assert (footprint(peer.session) - before) / 100 < 8_000
