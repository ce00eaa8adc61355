"""JSON Web Tokens: right ones, and every way in which one can be wrong."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import io
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from gateway.auth.jwks import MAX_BYTES, RETRY_AFTER, FileKeys, KeySet, ServerKeys
from gateway.auth.tokens import MAX_TOKEN_BYTES, ByToken, TokenOptions
from gateway.core.auth import Credentials, Identity
from gateway.core.errors import ConfigError, Refused
from tests.auth.conftest import SteppedClock

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())

OPTIONS = TokenOptions(issuer="https://id.example", audience="mqlift", leeway=30)


def jwk(private: PrivateKeyTypes, key_id: str, **more: str) -> dict[str, object]:
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(private, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return json.loads(algorithm.to_jwk(private.public_key())) | {"kid": key_id, "use": "sig"} | more  # type: ignore[arg-type]


KEYS = {"keys": [jwk(RSA, "r1", alg="RS256"), jwk(EC, "e1")]}


def claims(**changed: object) -> dict[str, object]:
    now = int(time.time())
    told = {"iss": OPTIONS.issuer, "aud": "mqlift", "sub": "ann", "iat": now, "exp": now + 600} | changed
    return {name: value for name, value in told.items() if value is not None}


def signed(
    said: dict[str, object] | None = None, key: object = RSA, algorithm: str = "RS256", key_id: str | None = "r1"
) -> bytes:
    headers = {"kid": key_id} if key_id is not None else None
    return jwt.encode(said or claims(), key, algorithm, headers=headers).encode()  # type: ignore[arg-type]


def by_hand(header: dict[str, object], said: dict[str, object], secret: bytes | None = None) -> bytes:
    """A token that no library would write."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, said)]
    signature = b"" if secret is None else hmac.digest(secret, b".".join(parts), hashlib.sha256)
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")])


def login(token: bytes | None) -> Credentials:
    return Credentials(protocol="mqtt", username="anybody", password=token)


@pytest.fixture
def keys(tmp_path: Path) -> FileKeys:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(KEYS))
    return FileKeys(path)


@pytest.fixture
def way(keys: FileKeys) -> ByToken:
    return ByToken(OPTIONS, keys)


@pytest.mark.parametrize(
    "make",
    [
        lambda: signed(),
        lambda: signed(key=EC, algorithm="ES256", key_id="e1"),
        lambda: signed(claims(aud=["other", "mqlift"])),
        lambda: signed(claims(exp=int(time.time()) - 5)),
        lambda: signed(claims(nbf=int(time.time()) + 5)),
    ],
    ids=["rs256", "es256", "one of several audiences", "expired within the leeway", "early within the leeway"],
)
async def test_right_tokens(make: Callable[[], bytes], way: ByToken) -> None:
    token = make()
    identity = await way.identify(login(token))
    assert identity is not None
    assert (identity.user, identity.scopes) == ("ann", None)
    said = jwt.decode(token, options={"verify_signature": False})
    assert identity.expires_at == said["exp"] + 30


PUBLIC_PEM = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
PUBLIC_JWK = json.dumps(KEYS["keys"][0]).encode()


@pytest.mark.parametrize(
    "make",
    [
        lambda: None,
        lambda: b"",
        lambda: b"secret",
        lambda: b"a.b",
        lambda: b"a.b.c",
        lambda: b"a.b.c.d",
        lambda: signed()[:-2],
        lambda: signed() + b"A",
        lambda: signed() + b"\n",
        lambda: b"." + signed(),
        lambda: by_hand({"alg": "none", "kid": "r1"}, claims()) + b"x",
        lambda: by_hand({"alg": "none", "kid": "r1"}, claims()),
        lambda: by_hand({"alg": "None", "kid": "r1"}, claims(), b"x"),
        lambda: by_hand({"alg": "HS256", "kid": "r1"}, claims(), PUBLIC_PEM),
        lambda: by_hand({"alg": "HS256", "kid": "r1"}, claims(), PUBLIC_JWK),
        lambda: by_hand({"alg": "HS256"}, claims(), b""),
        lambda: by_hand({"alg": "RS256", "kid": ["r1"]}, claims(), b"x"),
        lambda: by_hand({"alg": "RS256", "kid": "r1", "crit": ["x"], "x": 1}, claims(), b"x"),
        lambda: signed(key=OTHER_RSA),
        lambda: signed(key_id="absent"),
        lambda: signed(key_id=None),
        lambda: signed(algorithm="RS512"),
        lambda: signed(algorithm="PS256"),
        lambda: signed(key=EC, algorithm="ES256", key_id="r1"),
        lambda: signed(claims(exp=int(time.time()) - 60)),
        lambda: signed(claims(exp=None)),
        lambda: signed(claims(exp="soon")),
        lambda: signed(claims(nbf=int(time.time()) + 600)),
        lambda: signed(claims(aud="other")),
        lambda: signed(claims(aud=None)),
        lambda: signed(claims(iss="https://evil.example")),
        lambda: signed(claims(iss=None)),
        lambda: signed(claims(sub=None)),
        lambda: signed(claims(sub="")),
        lambda: signed(claims(sub="x" * 300)),
        lambda: signed(claims(padding="x" * MAX_TOKEN_BYTES)),
    ],
    ids=range(36),
)
async def test_wrong_tokens(make: Callable[[], bytes | None], way: ByToken) -> None:
    assert await way.identify(login(make())) is None


async def test_every_changed_byte_is_seen(way: ByToken) -> None:
    token = signed()
    for index in range(0, len(token), 7):
        changed = bytearray(token)
        changed[index] ^= 1
        assert await way.identify(login(bytes(changed))) is None


