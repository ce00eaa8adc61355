"""Rules, permissions and scopes: each point of authorisation allowed and denied."""

from __future__ import annotations

import time

import pytest

from gateway.auth import rules as module
from gateway.auth.patterns import Expression
from gateway.auth.permissions import TopicPermission, UserPermissions
from gateway.auth.rules import (
    DECLARING,
    PUBLISHING,
    SUBSCRIBING,
    Everything,
    ExchangePlace,
    Place,
    Policy,
    PolicyAuthorizer,
    QueuePlace,
    Rule,
    TopicPlace,
)
from gateway.core.auth import Action, Identity
from tests.auth.conftest import SteppedClock

ANN = Identity(user="ann", client_id="device-7", groups=("hall", "ops"))
BOB = Identity(user="bob", client_id="device-8")
NOBODY = Identity()

PUBLISH, SUBSCRIBE, RECEIVE = Action.PUBLISH, Action.SUBSCRIBE, Action.RECEIVE
DECLARE, SOURCE, DESTINATION = Action.DECLARE, Action.BIND_SOURCE, Action.BIND_DESTINATION


def authorizer(*rules: Rule, default: bool = False) -> PolicyAuthorizer:
    return PolicyAuthorizer(Policy(rules=rules, default=default))


def allow(place: Place, actions: frozenset[Action] = PUBLISHING | SUBSCRIBING | DECLARING, **who: object) -> Rule:
    return Rule(allow=True, actions=actions, place=place, **who)  # type: ignore[arg-type]


def deny(place: Place, actions: frozenset[Action] = PUBLISHING | SUBSCRIBING | DECLARING) -> Rule:
    return Rule(allow=False, actions=actions, place=place)


@pytest.mark.parametrize(
    ("place", "action", "exchange", "key", "expected"),
    [
        (TopicPlace("a/#"), PUBLISH, "amq.topic", "a.b", True),
        (TopicPlace("a/#"), PUBLISH, "amq.topic", "b", False),
        (TopicPlace("a/#"), PUBLISH, "other", "a.b", False),
        (TopicPlace("a/#"), PUBLISH, "", "a.b", False),
        (TopicPlace("a/#"), RECEIVE, "amq.topic", "a.b", True),
        (TopicPlace("a/#"), SUBSCRIBE, "amq.topic", "a.*", True),
        (TopicPlace("a/#"), SUBSCRIBE, "amq.topic", "#", False),
        (TopicPlace("a/#"), SOURCE, "amq.topic", "a.#", True),
        (TopicPlace("a/#"), SOURCE, "amq.topic", "#", False),
        (TopicPlace("#"), DECLARE, "amq.topic", "", False),
        (TopicPlace("#"), DESTINATION, "amq.topic", "", False),
        (QueuePlace("orders*"), PUBLISH, "", "orders.eu", True),
        (QueuePlace("orders*"), PUBLISH, "orders", "orders.eu", False),
        (QueuePlace("orders*"), SUBSCRIBE, "", "orders", True),
        (QueuePlace("orders*"), DECLARE, "", "orders", True),
        (QueuePlace("orders*"), DESTINATION, "", "orders", True),
        (QueuePlace("orders*"), SUBSCRIBE, "", "payments", False),
        (ExchangePlace("logs"), PUBLISH, "logs", "any.key", True),
        (ExchangePlace("logs"), DECLARE, "logs", "", True),
        (ExchangePlace("logs"), DESTINATION, "logs", "", True),
        (ExchangePlace("logs"), SOURCE, "logs", "#", True),
        (ExchangePlace("logs"), PUBLISH, "logs2", "x", False),
        (ExchangePlace("*"), PUBLISH, "", "orders", False),
        (ExchangePlace("logs", "*.error"), PUBLISH, "logs", "db.error", True),
        (ExchangePlace("logs", "*.error"), PUBLISH, "logs", "db.info", False),
        (ExchangePlace("logs", "#"), DECLARE, "logs", "", False),
        (Everything(), DECLARE, "", "x", True),
        (Everything(), PUBLISH, "amq.topic", "$SYS.x", True),
    ],
)
def test_what_a_place_is(place: Place, action: Action, exchange: str, key: str, expected: bool) -> None:
    assert authorizer(allow(place)).allows(ANN, action, exchange, key) is expected
    assert authorizer(deny(place), default=True).allows(ANN, action, exchange, key) is not expected or action is SOURCE


