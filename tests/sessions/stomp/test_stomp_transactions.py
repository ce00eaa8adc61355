"""BEGIN, COMMIT and ABORT."""

from __future__ import annotations

import math

import pytest

from gateway.core.commands import Close, DeclareQueue, Publish, Settle
from gateway.core.errors import NotFound, Refused
from gateway.core.outcome import Outcome
from gateway.protocols.stomp.errors import BadHeader, BadTransaction, UnknownMessage


def receipts(line):
    return [(frame.command, frame.headers.get("receipt-id")) for frame in line.frames()]


def bodies(line):
    return [publish.message.body for publish in line.take(Publish)]


def settled(line):
    return [
        (command.outcome, [delivery.message.body for delivery in command.deliveries]) for command in line.take(Settle)
    ]


def held(line, *contents, mode="client-individual"):
    """The ack ids of deliveries."""
    tag = line.subscribe(ack=mode)
    line.deliver(tag, *contents)
    return [frame.headers["ack"] for frame in line.frames()]


class TestCommit:
    def test_nothing_is_published_before_it(self, line):
        line.frame("BEGIN", transaction="t", receipt="b")
        line.frame("SEND", b"1", destination="/topic/a", transaction="t", receipt="s")
        line.frame("SEND", b"2", destination="/topic/a", transaction="t")
        assert receipts(line) == [("RECEIPT", "b")]
        assert bodies(line) == []
        line.frame("COMMIT", transaction="t", receipt="c")
        first, second = line.take(Publish)
        assert (first.message.body, second.message.body) == (b"1", b"2")
        assert "transaction" not in first.message.headers
        assert receipts(line) == []
        line.answer(second)
        assert receipts(line) == []
        line.answer(first)
        assert receipts(line) == [("RECEIPT", "s"), ("RECEIPT", "c")]

    def test_activemq_answers_a_send_at_once(self, open_line):
        line = open_line(dialect="activemq")
        line.connect()
        line.frame("BEGIN", transaction="t")
        line.frame("SEND", b"1", destination="/topic/a", transaction="t", receipt="s")
        assert receipts(line) == [("RECEIPT", "s")]
        line.frame("COMMIT", transaction="t", receipt="c")
        assert receipts(line) == []
        line.answer(line.take(Publish)[0])
        assert receipts(line) == [("RECEIPT", "c")]

    def test_an_empty_one(self, line):
        line.frame("BEGIN", transaction="t")
        line.frame("COMMIT", transaction="t", receipt="c")
        assert receipts(line) == [("RECEIPT", "c")]

    def test_the_queue_is_there_before_the_message(self, line):
        line.frame("BEGIN", transaction="t")
        line.frame("SEND", b"1", destination="/queue/q", transaction="t")
        assert [command.queue for command in line.take(DeclareQueue)] == ["q"]

    def test_others_are_not_part_of_it(self, line):
        line.frame("BEGIN", transaction="t")
        line.frame("BEGIN", transaction="u")
        line.frame("SEND", b"t", destination="/topic/a", transaction="t")
        line.frame("SEND", b"u", destination="/topic/a", transaction="u")
        line.frame("SEND", b"none", destination="/topic/a")
        assert bodies(line) == [b"none"]
        line.frame("COMMIT", transaction="u")
        assert bodies(line) == [b"u"]

    def test_the_name_is_free_again(self, line):
        for _ in range(3):
            line.frame("BEGIN", transaction="t")
            line.frame("COMMIT", transaction="t")
        assert line.closed is None

    def test_a_failing_part_is_an_error(self, line):
        line.frame("BEGIN", transaction="t")
        for _ in range(2):
            line.frame("SEND", destination="/topic/a", transaction="t")
        line.frame("COMMIT", transaction="t", receipt="c")
        first, second = line.take(Publish)
        error = NotFound("gone", resource="sqs queue q")
        line.answer(first, Outcome.RELEASED, error)
        assert receipts(line) == [("ERROR", "c")]
        assert line.closed.error is error
        line.answer(second)
        assert receipts(line) == []

    def test_disconnect_waits_for_it(self, line):
        line.frame("BEGIN", transaction="t")
        line.frame("SEND", destination="/topic/a", transaction="t")
        line.frame("COMMIT", transaction="t", receipt="c")
        line.frame("DISCONNECT", receipt="d")
        assert line.closed is None
        line.answer(line.take(Publish)[0])
        assert receipts(line) == [("RECEIPT", "c"), ("RECEIPT", "d")]
        assert line.closed == Close("disconnected")


