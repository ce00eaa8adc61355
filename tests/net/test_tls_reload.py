"""TLS whose files change: taken for new connections when they are whole, and never at the price of the old ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs
from structlog.typing import EventDict

from gateway.core.errors import ConfigError
from gateway.net import tls as tls_module
from gateway.net.tls import ServerTls, TlsOptions
from tests.rig.certificates import Authority
from tests.rig.echoing import EchoPort
from tests.rig.loops import on_both_loops, until


class Site:
    """The files of a server, and how they are replaced."""

    def __init__(self, folder: Path, client_certificates: Literal["none", "optional", "required"] = "none") -> None:
        self._folders = iter(folder / f"authority-{number}" for number in range(10))
        self.authority = self.new_authority()
        self.certificate, self.key, self.client_ca = folder / "tls.pem", folder / "tls.key", folder / "clients.pem"
        self.replace(*self.authority.issue("localhost"))
        shutil.copy(self.authority.path, self.client_ca)
        self.options = TlsOptions(
            certificate=self.certificate,
            key=self.key,
            client_ca=None if client_certificates == "none" else self.client_ca,
            client_certificates=client_certificates,
        )
        self.tls = ServerTls(self.options)

    def new_authority(self) -> Authority:
        folder = next(self._folders)
        folder.mkdir()
        return Authority(folder)

    def replace(self, certificate: Path, key: Path) -> None:
        shutil.copy(certificate, self.certificate)
        shutil.copy(key, self.key)

    def renew(self) -> int:
        """A new certificate of the same authority; gives its serial number."""
        certificate, key = self.authority.issue("localhost")
        self.replace(certificate, key)
        return x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number

    def look_twice(self) -> list[EventDict]:
        """What the watcher does in time, now; gives what was logged."""
        with capture_logs() as lines:
            self.tls.look()
            self.tls.look()
        return lines


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def shown(port: EchoPort, context: ssl.SSLContext) -> int:
    """The serial number of the certificate that a new connection is shown."""
    reader, writer = await port.connect(context)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    certificate = writer.get_extra_info("ssl_object").getpeercert()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return int(certificate["serialNumber"], 16)


@on_both_loops
async def test_new_connections_are_shown_the_new_certificate_and_old_ones_go_on(site_folder: Path) -> None:
    site = Site(site_folder)
    async with EchoPort(tls=site.tls) as port:
        context = site.authority.client_context()
        reader, writer = await port.connect(context)
        first = await shown(port, context)
        renewed = site.renew()
        assert site.look_twice()[0]["event"] == "tls_reloaded"
        assert await shown(port, context) == renewed != first
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
        writer.close()


@pytest.fixture
def site_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("site")


@on_both_loops
async def test_the_port_watches_by_itself_under_traffic(site_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_module, "LOOK_INTERVAL", 0.005)
    site = Site(site_folder)
    async with EchoPort(tls=site.tls) as port:
        context = site.authority.client_context()
        stopping = asyncio.Event()
        served = 0

        async def traffic() -> None:
            nonlocal served
            reader, writer = await port.connect(context)
            while not stopping.is_set():
                writer.write(b"x" * 1000)
                assert await reader.readexactly(1000) == b"x" * 1000
                served += 1
            writer.close()

        async with asyncio.TaskGroup() as clients:
            for _ in range(3):
                clients.create_task(traffic())
            await until(lambda: served > 10, "traffic")
            for _ in range(3):
                renewed = site.renew()
                found: set[int] = set()
                while renewed not in found:  # each connection in between succeeds, with one or the other
                    found.add(await shown(port, context))
                before = served
                await until(lambda before=before: served > before + 10, "traffic goes on")  # type: ignore[misc]
            stopping.set()
    assert port.refused == []


def test_nothing_is_loaded_while_nothing_changes(site: Site) -> None:
    context = site.tls.context
    assert site.look_twice() == []
    os.utime(site.certificate, ns=(1, site.certificate.stat().st_mtime_ns))  # read by somebody
    assert site.look_twice() == []
    assert site.tls.context is context


def test_files_that_are_still_changing_are_left_alone(site: Site) -> None:
    context = site.tls.context
    with capture_logs() as lines:
        certificate, key = site.authority.issue("localhost")
        shutil.copy(certificate, site.certificate)
        site.tls.look()  # the key is not there yet
        shutil.copy(key, site.key)
        site.tls.look()
        assert site.tls.context is context
        assert lines == []
        site.tls.look()
    assert site.tls.context is not context
    assert [line["event"] for line in lines] == ["tls_reloaded"]


def broken(site: Site) -> Iterator[tuple[Path, str]]:
    """Break the files in one way after the other; gives the file and what is said about it."""
    site.certificate.write_text("no certificate")
    yield site.certificate, "tls.certificate: cannot load "
    site.certificate.unlink()
    yield site.certificate, "No such file"
    site.renew()
    site.key.write_text("no key")
    yield site.key, "tls.certificate: cannot load "
    shutil.copy(site.authority.issue("other")[1], site.key)
    yield site.key, "mismatch"
    site.renew()
    site.client_ca.write_text("")
    yield site.client_ca, "tls.client_ca: cannot load "
    site.client_ca.unlink()
    yield site.client_ca, "No such file"


@on_both_loops
async def test_what_cannot_be_loaded_is_told_once_and_the_old_stays(site_folder: Path) -> None:
    site = Site(site_folder, "optional")
    async with EchoPort(tls=site.tls) as port:
        context = site.authority.client_context()
        first = await shown(port, context)
        for path, text in broken(site):
            (line,) = site.look_twice()
            assert (line["event"], line["log_level"]) == ("tls_not_reloaded", "error")
            assert str(path) in line["problem"]
            assert text in line["problem"]
            assert site.look_twice() == [], "told once"
            assert await shown(port, context) == first
        shutil.copy(site.authority.path, site.client_ca)
        renewed = site.renew()
        assert [line["event"] for line in site.look_twice()] == ["tls_reloaded"]
        assert await shown(port, context) == renewed


def test_links_that_are_switched_are_seen(site: Site, tmp_path: Path) -> None:
    """As Kubernetes replaces a secret: the names stay, a link to the folder behind them moves."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        certificate, key = site.authority.issue("localhost")
        shutil.copy(certificate, folder / "tls.pem")
        shutil.copy(key, folder / "tls.key")
    current = tmp_path / "current"
    current.symlink_to(folders[0])
    tls = ServerTls(TlsOptions(certificate=current / "tls.pem", key=current / "tls.key"))
    before = tls.context
    (tmp_path / "next").symlink_to(folders[1])
    (tmp_path / "next").rename(current)
    tls.look()
    tls.look()
    assert tls.context is not before


