"""basic.publish: what the hub gets, and what the client is told."""

from __future__ import annotations

from typing import Any

import pytest
from pamqp.commands import Basic, Channel, Confirm, Tx

from gateway.core.commands import DeclareExchange, Publish, Settle
from gateway.core.errors import NotAuthorized, TooLarge, Unavailable
from gateway.core.message import Address
from gateway.core.outcome import ACCEPTED, UNROUTED, Outcome, Result
from gateway.core.topology import InternalExchange, UnknownExchange
from tests.sessions.amqp091.peer import Peer, connected, published, refused

FAILED = Result(Outcome.RELEASED, Unavailable("no answer"))
TOO_LARGE = Result(Outcome.REJECTED, TooLarge("1 byte more than SQS takes"))
NO_EXCHANGE = refused(UnknownExchange("x"))


def confirming(**settings: Any) -> Peer:
    peer = connected(**settings)
    peer.send(1, Confirm.Select())
    peer.only(Confirm.SelectOk)
    return peer


class TestMessages:
    def test_address_properties_headers_and_body(self) -> None:
        peer = connected()
        peer.publish(
            key="a.b",
            exchange="x",
            body=b"body",
            content_type="text/plain",
            headers={"a": 1, "t": {"b": [True, None]}},
            delivery_mode=2,
            expiration="60000",
            user_id="guest",
        )
        (message,) = (each.message for each in peer.take(Publish))
        assert message.address == Address("x", "a.b")
        assert message.body == b"body"
        assert message.headers == {"a": 1, "t": {"b": [True, None]}}
        properties = message.properties
        assert (properties.content_type, properties.delivery_mode) == ("text/plain", 2)
        assert (properties.expiration, properties.user_id) == (60000, "guest")

    @pytest.mark.parametrize("pieces", [1, 2, 5])
    @pytest.mark.parametrize("piece", [0, 1, 10])
    def test_bodies_in_any_frames_and_bytes(self, pieces: int, piece: int) -> None:
        peer = connected()
        peer.feed(published(body=b"0123456789", pieces=pieces) + published(body=b"", key="k"), piece)
        messages = [each.message for each in peer.take(Publish)]
        assert [(each.address.routing_key, each.body) for each in messages] == [("q", b"0123456789"), ("k", b"")]

    def test_one_after_the_other_with_other_properties(self) -> None:
        peer = connected()
        peer.feed(published(key="1", priority=1) + published(key="2", priority=2) + published(key="1", priority=1))
        messages = [each.message for each in peer.take(Publish)]
        assert [(each.address.routing_key, each.properties.priority) for each in messages] == [
            ("1", 1),
            ("2", 2),
            ("1", 1),
        ]

    def test_immediate_is_not_implemented(self) -> None:
        peer = connected()
        peer.publish(immediate=True)
        peer.closed_connection(540, "NOT_IMPLEMENTED - immediate=true", Basic.Publish)

    @pytest.mark.parametrize(
        ("properties", "problem"),
        [
            ({"expiration": "soon"}, "invalid expiration 'soon': no_integer"),
            ({"expiration": "-1"}, "invalid expiration '-1': {value_negative,-1}"),
            ({"expiration": "1.5"}, "invalid expiration '1.5': {leftover_string,\".5\"}"),
            ({"expiration": " 5"}, "invalid expiration ' 5': no_integer"),
            ({"expiration": "99999999999999"}, "invalid expiration '99999999999999': {value_too_large,99999999999999}"),
            ({"user_id": "other"}, "user_id property set to 'other' but authenticated user was 'guest'"),
            ({"headers": {"CC": "k"}}, 'invalid message: {unacceptable_type_in_header,"CC",longstr}'),
            ({"headers": {"BCC": 1}}, 'invalid message: {unacceptable_type_in_header,"BCC",signedint}'),
            ({"reply_to": "amq.rabbitmq.reply-to"}, "fast reply consumer does not exist"),
        ],
    )
    def test_what_a_message_may_not_have(self, properties: dict[str, Any], problem: str) -> None:
        peer = connected()
        peer.publish(**properties)
        peer.closed_channel(406, f"PRECONDITION_FAILED - {problem}", Basic.Publish)
        assert not peer.publishes

    def test_carbon_copies(self) -> None:
        peer = connected()
        peer.publish(headers={"CC": ["a", 1, "b"], "BCC": ["c"], "own": 1})
        peer.publish(headers={"own": 1})
        first, second = peer.take(Publish)
        assert first.also == ("a", "b", "c")
        assert first.message.headers == {"CC": ["a", 1, "b"], "own": 1}
        assert second.also == ()

    def test_in_another_virtual_host(self) -> None:
        peer = connected(vhosts={"/": "o."})
        peer.publish(key="q", headers={"CC": ["c"]})
        peer.publish(key="q", exchange="x", headers={"CC": ["c"]})
        first, second = peer.take(Publish)
        assert (first.message.address, first.also) == (Address("", "o.q"), ("o.c",))
        assert (second.message.address, second.also) == (Address("o.x", "q"), ("c",))


