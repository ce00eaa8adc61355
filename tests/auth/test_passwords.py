"""Stored passwords of every form, against what Mosquitto's and RabbitMQ's own tools write."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.auth.passwords import MAX_ITERATIONS, hash_password, parse_stored

# RabbitMQ, "Credentials and Passwords", the example of "Computing Password Hash": password `test12`, salt 908DC60A.
RABBITMQ_EXAMPLE = "$rabbitmq-sha256$kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"


def sha512_of_rabbitmq(password: bytes, salt: bytes = b"\1\2\3\4") -> str:
    return "$rabbitmq-sha512$" + base64.b64encode(salt + hashlib.sha512(salt + password).digest()).decode()


def pbkdf2(password: bytes, iterations: int = 101, salt: bytes = b"salt of 12 b") -> str:
    derived = hashlib.pbkdf2_hmac("sha512", password, salt, iterations)
    return f"$7${iterations}${base64.b64encode(salt).decode()}${base64.b64encode(derived).decode()}"


def salted(password: bytes, salt: bytes = b"salt of 12 b") -> str:
    digest = hashlib.sha512(password + salt).digest()
    return f"$6${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


@pytest.mark.parametrize(
    ("stored", "password"),
    [
        (hash_password(b"argon"), b"argon"),
        (RABBITMQ_EXAMPLE, b"test12"),
        (sha512_of_rabbitmq(b"rabbit"), b"rabbit"),
        (pbkdf2(b"mosquitto"), b"mosquitto"),
        (pbkdf2("grüße".encode(), 5), "grüße".encode()),
        (salted(b"old"), b"old"),
    ],
    ids=["argon2", "rabbitmq-sha256", "rabbitmq-sha512", "pbkdf2", "utf-8", "salted"],
)
def test_only_the_password_matches(stored: str, password: bytes) -> None:
    known = parse_stored(stored)
    assert known.matches(password)
    for wrong in (b"", password + b"\0", password[:-1], password.upper(), b"x"):
        assert not known.matches(wrong)


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        ("", "no password hash of a known form"),
        ("plain", "no password hash of a known form"),
        ("$5$rounds$x", "no password hash of a known form"),
        ("$argon2i$v=19$m=1024,t=2,p=1$c2FsdHNhbHQ$aGFzaA", "no password hash of a known form"),
        ("$argon2id$v=19$m=1024", "no complete argon2id hash"),
        ("$argon2id$v=19$m=99999999,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g", "costs more than a login may"),
        ("$argon2id$v=19$m=1024,t=999,p=1$c2FsdHNhbHQ$aGFzaGhhc2g", "costs more than a login may"),
        ("$7$101$c2FsdA==", "not of the form $7$iterations$salt$hash"),
        ("$7$x$c2FsdA==$aGFzaA==", "iteration count"),
        ("$7$0$c2FsdA==$aGFzaA==", "iteration count"),
        ("$7$-5$c2FsdA==$aGFzaA==", "iteration count"),
        (f"$7${MAX_ITERATIONS + 1}$c2FsdA==$aGFzaA==", "iteration count"),
        ("$7$101$c2FsdA==$aGFzaA==", "wrong length"),
        ("$7$101$!$aGFzaA==", "no base64"),
        ("$6$c2FsdA==", "not of the form $6$salt$hash"),
        ("$6$c2FsdA==$aGFzaA==", "wrong length"),
        ("$rabbitmq-sha256$aGFzaA==", "wrong length"),
        ("$rabbitmq-sha256$é", "no base64"),
    ],
)
def test_what_is_no_hash(stored: str, problem: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its text is looked at
        parse_stored(stored)
    assert problem in str(caught.value)
    assert "aGFzaA" not in str(caught.value)


def test_a_damaged_argon2_hash_lets_nobody_in() -> None:
    stored = hash_password(b"right")
    assert not parse_stored(stored[:-4]).matches(b"right")


@settings(max_examples=50, deadline=None)
@given(
    password=st.binary(min_size=1, max_size=64).filter(lambda password: b"\0" not in password),
    other=st.binary(max_size=64),
)
def test_quick_forms_agree_for_every_password(password: bytes, other: bytes) -> None:
    for store in (salted, sha512_of_rabbitmq, pbkdf2):
        stored = parse_stored(store(password))
        assert stored.matches(password)
        assert stored.matches(other) is (other == password)


@pytest.mark.skipif(shutil.which("mosquitto_passwd") is None, reason="mosquitto is not installed; .ci/run installs it")
@pytest.mark.parametrize("option", [[], ["-H", "sha512"]], ids=["pbkdf2", "sha512"])
def test_what_mosquitto_passwd_writes(option: list[str], tmp_path: Path) -> None:
    file = tmp_path / "passwd"
    command = ["mosquitto_passwd", *option, "-b", "-c", str(file), "ann", "correct horse"]
    written = subprocess.run(command, capture_output=True, text=True, check=False)
    if option and written.returncode and "Unknown option" in written.stdout + written.stderr:
        pytest.skip("this mosquitto_passwd writes one form only")
    assert written.returncode == 0, written.stderr
    name, stored = file.read_text().strip().split(":")
    assert (name, stored[:3]) == ("ann", "$6$" if option else "$7$")
    assert parse_stored(stored).matches(b"correct horse")
    assert not parse_stored(stored).matches(b"correct hors")
