"""Client certificates that are wrong, strange or garbled: never let in, never a fault of ours."""

from __future__ import annotations

import contextlib
import datetime
import random
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.core.certificate import Certificate
from gateway.net.tls import TlsOptions, server_context
from tests.rig.certificates import Authority

DAY = datetime.timedelta(days=1)
GARBLED = 400


@pytest.fixture(scope="module")
def context(authority: Authority) -> ssl.SSLContext:
    certificate, key = authority.issue("localhost")
    return server_context(
        TlsOptions(certificate=certificate, key=key, client_ca=authority.path, client_certificates="required")
    )


class Handshake:
    """In memory; `garble` may change what the client sends, piece by piece."""

    def __init__(self, server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
        self._to_server, self._to_client, self._sent = ssl.MemoryBIO(), ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server_context.wrap_bio(self._to_server, self._to_client, server_side=True)
        self._client = client_context.wrap_bio(self._to_client, self._sent, server_hostname="localhost")

    def run(self, garble: Callable[[int, bytes], bytes] = lambda _, data: data) -> bool:
        """Whether the server has let the client in. Raises what the server raises."""
        for flight in range(4):
            with contextlib.suppress(ssl.SSLError):  # the client's own troubles are not what is tested
                self._client.do_handshake()
            self._to_server.write(garble(flight, self._sent.read()))
            try:
                self.server.do_handshake()
            except ssl.SSLWantReadError:
                continue
            return True
        return False


def certificate(
    authority: Authority,
    folder: Path,
    *,
    subject: x509.Name | None = None,
    issuer: Authority | None = None,
    begins: datetime.timedelta = -DAY,
    ends: datetime.timedelta = DAY,
    alternatives: list[x509.GeneralName] | None = None,
    usage: x509.ObjectIdentifier | None = None,
) -> ssl.SSLContext:
    """A client that shows a certificate made to order."""
    now = datetime.datetime.now(datetime.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(named("device") if subject is None else subject)
        .issuer_name(authority._name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
    )
    if alternatives is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    signed = builder.sign((issuer or authority)._key, hashes.SHA256())
    path = folder / "client.pem"
    path.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    client = authority.client_context()
    client.load_cert_chain(path)
    return client


def named(*values: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, value) for value in values])


# Wrong


def test_who_is_as_it_should_be_is_let_in(authority: Authority, context: ssl.SSLContext, tmp_path: Path) -> None:
    assert Handshake(context, certificate(authority, tmp_path)).run()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    "wrong",
    [
        {"begins": -3 * DAY, "ends": -DAY},
        {"begins": DAY, "ends": 3 * DAY},
        {"usage": ExtendedKeyUsageOID.SERVER_AUTH},
        {"usage": ExtendedKeyUsageOID.CODE_SIGNING},
        {"issuer": "another, of the same name"},
    ],
    ids=lambda wrong: ",".join(wrong),
)
def test_a_wrong_certificate_lets_nobody_in(
    authority: Authority,
    context: ssl.SSLContext,
    tmp_path: Path,
    wrong: dict[str, object],
    version: ssl.TLSVersion,
) -> None:
    more = {"issuer": Authority(tmp_path)} if "issuer" in wrong else wrong
    client = certificate(authority, tmp_path, **more)  # type: ignore[arg-type]
    client.maximum_version = version
    with pytest.raises(ssl.SSLError):
        Handshake(context, client).run()


# Strange


@pytest.mark.parametrize(
    ("strange", "names"),
    [
        ({"subject": x509.Name([])}, ()),
        ({"subject": named("a", "b")}, ("a", "b")),
        ({"subject": named("admin,O=root")}, ("admin,O=root",)),
        ({"subject": named("größe-☃")}, ("größe-☃",)),
        ({"subject": named("x" * 64)}, ("x" * 64,)),
        ({"subject": named("line\nbreak")}, ("line\nbreak",)),
        ({"alternatives": [x509.DNSName(f"host-{number}.example.com") for number in range(2_000)]}, ("device",)),
        ({"alternatives": [x509.UniformResourceIdentifier("spiffe://a/b"), x509.RFC822Name("a@b.c")]}, ("device",)),
    ],
    ids=["nobody", "two names", "escapes", "unicode", "long", "line break", "many names", "other kinds"],
)
def test_a_strange_certificate_is_read_as_it_is(
    authority: Authority,
    context: ssl.SSLContext,
    tmp_path: Path,
    strange: dict[str, object],
    names: tuple[str, ...],
) -> None:
    handshake = Handshake(context, certificate(authority, tmp_path, **strange))  # type: ignore[arg-type]
    assert handshake.run()
    shown = Certificate.of(handshake.server.getpeercert())
    assert shown is not None
    assert shown.common_names == names
    assert "\n" not in shown.subject, "no second line in a log"
    if names:
        assert shown.subject.count("CN=") == len(names)


# Garbled


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("flight", [0, 1])
def test_garbled_handshakes_end_in_tls_and_let_nobody_in(
    authority: Authority, context: ssl.SSLContext, tmp_path: Path, version: ssl.TLSVersion, flight: int
) -> None:
    """In TLS 1.2 the second flight has the certificate in clear: so this garbles it too."""
    client = certificate(authority, tmp_path)
    client.maximum_version = version
    dice = random.Random(f"{version} {flight}")
    refused = 0
    for _ in range(GARBLED):

        def garble(number: int, data: bytes) -> bytes:
            return garbled(dice, data) if number == flight and data else data

        try:
            let_in = Handshake(context, client).run(garble)
        except ssl.SSLError:
            refused += 1
        else:
            assert not let_in, "every byte of a handshake is vouched for"
    assert refused > GARBLED // 2


def garbled(dice: random.Random, data: bytes) -> bytes:
    """The same with some bytes changed, left out or put in; always different."""
    changed = bytearray(data)
    for _ in range(dice.randrange(1, 4)):
        place = dice.randrange(len(changed))
        kind = dice.randrange(3)
        if kind == 0:
            changed[place] ^= dice.randrange(1, 256)
        elif kind == 1 and len(changed) > 1:
            del changed[place : place + dice.randrange(1, 20)]
        else:
            changed[place:place] = dice.randbytes(dice.randrange(1, 20))
        if not changed:
            changed += b"\0"
    return bytes(changed) if changed != data else bytes(reversed(data))
