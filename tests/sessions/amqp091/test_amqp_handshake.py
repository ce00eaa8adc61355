"""From the protocol header to `connection.open-ok`, and to the end of the connection."""

from __future__ import annotations

import pytest
from pamqp.commands import Channel, Connection, Queue
from pamqp.frame import marshal

from gateway.core.auth import Identity
from gateway.core.commands import Authenticate, Authenticated, Close, DeclareExchange, DeclareQueue, Presence, Publish
from gateway.core.errors import NotAuthorized, Unavailable
from gateway.core.outcome import Outcome, Result
from gateway.protocols.amqp091.session import MAX_PIPELINED
from tests.sessions.amqp091.peer import CAPABILITIES, HEADER, Peer, connected, published, refused

LOGIN_REFUSED = (
    "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile."
)


def ended_silently(peer: Peer) -> None:
    assert peer.close is not None
    assert peer.close.error is not None
    assert not any(isinstance(each, Connection.Close) for each in peer.methods())


def started(**settings: object) -> Peer:
    peer = Peer(**settings)
    peer.feed(HEADER)
    peer.received()
    return peer


def tuned() -> Peer:
    peer = started()
    peer.send(0, peer.start_ok())
    peer.received()
    return peer


class TestStart:
    def test_the_server_says_what_it_is_and_can_do(self) -> None:
        peer = Peer()
        peer.feed(HEADER, piece=3)
        start = peer.only(Connection.Start)
        assert (start.version_major, start.version_minor, start.locales) == (0, 9, "en_US")
        assert set(start.mechanisms.split()) == {"PLAIN", "AMQPLAIN"}
        properties = start.server_properties
        assert (properties["product"], properties["version"], properties["cluster_name"]) == (
            "mqlift",
            "test",
            "mqlift",
        )
        assert all(properties["capabilities"].values())
        assert CAPABILITIES.keys() <= properties["capabilities"].keys()

    @pytest.mark.parametrize("header", [b"AMQP\0\0\x09\0", b"AMQP\x01\x01\0\x0a", b"HTTP/1.1", b"GET"])
    def test_another_protocol_is_told_which_one_is_spoken(self, header: bytes) -> None:
        peer = Peer()
        peer.feed(header)
        assert peer.session.data_to_send() == HEADER
        assert peer.close is not None

    def test_what_the_client_says_about_itself_goes_with_its_messages(self) -> None:
        peer = connected()
        peer.publish()
        (publish,) = peer.take(Publish)
        origin = publish.message.origin
        assert (origin.protocol, origin.client_id, origin.user) == ("amqp091", "test", "guest")


