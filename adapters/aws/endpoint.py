"""Where a service is reached, and whether a proxy stands before it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One service in one region, as botocore resolved it. `region` is the one to sign for."""

    host: str
    port: int
    tls: bool
    path: str
    authority: str
    """The Host header: with the port where it is not the usual one."""
    region: str

    @classmethod
    def parse(cls, url: str, region: str) -> Endpoint:
        """Take a URL apart. Raises `ValueError` for one that no endpoint can have; it does not repeat the URL."""
        parts = urlsplit(url)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ValueError("must be http://HOST[:PORT] or https://HOST[:PORT]")
        if parts.query or parts.fragment or parts.username is not None:
            raise ValueError("must be a URL without query, fragment and user")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("must be a URL of printable ASCII characters, others percent-encoded")
        host = parts.hostname
        usual = _DEFAULT_PORTS[parts.scheme]
        port = parts.port or usual
        name = f"[{host}]" if ":" in host else host
        return cls(
            host=host,
            port=port,
            tls=parts.scheme == "https",
            path=parts.path or "/",
            authority=name if port == usual else f"{name}:{port}",
            region=region,
        )

    def proxy_variable(self) -> str | None:
        """Name the environment variable that sends requests to this endpoint through a proxy, if there is one.

        The rules are those of Python's `urllib`, which botocore applies too: `HTTPS_PROXY` (without TLS `HTTP_PROXY`),
        unless `NO_PROXY` names the host or a domain that it is in; each also in lower case.
        """
        scheme = "https" if self.tls else "http"
        if scheme not in getproxies() or proxy_bypass(self.authority):
            return None
        return f"{scheme}_proxy".upper()
