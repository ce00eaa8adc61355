"""The endpoint's own small HTTP interface, for those who measure."""

from __future__ import annotations

import http.client
from typing import cast

import orjson

from tests.bench.endpoint import Settings, Stats

TIMEOUT = 10.0


class Control:
    """Asks an endpoint for its counters, and resets it. Calls wait; raise `OSError` when nobody answers."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._host = host
        self._port = port

    def stats(self) -> Stats:
        return cast("Stats", orjson.loads(self._request("GET", "/stats", None)))

    def reset(self, settings: Settings) -> None:
        self._request("POST", "/reset", orjson.dumps(settings))

    def stop_supply(self) -> None:
        """Hand out no more messages than until now."""
        self._request("POST", "/stop-supply", b"")

    def _request(self, method: str, path: str, body: bytes | None) -> bytes:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            raise OSError(f"{method} {path}: {answer.status}: {text!r}")
        return text
