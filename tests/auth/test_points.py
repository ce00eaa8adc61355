"""What each command asks before it is executed, and what becomes of it when the answer is no."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from gateway.core.auth import Action, Credentials, Identity
from gateway.core.backend import QueueSpec
from gateway.core.certificate import Certificate
from gateway.core.commands import (
    Authenticate,
    Bind,
    BindExchange,
    Consume,
    DeclareExchange,
    DeclareQueue,
    DeleteExchange,
    DeleteQueue,
    EndSession,
    Get,
    KeepSession,
    OpenSession,
    Presence,
    PurgeQueue,
    SessionRecord,
    Unbind,
    UnbindExchange,
)
from gateway.core.errors import NotAuthorized
from gateway.core.exchanges import ExchangeSpec, ExchangeType
from gateway.core.outcome import Outcome
from gateway.core.shared import SESSION, SHARED
from tests.rig.clock import on_clock, settle_down
from tests.rig.connections import FakeTransport
from tests.rig.hosting import Peer, Rig

Asked = tuple[Action, str, str]

SOURCE, DESTINATION = Action.BIND_SOURCE, Action.BIND_DESTINATION
PUBLISH, SUBSCRIBE, DECLARE = Action.PUBLISH, Action.SUBSCRIBE, Action.DECLARE
LIVE = QueueSpec(durable=False, exclusive=True)


def dead_lettering(exchange: str, key: str | None = None) -> QueueSpec:
    keyed = {} if key is None else {"x-dead-letter-routing-key": key}
    return QueueSpec(arguments={"x-dead-letter-exchange": exchange} | keyed)


class Asking:
    """Remembers what was asked, and refuses some of it."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.denied: set[Asked] = set()

    def allows(self, identity: Identity, action: Action, exchange: str, key: str) -> bool:
        self.asked.append((action, exchange, key))
        return (action, exchange, key) not in self.denied


class Known:
    """Everybody is who they say they are; `seen` is what they gave."""

    def __init__(self) -> None:
        self.seen: list[Credentials] = []
        self.identity = Identity()

    async def authenticate(self, credentials: Credentials) -> Identity:
        self.seen.append(credentials)
        return replace(self.identity, user=credentials.username or "")


async def guarded() -> tuple[Asking, Peer]:
    """A connection that is asked about, beside a queue `orders` and an exchange `logs`."""
    rig, asking = Rig(), Asking()
    rig.broker.authorizer = asking
    peer = rig.connect()
    await peer.sends(
        DeclareQueue("orders", QueueSpec(), "queue"),
        DeclareQueue("own", LIVE, "own"),
        DeclareExchange("logs", ExchangeSpec(type=ExchangeType.TOPIC), "exchange"),
    )
    asking.asked.clear()
    return asking, peer


