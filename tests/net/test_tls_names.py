"""What a TLS listener shows to whom, what it agrees on, and who is revoked."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from gateway.core.errors import ConfigError
from gateway.net.tls import NamedCertificate, ServerTls, TlsOptions
from tests.rig.certificates import Authority
from tests.rig.echoing import EchoPort
from tests.rig.loops import on_both_loops

_DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("names"))


def options(authority: Authority, **more: object) -> TlsOptions:
    certificate, key = authority.issue("localhost")
    return TlsOptions(certificate=certificate, key=key, **more)  # type: ignore[arg-type]


def named(authority: Authority, *names: str) -> NamedCertificate:
    certificate, key = authority.issue(names[0].replace("*", "any"))
    return NamedCertificate(names=names, certificate=certificate, key=key)


def shake_hands(server_context: ssl.SSLContext, client_context: ssl.SSLContext, name: str | None) -> ssl.SSLObject:
    """A handshake in memory; gives the client's side. Raises `ssl.SSLError` of either side."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(4):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    server.write(b"x")
    assert client.read(1) == b"x"
    return client


def trusting(authority: Authority) -> ssl.SSLContext:
    context = authority.client_context()
    context.check_hostname = False
    return context


def common_name(client: ssl.SSLObject) -> str:
    certificate = client.getpeercert()
    assert certificate is not None
    ((_, name),) = certificate["subject"][0]  # type: ignore[misc, index]
    return str(name)


# Names


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (None, "localhost"),
        ("localhost", "localhost"),
        ("unknown.example.org", "localhost"),
        ("mqtt.example.com", "mqtt.example.com"),
        ("MQTT.Example.COM", "mqtt.example.com"),
        ("broker.example.com", "mqtt.example.com"),
        ("hall.plant.example.com", "any.plant.example.com"),
        ("a.hall.plant.example.com", "localhost"),
        ("plant.example.com", "localhost"),
    ],
)
def test_the_certificate_is_that_of_the_name(authority: Authority, asked: str | None, shown: str) -> None:
    several = (
        named(authority, "mqtt.example.com", "broker.example.com"),
        named(authority, "*.plant.example.com"),
    )
    tls = ServerTls(options(authority, named=several))
    assert common_name(shake_hands(tls.context, trusting(authority), asked)) == shown


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_by_every_name_the_same_clients_are_let_in(authority: Authority, version: ssl.TLSVersion) -> None:
    tls = ServerTls(
        options(
            authority,
            named=(named(authority, "mqtt.example.com"),),
            client_ca=authority.path,
            client_certificates="required",
            alpn=("mqtt",),
        )
    )
    for name in ("localhost", "mqtt.example.com"):
        stranger = trusting(authority)
        stranger.maximum_version = version
        with pytest.raises(ssl.SSLError):
            shake_hands(tls.context, stranger, name)
        known = trusting(authority)
        known.maximum_version = version
        known.load_cert_chain(*authority.issue("device"))
        known.set_alpn_protocols(["mqtt"])
        assert shake_hands(tls.context, known, name).selected_alpn_protocol() == "mqtt"


def test_a_certificate_of_a_name_that_cannot_be_loaded_is_named(authority: Authority, tmp_path: Path) -> None:
    missing = NamedCertificate(names=("a",), certificate=tmp_path / "missing.pem", key=tmp_path / "missing.key")
    with pytest.raises(ConfigError, match=r"tls.server_names.1.certificate: cannot load .*missing.pem"):
        ServerTls(options(authority, named=(named(authority, "b"), missing)))


def test_certificates_of_names_are_loaded_again_too(authority: Authority, tmp_path: Path) -> None:
    certificate, key = tmp_path / "named.pem", tmp_path / "named.key"

    def replace() -> None:
        for source, target in zip(authority.issue("mqtt.example.com"), (certificate, key), strict=True):
            shutil.copy(source, target)

    replace()
    one = NamedCertificate(names=("mqtt.example.com",), certificate=certificate, key=key)
    tls = ServerTls(options(authority, named=(one,)))
    before = shake_hands(tls.context, trusting(authority), "mqtt.example.com").getpeercert()
    replace()
    tls.look()
    tls.look()
    after = shake_hands(tls.context, trusting(authority), "mqtt.example.com").getpeercert()
    assert before is not None
    assert after is not None
    assert before["serialNumber"] != after["serialNumber"]


@on_both_loops
async def test_names_through_sockets(authority: Authority) -> None:
    tls = ServerTls(options(authority, named=(named(authority, "mqtt.example.com"),), alpn=("mqtt",)))
    async with EchoPort(tls=tls) as port:
        context = trusting(authority)
        context.set_alpn_protocols(["h2", "mqtt"])
        reader, writer = await port.connect(context)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "mqtt"
        writer.close()


