"""TLS for listeners: from files and options to contexts of the `ssl` module, and again when the files change."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Never, TypeAlias

import structlog

from gateway.core.errors import ConfigError

log = structlog.get_logger("mqlift.tls")

LOOK_INTERVAL: Final = 5.0
"""Seconds between looks at the files. New ones are taken at the second look that finds them the same: a certificate and
its key are seldom replaced at one instant."""

_NO_PASSWORD: Final = ""
"""For a key that is encrypted: an error, and not a question at the terminal that stops everything."""

_Stamp: TypeAlias = tuple[int, int, int] | None
"""Inode, time of change and size of a file; None when it is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedCertificate:
    """What is shown to a client that asks for one of these names (SNI, RFC 6066 §3)."""

    names: tuple[str, ...]
    """`*.example.com` stands for one label more, as in certificates (RFC 6125 §6.4.3)."""
    certificate: Path
    """PEM file: the certificate, followed by its chain."""
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """The certificates that a listener shows, and those that it wants to see."""

    certificate: Path
    """PEM file: the certificate, followed by its chain; for a client that asks for no name, or for one not known."""
    key: Path
    named: tuple[NamedCertificate, ...] = ()
    client_ca: Path | None = None
    """PEM file: who signs client certificates."""
    client_crl: Path | None = None
    """PEM file: which of them are revoked. One that has expired lets nobody in."""
    client_certificates: Literal["none", "optional", "required"] = "none"
    oldest: Literal["1.2", "1.3"] = "1.2"
    ciphers: str = ""
    """Of TLS 1.2, as OpenSSL writes them. Empty: those of Python, with forward secrecy and without SHA-1."""
    alpn: tuple[str, ...] = ()
    """Protocols to agree on (RFC 7301). A client that offers none of them is taken all the same."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All that are read."""
        own = [self.certificate, self.key]
        for each in self.named:
            own += (each.certificate, each.key)
        return (*own, *(path for path in (self.client_ca, self.client_crl) if path is not None))


_VERIFY: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def server_context(options: TlsOptions) -> ssl.SSLContext:
    """The context for all names. Raises `ConfigError` that names the file."""
    context = _context(options, "tls.certificate", options.certificate, options.key)
    if options.named:
        by_name: dict[str, ssl.SSLContext] = {}
        for number, each in enumerate(options.named):
            other = _context(options, f"tls.server_names.{number}.certificate", each.certificate, each.key)
            by_name.update((name.lower(), other) for name in each.names)
        context.sni_callback = _chooser(by_name)
    return context


def _context(options: TlsOptions, at: str, certificate: Path, key: Path) -> ssl.SSLContext:
    """With one certificate, whose setting is `at`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = _VERSIONS[options.oldest]
    # A client that renegotiates again and again costs a signature each time (CVE-2011-1473).
    context.options |= ssl.OP_NO_RENEGOTIATION
    if options.ciphers:
        _set_ciphers(context, options.ciphers)
    if options.alpn:
        context.set_alpn_protocols(list(options.alpn))
    try:
        context.load_cert_chain(certificate, key, _NO_PASSWORD)
    except (OSError, ssl.SSLError) as error:
        problem = f"cannot load {certificate} with {key}: {error.strerror or error}"
        raise ConfigError(at, problem, "PEM files that belong together and can be read") from error
    if options.client_ca is not None:
        _load(context, "tls.client_ca", options.client_ca, "a PEM file of certificates")
    if options.client_crl is not None:
        _load(context, "tls.client_crl", options.client_crl, "a PEM file of revocation lists")
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    context.verify_mode = _VERIFY[options.client_certificates]
    return context


def _set_ciphers(context: ssl.SSLContext, ciphers: str) -> None:
    try:
        context.set_ciphers(ciphers)
    except ssl.SSLError as error:
        problem = f"{ciphers!r} selects no cipher"
        raise ConfigError("tls.ciphers", problem, "a list as `openssl ciphers` takes it") from error


def _load(context: ssl.SSLContext, at: str, path: Path, remedy: str) -> None:
    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(at, f"cannot load {path}: {error.strerror or error}", remedy) from error


def _chooser(by_name: Mapping[str, ssl.SSLContext]) -> Callable[[ssl.SSLObject, str | None, ssl.SSLContext], None]:
    """What OpenSSL calls with the name that a client asks for."""

    def choose(connection: ssl.SSLObject, name: str | None, _default: ssl.SSLContext) -> None:
        if name is not None:
            name = name.lower()
            chosen = by_name.get(name) or by_name.get(f"*.{name.partition('.')[2]}")
            if chosen is not None:
                connection.context = chosen

    return choose


class ServerTls:
    """The context for new connections. Connections that are there keep the one they began with.

    A new context, and not the old one with new files: nothing can be taken out of a context, and the tickets of the old
    one would let a client come back whose authority is not trusted any more.
    """

    def __init__(self, options: TlsOptions) -> None:
        """Raises `ConfigError` that names the file."""
        self._options = options
        self._loaded = self._looked = self._stamps()  # before the files are read, or a change meanwhile is missed
        self.context = server_context(options)

    async def watch(self) -> Never:
        """Look at the files from time to time, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            self.look()

    def look(self) -> None:
        """Load files that have changed since they were loaded, unless they are still changing.

        What cannot be loaded is told once, and the old context stays.
        """
        before, self._looked = self._looked, self._stamps()
        if self._looked == self._loaded or self._looked != before:
            return
        self._loaded = self._looked
        certificate = str(self._options.certificate)
        try:
            self.context = server_context(self._options)
        except ConfigError as error:
            log.error("tls_not_reloaded", certificate=certificate, problem=str(error))  # noqa: TRY400 - no bug
        else:
            log.info("tls_reloaded", certificate=certificate)

    def _stamps(self) -> list[_Stamp]:
        return [_stamp(path) for path in self._options.files]


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError:
        return None  # loading it says what is wrong
    return status.st_ino, status.st_mtime_ns, status.st_size
