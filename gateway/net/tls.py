"""TLS for listeners: from files and options to a context of the `ssl` module, and again when the files change."""

from __future__ import annotations

import asyncio
import ssl
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
class TlsOptions:
    """The certificate that a listener shows, and those that it wants to see."""

    certificate: Path
    """PEM file: the certificate, followed by its chain."""
    key: Path
    client_ca: Path | None = None
    """PEM file: who signs client certificates."""
    client_certificates: Literal["none", "optional", "required"] = "none"

    @property
    def files(self) -> tuple[Path, ...]:
        own = (self.certificate, self.key)
        return own if self.client_ca is None else (*own, self.client_ca)


_VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


def server_context(options: TlsOptions) -> ssl.SSLContext:
    """TLS 1.2 and later, with the library's own choice of ciphers. Raises `ConfigError` that names the file."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(options.certificate, options.key, _NO_PASSWORD)
    except (OSError, ssl.SSLError) as error:
        problem = f"cannot load {options.certificate} with {options.key}: {error.strerror or error}"
        raise ConfigError("tls.certificate", problem, "PEM files that belong together and can be read") from error
    if options.client_ca is not None:
        try:
            context.load_verify_locations(options.client_ca)
        except (OSError, ssl.SSLError) as error:
            problem = f"cannot load {options.client_ca}: {error.strerror or error}"
            raise ConfigError("tls.client_ca", problem, "a PEM file of certificates") from error
    context.verify_mode = _VERIFY[options.client_certificates]
    return context


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
