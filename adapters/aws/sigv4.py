"""AWS Signature Version 4 for the requests of the JSON protocols and the query protocol. Pure: the time is an argument.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html: a request is reduced to a
canonical form, its hash goes into a string to sign, and that is signed with a key derived from the secret key, the
day, the region and the service. Nearly all of the canonical form is the same for every request to an endpoint; a
`Signer` builds those parts once. All these requests are POSTs to one path with a body and no query.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import NamedTuple
from urllib.parse import quote

_ALGORITHM = b"AWS4-HMAC-SHA256"


class Keys(NamedTuple):
    """One set of credentials, at one moment. Never logged; `repr` shows the public half."""

    access_key: str
    secret_key: str
    token: str | None = None
    """The session token of temporary credentials."""

    def __repr__(self) -> str:
        return f"Keys({self.access_key!r})"


class Signer:
    """Makes the signed heads of the requests to one endpoint. Keeps what stays equal: texts, and the day's key."""

    __slots__ = (
        "_authority",
        "_canonical_start",
        "_date",
        "_day",
        "_head_start",
        "_key",
        "_keys",
        "_last_header",
        "_region",
        "_scope",
        "_second",
        "_service",
        "_signed_headers",
        "_token_header",
    )

    def __init__(
        self, *, service: str, region: str, host: str, path: str = "/", content_type: str, targeted: bool = True
    ) -> None:
        """`service` and `region` as AWS names them for signing; `host` is the Host header, with a port if not usual.

        `path` is sent as it is; it must be a legal path of a request line. `targeted`: whether each request has an
        X-Amz-Target header.
        """
        self._service = service
        self._last_header = b";x-amz-target" if targeted else b""
        self._region = region
        constant = f"content-type:{content_type}\nhost:{host}\nx-amz-date:"
        self._canonical_start = f"POST\n{canonical_path(path)}\n\n{constant}".encode()
        self._head_start = (
            f"POST {path or '/'} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {content_type}\r\nuser-agent: mqlift\r\n"
        ).encode()
        self._keys: Keys | None = None
        self._second = -1
        self._day = self._date = self._scope = self._key = b""
        self._signed_headers = self._token_header = self._authority = b""

    def head(self, keys: Keys, target: bytes, body: bytes, now: float) -> bytes:
        """Make the head of a request, up to and with the empty line.

        `target` is the X-Amz-Target header (`AmazonSQS.SendMessage`), empty where there is none (`targeted`);
        `now` is in seconds since 1970, UTC.
        """
        second = int(now)
        if second != self._second or keys is not self._keys:
            self._renew(keys, second)
        date = self._date
        canonical = b"%b%b\n%b%b\n%b\n%b" % (
            self._canonical_start,
            date,
            self._token_header,
            b"x-amz-target:%b\n" % target if target else b"",
            self._signed_headers,
            hashlib.sha256(body).hexdigest().encode(),
        )
        to_sign = b"%b\n%b\n%b\n%b" % (_ALGORITHM, date, self._scope, hashlib.sha256(canonical).hexdigest().encode())
        return b"%bx-amz-date: %b\r\n%b%b%b\r\ncontent-length: %d\r\n\r\n" % (
            self._head_start,
            date,
            b"x-amz-target: %b\r\n" % target if target else b"",
            self._authority,
            hmac.digest(self._key, to_sign, "sha256").hex().encode(),
            len(body),
        )

    def _renew(self, keys: Keys, second: int) -> None:
        """Bring up to date what depends on the second, the day and the credentials."""
        self._second = second
        self._date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second)).encode()
        if keys == self._keys and self._date[:8] == self._day:
            self._keys = keys
            return
        self._keys = keys
        self._day = self._date[:8]
        self._scope = b"%b/%b/%b/aws4_request" % (self._day, self._region.encode(), self._service.encode())
        self._key = signing_key(keys.secret_key, self._day, self._region, self._service)
        self._set_headers(keys)

    def _set_headers(self, keys: Keys) -> None:
        token = keys.token.encode() if keys.token else b""
        self._token_header = b"x-amz-security-token:%b\n" % token if token else b""
        named = b";x-amz-security-token" if token else b""
        self._signed_headers = b"content-type;host;x-amz-date%b%b" % (named, self._last_header)
        self._authority = b"%bauthorization: %b Credential=%b/%b, SignedHeaders=%b, Signature=" % (
            b"x-amz-security-token: %b\r\n" % token if token else b"",
            _ALGORITHM,
            keys.access_key.encode(),
            self._scope,
            self._signed_headers,
        )


def signing_key(secret_key: str, day: bytes, region: str, service: str) -> bytes:
    """Derive the key of one day (`20261122`), region and service."""
    key = b"AWS4" + secret_key.encode()
    for part in (day, region.encode(), service.encode(), b"aws4_request"):
        key = hmac.digest(key, part, "sha256")
    return key


def canonical_path(path: str) -> str:
    """Reduce `.`, `..` and empty segments and quote the rest once more, as all services but S3 expect it."""
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in {"", "."}:
            segments.append(segment)
    closing = "/" if segments and path.endswith("/") else ""
    return quote(f"/{'/'.join(segments)}{closing}", safe="/~")
