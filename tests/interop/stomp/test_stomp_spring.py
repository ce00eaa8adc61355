"""What Spring's broker relay (StompBrokerRelayMessageHandler) sends for a WebSocket application, frame by frame.

It has one connection of its own, the system session, over which the application broadcasts, and one for each user,
whose frames it passes on. For the broker all of them log in with the relay's account.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.interop.stomp.servers import DIALECTS, Listeners
from tests.interop.stomp.stage import LOGIN, Connection, Dialect, Server, Stage, staged

JSON = "content-type:application/json"


@pytest.fixture(params=[(kind, dialect) for kind in ("mqlift", "broker") for dialect in DIALECTS], ids="-".join)
def stage(
    request: pytest.FixtureRequest,
    gateway_listeners: Callable[[Dialect], Listeners],
    broker: Callable[[Dialect], Server],
) -> Iterator[Stage]:
    kind, dialect = request.param
    server = broker(dialect) if kind == "broker" else Server(dialect, gateway_listeners(dialect).tcp)
    with ExitStack() as stack:
        yield stack.enter_context(staged(server))


def system_session(stage: Stage) -> Connection:
    session = stage.opens()
    session.sends("CONNECT", "accept-version:1.1,1.2", *LOGIN, "heart-beat:10000,10000", "host:/")
    connected = session.gets("CONNECTED")
    assert (connected.command, connected.header("version")) == ("CONNECTED", "1.2")
    assert connected.header("heart-beat") == "10000,10000"
    return session


def user_session(stage: Stage) -> Connection:
    """As a browser with stomp.js connects, with the relay's login put in."""
    session = stage.opens()
    session.sends("CONNECT", *LOGIN, "accept-version:1.2,1.1,1.0", "heart-beat:0,0", "host:/")
    assert session.gets("CONNECTED").command == "CONNECTED"
    return session


def subscribe(session: Connection, destination: str, number: int = 0) -> None:
    session.sends("SUBSCRIBE", f"id:sub-{number}", f"destination:{destination}", "receipt:subscribed")
    assert session.gets("RECEIPT").header("receipt-id") == "subscribed"


def test_the_application_broadcasts_to_its_users(stage: Stage) -> None:
    system = system_session(stage)
    users = [user_session(stage), user_session(stage)]
    for user in users:
        subscribe(user, "/topic/{}.prices")
    system.sends("SEND", "destination:/topic/{}.prices", JSON, "content-length:11", body=b'{"price":1}')
    for user in users:
        message = user.gets("MESSAGE")
        assert (message.header("subscription"), message.body) == ("sub-0", b'{"price":1}')
        assert message.header("content-type") == "application/json"


def test_the_application_answers_one_user(stage: Stage) -> None:
    system, user, other = system_session(stage), user_session(stage), user_session(stage)
    subscribe(user, "/queue/errors-user{}-1")
    subscribe(other, "/queue/errors-user{}-2")
    system.sends("SEND", "destination:/queue/errors-user{}-1", JSON, "content-length:2", body=b"{}")
    system.sends("SEND", "destination:/queue/errors-user{}-2", JSON, "content-length:2", body=b"[]")
    assert (user.gets("MESSAGE").body, other.gets("MESSAGE").body) == (b"{}", b"[]")


def test_a_user_sends_to_the_broker_and_leaves(stage: Stage) -> None:
    user, other = user_session(stage), user_session(stage)
    subscribe(other, "/topic/{}.chat")
    user.sends("SEND", "destination:/topic/{}.chat", "content-length:2", "receipt:sent", body=b"hi")
    assert user.gets("RECEIPT").header("receipt-id") == "sent"
    assert other.gets("MESSAGE").body == b"hi"
    other.sends("UNSUBSCRIBE", "id:sub-0", "receipt:gone")
    assert other.gets("RECEIPT").header("receipt-id") == "gone"
    user.sends("DISCONNECT", "receipt:session-1")
    assert user.gets("RECEIPT").header("receipt-id") == "session-1"


def test_the_relay_beats_for_a_user_who_does_not(stage: Stage) -> None:
    """A heart-beat is a single line feed, also between the frames of a session that has agreed to none."""
    user = user_session(stage)
    for data in (b"\n", b"\n\n", b"\r\n"):
        user.writes(data)
    subscribe(user, "/topic/{}.alive")
    user.writes(b"\n")
    user.sends("SEND", "destination:/topic/{}.alive", "content-length:0")
    assert user.gets("MESSAGE").body == b""
