"""The admin listener: metrics for Prometheus, what an orchestrator asks for, and what operators look at and do."""

from __future__ import annotations

import errno
import hmac
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import orjson
from aiohttp import web
from prometheus_client.exposition import choose_encoder

from gateway.admin.pages import LARGEST_DEPTH_PAGE, LARGEST_PAGE, PAGE
from gateway.admin.port import Listing, NoSuch, Row, Site
from gateway.core.audit import audit
from gateway.core.errors import BackendError, ConfigError, MqliftError

MAX_BODY: Final = 4096
"""Bytes of a request's body: a name and little else."""
MAX_HEADER_LINE: Final = 8190
"""Bytes of a request line or a header field, as in Apache's LimitRequestLine."""
KEEP_ALIVE: Final = 75.0
"""Seconds that an idle connection is kept, as in nginx; more than Prometheus' usual interval between scrapes."""
DRAIN_LIMIT: Final = 1.0
"""Seconds that requests under way may take when the server closes."""
BACKLOG: Final = 64
"""Connections that wait to be accepted. A handful of probes and scrapers is usual."""

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """What has to be shown to be let in. Without a token `/api/` is closed, unless `trusted`: only we can connect."""

    token: str | None = field(default=None, repr=False)
    metrics: bool = False
    """Whether `/metrics` wants it as well."""
    trusted: bool = False


class AdminServer:
    """Serves one site over HTTP, in its event loop."""

    def __init__(self, site: Site, protection: Protection) -> None:
        self.protection = protection
        """May be replaced while it runs."""
        self._site = site
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port that is listened on, also when 0 was asked for. Valid once started on one."""
        if self._runner is None:
            raise RuntimeError("the admin server is not started")
        return int(self._runner.addresses[0][1])

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises `ConfigError` when the address cannot be had."""
        runner = await self._set_up()
        try:
            await web.TCPSite(runner, host, port, backlog=BACKLOG).start()
        except OSError as error:
            await runner.cleanup()
            raise _cannot_listen(host, port, error) from error
        self._runner = runner

    async def start_at(self, path: Path) -> None:
        """Listen on a Unix socket. Raises `OSError`."""
        runner = await self._set_up()
        try:
            await web.UnixSite(runner, path, backlog=BACKLOG).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner

    async def aclose(self) -> None:
        """Stop listening and close connections, after requests under way. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _set_up(self) -> web.AppRunner:
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._guard])
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/api/overview", self._overview)
        for listing in Listing:
            app.router.add_get(f"/api/{listing.path}", self._lister(listing))
        app.router.add_post("/api/purge", self._purge)
        app.router.add_post("/api/close", self._close)
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
        return runner

    # Who may ask

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        protection = self.protection
        guarded = request.path.startswith("/api/") or (protection.metrics and request.path == "/metrics")
        if guarded and not protection.trusted:
            if protection.token is None:
                return _problem(403, "closed: admin.token is not set")
            if not _shows(request, protection.token):
                audit.warning("admin_refused", peer=request.remote or "", path=request.path)
                return _problem(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})
        try:
            return await handler(request)
        except NoSuch as error:
            return _problem(404, str(error))
        except BackendError as error:
            return _problem(502, str(error))
        except MqliftError as error:
            return _problem(409, str(error))

    # For machines

    async def _metrics(self, request: web.Request) -> web.Response:
        """The text format or OpenMetrics, whichever the scraper prefers."""
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(await self._site.registry()), headers={"Content-Type": content_type})

    async def _healthz(self, request: web.Request) -> web.Response:
        """Alive: the event loop got round to answering. Whether AWS can be reached is for `/readyz`."""
        del request
        return _json({"alive": True})

    async def _readyz(self, request: web.Request) -> web.Response:
        """503 takes this gateway out of a load balancer; what only some clients feel is told with a 200."""
        del request
        state = await self._site.readiness()
        problems = [
            {"resource": problem.resource, "problem": problem.text, "fatal": problem.fatal}
            for problem in state.problems
        ]
        report: Row = {
            "ready": state.ready,
            "draining": state.draining,
            "degraded": bool(problems),
            "problems": problems,
        }
        return _json(report, status=200 if state.ready else 503)

    # For operators

    async def _overview(self, request: web.Request) -> web.Response:
        del request
        return _json(await self._site.overview())

    def _lister(self, listing: Listing) -> Handler:
        async def show(request: web.Request) -> web.Response:
            depth = request.query.get("depth") == "true" and listing is Listing.QUEUES
            most = LARGEST_DEPTH_PAGE if depth else LARGEST_PAGE
            limit = _limit(request, most)
            after = request.query.get("after", "")
            rows = await self._site.rows(listing, limit, after, depth=depth)
            return _json({"items": rows, "next": rows[-1][listing.key] if len(rows) == limit else None})

        return show

    async def _purge(self, request: web.Request) -> web.Response:
        queue = await _named(request, "queue")
        count = await self._site.purge(queue)
        audit.info("admin_purged", queue=queue, messages=count, peer=request.remote or "")
        return _json({"queue": queue, "messages": count})

    async def _close(self, request: web.Request) -> web.Response:
        connection = await _named(request, "connection")
        await self._site.close(connection)
        audit.info("admin_closed", connection=connection, peer=request.remote or "")
        return _json({"connection": connection})


def _shows(request: web.Request, token: str) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    same = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), token.encode())
    return same and scheme.lower() == "bearer"


def _limit(request: web.Request, most: int) -> int:
    text = request.query.get("limit", str(min(PAGE, most)))
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise web.HTTPBadRequest(text=f"limit: a number from 1 to {most}\n")
    return int(text)


async def _named(request: web.Request, key: str) -> str:
    """The name in a body such as `{"queue": "orders"}`."""
    try:
        document = orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        document = None
    name = document.get(key) if isinstance(document, dict) else None
    if not isinstance(name, str) or not name:
        raise web.HTTPBadRequest(text=f'the body has to be {{"{key}": "NAME"}}\n')
    return name


def _json(value: Row, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(value),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def _problem(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    return _json({"problem": text}, status, headers)


def _cannot_listen(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError("admin.port", f"port {port} on {host} is taken", "choose a free one, or stop what holds it")
    reason = os.strerror(error.errno) if error.errno else str(error)
    return ConfigError("admin", f"cannot listen on {host} port {port}: {reason}", "choose an address of this machine")