# Protocols


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["mqtt"], "mqtt"), (["h2", "mqtt"], "mqtt"), (["h2"], None), ([], None)],
)
def test_alpn_agrees_on_what_both_speak_and_turns_nobody_away(
    authority: Authority, offered: list[str], chosen: str | None
) -> None:
    tls = ServerTls(options(authority, alpn=("mqtt",)))
    context = trusting(authority)
    if offered:
        context.set_alpn_protocols(offered)
    assert shake_hands(tls.context, context, "localhost").selected_alpn_protocol() == chosen


# Versions and ciphers


def test_only_the_newest_version_when_that_is_wanted(authority: Authority) -> None:
    tls = ServerTls(options(authority, oldest="1.3"))
    old = trusting(authority)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake_hands(tls.context, old, None)
    assert shake_hands(tls.context, trusting(authority), None).version() == "TLSv1.3"


def test_ciphers_can_be_chosen(authority: Authority) -> None:
    tls = ServerTls(options(authority, ciphers="ECDHE+CHACHA20"))
    context = trusting(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    cipher = shake_hands(tls.context, context, None).cipher()
    assert cipher is not None
    assert "CHACHA20" in cipher[0]
    context.set_ciphers("ECDHE+AESGCM")
    with pytest.raises(ssl.SSLError):
        shake_hands(tls.context, context, None)


def test_ciphers_that_are_none_are_an_error(authority: Authority) -> None:
    with pytest.raises(ConfigError, match=r"tls.ciphers: 'ROT13' selects no cipher; a list as `openssl ciphers`"):
        ServerTls(options(authority, ciphers="ROT13"))


@pytest.mark.parametrize("weak", ["aNULL", "eNULL", "RC4", "3DES", "DES", "MD5", "EXPORT", "kRSA", "SHA1"])
def test_weak_ciphers_are_not_there(authority: Authority, weak: str) -> None:
    offered = {each["name"] for each in ServerTls(options(authority)).context.get_ciphers()}
    reference = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        reference.set_ciphers(f"{weak}:@SECLEVEL=0")
    except ssl.SSLError:
        return  # this OpenSSL does not have it at all
    found = {each["name"] for each in reference.get_ciphers() if each["protocol"] != "TLSv1.3"}
    assert not offered & found


def test_nobody_renegotiates(authority: Authority) -> None:
    assert ServerTls(options(authority)).context.options & ssl.OP_NO_RENEGOTIATION


# Revocation


def revocation_list(authority: Authority, path: Path, *revoked: Path, days: int = 1) -> Path:
    now = datetime.datetime.now(datetime.UTC)
    issuer = x509.load_pem_x509_certificate(authority.path.read_bytes())
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now - 2 * _DAY)
        .next_update(now + days * _DAY)
    )
    for each in revoked:
        serial = x509.load_pem_x509_certificate(each.read_bytes()).serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - _DAY).build()
        builder = builder.add_revoked_certificate(entry)
    signed = builder.sign(authority._key, hashes.SHA256())
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return path


def presenting(authority: Authority, certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = trusting(authority)
    context.load_cert_chain(*certificate)
    return context


def test_a_revoked_certificate_opens_no_door(authority: Authority, tmp_path: Path) -> None:
    good, stolen = authority.issue("good"), authority.issue("stolen")
    path = revocation_list(authority, tmp_path / "revoked.pem")
    tls = ServerTls(
        options(authority, client_ca=authority.path, client_crl=path, client_certificates="required"),
    )
    shake_hands(tls.context, presenting(authority, stolen), None)
    revocation_list(authority, path, stolen[0])
    tls.look()
    tls.look()
    with pytest.raises(ssl.SSLError):
        shake_hands(tls.context, presenting(authority, stolen), None)
    shake_hands(tls.context, presenting(authority, good), None)


def test_a_list_that_has_expired_lets_nobody_in(authority: Authority, tmp_path: Path) -> None:
    path = revocation_list(authority, tmp_path / "revoked.pem", days=-1)
    tls = ServerTls(
        options(authority, client_ca=authority.path, client_crl=path, client_certificates="optional"),
    )
    with pytest.raises(ssl.SSLError):
        shake_hands(tls.context, presenting(authority, authority.issue("good")), None)
    shake_hands(tls.context, trusting(authority), None)


def test_a_file_without_a_list_is_named(authority: Authority, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(ConfigError, match=r"tls.client_crl: cannot load .*empty.pem"):
        ServerTls(options(authority, client_ca=authority.path, client_crl=empty, client_certificates="required"))