class TestLogin:
    def test_credentials_are_passed_on(self) -> None:
        peer = started()
        peer.send(0, peer.start_ok())
        (authenticate,) = peer.take(Authenticate)
        credentials = authenticate.credentials
        assert (credentials.protocol, credentials.username, credentials.password) == ("amqp091", "guest", b"secret")
        tune = peer.only(Connection.Tune)
        assert (tune.channel_max, tune.frame_max, tune.heartbeat) == (2047, 131072, 60)

    def test_without_a_certificate_s_identity_external_names_nobody(self) -> None:
        peer = started(mechanisms=("PLAIN", "EXTERNAL"))
        peer.send(0, peer.start_ok(mechanism="EXTERNAL", response=""))
        (authenticate,) = peer.take(Authenticate)
        credentials = authenticate.credentials
        assert (credentials.mechanism, credentials.username, credentials.password) == ("EXTERNAL", None, None)

    def test_a_client_that_understands_is_told_that_it_is_refused(self) -> None:
        peer = started()
        peer.answers[Authenticate] = refused(NotAuthorized("no"))
        peer.send(0, peer.start_ok())
        peer.closed_connection(403, LOGIN_REFUSED)

    def test_another_one_is_not(self) -> None:
        peer = started()
        peer.answers[Authenticate] = refused(NotAuthorized("no"))
        peer.send(0, peer.start_ok(capabilities={}))
        ended_silently(peer)

    def test_when_nobody_can_tell_it_is_not_the_client_s_fault(self) -> None:
        peer = started()
        peer.answers[Authenticate] = Result(Outcome.RELEASED, Unavailable("no answer"))
        peer.send(0, peer.start_ok())
        ended_silently(peer)

    @pytest.mark.parametrize(
        "start_ok",
        [
            {"mechanism": "CRAM-MD5"},
            {"response": "guest guest"},
            {"response": "somebody\0guest\0guest"},
            {"mechanism": "AMQPLAIN", "response": "\x05LOGINS\0\0\0\x05guest"},
        ],
    )
    def test_a_response_that_makes_no_sense_ends_the_connection(self, start_ok: dict[str, str]) -> None:
        peer = started()
        peer.send(0, peer.start_ok(**start_ok))
        ended_silently(peer)
        assert not peer.take(Authenticate)

    def test_a_mechanism_that_an_operator_left_out_is_neither_offered_nor_taken(self) -> None:
        peer = Peer(mechanisms=("EXTERNAL",))
        peer.feed(HEADER)
        assert peer.only(Connection.Start).mechanisms == "EXTERNAL"
        peer.send(0, peer.start_ok())
        ended_silently(peer)

    def test_what_follows_waits_for_the_decision(self) -> None:
        peer = started()
        peer.hold = (Authenticate,)
        peer.send(0, peer.start_ok(), Connection.TuneOk(2047, 131072, 60))
        peer.send(0, Connection.Open())
        assert not peer.received()
        peer.release()
        assert [type(each) for each in peer.methods()] == [Connection.Tune, Connection.OpenOk]

    def test_no_more_of_it_than_one_read_brings(self) -> None:
        peer = started()
        peer.hold = (Authenticate,)
        peer.send(0, peer.start_ok())
        peer.feed(bytes(MAX_PIPELINED + 1))
        ended_silently(peer)


class TestTune:
    @pytest.mark.parametrize(
        "tune",
        [(2048, 131072, 60), (2047, 131073, 60), (0, 131072, 60), (2047, 0, 60), (2047, 4095, 60)],
    )
    def test_more_than_was_offered_ends_the_connection(self, tune: tuple[int, int, int]) -> None:
        peer = tuned()
        peer.send(0, Connection.TuneOk(*tune))
        ended_silently(peer)

    def test_as_many_channels_as_were_agreed(self) -> None:
        peer = Peer()
        peer.connect(tune=(2, 4096, 0))
        peer.open(1, 7)
        peer.send(3, Channel.Open())
        peer.closed_connection(
            530,
            "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)",
        )

    def test_no_larger_frames_than_were_agreed_either_way(self) -> None:
        peer = Peer()
        peer.connect(tune=(2047, 4096, 0))
        peer.open(1)
        tag = peer.consume()
        peer.deliver(tag, b"x" * 10_000)
        ((_, _, body),) = peer.contents()
        assert body == b"x" * 10_000
        peer.publish(body=b"y" * 5000)
        assert peer.close is not None
        assert peer.methods()[-1].reply_code == 501

    @pytest.mark.parametrize("number", [0, 1])
    def test_nothing_else_may_come_first(self, number: int) -> None:
        peer = tuned()
        peer.send(number, Connection.Open() if not number else Channel.Open())
        ended_silently(peer)


