"""Stored passwords: our own argon2 hashes, and those that Mosquitto and RabbitMQ made.

| Begins with | What it is |
|---|---|
| `$argon2id$` | argon2id (RFC 9106), what `mqlift passwd` writes |
| `$7$` | Mosquitto 2: PBKDF2 with HMAC-SHA-512, `$7$iterations$salt$hash` |
| `$6$` | Mosquitto 1: one round of salted SHA-512, `$6$salt$hash` |
| `$rabbitmq-sha256$`, `$rabbitmq-sha512$` | RabbitMQ's `password_hash`: base64 of four bytes of salt and the hash |

Checking one takes from microseconds to tens of milliseconds: not on the event loop.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from argon2 import PasswordHasher, Type, extract_parameters
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

MAX_PASSWORD_BYTES: Final = 1024
"""Longer ones are wrong without being hashed. (Tokens are no passwords.)"""

MAX_ITERATIONS: Final = 2_000_000
"""Of PBKDF2: some seconds. Mosquitto's default is 101."""

MAX_MEMORY_KIB: Final = 1024 * 1024
MAX_TIME_COST: Final = 64
"""Bounds of argon2's parameters in a users file."""

_RABBITMQ_SALT_BYTES: Final = 4
_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, type=Type.ID)
"""OWASP's first choice (Password Storage Cheat Sheet, 2024): some 20 ms and 19 MiB for each login."""


class StoredPassword(Protocol):
    """One user's password, in a form that does not give it away."""

    def matches(self, password: bytes) -> bool:
        """Whether it is this one; the time it takes does not depend on where they differ."""


def hash_password(password: bytes) -> str:
    """The form in which a new password is stored."""
    return _HASHER.hash(password)


def parse_stored(text: str) -> StoredPassword:
    """Raises `ValueError` with what is wrong; nothing of the hash is in it."""
    for prefix, parse in _FORMS.items():
        if text.startswith(prefix):
            return parse(text.removeprefix(prefix))
    raise ValueError(f"is no password hash of a known form; begins with none of {', '.join(_FORMS)}")


class _Argon2:
    __slots__ = ("_stored",)

    def __init__(self, rest: str) -> None:
        stored = f"$argon2id${rest}"
        try:
            parameters = extract_parameters(stored)
        except InvalidHashError:
            raise ValueError("is no complete argon2id hash") from None
        if parameters.memory_cost > MAX_MEMORY_KIB or parameters.time_cost > MAX_TIME_COST:
            raise ValueError("is an argon2id hash that costs more than a login may")
        self._stored = stored

    def matches(self, password: bytes) -> bool:
        try:
            return _HASHER.verify(self._stored, password)
        except VerifyMismatchError:
            return False
        except VerificationError:
            return False  # too little memory, or a hash that was damaged: nobody is let in


class _Digest:
    """Any form that is one function of the password and a known result."""

    __slots__ = ("_derive", "_expected")

    def __init__(self, derive: Callable[[bytes], bytes], expected: bytes) -> None:
        self._derive = derive
        self._expected = expected

    def matches(self, password: bytes) -> bool:
        return hmac.compare_digest(self._derive(password), self._expected)


def _pbkdf2(rest: str) -> StoredPassword:
    """Mosquitto's `src/password_mosq.c`: iterations, salt and hash, both in base64."""
    iterations_text, salt_text, hash_text = _fields(rest, 3, "$7$iterations$salt$hash")
    if not iterations_text.isascii() or not iterations_text.isdigit() or not 0 < int(iterations_text) <= MAX_ITERATIONS:
        raise ValueError(f"has an iteration count that is not from 1 to {MAX_ITERATIONS}")
    iterations, salt = int(iterations_text), _decoded(salt_text)
    expected = _decoded(hash_text, hashlib.sha512().digest_size)

    def derive(password: bytes) -> bytes:
        # HMAC pads its key with zeros (RFC 2104 §2), so one with a zero at its end would be a second password.
        return b"" if b"\0" in password else hashlib.pbkdf2_hmac("sha512", password, salt, iterations)

    return _Digest(derive, expected)


def _salted_sha512(rest: str) -> StoredPassword:
    """Mosquitto 1: the salt comes behind the password."""
    salt_text, hash_text = _fields(rest, 2, "$6$salt$hash")
    salt, expected = _decoded(salt_text), _decoded(hash_text, hashlib.sha512().digest_size)
    return _Digest(lambda password: hashlib.sha512(password + salt).digest(), expected)


def _rabbitmq(algorithm: str) -> Callable[[str], StoredPassword]:
    """RabbitMQ, "Credentials and Passwords": the salt comes before the password, and before the hash."""

    def parse(rest: str) -> StoredPassword:
        stored = _decoded(rest, _RABBITMQ_SALT_BYTES + hashlib.new(algorithm).digest_size)
        salt, expected = stored[:_RABBITMQ_SALT_BYTES], stored[_RABBITMQ_SALT_BYTES:]
        return _Digest(lambda password: hashlib.new(algorithm, salt + password).digest(), expected)

    return parse


def _fields(rest: str, count: int, form: str) -> list[str]:
    fields = rest.split("$")
    if len(fields) != count:
        raise ValueError(f"is not of the form {form}")
    return fields


def _decoded(text: str, length: int | None = None) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("has a part that is no base64") from None
    if not decoded or (length is not None and len(decoded) != length):
        raise ValueError("is a hash of the wrong length")
    return decoded


_FORMS: Final[Mapping[str, Callable[[str], StoredPassword]]] = {
    "$argon2id$": _Argon2,
    "$7$": _pbkdf2,
    "$6$": _salted_sha512,
    "$rabbitmq-sha256$": _rabbitmq("sha256"),
    "$rabbitmq-sha512$": _rabbitmq("sha512"),
}