def test_an_encrypted_key_is_an_error_and_no_question(site: Site) -> None:
    key = serialization.load_pem_private_key(site.key.read_bytes(), None)
    site.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ConfigError, match=r"tls.certificate: cannot load .*tls.key"):
        ServerTls(site.options)


async def let_in(port: EchoPort, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> bool:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        reader, writer = await port.connect(context)
        try:
            writer.write(b"hello")
            return await reader.readexactly(5) == b"hello"
        finally:
            writer.close()
    return False


def client(site: Site, authority: Authority | None = None) -> ssl.SSLContext:
    """A client that trusts the site, with a certificate of an authority."""
    context = site.authority.client_context()
    if authority is not None:
        context.load_cert_chain(*authority.issue("device"))
    return context


@on_both_loops
async def test_who_signs_client_certificates_can_be_replaced(site_folder: Path) -> None:
    site = Site(site_folder, "required")
    other = site.new_authority()
    async with EchoPort(tls=site.tls) as port:
        assert await let_in(port, client(site, site.authority))
        assert not await let_in(port, client(site, other))
        assert not await let_in(port, client(site))
        assert len(port.echoes) == 1
        shutil.copy(other.path, site.client_ca)
        site.look_twice()
        assert await let_in(port, client(site, other))
        assert not await let_in(port, client(site, site.authority)), "it is not trusted any more"
        assert port.echoes[-1].transport.get_extra_info("peercert")["subject"] == ((("commonName", "device"),),)
        await until(lambda: len(port.refused) == 3, "all refusals are seen")
        assert set(port.reasons) == {"tls_handshake"}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_of_before_does_not_open_the_door_again(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """Certificates are not looked at when a session is resumed, so a session must not outlive its authorities."""
    site = Site(tmp_path, "required")
    context = client(site, site.authority)
    context.maximum_version = version
    session, reused = shake_hands(site.tls.context, context, None)
    assert not reused
    session, reused = shake_hands(site.tls.context, context, session)
    assert reused, "or there is nothing to test"
    shutil.copy(site.new_authority().path, site.client_ca)
    site.look_twice()
    with pytest.raises(ssl.SSLError):
        shake_hands(site.tls.context, context, session)


def shake_hands(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[ssl.SSLSession | None, bool]:
    """A handshake in memory; gives the client's session, and whether it was resumed."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname="localhost", session=session)
    for _ in range(4):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    server.write(b"x")
    assert client.read(1) == b"x"  # a ticket of TLS 1.3 comes with the first data
    return client.session, bool(client.session_reused)


@on_both_loops
async def test_optional_certificates_are_told_to_the_protocol_and_no_certificate_is_let_in(site_folder: Path) -> None:
    site = Site(site_folder, "optional")
    async with EchoPort(tls=site.tls) as port:
        assert await let_in(port, client(site))
        assert not port.echoes[-1].transport.get_extra_info("peercert")
        assert await let_in(port, client(site, site.authority))
        assert port.echoes[-1].transport.get_extra_info("peercert")["subject"] == ((("commonName", "device"),),)
        assert not await let_in(port, client(site, site.new_authority()))


@on_both_loops
async def test_tls_1_2_is_the_oldest_and_still_taken(site_folder: Path) -> None:
    site = Site(site_folder)
    async with EchoPort(tls=site.tls) as port:
        context = site.authority.client_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert await let_in(port, context)
    assert site.tls.context.minimum_version is ssl.TLSVersion.TLSv1_2


@on_both_loops
async def test_closing_the_port_ends_the_watch_and_the_handshakes(site_folder: Path) -> None:
    site = Site(site_folder)
    async with EchoPort(tls=site.tls) as port:
        reader, writer = await port.connect()
        await until(lambda: port.acceptor._arriving, "it is accepted")
        port.acceptor.close()
        await port.acceptor.wait_closed()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        assert port.acceptor._watch is not None
        assert port.acceptor._watch.cancelled()
        assert port.refused == []
