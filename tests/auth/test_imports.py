"""What other brokers have: RabbitMQ's definitions and Mosquitto's acl_file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.auth.mosquitto import read_acl
from gateway.auth.rabbitmq import TopicTriple, Triple, compiled, read_definitions
from gateway.auth.rules import Policy, PolicyAuthorizer
from gateway.auth.users import accounts
from gateway.core.auth import Action, Identity
from gateway.core.errors import ConfigError

Write = Callable[[str, str], Path]

# As `rabbitmqctl export_definitions` of 3.10 writes it; the hash is the one of RabbitMQ's documentation (`test12`).
HASH = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"
SHA256 = "rabbit_password_hashing_sha256"
DEFINITIONS: dict[str, object] = {
    "rabbit_version": "3.10.8",
    "users": [
        {"name": "ann", "password_hash": HASH, "hashing_algorithm": SHA256, "tags": ["administrator"], "limits": {}},
        {"name": "old", "password_hash": HASH, "tags": "monitoring,management"},
        {"name": "x509", "password_hash": "", "hashing_algorithm": SHA256, "tags": []},
    ],
    "vhosts": [{"name": "/"}, {"name": "other"}],
    "permissions": [
        {"user": "ann", "vhost": "/", "configure": "^ann-.*", "write": ".*", "read": "^(ann-.*|shared)$"},
        {"user": "ann", "vhost": "other", "configure": ".*", "write": ".*", "read": ".*"},
        {"user": "old", "vhost": "other", "configure": ".*", "write": ".*", "read": ".*"},
    ],
    "topic_permissions": [
        {"user": "ann", "vhost": "/", "exchange": "amq.topic", "write": "^{username}\\.", "read": ".*"}
    ],
    "queues": [{"name": "q", "vhost": "/", "durable": True, "auto_delete": False, "arguments": {}}],
}


def test_definitions(file: Write) -> None:
    definitions = read_definitions(file("definitions.json", json.dumps(DEFINITIONS)), "/")
    found = accounts(definitions.users.values())
    assert {name: account.groups for name, account in found.items()} == {
        "ann": ("administrator",),
        "old": ("monitoring", "management"),
    }
    assert found["ann"].password.matches(b"test12")
    assert not found["ann"].password.matches(b"test13")
    asked = PolicyAuthorizer(Policy(permissions=definitions.permissions(), default=True))
    ann = Identity(user="ann")
    assert asked.allows(ann, Action.DECLARE, "", "ann-1")
    assert not asked.allows(ann, Action.DECLARE, "", "shared")
    assert asked.allows(ann, Action.SUBSCRIBE, "", "shared")
    assert not asked.allows(ann, Action.SUBSCRIBE, "", "shared2")
    assert asked.allows(ann, Action.PUBLISH, "amq.topic", "ann.x")
    assert not asked.allows(ann, Action.PUBLISH, "amq.topic", "bob.x")
    for user in ("old", "x509"):  # has no permissions in this virtual host, so may do nothing
        assert not asked.allows(Identity(user=user), Action.PUBLISH, "", "q")
    assert HASH not in repr(definitions)


def test_another_virtual_host(file: Write) -> None:
    definitions = read_definitions(file("definitions.json", json.dumps(DEFINITIONS)), "other")
    assert {triple.user for triple in definitions.triples} == {"ann", "old"}
    assert definitions.topics == ()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("not json", "is no JSON"),
        ("[]", "is no JSON object"),
        ({"users": 5}, "users: is no list"),
        ({"users": [5]}, "users.0: is no object"),
        ({"users": [{"password_hash": HASH}]}, "users.0.name: is no text"),
        ({"users": [{"name": "a", "password_hash": 5}]}, "users.0.password_hash: is no text"),
        ({"users": [{"name": "a", "password_hash": HASH, "tags": [5]}]}, "users.0.tags: is no list of texts"),
        (
            {"users": [{"name": "a", "password_hash": HASH, "hashing_algorithm": "rabbit_password_hashing_md5"}]},
            "users.0.hashing_algorithm: 'rabbit_password_hashing_md5' is not taken; set the password again",
        ),
        (
            {"permissions": [{"user": "a", "vhost": "/", "write": "", "read": ""}]},
            "permissions.0.configure: is no text",
        ),
    ],
)
def test_what_is_no_definitions(change: str | dict[str, object], problem: str, file: Write) -> None:
    text = change if isinstance(change, str) else json.dumps(DEFINITIONS | change)
    path = file("definitions.json", text)
    with pytest.raises(ConfigError, match=re.escape(problem)) as caught:
        read_definitions(path, "/")
    assert str(caught.value).startswith(str(path))
    assert HASH not in str(caught.value)


@pytest.mark.parametrize(
    ("triples", "topics", "problem"),
    [
        ([Triple(user="a", read="(")], [], "user 'a': read: '(' is no regular expression"),
        ([Triple(user="a"), Triple(user="a")], [], "user 'a': has permissions already"),
        ([], [TopicTriple(user="a", exchange="x")], "user 'a': has topic permissions only"),
        ([Triple(user="a")], [TopicTriple(user="a", exchange="x", write="[")], "user 'a': write: "),
    ],
)
def test_permissions_that_are_none(triples: list[Triple], topics: list[TopicTriple], problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        compiled(triples, topics)


ACL = """\
# anybody without a name
topic read news/#
topic read $SYS/#

