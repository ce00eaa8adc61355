"""TLS for listeners: from files and options to a context of the `ssl` module."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gateway.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """The certificate that a listener shows, and those that it wants to see."""

    certificate: Path
    """PEM file: the certificate, followed by its chain."""
    key: Path
    client_ca: Path | None = None
    """PEM file: who signs client certificates."""
    client_certificates: Literal["none", "optional", "required"] = "none"


_VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


def server_context(options: TlsOptions) -> ssl.SSLContext:
    """TLS 1.2 and later, with the library's own choice of ciphers. Raises `ConfigError` that names the file."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(options.certificate, options.key)
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