class TestAcknowledgements:
    def test_count_when_all_was_accepted(self, line):
        one, two = held(line, b"1", b"2")
        line.frame("BEGIN", transaction="t")
        line.frame("ACK", id=one, transaction="t")
        line.frame("NACK", id=two, transaction="t")
        line.frame("SEND", destination="/topic/a", transaction="t")
        assert settled(line) == []
        line.frame("COMMIT", transaction="t", receipt="c")
        assert settled(line) == []
        assert len(line.session.unsettled()) == 2  # goes back if the connection ends now
        line.answer(line.take(Publish)[0])
        assert settled(line) == [(Outcome.ACCEPTED, [b"1"]), (Outcome.RELEASED, [b"2"])]
        assert line.session.unsettled() == []

    def test_their_receipts_do_not_wait(self, line):
        (one,) = held(line, b"1")
        line.frame("BEGIN", transaction="t")
        line.frame("ACK", id=one, transaction="t", receipt="a")
        assert receipts(line) == [("RECEIPT", "a")]
        assert settled(line) == []

    def test_without_messages_they_count_at_once(self, line):
        (one,) = held(line, b"1")
        line.frame("BEGIN", transaction="t")
        line.frame("ACK", id=one, transaction="t")
        line.frame("COMMIT", transaction="t", receipt="c")
        assert settled(line) == [(Outcome.ACCEPTED, [b"1"])]
        assert receipts(line) == [("RECEIPT", "c")]

    def test_cumulative(self, line):
        _, two = held(line, b"1", b"2", mode="client")
        line.frame("BEGIN", transaction="t")
        line.frame("ACK", id=two, transaction="t")
        line.frame("COMMIT", transaction="t")
        assert settled(line) == [(Outcome.ACCEPTED, [b"1", b"2"])]

    def test_a_failed_commit_settles_nothing(self, line):
        (one,) = held(line, b"1")
        line.frame("BEGIN", transaction="t")
        line.frame("ACK", id=one, transaction="t")
        line.frame("SEND", destination="/topic/a", transaction="t")
        line.frame("COMMIT", transaction="t")
        line.answer(line.take(Publish)[0], Outcome.REJECTED)
        assert settled(line) == []
        assert [delivery.message.body for delivery in line.session.unsettled()] == [b"1"]

    def test_after_abort_the_message_is_still_held(self, line):
        (one,) = held(line, b"1")
        line.frame("BEGIN", transaction="t")
        line.frame("ACK", id=one, transaction="t")
        line.frame("ABORT", transaction="t", receipt="a")
        assert receipts(line) == [("RECEIPT", "a")]
        assert len(line.session.unsettled()) == 1
        line.frame("ACK", id=one)
        assert settled(line) == [(Outcome.ACCEPTED, [b"1"])]

    def test_of_what_is_not_held_nothing_is_done(self, line):
        (one,) = held(line, b"1")
        line.frame("BEGIN", transaction="t")
        line.frame("SEND", destination="/topic/a", transaction="t")
        line.frame("ACK", id=one, transaction="t")
        line.frame("ACK", id=one, transaction="t")
        line.frame("COMMIT", transaction="t", receipt="c")
        assert receipts(line) == [("ERROR", "c")]
        assert isinstance(line.closed.error, UnknownMessage)
        assert bodies(line) == []
        assert settled(line) == [(Outcome.RELEASED, [b"1"])]


class TestAbort:
    def test_nothing_is_published(self, line):
        line.frame("BEGIN", transaction="t")
        line.frame("SEND", destination="/topic/a", transaction="t", receipt="s")
        line.frame("ABORT", transaction="t", receipt="a")
        assert receipts(line) == [("RECEIPT", "a")]
        assert bodies(line) == []

    def test_disconnect_aborts(self, line):
        line.frame("BEGIN", transaction="t")
        line.frame("SEND", destination="/topic/a", transaction="t")
        line.frame("DISCONNECT", receipt="d")
        assert receipts(line) == [("RECEIPT", "d")]
        assert bodies(line) == []


