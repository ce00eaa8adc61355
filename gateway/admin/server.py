"""The admin listener: metrics for Prometheus, and the two answers an orchestrator asks for."""

from __future__ import annotations

import errno
import os
from typing import Final

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from gateway.core.errors import ConfigError
from gateway.core.health import Health

MAX_BODY: Final = 1024
"""Bytes of a request's body. Nothing here takes one."""
MAX_HEADER_LINE: Final = 8190
"""Bytes of a request line or a header field, as in Apache's LimitRequestLine."""
KEEP_ALIVE: Final = 75.0
"""Seconds that an idle connection is kept, as in nginx; more than Prometheus' usual interval between scrapes."""
DRAIN_LIMIT: Final = 1.0
"""Seconds that requests under way may take when the server closes."""
BACKLOG: Final = 64
"""Connections that wait to be accepted. A handful of probes and scrapers is usual."""


class AdminServer:
    """Serves `/metrics`, `/healthz` and `/readyz` of one gateway, in its event loop."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry, health: Health) -> None:
        self._host = host
        self._port = port
        self._registry = registry
        self._health = health
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port that is listened on, also when 0 was asked for. Valid once started."""
        if self._runner is None:
            raise RuntimeError("the admin server is not started")
        return int(self._runner.addresses[0][1])

    async def start(self) -> None:
        """Listen. Raises `ConfigError` when the address cannot be had."""
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=KEEP_ALIVE,
            shutdown_timeout=DRAIN_LIMIT,
            max_line_size=MAX_HEADER_LINE,
            max_field_size=MAX_HEADER_LINE,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port, backlog=BACKLOG).start()
        except OSError as error:
            await runner.cleanup()
            raise _cannot_listen(self._host, self._port, error) from error
        self._runner = runner

    async def aclose(self) -> None:
        """Stop listening and close connections, after requests under way. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        """The text format or OpenMetrics, whichever the scraper prefers."""
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})

    async def _healthz(self, request: web.Request) -> web.Response:
        """Alive: the event loop got round to answering. Whether AWS can be reached is for `/readyz`."""
        del request
        return _json({"alive": True})

    async def _readyz(self, request: web.Request) -> web.Response:
        """503 takes this gateway out of a load balancer; what only some clients feel is told with a 200."""
        del request
        health = self._health
        problems = [
            {"resource": problem.resource, "problem": problem.text, "fatal": problem.fatal}
            for problem in health.problems
        ]
        report = {
            "ready": health.ready,
            "draining": health.draining,
            "degraded": bool(problems),
            "problems": problems,
        }
        return _json(report, status=200 if health.ready else 503)


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(
        body=orjson.dumps(value), status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def _cannot_listen(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError("admin.port", f"port {port} on {host} is taken", "choose a free one, or stop what holds it")
    reason = os.strerror(error.errno) if error.errno else str(error)
    return ConfigError("admin", f"cannot listen on {host} port {port}: {reason}", "choose an address of this machine")
