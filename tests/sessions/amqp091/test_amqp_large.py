"""What a session says of large bodies: how much it expects, and what it needs no more."""

from __future__ import annotations

from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from gateway.core.commands import Publish
from tests.sessions.amqp091.peer import connected, delivery


def test_it_expects_what_all_channels_have_announced_and_not_yet_sent() -> None:
    peer = connected(1, 2)
    assert peer.session.assembling == 0
    peer.send(1, Basic.Publish(routing_key="q"), ContentHeader(body_size=1_000))
    assert peer.session.assembling == 1_000
    peer.send(2, Basic.Publish(routing_key="q"), ContentHeader(body_size=500))
    peer.send(1, ContentBody(b"x" * 999))
    assert peer.session.assembling == 1_500
    peer.send(1, ContentBody(b"x"))
    assert peer.session.assembling == 500
    assert [each.message.body for each in peer.take(Publish)] == [b"x" * 1_000]


def test_a_channel_that_closes_expects_nothing() -> None:
    peer = connected(1, max_message_size=100)
    peer.send(1, Basic.Publish(routing_key="q"), ContentHeader(body_size=101))
    assert peer.session.assembling == 0


def test_a_body_is_encoded_when_it_is_delivered() -> None:
    assert not connected(1).session.needs_body(delivery())
