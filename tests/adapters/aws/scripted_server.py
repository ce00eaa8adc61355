"""An HTTP server that does exactly what a test says, and notes what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Request:
    line: str
    headers: dict[str, str]
    body: bytes
    connection: int
    """Number of the connection that it came on, from 0."""


Step: TypeAlias = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]
"""What to do with one request. A step that closes the writer ends the connection."""


@dataclass(slots=True)
class ScriptedServer:
    """`steps` are used up one by one, over all connections; then each request gets `otherwise`."""

    otherwise: Step
    steps: list[Step] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    port: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @contextlib.asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._accept, HOST, 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            writers = tuple(self.writers)
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            for writer in writers:
                writer.transport.abort()
            await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
            await server.wait_closed()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(condition)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        await self._notify()
        try:
            while not writer.is_closing():
                request = await read_request(reader, number)
                self.requests.append(request)
                await self._notify()
                step = self.steps.pop(0) if self.steps else self.otherwise
                await step(request, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()
            self.writers.discard(writer)
            await self._notify()

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()


async def read_request(reader: asyncio.StreamReader, connection: int) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    line, *rest = head.split("\r\n")[:-2]
    headers = {name.lower(): value for name, value in (each.split(": ", 1) for each in rest)}
    body = await reader.readexactly(int(headers["content-length"]))
    return Request(line, headers, body, connection)


def answer_bytes(body: bytes = b"{}", status: int = 200, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def answers(body: bytes = b"{}", status: int = 200, *headers: str) -> Step:
    """Answer at once and whole."""
    return sends(answer_bytes(body, status, *headers))


def sends(*pieces: bytes) -> Step:
    """Write pieces, each in a segment of its own as far as the operating system lets us."""

    async def step(_request: Request, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return step


def sends_and_closes(*pieces: bytes) -> Step:
    """Write pieces, then close the connection."""

    async def step(request: Request, writer: asyncio.StreamWriter) -> None:
        await sends(*pieces)(request, writer)
        writer.close()

    return step


def sends_and_resets(*pieces: bytes) -> Step:
    """Write pieces, then drop the connection."""

    async def step(request: Request, writer: asyncio.StreamWriter) -> None:
        await sends(*pieces)(request, writer)
        writer.transport.abort()

    return step


def waits_for(event: asyncio.Event, then: Step) -> Step:
    """Answer when the test says so."""

    async def step(request: Request, writer: asyncio.StreamWriter) -> None:
        await event.wait()
        await then(request, writer)

    return step


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority of the test's own, and a server certificate that it signed for 127.0.0.1."""

    ca_file: Path
    server: ssl.SSLContext


def make_authority(directory: Path, name: str) -> Authority:
    """`name`: the DNS name or the address that the server's certificate is for."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mqlift test authority")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mqlift test server")])
    ca = _certificate(issuer, issuer, ca_key, ca_key, x509.BasicConstraints(ca=True, path_length=None))
    certificate = _certificate(subject, issuer, key, ca_key, x509.SubjectAlternativeName([_general_name(name)]))
    ca_file, chain = directory / "ca.pem", directory / "server.pem"
    ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    context.set_alpn_protocols(["http/1.1"])
    return Authority(ca_file, context)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    ca_key: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - datetime.timedelta(hours=1),
        not_valid_after=now + datetime.timedelta(hours=1),
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return (
        builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        .add_extension(identifier, critical=False)
        .add_extension(authority, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