@pytest.mark.parametrize("actions", [PUBLISHING, SUBSCRIBING, DECLARING])
def test_a_rule_is_about_its_actions_only(actions: frozenset[Action]) -> None:
    rule = authorizer(allow(Everything(), actions))
    assert {action for action in Action if rule.allows(ANN, action, "x", "y")} == actions


def test_every_action_is_somebodys() -> None:
    assert set(Action) == PUBLISHING | SUBSCRIBING | DECLARING


def test_the_first_rule_that_is_about_it_decides() -> None:
    rules = (deny(TopicPlace("a/secret")), allow(TopicPlace("a/#")), deny(TopicPlace("a/b")))
    asked = authorizer(*rules, default=True)
    answers = [asked.allows(ANN, PUBLISH, "amq.topic", key) for key in ("a.secret", "a.b", "c")]
    assert answers == [False, True, True]


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        ({}, [True, True, True]),
        ({"users": frozenset({"ann"})}, [True, False, False]),
        ({"groups": frozenset({"ops"})}, [True, False, False]),
        ({"users": frozenset({"bob"}), "groups": frozenset({"ops"})}, [True, True, False]),
        ({"users": frozenset({""})}, [False, False, True]),
        ({"users": frozenset[str]()}, [False, False, False]),
    ],
)
def test_whom_a_rule_is_for(who: dict[str, object], expected: list[bool]) -> None:
    asked = authorizer(allow(Everything(), **who))
    assert [asked.allows(identity, PUBLISH, "x", "y") for identity in (ANN, BOB, NOBODY)] == expected


def test_places_of_ones_own() -> None:
    asked = authorizer(allow(TopicPlace("users/%u/#")), allow(TopicPlace("devices/%c")), allow(QueuePlace("%u.*")))
    assert asked.allows(ANN, PUBLISH, "amq.topic", "users.ann.x")
    assert not asked.allows(BOB, PUBLISH, "amq.topic", "users.ann.x")
    assert asked.allows(ANN, SUBSCRIBE, "amq.topic", "devices.device-7")
    assert not asked.allows(BOB, SUBSCRIBE, "amq.topic", "devices.device-7")
    assert asked.allows(ANN, SUBSCRIBE, "", "ann.inbox")
    # Somebody without a name has no place of its own, not even an empty one.
    assert not asked.allows(NOBODY, PUBLISH, "amq.topic", "users..x")
    assert not asked.allows(NOBODY, SUBSCRIBE, "", ".inbox")


def test_a_denied_part_of_a_filter() -> None:
    asked = authorizer(deny(TopicPlace("secret/#")), default=True)
    assert asked.allows(ANN, SUBSCRIBE, "amq.topic", "#")  # what comes is asked about, one by one
    assert not asked.allows(ANN, RECEIVE, "amq.topic", "secret.plans")
    assert asked.allows(ANN, RECEIVE, "amq.topic", "open")
    assert not asked.allows(ANN, SUBSCRIBE, "amq.topic", "secret.*")
    assert not asked.allows(ANN, SOURCE, "amq.topic", "#")  # nobody would be asked again
    assert asked.allows(ANN, SOURCE, "amq.topic", "open.#")


def test_a_key_that_looks_like_a_wildcard_does_not_slip_through() -> None:
    asked = authorizer(deny(ExchangePlace("x", "secret.*")), default=True)
    for key in ("secret.#", "secret.*", "secret.a"):
        assert not asked.allows(ANN, PUBLISH, "x", key)