class TestErrors:
    @pytest.mark.parametrize("command", ["COMMIT", "ABORT"])
    def test_never_begun(self, line, command):
        line.frame(command, transaction="t", receipt="r")
        assert receipts(line) == [("ERROR", "r")]
        assert isinstance(line.closed.error, BadTransaction)

    @pytest.mark.parametrize("command", ["BEGIN", "COMMIT", "ABORT"])
    def test_without_a_name(self, line, command):
        line.frame(command)
        assert line.only("ERROR").headers["message"] == "Missing transaction"
        assert isinstance(line.closed.error, BadHeader)

    def test_begun_twice(self, line):
        line.frame("BEGIN", transaction="t")
        line.frame("BEGIN", transaction="t")
        assert isinstance(line.closed.error, BadTransaction)


SEND = b"SEND\ndestination:/topic/a\ntransaction:t\n\n%b\0"


class TestLimits:
    def test_transactions(self, open_line):
        line = open_line(max_transactions=2)
        line.connect()
        for name in "abc":
            line.frame("BEGIN", transaction=name)
        assert isinstance(line.closed.error, Refused)

    def test_actions(self, open_line):
        line = open_line(max_transaction_actions=3)
        line.connect()
        line.frame("BEGIN", transaction="t")
        line.send(SEND % b"" * 3)
        assert line.closed is None
        line.frame("ACK", id="T_0@@s@@1", transaction="t")
        assert isinstance(line.closed.error, Refused)

    def test_bytes_of_all_together(self, open_line):
        line = open_line(max_transaction_bytes=5000)
        line.connect()
        line.frame("BEGIN", transaction="t")
        line.frame("BEGIN", transaction="u")
        line.send(SEND % bytes(2000).replace(b"\0", b"x"))
        assert line.closed is None
        line.frame("SEND", b"x" * 3000, destination="/topic/a", transaction="u")
        assert isinstance(line.closed.error, Refused)

    @pytest.mark.parametrize("command", ["COMMIT", "ABORT"])
    def test_what_has_ended_makes_room(self, open_line, command):
        line = open_line(max_transaction_bytes=3000, max_transactions=1, max_transaction_actions=1)
        line.connect()
        for _ in range(3):
            line.frame("BEGIN", transaction="t")
            line.send(SEND % (b"x" * 2000))
            line.frame(command, transaction="t")
        assert line.closed is None

    def test_what_waits_for_a_result(self, open_line):
        line = open_line(max_unanswered=2)
        line.connect()
        line.frame("BEGIN", transaction="t")
        line.send(SEND % b"" * 3)
        line.frame("COMMIT", transaction="t", receipt="c")
        assert receipts(line) == [("ERROR", "c")]
        assert isinstance(line.closed.error, Refused)
        assert bodies(line) == []

    def test_time(self, open_line):
        line = open_line(transaction_timeout=10)
        line.connect()
        line.frame("BEGIN", transaction="t")
        line.now = 103.0
        line.frame("BEGIN", transaction="u")
        session = line.session
        assert session.deadline == 110.0
        line.frame("COMMIT", transaction="t")
        assert session.deadline == 113.0
        assert session.tick(112.9) == ()
        (close,) = session.tick(113.0)
        assert isinstance(close.error, BadTransaction)
        assert session.deadline == math.inf

    def test_time_beside_heart_beats(self, open_line):
        line = open_line(transaction_timeout=10)
        line.connect(heart_beat="0,4000")
        line.frame("BEGIN", transaction="t")
        session = line.session
        for beat in (104.0, 108.0):
            assert session.deadline == beat
            assert session.tick(beat) == ()
        assert session.deadline == 110.0
        (close,) = session.tick(110.0)
        assert isinstance(close.error, BadTransaction)

    def test_no_time_is_kept_once_it_is_over(self, open_line):
        line = open_line(transaction_timeout=10)
        line.connect()
        line.frame("BEGIN", transaction="t")
        line.frame("SEND", destination="/topic/a")
        line.frame("DISCONNECT")
        assert line.session.deadline == math.inf
        assert line.session.tick(500.0) == ()