class TestWithoutConfirms:
    @pytest.mark.parametrize("result", [ACCEPTED, UNROUTED, FAILED, TOO_LARGE])
    def test_the_client_is_told_nothing(self, result: Result) -> None:
        peer = connected()
        peer.publish()
        peer.settle_publishes(result)
        assert not peer.received()

    @pytest.mark.parametrize(
        ("error", "code", "text"),
        [
            (UnknownExchange("x"), 404, "NOT_FOUND - no exchange 'x' in vhost '/'"),
            (InternalExchange("x"), 403, "ACCESS_REFUSED - cannot publish to internal exchange 'x' in vhost '/'"),
            (NotAuthorized("no"), 403, "ACCESS_REFUSED - access to exchange 'x' in vhost '/' refused for user 'guest'"),
        ],
    )
    def test_but_what_closes_the_channel(self, error: Any, code: int, text: str) -> None:
        peer = connected()
        peer.publish(exchange="x")
        peer.settle_publishes(refused(error))
        peer.closed_channel(code, text, Basic.Publish)

    def test_permission_for_the_default_exchange(self) -> None:
        peer = connected()
        peer.publish()
        peer.settle_publishes(refused(NotAuthorized("no")))
        text = "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'guest'"
        peer.closed_channel(403, text, Basic.Publish)

    def test_mandatory_comes_back(self) -> None:
        peer = connected()
        peer.publish(key="nowhere", body=b"back", mandatory=True, headers={"a": 1}, correlation_id="c")
        peer.settle_publishes(UNROUTED)
        ((method, properties, body),) = peer.contents()
        assert isinstance(method, Basic.Return)
        assert (method.reply_code, method.reply_text) == (312, "NO_ROUTE")
        assert (method.exchange, method.routing_key) == ("", "nowhere")
        assert (properties.headers, properties.correlation_id, body) == ({"a": 1}, "c", b"back")

    def test_but_not_when_it_was_routed_or_need_not_be(self) -> None:
        peer = connected()
        peer.publish(mandatory=True)
        peer.settle_publishes()
        peer.publish()
        peer.settle_publishes(UNROUTED)
        assert not peer.received()


class TestConfirms:
    def test_nothing_before_the_result(self) -> None:
        peer = confirming()
        peer.publish()
        assert not peer.received()
        peer.settle_publishes()
        assert peer.only(Basic.Ack).delivery_tag == 1

    def test_many_take_one_frame(self) -> None:
        peer = confirming()
        peer.feed(published() * 100)
        peer.settle_publishes()
        ack = peer.only(Basic.Ack)
        assert (ack.delivery_tag, ack.multiple) == (100, True)

    @pytest.mark.parametrize("result", [FAILED, TOO_LARGE])
    def test_what_was_not_taken(self, result: Result) -> None:
        peer = confirming()
        peer.feed(published() * 3)
        first, second, third = peer.publishes
        peer.answer(first)
        peer.answer(second, result)
        peer.answer(third)
        nack, ack = peer.methods()
        assert isinstance(nack, Basic.Nack)
        assert (nack.delivery_tag, nack.multiple) == (2, False)
        assert (ack.delivery_tag, ack.multiple) == (3, True)

    def test_mandatory_comes_back_before_it_is_confirmed(self) -> None:
        peer = confirming()
        peer.publish(mandatory=True)
        peer.settle_publishes(UNROUTED)
        assert [type(each) for each in peer.methods()] == [Basic.Return, Basic.Ack]

    def test_publishes_before_confirms_have_no_number(self) -> None:
        peer = connected()
        peer.publish(body=b"before")
        peer.send(1, Confirm.Select(), Confirm.Select(nowait=True))
        peer.only(Confirm.SelectOk)
        peer.publish(body=b"after")
        peer.settle_publishes()
        assert peer.only(Basic.Ack).delivery_tag == 1

    def test_channels_have_their_own_numbers(self) -> None:
        peer = connected(1, 2)
        for channel in (1, 2):
            peer.send(channel, Confirm.Select())
        peer.received()
        peer.feed(published(1) + published(2) + published(2))
        peer.settle_publishes()
        assert [(channel, each.delivery_tag) for channel, each in peer.received()] == [(1, 1), (2, 2)]

    def test_an_exchange_that_is_not_there_closes_the_channel(self) -> None:
        peer = confirming()
        peer.feed(published() + published(exchange="x"))
        first, second = peer.publishes
        peer.answer(first)
        peer.answer(second, NO_EXCHANGE)
        ack, close = peer.methods()
        assert isinstance(ack, Basic.Ack)
        assert isinstance(close, Channel.Close)

    def test_what_is_known_at_the_end_is_still_told(self) -> None:
        peer = confirming()
        peer.publish()
        peer.settle_publishes()
        peer.run(peer.session.shutdown())
        ack, _ = peer.methods()
        assert isinstance(ack, Basic.Ack)


