"""The admin API of a gateway, as the commands for operators use it."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias
from urllib.parse import SplitResult, urlencode, urlsplit

import orjson

from gateway.core.errors import MqliftError

DEFAULT_URL: Final = "http://127.0.0.1:9090"
TIMEOUT: Final = 10.0
"""Seconds for an answer; with counts from AWS it takes some."""
PAGE: Final = 1_000
"""Rows of a request, the most that a gateway gives."""
DEPTH_PAGE: Final = 100
"""The same where each row costs the gateway a request to AWS."""
MAX_ANSWER: Final = 16 * 1024 * 1024
"""Bytes of an answer: more than a page can be."""

Row: TypeAlias = Mapping[str, object]


class AdminClient:
    """Asks one gateway. Every failure is an `MqliftError` of one line that says what to mend."""

    def __init__(self, url: str, token: str | None) -> None:
        """Raises `MqliftError` for what is no URL of HTTP."""
        self._url = _checked(url)
        self._token = token

    def overview(self) -> Row:
        return self._ask("GET", "/api/overview")

    def rows(self, listing: str, most: int, *, depth: bool = False) -> Iterator[Row]:
        """The first `most` rows of a listing, a page at a time."""
        after = ""
        while most > 0:
            query = {"limit": str(min(most, DEPTH_PAGE if depth else PAGE)), "after": after}
            page = self._ask("GET", f"/api/{listing}?{urlencode(query | ({'depth': 'true'} if depth else {}))}")
            items, following = page.get("items"), page.get("next")
            if not isinstance(items, list):
                raise self._error("it does not answer as a gateway does")
            yield from items
            if following is None:
                return
            most -= len(items)
            after = str(following)

    def purge(self, queue: str) -> int:
        """How many messages were dropped, approximately."""
        count = self._ask("POST", "/api/purge", {"queue": queue}).get("messages")
        return count if isinstance(count, int) else 0

    def close(self, connection: str) -> None:
        self._ask("POST", "/api/close", {"connection": connection})

    def _ask(self, method: str, path: str, body: Mapping[str, str] | None = None) -> Row:
        headers = {"Content-Type": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        connection = self._connect()
        try:
            connection.request(
                method, self._url.path.rstrip("/") + path, None if body is None else orjson.dumps(body), headers
            )
            answer = connection.getresponse()
            content = answer.read(MAX_ANSWER)
        except OSError as error:
            raise self._error(f"{error.strerror or error}; is the gateway running, and this its admin port?") from error
        except (http.client.HTTPException, ValueError) as error:
            raise self._error("it does not speak HTTP as a gateway does") from error
        finally:
            connection.close()
        return self._read(answer.status, content)

    def _read(self, status: int, content: bytes) -> Row:
        try:
            document = orjson.loads(content)
        except orjson.JSONDecodeError:
            document = None
        if isinstance(document, dict) and status == http.HTTPStatus.OK:
            return document
        if status == http.HTTPStatus.UNAUTHORIZED:
            raise self._error("the token is missing or wrong; set MQLIFT_ADMIN__TOKEN, or --token-file")
        problem = document.get("problem") if isinstance(document, dict) else None
        raise MqliftError(str(problem)) if problem else self._error(f"it answered with status {status}")

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT)

    def _error(self, problem: str) -> MqliftError:
        return MqliftError(f"{self._url.geturl()}: {problem}")


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass  # a port that is no number
    raise MqliftError(f"{url}: is not the URL of an admin server; write one such as {DEFAULT_URL}")