class TestOpen:
    def test_a_virtual_host_that_is_not_there(self) -> None:
        peer = tuned()
        peer.send(0, Connection.TuneOk(2047, 131072, 60), Connection.Open("imaginary"))
        peer.closed_connection(530, "NOT_ALLOWED - vhost imaginary not found", Connection.Open)

    def test_a_virtual_host_may_be_for_some_users_only(self) -> None:
        peer = Peer(vhost_users={"/": ["guest"]})
        peer.connect()

    def test_the_others_are_refused(self) -> None:
        peer = started(vhost_users={"/": ["ann"]})
        peer.send(0, peer.start_ok())
        peer.received()
        peer.send(0, Connection.TuneOk(2047, 131072, 60), Connection.Open("/"))
        peer.closed_connection(530, "NOT_ALLOWED - access to vhost '/' refused for user 'guest'", Connection.Open)

    def test_another_virtual_host_has_the_predeclared_exchanges(self) -> None:
        peer = started(vhosts={"/": "", "other": "o."})
        peer.send(0, peer.start_ok(), Connection.TuneOk(2047, 131072, 60), Connection.Open("other"))
        declared = peer.take(DeclareExchange)
        assert [each.exchange for each in declared] == [
            "o.amq.direct",
            "o.amq.fanout",
            "o.amq.topic",
            "o.amq.headers",
            "o.amq.match",
        ]
        assert {each.presence for each in declared} == {Presence.ANY}
        assert peer.session.established


class TestEnd:
    def test_the_client_closes(self) -> None:
        peer = connected()
        peer.send(0, Connection.Close(200, "bye", 0, 0))
        peer.only(Connection.CloseOk)
        assert peer.close is not None
        assert peer.close.error is None
        peer.send(1, Channel.Close(200, "bye", 0, 0))
        assert not peer.received()

    def test_what_was_asked_for_before_is_done_first(self) -> None:
        peer = connected()
        peer.hold = (DeclareQueue,)
        peer.send(1, Queue.Declare(queue="q", nowait=True))
        peer.publish()
        peer.send(0, Connection.Close(200, "bye", 0, 0))
        assert not peer.received()
        assert peer.close is None
        peer.release()
        assert len(peer.take(Publish)) == 1
        peer.only(Connection.CloseOk)
        assert isinstance(peer.done[-1], Close)

    def test_the_gateway_stops(self) -> None:
        peer = connected()
        peer.run(peer.session.shutdown())
        close = peer.only(Connection.Close)
        assert close.reply_code == 320
        assert close.reply_text == "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"
        assert peer.close is not None
        assert peer.session.shutdown() == ()

    def test_before_the_client_is_let_in_it_is_told_nothing(self) -> None:
        peer = tuned()
        peer.run(peer.session.shutdown())
        assert not peer.received()
        assert peer.close is not None

    def test_a_lost_connection_leaves_nothing_to_do(self) -> None:
        peer = connected()
        peer.publish()
        assert peer.session.connection_lost() == ()
        peer.settle_publishes()
        assert not peer.session.data_to_send()


class TestUpdateSecret:
    def test_the_same_user_proves_itself_again(self) -> None:
        peer = connected()
        peer.send(0, Connection.UpdateSecret(new_secret="fresh", reason="old"))
        peer.only(Connection.UpdateSecretOk)
        (authenticate,) = peer.take(Authenticate)
        assert (authenticate.credentials.username, authenticate.credentials.password) == ("guest", b"fresh")

    @pytest.mark.parametrize(
        "answer", [refused(NotAuthorized("no")), Authenticated(Identity(user="somebody else"))], ids=["no", "another"]
    )
    def test_anybody_else_does_not(self, answer: Result) -> None:
        peer = connected()
        peer.answers[Authenticate] = answer
        peer.send(0, Connection.UpdateSecret(new_secret="fresh", reason="old"))
        peer.closed_connection(
            530, "NOT_ALLOWED - New secret was refused by one of the backends", Connection.UpdateSecret
        )


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_the_same_in_any_pieces(piece: int) -> None:
    peer = Peer()
    data = HEADER + b"".join(
        marshal(method, channel)
        for channel, method in (
            (0, peer.start_ok()),
            (0, Connection.TuneOk(2047, 131072, 60)),
            (0, Connection.Open()),
            (1, Channel.Open()),
        )
    )
    peer.feed(data + published(body=b"a body", pieces=2), piece)
    kinds = [type(each) for each in peer.methods()]
    assert kinds == [Connection.Start, Connection.Tune, Connection.OpenOk, Channel.OpenOk]
    assert [each.body for each in peer.settle_publishes()] == [b"a body"]