user ann
topic readwrite plant/hall 7/#
topic deny plant/hall 7/secret
topic own/%u
topic write commands/+

pattern read users/%u/#
pattern write devices/%c/state
pattern deny users/%u/private
"""

ANN, BOB, NOBODY = Identity(user="ann", client_id="d7"), Identity(user="bob", client_id="d8"), Identity(client_id="d9")


@pytest.mark.parametrize(
    ("peer", "topic", "may_read", "may_write"),
    [
        (NOBODY, "news/today", True, False),
        (ANN, "news/today", False, False),
        (NOBODY, "$SYS/broker", True, False),
        (ANN, "plant/hall 7/x", True, True),
        (BOB, "plant/hall 7/x", False, False),
        (ANN, "plant/hall 7/secret", False, False),
        (ANN, "own/%u", True, True),
        (ANN, "own/ann", False, False),
        (ANN, "commands/go", False, True),
        (ANN, "users/ann/x", True, False),
        (ANN, "users/bob/x", False, False),
        (BOB, "users/bob/x", True, False),
        (BOB, "users/bob/private", False, False),
        (BOB, "devices/d8/state", False, True),
        (BOB, "devices/d7/state", False, False),
        (NOBODY, "devices/d9/state", False, True),
    ],
)
def test_an_acl_file(peer: Identity, topic: str, may_read: bool, may_write: bool, file: Write) -> None:
    asked = PolicyAuthorizer(Policy(rules=read_acl(file("acl", ACL)), default=False))
    key = topic.replace("/", ".")
    assert asked.allows(peer, Action.RECEIVE, "amq.topic", key) is may_read
    assert asked.allows(peer, Action.BIND_SOURCE, "amq.topic", key) is may_read
    assert asked.allows(peer, Action.PUBLISH, "amq.topic", key) is may_write
    # Mosquitto lets everybody subscribe, and holds messages back.
    assert asked.allows(peer, Action.SUBSCRIBE, "amq.topic", "#")
    assert not asked.allows(peer, Action.SUBSCRIBE, "", "queue")
    assert not asked.allows(peer, Action.DECLARE, "", "queue")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("topic", "is none of"),
        ("user", "is none of"),
        ("topics read a", "is none of"),
        ("topic readonly a/b", "'readonly' is not one of read, write, readwrite, deny"),
        ("topic read a/#/b", "'#' stands last"),
        ("pattern read a+", "'+' and '#' are a whole level"),
    ],
)
def test_what_is_no_acl_file(line: str, problem: str, file: Write) -> None:
    path = file("acl", f"user ann\n{line}\n")
    with pytest.raises(ConfigError, match=re.escape(problem)) as caught:
        read_acl(path)
    assert str(caught.value).startswith(f"{path}: line 2: ")