TO_LOGS = ExchangeSpec(type=ExchangeType.TOPIC)


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        (Bind("orders", "logs", "#", "t"), [(SOURCE, "logs", "#"), (DESTINATION, "", "orders")]),
        (Unbind("orders", "logs", "#", "t"), [(SOURCE, "logs", "#"), (DESTINATION, "", "orders")]),
        (Bind("own", "logs", "#", "t"), [(SUBSCRIBE, "logs", "#")]),
        (Unbind("own", "logs", "#", "t"), []),
        (BindExchange("logs", "amq.topic", "a", "t"), [(SOURCE, "amq.topic", "a"), (DESTINATION, "logs", "")]),
        (UnbindExchange("logs", "amq.topic", "a", "t"), [(SOURCE, "amq.topic", "a"), (DESTINATION, "logs", "")]),
        (DeclareExchange("new", TO_LOGS, "t"), [(DECLARE, "new", "")]),
        (DeclareExchange("logs", TO_LOGS, "t", Presence.REQUIRED), []),
        (
            DeclareExchange("new", replace(TO_LOGS, arguments={"alternate-exchange": "logs"}), "t"),
            [(DECLARE, "new", ""), (SOURCE, "new", "#"), (DESTINATION, "logs", "")],
        ),
        (
            DeclareExchange("new", replace(TO_LOGS, arguments={"alternate-exchange": ""}), "t"),
            [(DECLARE, "new", ""), (SOURCE, "new", "#"), (PUBLISH, "", "")],
        ),
        (DeclareExchange("logs", TO_LOGS, "t"), [(DECLARE, "logs", "")]),
        (DeleteExchange("logs", "t"), [(DECLARE, "logs", "")]),
        (DeclareQueue("new", QueueSpec(), "t", Presence.EQUIVALENT), [(DECLARE, "", "new")]),
        (DeclareQueue("orders", QueueSpec(), "t", Presence.REQUIRED), []),
        (
            DeclareQueue("new", dead_lettering("logs"), "t", Presence.EQUIVALENT),
            [(DECLARE, "", "new"), (SUBSCRIBE, "", "new"), (DESTINATION, "logs", "")],
        ),
        (
            DeclareQueue("new", dead_lettering("", "failed"), "t", Presence.EQUIVALENT),
            [(DECLARE, "", "new"), (SUBSCRIBE, "", "new"), (PUBLISH, "", "failed")],
        ),
        (
            DeclareQueue("live", replace(LIVE, arguments=dead_lettering("logs").arguments), "t"),
            [(DESTINATION, "logs", "")],
        ),
        (DeclareQueue("live", LIVE, "t"), []),
        (DeclareQueue("live", LIVE, "t", Presence.EQUIVALENT), [(DECLARE, "", "live")]),
        (DeleteQueue("orders", "t"), [(DECLARE, "", "orders")]),
        (DeleteQueue("own", "t"), []),
        (PurgeQueue("orders", "t"), [(SUBSCRIBE, "", "orders")]),
        (Get("orders", "t"), [(SUBSCRIBE, "", "orders")]),
        (Consume("tag", "orders", 1, "t"), [(SUBSCRIBE, "", "orders")]),
        (Consume("tag", "own", 1, "t"), []),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
@on_clock
async def test_what_a_command_asks(command: object, asked: list[Asked]) -> None:
    asking, peer = await guarded()
    await peer.sends(command)
    assert asking.asked == asked
    for one in asked:
        asking, peer = await guarded()
        asking.denied = {one}
        await peer.sends(command)
        (result,) = (result for token, result in peer.session.answers if token == "t")
        assert result.outcome is Outcome.REJECTED
        assert isinstance(result.error, NotAuthorized)


@on_clock
async def test_a_queue_that_is_there_was_asked_about_when_it_was_made() -> None:
    asking, peer = await guarded()
    await peer.sends(DeclareQueue("new", dead_lettering("logs"), "made", Presence.EQUIVALENT))
    asking.denied = {(SUBSCRIBE, "", "new"), (DESTINATION, "logs", "")}
    await peer.sends(DeclareQueue("new", dead_lettering("logs"), "again", Presence.EQUIVALENT))
    assert peer.outcome_of("again") is Outcome.ACCEPTED


@on_clock
async def test_who_may_not_declare_may_use_what_is_there() -> None:
    asking, peer = await guarded()
    asking.denied = {(DECLARE, "", "orders"), (DECLARE, "", "new")}
    await peer.sends(DeclareQueue("orders", QueueSpec(), "there"))
    assert peer.outcome_of("there") is Outcome.ACCEPTED


@on_clock
async def test_the_queue_of_somebody_elses_session_is_not_private() -> None:
    rig, asking = Rig(), Asking()
    rig.broker.authorizer = asking
    owner, thief = rig.connect(), rig.connect()
    await owner.sends(
        DeclareQueue("session", QueueSpec(arguments={SESSION: True}), "t"), Consume("tag", "session", 1, "own")
    )
    assert owner.outcome_of("own") is Outcome.ACCEPTED
    assert asking.asked == []
    asking.denied = {(SUBSCRIBE, "", "session"), (DECLARE, "", "session")}
    for command in (
        Consume("tag", "session", 1, "t"),
        Get("session", "t"),
        PurgeQueue("session", "t"),
        DeleteQueue("session", "t"),
    ):
        await thief.sends(command)
        assert thief.session.answers[-1][1].outcome is Outcome.REJECTED


