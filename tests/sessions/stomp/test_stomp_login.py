"""CONNECT: versions, credentials, heart-beats, and what comes before it."""

from __future__ import annotations

import math

import pytest

from gateway.core.commands import Authenticate, ClaimClientId, Close, Publish
from gateway.core.errors import InUse, NotAuthorized
from gateway.core.outcome import Outcome, Result
from gateway.protocols.stomp.errors import BadCommand, BadHeader, FrameTooLarge, Silence, VersionMismatch
from gateway.protocols.stomp.session import MAX_HELD_BEFORE_LOGIN

CONNECT = b"CONNECT\naccept-version:1.2\nhost:h\n\n\0"
REFUSED = Result(Outcome.REJECTED, NotAuthorized("no such user"))


class TestConnect:
    @pytest.mark.parametrize("command", ["CONNECT", "STOMP"])
    def test_connected(self, open_line, command):
        line = open_line()
        assert not line.session.established
        line.frame(command, accept_version="1.0,1.1,1.2", host="anything")
        connected = line.only("CONNECTED")
        assert connected.headers["version"] == "1.2"
        assert connected.headers["server"] == "mqlift/1"
        assert connected.headers["heart-beat"] == "0,0"
        assert connected.headers["session"]
        assert line.session.established
        assert line.session.deadline == math.inf

    def test_sessions_have_their_own_ids(self, open_line):
        assert open_line().connect().headers["session"] != open_line().connect().headers["session"]

    def test_credentials(self, open_line):
        line = open_line()
        line.frame("CONNECT", accept_version="1.2", host="h", login="ann", passcode="a\\nb")
        (authenticate,) = line.take(Authenticate)
        credentials = authenticate.credentials
        assert (credentials.protocol, credentials.username, credentials.password) == ("stomp", "ann", b"a\\nb")
        assert "a\\nb" not in repr(credentials)

    def test_nobody_in_particular(self, open_line):
        line = open_line()
        line.connect()
        (authenticate,) = line.take(Authenticate)
        assert (authenticate.credentials.username, authenticate.credentials.password) == (None, None)

    @pytest.mark.parametrize(
        ("dialect", "headers", "claimed"),
        [("activemq", {"client_id": "c"}, ["c"]), ("activemq", {}, []), ("rabbitmq", {"client_id": "c"}, [])],
    )
    def test_client_ids(self, open_line, dialect, headers, claimed):
        line = open_line(dialect=dialect)
        line.connect(**headers)
        assert [claim.client_id for claim in line.take(ClaimClientId)] == claimed

    def test_a_client_id_that_is_in_use(self, open_line):
        line = open_line(dialect="activemq")
        line.refuse = {ClaimClientId: Result(Outcome.REJECTED, InUse("another has it"))}
        line.send(CONNECT.replace(b"host:h", b"client-id:c"))
        error = line.only("ERROR")
        assert (error.headers["message"], error.body) == ("Client: c already connected", b"another has it")
        assert isinstance(line.closed.error, InUse)
        assert not line.session.established

    def test_nothing_is_done_before_the_client_id_is_claimed(self, open_line):
        line = open_line(dialect="activemq")
        line.hold = ClaimClientId
        line.send(CONNECT.replace(b"host:h", b"client-id:c") + b"SEND\ndestination:/topic/t\n\n\0")
        assert (line.take(Publish), line.frames()) == ([], [])
        line.release()
        assert len(line.take(Publish)) == 1
        line.only("CONNECTED")

    def test_refused(self, open_line):
        line = open_line()
        line.refuse = {Authenticate: REFUSED}
        line.send(CONNECT)
        error = line.only("ERROR")
        assert error.headers["message"] == "Bad CONNECT"
        assert error.body == b"Access refused for user ''\n"  # no hint about which part was wrong
        assert line.closed.error is REFUSED.error
        assert not line.session.established

    @pytest.mark.parametrize(
        "accepted", [{"accept-version": "1.3,3"}, {"accept-version": "2.0"}, {"accept-version": ""}]
    )
    def test_no_common_version(self, open_line, accepted):
        line = open_line()
        line.frame("CONNECT", **accepted)
        error = line.only("ERROR")
        assert error.headers["version"] == "1.0,1.1,1.2"
        assert error.headers["content-type"] == "text/plain"
        assert isinstance(line.closed.error, VersionMismatch)
        assert line.take(Authenticate) == []

    def test_only_once(self, line):
        line.send(CONNECT)
        assert b"already connected" in line.only("ERROR").body
        assert isinstance(line.closed.error, BadCommand)