class TestTransactions:
    def selected(self, **settings: Any) -> Peer:
        peer = connected(**settings)
        peer.send(1, Tx.Select())
        peer.only(Tx.SelectOk)
        return peer

    def test_nothing_is_published_before_the_commit(self) -> None:
        peer = self.selected()
        peer.feed(published(body=b"1") + published(body=b"2"))
        assert not peer.publishes
        peer.send(1, Tx.Commit())
        assert [each.message.body for each in peer.publishes] == [b"1", b"2"]
        first, second = peer.publishes
        peer.answer(second)
        assert not peer.received()
        peer.answer(first)
        peer.only(Tx.CommitOk)

    def test_what_follows_the_commit_waits_for_it(self) -> None:
        peer = self.selected()
        peer.publish()
        peer.send(1, Tx.Commit(), Basic.Qos())
        assert not peer.received()
        peer.settle_publishes()
        assert [type(each) for each in peer.methods()] == [Tx.CommitOk, Basic.QosOk]

    def test_an_empty_commit(self) -> None:
        peer = self.selected()
        peer.send(1, Tx.Commit())
        peer.only(Tx.CommitOk)

    def test_rolled_back(self) -> None:
        peer = self.selected()
        peer.publish()
        peer.send(1, Tx.Rollback(), Tx.Commit())
        assert [type(each) for each in peer.methods()] == [Tx.RollbackOk, Tx.CommitOk]
        assert not peer.publishes

    def test_acknowledgements_count_after_everything_was_taken(self) -> None:
        peer = self.selected()
        tag = peer.consume()
        peer.deliver(tag, b"one", b"two")
        peer.received()
        peer.publish()
        peer.send(1, Basic.Ack(1), Basic.Nack(2), Tx.Commit())
        assert not peer.take(Settle)
        assert {each.message.body for each in peer.session.unsettled()} == {b"one", b"two"}
        peer.settle_publishes()
        assert peer.settled() == [(b"one", Outcome.ACCEPTED), (b"two", Outcome.RELEASED)]

    def test_and_not_when_they_are_rolled_back(self) -> None:
        peer = self.selected()
        tag = peer.consume()
        peer.deliver(tag, b"one", b"two", b"three")
        peer.send(1, Basic.Ack(2), Basic.Ack(3), Tx.Rollback(), Basic.Ack(3, multiple=True), Tx.Commit())
        assert [body for body, _ in peer.settled()] == [b"one", b"two", b"three"]

    def test_a_publish_that_fails_closes_the_channel_and_nothing_is_acknowledged(self) -> None:
        peer = self.selected()
        tag = peer.consume()
        peer.deliver(tag, b"one")
        peer.received()
        peer.feed(published() * 2)
        peer.send(1, Basic.Ack(1), Tx.Commit())
        first, second = peer.publishes
        peer.answer(first, FAILED)
        peer.answer(second)
        peer.closed_channel(506, "RESOURCE_ERROR - no answer", Tx.Commit)
        assert peer.settled() == [(b"one", Outcome.RELEASED)]

    def test_an_exchange_that_is_not_there_is_told_at_once(self) -> None:
        peer = self.selected()
        peer.publish(exchange="y")
        peer.answers[DeclareExchange] = NO_EXCHANGE
        peer.publish(exchange="x")
        peer.closed_channel(404, "NOT_FOUND - no exchange 'x' in vhost '/'", Basic.Publish)

    def test_mandatory_comes_back_before_commit_ok(self) -> None:
        peer = self.selected()
        peer.publish(mandatory=True)
        peer.send(1, Tx.Commit())
        peer.settle_publishes(UNROUTED)
        assert [type(each) for each in peer.methods()] == [Basic.Return, Tx.CommitOk]

    def test_results_of_earlier_publishes_end_no_transaction(self) -> None:
        peer = connected()
        peer.publish()
        peer.send(1, Tx.Select())
        peer.publish()
        peer.send(1, Tx.Commit())
        earlier, own = peer.publishes
        peer.received()
        peer.answer(earlier)
        assert not peer.received()
        peer.answer(own)
        peer.only(Tx.CommitOk)

    @pytest.mark.parametrize("limits", [{"max_transaction_messages": 2}, {"max_transaction_bytes": 8}])
    def test_no_more_than_there_is_room_for(self, limits: dict[str, int]) -> None:
        peer = self.selected(**limits)
        peer.feed(published() * 2)
        assert not peer.received()
        peer.publish()
        assert peer.only(Channel.Close).reply_code == 406

    @pytest.mark.parametrize(
        ("first", "second", "text"),
        [
            (Confirm.Select(), Tx.Select(), "cannot switch from confirm to tx mode"),
            (Tx.Select(), Confirm.Select(), "cannot switch from tx to confirm mode"),
            (Basic.Qos(), Tx.Commit(), "channel is not transactional"),
            (Basic.Qos(), Tx.Rollback(), "channel is not transactional"),
        ],
    )
    def test_modes(self, first: Any, second: Any, text: str) -> None:
        peer = connected()
        peer.send(1, first)
        peer.received()
        peer.send(1, second)
        peer.closed_channel(406, f"PRECONDITION_FAILED - {text}", second)