@on_clock
async def test_a_shared_subscription_is_for_those_who_may_have_its_topics() -> None:
    asking, peer = await guarded()
    shared = QueueSpec(arguments={SHARED: True})
    await peer.sends(DeclareQueue("shared", shared, "queue"), Bind("shared", "amq.topic", "secret.#", "bind"))
    await peer.sends(Consume("one", "shared", 1, "consume"))
    assert peer.outcome_of("consume") is Outcome.ACCEPTED
    assert set(asking.asked) == {(SOURCE, "amq.topic", "secret.#")}
    asking.denied = {(SOURCE, "amq.topic", "secret.#")}
    await peer.sends(Consume("two", "shared", 1, "again"))
    assert peer.outcome_of("again") is Outcome.REJECTED


# Who it is


class Tls(FakeTransport):
    """One behind TLS, from a known place."""

    def get_extra_info(self, name: str, default: object = None) -> object:
        known = {
            "peername": ("2001:db8::7", 50_000, 0, 0),
            "peercert": {"subject": ((("commonName", "press-7"),),)},
        }
        return known.get(name, default)


def proving(known: Known) -> Peer:
    rig = Rig()
    rig.broker.authorizer = Asking()
    rig.broker._authenticator = known
    return rig.connect(Tls)


def login(user: str, token: str) -> Authenticate:
    return Authenticate(Credentials(protocol="test", username=user, password=b"x"), token)


@on_clock
async def test_the_connection_tells_where_the_peer_is_and_its_certificate() -> None:
    known = Known()
    await proving(known).sends(login("ann", "t"))
    (credentials,) = known.seen
    assert credentials.peer == "2001:db8::7"
    assert credentials.certificate == Certificate(subject="CN=press-7", common_names=("press-7",))
    assert (credentials.username, credentials.password) == ("ann", b"x")


@on_clock
async def test_a_proof_that_expires_ends_the_connection_unless_it_is_renewed() -> None:
    known = Known()
    peer = proving(known)
    known.identity = Identity(expires_at=time.time() + 50)
    peer.session.established = True
    await peer.sends(login("ann", "first"))
    known.identity = Identity(expires_at=time.time() + 500)
    await peer.sends(login("ann", "again"))
    assert peer.outcome_of("again") is Outcome.ACCEPTED
    loop_time = peer.connection._executor.peer.ends_at
    assert 400 < loop_time - 1_000 < 600
    peer.connection._executor.peer.ends_at = 0.0
    peer.connection._time_passed()
    await settle_down()
    assert peer.gone


@on_clock
async def test_nobody_becomes_somebody_else() -> None:
    peer = proving(Known())
    await peer.sends(login("ann", "first"))
    await peer.sends(login("bob", "again"))
    assert peer.outcome_of("again") is Outcome.REJECTED


# Whose client id it is


@on_clock
async def test_another_users_session_is_neither_taken_over_nor_ended() -> None:
    rig = Rig()
    rig.broker._authenticator = Known()
    ann, bob = rig.connect(Tls), rig.connect(Tls)
    opening, end = OpenSession("device", True, "open"), EndSession("device", 0.0)
    await ann.sends(login("ann", "login"), opening, KeepSession("device", SessionRecord(), "keep"))
    with capture_logs() as lines:
        await bob.sends(login("bob", "login"), opening, end)
    assert isinstance(bob.session.answers[-1][1].error, NotAuthorized)
    assert ann.outcome_of("keep") is Outcome.ACCEPTED
    assert not ann.gone
    ann.transport.reset()  # it says nothing of its session, which stays
    await settle_down()
    await bob.sends(OpenSession("device", True, "again"), end)
    assert rig.broker.kept_sessions == 1
    told = [line for line in lines if line["event"] == "client_id_refused"]
    assert [(line["user"], line["client_id"], line["peer"]) for line in told] == [
        ("bob", "device", "2001:db8::7:50000")
    ]


@on_clock
async def test_an_end_without_a_beginning_ends_nothing() -> None:
    """The connection may be gone before it was asked for its session."""
    rig = Rig()
    rig.door.open.set()
    first, second = rig.connect(), rig.connect()
    await first.sends(OpenSession("device", False, "open"), KeepSession("device", SessionRecord(), "keep"))
    first.transport.reset()
    await settle_down()
    await second.sends(EndSession("device", 0.0))
    assert rig.broker.kept_sessions == 1