def test_what_was_sent_to_a_queue_may_be_received() -> None:
    assert authorizer().allows(ANN, RECEIVE, "", "reply-1")


def permissions(configure: str = "", write: str = "", read: str = "", *topics: TopicPermission) -> PolicyAuthorizer:
    granted = UserPermissions(
        configure=Expression(configure), write=Expression(write), read=Expression(read), topics=topics
    )
    return PolicyAuthorizer(Policy(permissions={"ann": granted}, default=True))


@pytest.mark.parametrize(
    ("action", "exchange", "key", "needed", "name"),
    [
        (PUBLISH, "", "orders", "write", "amq.default"),
        (PUBLISH, "x", "k", "write", "x"),
        (DESTINATION, "", "q", "write", "q"),
        (DESTINATION, "x", "", "write", "x"),
        (SUBSCRIBE, "", "q", "read", "q"),
        (SUBSCRIBE, "x", "k", "read", "x"),
        (SOURCE, "x", "k", "read", "x"),
        (DECLARE, "", "q", "configure", "q"),
        (DECLARE, "x", "", "configure", "x"),
    ],
)
def test_rabbitmqs_table(action: Action, exchange: str, key: str, needed: str, name: str) -> None:
    expression = f"^{name}$".replace(".", "\\.")
    for granted in ("configure", "write", "read"):
        asked = permissions(**{granted: expression})
        assert asked.allows(ANN, action, exchange, key) is (granted == needed)
        assert asked.allows(BOB, action, exchange, key)  # has no permissions: the default
    assert not permissions(**{needed: "^another$"}).allows(ANN, action, exchange, key)


def test_topic_permissions() -> None:
    own = TopicPermission(exchange="amq.topic", write=Expression(r"^{client_id}\."), read=Expression("^{username}$"))
    asked = permissions("", ".*", ".*", own)
    assert asked.allows(ANN, PUBLISH, "amq.topic", "device-7.x")
    assert not asked.allows(ANN, PUBLISH, "amq.topic", "device-8.x")
    assert asked.allows(ANN, PUBLISH, "other", "device-8.x")
    assert asked.allows(ANN, SUBSCRIBE, "amq.topic", "ann")
    assert not asked.allows(ANN, SUBSCRIBE, "amq.topic", "#")
    assert not asked.allows(ANN, SOURCE, "amq.topic", "bob")
    assert asked.allows(ANN, RECEIVE, "amq.topic", "anything")


def test_a_name_too_long_for_a_permission_grants_nothing() -> None:
    own = TopicPermission(exchange="x", write=Expression("{client_id}"), read=Expression(""))
    granted = UserPermissions(configure=Expression(""), write=Expression(".*"), read=Expression(""), topics=(own,))
    asked = PolicyAuthorizer(Policy(permissions={"ann": granted}))
    assert not asked.allows(Identity(user="ann", client_id="-" * 60_000), PUBLISH, "x", "k")


def test_rules_come_before_permissions() -> None:
    granted = UserPermissions(configure=Expression(".*"), write=Expression(".*"), read=Expression(".*"))
    policy = Policy(rules=[deny(QueuePlace("secret"))], permissions={"ann": granted}, default=False)
    asked = PolicyAuthorizer(policy)
    assert not asked.allows(ANN, SUBSCRIBE, "", "secret")
    assert asked.allows(ANN, SUBSCRIBE, "", "open")


def token(*scopes: str) -> Identity:
    return Identity(user="ann", scopes=scopes)


