"""Heartbeats, and what a client is told that is not read."""

from __future__ import annotations

import math

import pytest
from pamqp.commands import Basic, Connection
from pamqp.heartbeat import Heartbeat

from tests.sessions.amqp091.peer import CAPABILITIES, Peer

HEARTBEAT = b"\x08\0\0\0\0\0\0\xce"


def agreed(heartbeat: int, **capabilities: bool) -> Peer:
    peer = Peer()
    peer.connect(capabilities={**CAPABILITIES, **capabilities}, tune=(2047, 131072, heartbeat))
    return peer


class TestHeartbeats:
    def test_are_sent_twice_in_an_interval(self) -> None:
        peer = agreed(10)
        assert peer.session.deadline == peer.now + 5
        for _ in range(3):
            peer.now += 5
            peer.feed(HEARTBEAT)
            peer.tick()
            ((channel, frame),) = peer.received()
            assert channel == 0
            assert isinstance(frame, Heartbeat)
        assert peer.close is None

    def test_silence_of_two_intervals_ends_the_connection(self) -> None:
        peer = agreed(10)
        start = peer.now
        while peer.close is None:
            peer.tick()
        assert peer.now == start + 20
        assert not peer.methods()
        assert peer.close.error is not None

    def test_anything_is_a_sign_of_life(self) -> None:
        peer = agreed(10)
        peer.open(1)
        for _ in range(5):
            peer.now += 15
            peer.send(1, Basic.Qos())
            peer.tick()
        assert peer.close is None

    def test_who_is_not_read_is_not_silent(self) -> None:
        peer = agreed(10)
        peer.session.reading(False, peer.now)
        for _ in range(20):
            peer.tick()
        assert peer.close is None
        peer.session.reading(True, peer.now)
        for _ in range(10):
            peer.tick()
        assert peer.close is not None

    def test_none_were_agreed(self) -> None:
        peer = agreed(0)
        assert peer.session.deadline == math.inf


class TestBlocked:
    def test_a_client_that_is_not_read_for_a_second_is_told(self) -> None:
        peer = agreed(0)
        peer.session.reading(False, peer.now)
        assert peer.session.deadline == peer.now + 1
        peer.tick()
        assert peer.only(Connection.Blocked).reason
        assert peer.session.deadline == math.inf
        peer.session.reading(True, peer.now)
        peer.only(Connection.Unblocked)

    def test_a_shorter_stop_is_nothing_to_speak_of(self) -> None:
        peer = agreed(0)
        peer.session.reading(False, peer.now)
        peer.session.reading(True, peer.now + 0.9)
        peer.now += 5
        peer.run(peer.session.tick(peer.now))
        assert not peer.received()

    def test_a_client_that_does_not_want_to_know(self) -> None:
        peer = agreed(0, **{"connection.blocked": False})
        peer.session.reading(False, peer.now)
        assert peer.session.deadline == math.inf

    @pytest.mark.parametrize("active", [True, False])
    def test_before_it_is_let_in_there_is_nothing_to_say(self, active: bool) -> None:
        peer = Peer()
        peer.session.reading(active, peer.now)
        assert peer.session.deadline == math.inf