async def test_groups_and_scopes(keys: FileKeys) -> None:
    options = TokenOptions(
        issuer=OPTIONS.issuer,
        audience="mqlift",
        user_claim="preferred_username",
        groups_claim="groups",
        scopes_claim="scope",
        scope_prefix="mqlift.",
    )
    said = claims(
        preferred_username="a.nn",
        groups=["ops", 7, None, "hall"],
        scope="openid mqlift.read:*/* mqlift.tag:admin other.write:*/*",
    )
    identity = await ByToken(options, keys).identify(login(signed(said)))
    assert identity == Identity(
        user="a.nn",
        groups=("ops", "hall", "admin"),
        scopes=("read:*/*", "tag:admin"),
        expires_at=float(str(said["exp"])) + 30,
    )
    without = claims(preferred_username="a.nn", groups={"no": "list"})
    identity = await ByToken(options, keys).identify(login(signed(without)))
    assert identity is not None
    assert (identity.groups, identity.scopes) == ((), ())


async def test_a_token_without_key_id_where_there_is_one_key() -> None:
    only = KeySet(json.dumps({"keys": [jwk(EC, "e1")]}))
    assert only.get(None) is only.get("e1") is not None
    assert KeySet(json.dumps(KEYS)).get(None) is None


SECRET = {"kty": "oct", "k": "c2VjcmV0", "kid": "s1", "alg": "HS256"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"keys": []}',
        '{"keys": 5}',
        '{"keys": [5]}',
        '{"keys": [{"kty": "RSA"}]}',
        "[" * 10000,
        json.dumps({"keys": [SECRET]}),
        json.dumps({"keys": [jwk(EC, "e1", use="enc")]}),
    ],
)
def test_what_is_no_key_set(text: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        FileKeys(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_a_secret_among_public_keys_is_left_out() -> None:
    mixed = KeySet(json.dumps({"keys": [SECRET, jwk(EC, "e1")]}))
    assert mixed.get("s1") is None
    assert mixed.get("e1") is not None


# Keys of a server


class KeyServer:
    """What a server that issues tokens answers."""

    def __init__(self) -> None:
        self.body = json.dumps(KEYS)
        self.status = 200
        self.asked = 0
        self.url = ""

    async def answer(self, _request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(status=self.status, text=self.body, headers={"Location": "/keys"})


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    served = KeyServer()
    application = web.Application()
    application.router.add_get("/keys", served.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert runner.addresses
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
    yield served
    await runner.cleanup()


@pytest.fixture
def fetched(server: KeyServer, clock: SteppedClock) -> ServerKeys:
    return ServerKeys(server.url, refresh=300, clock=clock)


async def test_keys_are_fetched_once_and_again_after_a_time(
    fetched: ServerKeys, server: KeyServer, clock: SteppedClock
) -> None:
    assert server.asked == 0
    found = await asyncio.gather(*(fetched.key("r1") for _ in range(20)))
    assert all(found)
    assert server.asked == 1
    clock.now += 299
    assert await fetched.key("r1")
    assert server.asked == 1
    clock.now += 2
    assert await fetched.key("r1")
    assert server.asked == 2


async def test_a_new_key_is_looked_for_and_nobody_can_have_it_looked_for_all_the_time(
    fetched: ServerKeys, server: KeyServer, clock: SteppedClock
) -> None:
    assert await fetched.key("r2") is None
    for _ in range(50):
        assert await fetched.key("r2") is None
    assert server.asked == 1
    server.body = json.dumps({"keys": [jwk(OTHER_RSA, "r2")]})
    clock.now += RETRY_AFTER + 1
    assert await fetched.key("r2") is not None
    assert await fetched.key("r1") is None  # withdrawn
    assert server.asked == 2


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, ""), (302, ""), (200, "<html>"), (200, '{"keys": []}'), (200, " " * (MAX_BYTES + 1))],
    ids=["error", "redirect", "no json", "no keys", "too large"],
)
async def test_while_the_server_fails_the_keys_that_are_there_stay(
    status: int, body: str, fetched: ServerKeys, server: KeyServer, clock: SteppedClock, logged: io.StringIO
) -> None:
    server.status, server.body = status, body
    with pytest.raises(Refused, match="cannot be checked now"):
        await fetched.key("r1")
    server.status, server.body = 200, json.dumps(KEYS)
    clock.now += RETRY_AFTER + 1
    assert await fetched.key("r1")
    server.status, server.body = status, body
    clock.now += 500
    assert await fetched.key("r1")
    assert server.asked == 3
    assert logged.getvalue().count('"keys_not_fetched"') == 2


async def test_a_server_that_is_not_there(clock: SteppedClock, unused_tcp_port_factory: Callable[[], int]) -> None:
    keys = ServerKeys(f"http://127.0.0.1:{unused_tcp_port_factory()}/keys", 300, clock)
    with pytest.raises(Refused):
        await ByToken(OPTIONS, keys).identify(login(signed()))


async def test_the_log_has_no_token(way: ByToken, logged: io.StringIO) -> None:
    wrong: list[Awaitable[Identity | None]] = [
        way.identify(login(token)) for token in (signed(claims(aud="private-thing")), signed(key_id="absent"))
    ]
    assert await asyncio.gather(*wrong) == [None, None]
    text = logged.getvalue()
    assert text.count('"token_refused"') == 2
    assert "private-thing" not in text
    assert signed().decode().split(".")[0] not in text