class TestBeforeConnected:
    @pytest.mark.parametrize("command", ["SEND", "SUBSCRIBE", "ACK", "DISCONNECT", "BEGIN", "HELLO", "CONNECTED"])
    def test_nothing_comes_before_connect(self, open_line, command):
        line = open_line()
        line.frame(command, destination="/queue/q", receipt="7")
        error = line.only("ERROR")
        assert error.headers["receipt-id"] == "7"
        assert isinstance(line.closed.error, BadCommand)
        assert line.done == [line.closed]

    def test_what_follows_connect_waits_for_the_login(self, open_line):
        line = open_line()
        line.hold = Authenticate
        line.send(CONNECT + b"SEND\ndestination:/topic/a\n\n1\0SEND\nde")
        line.send(b"stination:/topic/a\n\n2\0SEND\ndestination:/topic/a")
        line.send(b"\n\n3")
        assert line.take(Publish) == []
        line.release()
        assert [publish.message.body for publish in line.take(Publish)] == [b"1", b"2"]
        line.send(b"\0")
        assert [publish.message.body for publish in line.take(Publish)] == [b"3"]

    def test_nothing_of_it_is_done_when_the_login_is_refused(self, open_line):
        line = open_line()
        line.hold = Authenticate
        line.send(CONNECT + b"SEND\ndestination:/topic/a\n\n1\0")
        line.release(REFUSED)
        line.send(b"SEND\ndestination:/topic/a\n\n2\0")
        assert line.take(Publish) == []
        assert [frame.command for frame in line.frames()] == ["ERROR"]

    def test_what_waits_is_bounded(self, open_line):
        line = open_line()
        line.hold = Authenticate
        line.send(CONNECT)
        piece = b"SEND\ndestination:/topic/a\n\n" + b"x" * 1000 + b"\0"
        commands = ()
        for _ in range(MAX_HELD_BEFORE_LOGIN // 1000 + 1):
            commands = commands or line.send(piece)
        (close,) = commands
        assert isinstance(close, Close)
        assert isinstance(close.error, FrameTooLarge)

    def test_line_ends_are_no_frames(self, open_line):
        line = open_line()
        line.send(b"\n\r\n\n")
        line.connect()


class TestHeartBeats:
    @pytest.mark.parametrize(
        ("asked", "agreed"),
        [("0,0", "0,0"), ("5000,4000", "4000,5000"), ("0,4000", "4000,0"), ("5,0", "0,1000"), ("20,3", "1000,1000")],
    )
    def test_agreement(self, open_line, asked, agreed):
        assert open_line().connect(**{"heart-beat": asked}).headers["heart-beat"] == agreed

    @pytest.mark.parametrize("asked", ["", "1000", "a,b", "-1,0", "1000,", "0,0,0", "9" * 50 + ",0"])
    def test_nonsense(self, open_line, asked):
        line = open_line()
        line.frame("CONNECT", accept_version="1.2", heart_beat=asked)
        line.only("ERROR")
        assert isinstance(line.closed.error, BadHeader)

    def test_ours_go_out_each_interval(self, open_line):
        line = open_line()
        line.connect(heart_beat="0,2000")
        session = line.session
        assert session.deadline == line.now + 2
        for beat in (102.0, 104.0, 106.5):
            assert session.tick(session.deadline - 0.1) == ()
            assert session.data_to_send() == b""
            assert session.tick(beat) == ()
            assert session.data_to_send() == b"\n"
            assert session.deadline == beat + 2

    def test_a_silent_peer_is_given_up(self, open_line):
        line = open_line()
        line.connect(heart_beat="2000,0")
        session = line.session
        assert session.deadline == 104.0  # twice the interval
        line.now = 103.0
        line.send(b"\n")
        assert session.tick(104.0) == ()
        assert session.deadline == 107.0
        (close,) = session.tick(107.0)
        assert isinstance(close.error, Silence)
        assert line.only("ERROR").headers["message"] == "Heart-beat missed"
        assert session.deadline == math.inf

    def test_part_of_a_frame_is_a_sign_of_life(self, open_line):
        line = open_line()
        line.connect(heart_beat="2000,0")
        line.now = 103.9
        line.send(b"SEND\ndesti")
        assert line.session.tick(104.0) == ()

    def test_tolerance_is_a_setting(self, open_line):
        line = open_line(heart_beat_tolerance=3.0)
        line.connect(heart_beat="2000,0")
        assert line.session.deadline == 106.0

    def test_a_peer_that_is_not_read_is_not_silent(self, open_line):
        line = open_line()
        line.connect(heart_beat="2000,5000")
        session = line.session
        session.reading(False, 101.0)
        assert session.deadline == 105.0  # our own next one
        assert session.tick(150.0) == ()
        assert session.data_to_send() == b"\n"
        session.reading(True, 151.0)
        assert session.deadline == 155.0
        assert session.tick(154.9) == ()
        (close,) = session.tick(155.0)
        assert isinstance(close.error, Silence)

    def test_reading_without_heart_beats(self, line):
        line.session.reading(False, 1.0)
        line.session.reading(True, 2.0)
        assert line.session.deadline == math.inf
        assert line.session.tick(3.0) == ()

    def test_a_peer_that_waits_for_its_last_receipts_may_be_silent(self, open_line):
        line = open_line()
        line.connect(heart_beat="2000,3000")
        line.frame("SEND", b"1", destination="/topic/a")
        line.frame("DISCONNECT", receipt="end")
        session = line.session
        assert session.deadline == 103.0
        assert session.tick(110.0) == ()
        session.data_to_send()
        assert session.deadline == 113.0
        session.reading(True, 111.0)
        assert session.deadline == 113.0
        assert session.tick(200.0) == ()
        assert session.data_to_send() == b"\n"
        assert session.deadline == 203.0
