"""Nobody talks the gateway into an older TLS, or a weaker cipher."""

from __future__ import annotations

import contextlib
import os
import ssl
import struct

import pytest

from gateway.net.tls import TlsOptions, server_context
from tests.rig.certificates import Authority

ALERT, FATAL = 21, 2
PROTOCOL_VERSION, HANDSHAKE_FAILURE, INAPPROPRIATE_FALLBACK = 70, 40, 86
TLS_1_0, TLS_1_1, TLS_1_2, SSL_3 = 0x0301, 0x0302, 0x0303, 0x0300
ECDHE_ECDSA_AES128_GCM, RSA_AES128_SHA, RSA_RC4_SHA, RSA_3DES_SHA, FALLBACK_SCSV = 0xC02B, 0x2F, 0x05, 0x0A, 0x5600
"""Numbers of IANA's registry."""


@pytest.fixture(scope="module")
def options(authority: Authority) -> TlsOptions:
    certificate, key = authority.issue("localhost")
    return TlsOptions(certificate=certificate, key=key)


def client_hello(version: int, *ciphers: int) -> bytes:
    """Of TLS 1.2 and before (RFC 5246 §7.4.1.2): nothing in it says that there is anything newer."""
    groups = struct.pack("!HHHHH", 10, 6, 4, 23, 29)
    formats = struct.pack("!HHBB", 11, 2, 1, 0)
    signatures = struct.pack("!HHHHH", 13, 6, 4, 0x0403, 0x0804)
    extensions = groups + formats + signatures
    suites = b"".join(cipher.to_bytes(2, "big") for cipher in ciphers)
    body = struct.pack("!H", version) + os.urandom(32) + b"\0" + struct.pack("!H", len(suites)) + suites + b"\x01\0"
    body += struct.pack("!H", len(extensions)) + extensions
    handshake = b"\x01" + len(body).to_bytes(3, "big") + body
    return struct.pack("!BHH", 22, min(version, TLS_1_0), len(handshake)) + handshake


def answer(options: TlsOptions, hello: bytes) -> tuple[int, bytes]:
    """Type and content of the first record that comes back."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context(options).wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(hello)
    with contextlib.suppress(ssl.SSLError):
        server.do_handshake()
    record = outgoing.read()
    return record[0], record[5:]


def test_a_good_hello_is_answered(options: TlsOptions) -> None:
    kind, _ = answer(options, client_hello(TLS_1_2, ECDHE_ECDSA_AES128_GCM))
    assert kind == 22, "or the others prove nothing"


@pytest.mark.parametrize(
    ("version", "alert"),
    [(SSL_3, HANDSHAKE_FAILURE), (TLS_1_0, PROTOCOL_VERSION), (TLS_1_1, PROTOCOL_VERSION)],
)
def test_older_versions_are_refused(options: TlsOptions, version: int, alert: int) -> None:
    assert answer(options, client_hello(version, ECDHE_ECDSA_AES128_GCM)) == (ALERT, bytes([FATAL, alert]))


@pytest.mark.parametrize("cipher", [RSA_AES128_SHA, RSA_RC4_SHA, RSA_3DES_SHA, 0x0000, 0x0034])
def test_weak_ciphers_are_refused(options: TlsOptions, cipher: int) -> None:
    assert answer(options, client_hello(TLS_1_2, cipher)) == (ALERT, bytes([FATAL, HANDSHAKE_FAILURE]))


def test_a_client_that_was_made_to_fall_back_is_told(options: TlsOptions) -> None:
    """RFC 7507: it says that it tried something newer before, which the gateway would have taken."""
    hello = client_hello(TLS_1_2, ECDHE_ECDSA_AES128_GCM, FALLBACK_SCSV)
    assert answer(options, hello) == (ALERT, bytes([FATAL, INAPPROPRIATE_FALLBACK]))