@pytest.mark.parametrize(
    ("scope", "action", "exchange", "key", "expected"),
    [
        ("read:*/*", SUBSCRIBE, "", "orders", True),
        ("read:*/*", PUBLISH, "x", "k", False),
        ("read:%2F/orders", SUBSCRIBE, "", "orders", True),
        ("read:%2F/orders", SUBSCRIBE, "", "payments", False),
        ("read:other/*", SUBSCRIBE, "", "orders", False),
        ("write:*/amq.topic/a.*", PUBLISH, "amq.topic", "a.b.c", True),
        ("write:*/amq.topic/a.*", PUBLISH, "amq.topic", "b", False),
        ("write:*/amq.default", PUBLISH, "", "orders", True),
        ("write:*/or%2Fders*", DESTINATION, "", "or/ders-1", True),
        ("configure:*/orders", DECLARE, "", "orders", True),
        ("configure:*/orders", DECLARE, "orders", "", True),
        ("write:*/x*y", PUBLISH, "x-1-y", "k", True),
        ("read:*/x/k", SOURCE, "x", "k", True),
        ("read:*/x/k", SOURCE, "x", "#", False),
        ("read:*", SUBSCRIBE, "", "orders", False),
        ("read:*/*/*/*", SUBSCRIBE, "", "orders", False),
        ("admin:*/*", SUBSCRIBE, "", "orders", False),
        ("", SUBSCRIBE, "", "orders", False),
    ],
)
def test_scopes_of_a_token(scope: str, action: Action, exchange: str, key: str, expected: bool) -> None:
    asked = PolicyAuthorizer(Policy(default=True))
    assert asked.allows(token("openid", scope), action, exchange, key) is expected


def test_a_token_without_scopes_grants_nothing_and_receives_what_it_was_let_bind() -> None:
    asked = PolicyAuthorizer(Policy(default=True))
    assert not asked.allows(token(), PUBLISH, "x", "k")
    assert asked.allows(token(), RECEIVE, "x", "k")


def test_nothing_is_allowed_when_the_token_has_expired(clock: SteppedClock) -> None:
    asked = PolicyAuthorizer(Policy(), now=clock)
    peer = Identity(user="ann", expires_at=1_060.0)
    assert all(asked.allows(peer, action, "x", "k") for action in Action)
    clock.now = 1_060.0
    assert not any(asked.allows(peer, action, "x", "k") for action in Action)


def test_another_policy_takes_effect_at_once() -> None:
    asked = authorizer(default=True)
    assert asked.allows(ANN, PUBLISH, "x", "k")
    asked.use(Policy(default=False))
    assert not asked.allows(ANN, PUBLISH, "x", "k")


def test_peers_with_one_name_and_other_groups_are_told_apart() -> None:
    asked = authorizer(allow(Everything(), groups=frozenset({"ops"})))
    assert asked.allows(ANN, PUBLISH, "x", "k")
    assert not asked.allows(Identity(user="ann", client_id="device-7"), PUBLISH, "x", "k")


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DECISIONS", 50)
    monkeypatch.setattr(module, "MAX_PROFILES", 5)
    asked = authorizer(allow(TopicPlace("%u/#")))
    for number in range(500):
        peer = Identity(user=f"user-{number % 50}")
        assert asked.allows(peer, PUBLISH, "amq.topic", f"user-{number % 50}.{number}")
        assert not asked.allows(peer, PUBLISH, "amq.topic", "x" * 60_000)
    assert len(asked._decisions) <= 50
    assert len(asked._profiles) <= 5
    assert all(len(key) <= module.MAX_REMEMBERED_KEY for _, _, _, key in asked._decisions)


def test_a_remembered_answer_takes_about_a_microsecond() -> None:
    asked = authorizer(*(deny(TopicPlace(f"no/{number}/#")) for number in range(100)), default=True)
    asked.allows(ANN, PUBLISH, "amq.topic", "a.b.c")
    best = 1.0
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(1_000):
            asked.allows(ANN, PUBLISH, "amq.topic", "a.b.c")
        best = min(best, time.perf_counter() - started)
    assert best / 1_000 < 5e-6  # 0.4 µs where nothing else runs
