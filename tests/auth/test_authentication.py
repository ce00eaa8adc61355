"""From the settings to what decides; and every mistake in a line that names its key."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from config.settings import load
from gateway.assembly import assemble
from gateway.authentication import Access, Prepared, prepare
from gateway.check import check
from gateway.core.auth import Action, Credentials, Identity
from gateway.core.certificate import Certificate
from gateway.core.errors import ConfigError, NotAuthorized
from tests.auth.hashes import quick_hash

Write = Callable[[str, str], Path]

LISTENER = "listeners: [{protocol: mqtt, port: 0}]\nadmin: {port: 0}\n"


@pytest.fixture
def prepared(file: Write) -> Iterator[Callable[[str], Prepared]]:
    """From the text of the section `auth`, in YAML."""
    made: list[Prepared] = []

    def make(text: str) -> Prepared:
        made.append(assemble(load(file("gateway.yaml", f"{LISTENER}auth: {text}\n"))).access)
        return made[-1]

    yield make
    for each in made:
        for pool in each.pools:
            pool.close()


@pytest.fixture
def access(prepared: Callable[[str], Prepared]) -> Callable[[str], Access]:
    return lambda text: Access(prepared(text))


def login(user: str | None = None, password: bytes | None = None, **more: object) -> Credentials:
    return Credentials(protocol="mqtt", username=user, password=password, **more)  # type: ignore[arg-type]


async def test_users_files_and_rules(access: Callable[[str], Access], file: Write) -> None:
    one = file("one", f"ann:{quick_hash('first')}:ops\n")
    two = file("two", f"ann:{quick_hash('second')}\nbob:{quick_hash('third')}\n")
    made = access(
        f"{{users: [{one}, {two}], rules: [{{allow: [publish], groups: [ops], topic: 'a/%u/#'}}, "
        "{deny: [publish], queue: secret}, {allow: [publish, declare], users: [bob], queue: '*'}, "
        "{allow: [subscribe], exchange: logs, key: '#.error'}]}"
    )
    ann = await made.authenticator.authenticate(login("ann", b"first"))
    bob = await made.authenticator.authenticate(login("bob", b"third"))
    for wrong in (login("ann", b"second"), login("bob", b"first"), login()):
        with pytest.raises(NotAuthorized):
            await made.authenticator.authenticate(wrong)
    assert made.authorizer is not None
    allows = made.authorizer.allows
    assert allows(ann, Action.PUBLISH, "amq.topic", "a.ann.x")
    assert not allows(bob, Action.PUBLISH, "amq.topic", "a.bob.x")
    assert not allows(bob, Action.PUBLISH, "", "secret")
    assert allows(bob, Action.DECLARE, "", "secret")
    assert allows(ann, Action.SUBSCRIBE, "logs", "*.error")
    assert not allows(ann, Action.SUBSCRIBE, "logs", "#")


@pytest.mark.parametrize(
    ("rules", "default", "allowed"),
    [
        ("[]", "auto", True),
        ("[{deny: [publish], queue: secret}]", "auto", False),
        ("[{deny: [publish], queue: secret}]", "allow", True),
        ("[]", "deny", False),
    ],
)
def test_the_default(rules: str, default: str, allowed: bool, prepared: Callable[[str], Prepared]) -> None:
    assert prepared(f"{{rules: {rules}, default: {default}}}").policy.default is allowed


def test_nobody_is_asked_where_nothing_is_denied(access: Callable[[str], Access]) -> None:
    assert access("{anonymous: true}").authorizer is None
    assert access("{default: deny}").authorizer is not None
    assert access("{certificates: common_name, default: allow}").authorizer is not None


@pytest.mark.parametrize(
    ("auth", "warned"), [("{}", True), ("{anonymous: true}", False), ("{certificates: dns}", False)]
)
def test_a_closed_door_is_warned_of(auth: str, warned: bool, file: Write) -> None:
    out = io.StringIO()
    check(file("gateway.yaml", f"{LISTENER}auth: {auth}\n"), [], False, out)
    assert ("warning: nobody may connect" in out.getvalue()) is warned


def test_so_it_is_in_the_log(access: Callable[[str], Access], logged: io.StringIO) -> None:
    access("{}")
    assert "nobody_may_connect" in logged.getvalue()


async def test_certificates_and_permissions(access: Callable[[str], Access]) -> None:
    made = access(
        "{certificates: dns, permissions: [{user: press, write: '^amq\\.topic$'}], "
        "topic_permissions: [{user: press, exchange: amq.topic, write: '^plant\\.'}]}"
    )
    peer = await made.authenticator.authenticate(login(certificate=Certificate(dns=("press",))))
    assert peer == Identity(user="press")
    assert made.authorizer is not None
    assert made.authorizer.allows(peer, Action.PUBLISH, "amq.topic", "plant.1")
    assert not made.authorizer.allows(peer, Action.PUBLISH, "amq.topic", "office.1")
    assert not made.authorizer.allows(peer, Action.DECLARE, "", "q")


async def test_definitions_and_what_is_written_beside_them(access: Callable[[str], Access], file: Write) -> None:
    definitions = file(
        "definitions.json",
        json.dumps(
            {
                "users": [
                    {"name": "ann", "password_hash": quick_hash("x").removeprefix("$rabbitmq-sha256$"), "tags": []}
                ],
                "permissions": [{"user": "ann", "vhost": "/", "configure": "", "write": "", "read": ".*"}],
            }
        ),
    )
    for own, may_write in (("[]", False), ("[{user: ann, write: '.*'}]", True)):
        made = access(f"{{rabbitmq_definitions: {definitions}, permissions: {own}}}")
        ann = await made.authenticator.authenticate(login("ann", b"x"))
        assert made.authorizer is not None
        assert made.authorizer.allows(ann, Action.PUBLISH, "x", "k") is may_write
        assert not made.authorizer.allows(Identity(user="bob"), Action.PUBLISH, "x", "k")


async def test_another_configuration_while_it_runs(
    access: Callable[[str], Access], prepared: Callable[[str], Prepared], file: Write
) -> None:
    users = file("users", f"ann:{quick_hash('x')}\n")
    made = access(f"{{users: [{users}], default: deny}}")
    ann = await made.authenticator.authenticate(login("ann", b"x"))
    assert made.authorizer is not None
    assert not made.authorizer.allows(ann, Action.PUBLISH, "", "q")
    file("users", f"ann:{quick_hash('y')}\n")
    made.use(prepared(f"{{users: [{users}], rules: [{{allow: [publish]}}]}}"))
    assert made.authorizer.allows(ann, Action.PUBLISH, "", "q")
    with pytest.raises(NotAuthorized):
        await made.authenticator.authenticate(login("ann", b"x"))
    assert (await made.authenticator.authenticate(login("ann", b"y"))).user == "ann"


def test_the_first_rules_need_a_restart(access: Callable[[str], Access], prepared: Callable[[str], Prepared]) -> None:
    made = access("{anonymous: true}")
    with pytest.raises(ConfigError, match=r"^auth\.rules: the gateway was started without any; restart it$"):
        made.use(prepared("{anonymous: true, default: deny}"))


@pytest.fixture
def refused(file: Write) -> Callable[[str], str]:
    """The lines that a section `auth` is refused with."""

    def lines(text: str) -> str:
        path = file("gateway.yaml", f"{LISTENER}auth: {text}\n")
        with pytest.raises(ConfigError) as caught:
            assemble(load(path))
        return str(caught.value).replace(f"{path}: ", "")

    return lines


TOKENS = "issuer: i, audience: a"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{users: [/absent]}", "auth.users.0: /absent: cannot be read: No such file or directory; a file that mqlift "),
        ("{rabbitmq_definitions: /absent}", "auth.rabbitmq_definitions: /absent: cannot be read: No such file"),
        ("{mosquitto_acl: /absent}", "auth.mosquitto_acl: /absent: cannot be read: No such file"),
        ("{certificates: cn}", "auth.certificates: 'cn' is not one of the choices; 'common_name', 'dns', 'email', "),
        ("{default: maybe}", "auth.default: 'maybe' is not one of the choices; 'auto', 'allow' or 'deny'"),
        ("{user: [x]}", "auth.user: there is no such key; did you mean users?"),
        ("{rules: [{topic: a}]}", "auth.rules.0: has not one of allow and deny; such as allow: [publish, subscribe]"),
        ("{rules: [{allow: [publish], deny: [publish]}]}", "auth.rules.0: has not one of allow and deny"),
        ("{rules: [{allow: publish}]}", "auth.rules.0.allow: 'publish' is not a list"),
        ("{rules: [{allow: [write]}]}", "auth.rules.0.allow.0: 'write' is not one of the choices; 'publish', "),
        ("{rules: [{allow: [publish], topic: a, queue: b}]}", "auth.rules.0: topic and queue are both given; write a "),
        ("{rules: [{allow: [publish], topic: a, key: b}]}", "auth.rules.0.key: there is no exchange that it is a key"),
        ("{rules: [{allow: [publish], topic: 'a/#/b'}]}", "auth.rules.0: '#' stands last, unlike in 'a/#/b'"),
        ("{permissions: [{user: a, read: '('}]}", "auth.permissions: user 'a': read: '(' is no regular expression: "),
        (
            "{topic_permissions: [{user: a, exchange: x}]}",
            "auth.permissions: user 'a': has topic permissions only; add ",
        ),
        (f"{{tokens: {{{TOKENS}}}}}", "auth.tokens: has not one place of keys; set jwks_file or jwks_url"),
        (f"{{tokens: {{{TOKENS}, jwks_url: 'http://id.example/keys'}}}}", "auth.tokens.jwks_url: is no https address"),
        (
            f"{{tokens: {{{TOKENS}, jwks_file: /absent}}}}",
            "auth.tokens.jwks_file: /absent: cannot be read: No such file",
        ),
        (
            f"{{tokens: {{{TOKENS}, jwks_file: x, algorithms: [HS256]}}}}",
            "auth.tokens.algorithms.0: the value is not one of the choices; 'RS256'",
        ),
        (
            f"{{tokens: {{{TOKENS}, jwks_file: x, algorithms: []}}}}",
            "auth.tokens.algorithms: is empty; one algorithm at least",
        ),
        ("{ldap: {url: 'http://x', user_dn: 'uid={user}'}}", "auth.ldap.url: 'http://x' is no directory; ldaps://host"),
        (
            "{ldap: {url: 'ldap://x', user_dn: 'uid={user}'}}",
            "auth.ldap.url: passwords would cross the network as they ",
        ),
        (
            "{ldap: {url: 'ldaps://x', starttls: true, user_dn: 'uid={user}'}}",
            "auth.ldap.starttls: ldaps has TLS already",
        ),
        ("{ldap: {url: 'ldaps://x', user_dn: 'uid=ann'}}", "auth.ldap.user_dn: 'uid=ann' cannot be filled in; a text "),
        (
            "{ldap: {url: 'ldaps://x', user_dn: '{user.x}'}}",
            "auth.ldap.user_dn: '{user.x}' cannot be filled in; a text ",
        ),
        (
            "{ldap: {url: 'ldaps://x', user_dn: '{user}', ca: /absent}}",
            "auth.ldap.ca: cannot load /absent: No such file",
        ),
        ("{failures: {window: 0}}", "auth.failures.window: 0 is too small; more than 0"),
        ("{hashing: {threads: 0}}", "auth.hashing.threads: 0 is too small; 1 or more"),
    ],
)
def test_mistakes(text: str, line: str, refused: Callable[[str], str]) -> None:
    found = refused(text)
    assert found.startswith(line)
    assert len(found.splitlines()) == 1


def test_all_mistakes_at_once(refused: Callable[[str], str]) -> None:
    lines = refused("{users: [/a, /b], mosquitto_acl: /c, rules: [{allow: [publish], topic: '#/a'}]}").splitlines()
    assert [re.split(r"[:/]", line)[0] for line in lines] == [
        "auth.users.0",
        "auth.users.1",
        "auth.rules.0",
        "auth.mosquitto_acl",
    ]


def test_tokens_and_a_directory_are_ways(prepared: Callable[[str], Prepared], file: Write) -> None:
    key = json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key()))
    keys = file("keys.json", json.dumps({"keys": [key]}))
    made = prepared(
        f"{{tokens: {{{TOKENS}, jwks_file: {keys}}}, "
        "ldap: {url: 'ldap://127.0.0.1', user_dn: 'uid={user}', groups: {base: 'dc=x'}}}"
    )
    assert [type(way).__name__ for way in (*made.ways.proofs, *made.ways.secrets)] == ["ByToken", "ByDirectory"]


def test_prepare_changes_nothing_but_the_list(file: Write) -> None:
    settings = load(file("gateway.yaml", f"{LISTENER}auth: {{users: [/absent]}}\n")).auth
    mistakes: list[ConfigError] = []
    assert prepare(settings, mistakes) is None
    assert len(mistakes) == 1
