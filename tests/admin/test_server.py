"""The admin server, asked by a real HTTP client."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from gateway.admin.port import Listing, NoSuch, Readiness, Row
from gateway.admin.server import MAX_HEADER_LINE, AdminServer, Protection
from gateway.core.errors import AccessDenied, ConfigError, CredentialsInvalid, Locked, MqliftError
from gateway.core.health import Health
from gateway.core.metrics import Metrics

TOKEN = "0123456789abcdef"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class ScriptedSite:
    """Shows what a test puts there."""

    def __init__(self, metrics: Metrics, health: Health) -> None:
        self.metrics = metrics
        self.health = health
        self.asked: list[tuple[Listing, int, str, bool]] = []
        self.error: MqliftError | None = None
        self.closed: list[str] = []

    async def registry(self) -> CollectorRegistry:
        return self.metrics.registry

    async def readiness(self) -> Readiness:
        health = self.health
        return Readiness(ready=health.ready, draining=health.draining, problems=tuple(health.problems))

    async def overview(self) -> Row:
        return {"version": "1.0"}

    async def rows(self, listing: Listing, limit: int, after: str, *, depth: bool) -> list[Row]:
        self.asked.append((listing, limit, after, depth))
        return [{listing.key: str(number)} for number in range(min(limit, 3))]

    async def purge(self, queue: str) -> int:
        if self.error is not None:
            raise self.error
        return 7

    async def close(self, connection: str) -> None:
        if connection != "1-1":
            raise NoSuch(f"no connection {connection!r}")
        self.closed.append(connection)


def new_server() -> AdminServer:
    return AdminServer(ScriptedSite(Metrics(CollectorRegistry()), Health()), Protection())


class Rig:
    """A started server, what it shows, and a client."""

    def __init__(
        self, server: AdminServer, site: ScriptedSite, metrics: Metrics, health: Health, http: aiohttp.ClientSession
    ) -> None:
        self.server = server
        self.site = site
        self.metrics = metrics
        self.health = health
        self.http = http

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.port}{path}"

    async def ready(self) -> tuple[int, dict[str, object]]:
        async with self.http.get(self.url("/readyz")) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    metrics, health = Metrics(CollectorRegistry()), Health()
    site = ScriptedSite(metrics, health)
    server = AdminServer(site, Protection(token=TOKEN))
    await server.start("127.0.0.1", 0)
    async with aiohttp.ClientSession() as http:
        yield Rig(server, site, metrics, health, http)
    await server.aclose()


async def test_metrics_in_text_format(rig: Rig) -> None:
    rig.metrics.publishes.labels("mqtt").inc(3)
    async with rig.http.get(rig.url("/metrics")) as answer:
        text = await answer.text()
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert 'mqlift_publishes_total{protocol="mqtt"} 3.0' in text
    assert "# EOF" not in text


async def test_metrics_in_openmetrics_when_preferred(rig: Rig) -> None:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with rig.http.get(rig.url("/metrics"), headers=accept) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        assert (await answer.text()).endswith("# EOF\n")


async def test_alive_whatever_is_wrong(rig: Rig) -> None:
    rig.health.report("sqs", CredentialsInvalid("no credentials"))
    rig.health.draining = True
    async with rig.http.get(rig.url("/healthz")) as answer:
        assert answer.status == 200
        assert await answer.json() == {"alive": True}


async def test_ready(rig: Rig) -> None:
    assert await rig.ready() == (200, {"ready": True, "draining": False, "degraded": False, "problems": []})


async def test_draining_is_not_ready(rig: Rig) -> None:
    rig.health.draining = True
    assert await rig.ready() == (503, {"ready": False, "draining": True, "degraded": False, "problems": []})


async def test_a_problem_of_one_resource_degrades(rig: Rig) -> None:
    error = AccessDenied("not allowed", resource="sqs queue orders", action="sqs:SendMessage")
    rig.health.report("sqs queue orders", error)
    status, report = await rig.ready()
    assert status == 200
    assert report == {
        "ready": True,
        "draining": False,
        "degraded": True,
        "problems": [{"resource": "sqs queue orders", "problem": str(error), "fatal": False}],
    }


async def test_a_fatal_problem_is_not_ready_until_mended(rig: Rig) -> None:
    rig.health.report("sqs", CredentialsInvalid("expired"))
    status, report = await rig.ready()
    assert status == 503
    assert report["problems"] == [{"resource": "sqs", "problem": "expired", "fatal": True}]
    rig.health.clear("sqs")
    assert (await rig.ready())[0] == 200


async def test_head_is_answered_without_a_body(rig: Rig) -> None:
    async with rig.http.head(rig.url("/readyz")) as answer:
        assert answer.status == 200
        assert await answer.read() == b""


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/", 404), ("POST", "/metrics", 405)])
async def test_anything_else_is_refused(rig: Rig, method: str, path: str, status: int) -> None:
    async with rig.http.request(method, rig.url(path)) as answer:
        assert answer.status == status


async def test_an_oversized_header_is_refused(rig: Rig) -> None:
    async with rig.http.get(rig.url("/healthz"), headers={"X-Long": "a" * (MAX_HEADER_LINE + 1)}) as answer:
        assert answer.status == 400


async def test_a_taken_port_is_a_configuration_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        server = new_server()
        with pytest.raises(ConfigError, match=rf"^admin\.port: port {port} on 127\.0\.0\.1 is taken; "):
            await server.start("127.0.0.1", port)
        await server.aclose()


async def test_an_address_of_another_machine_is_a_configuration_error() -> None:
    server = new_server()
    with pytest.raises(ConfigError, match=r"^admin: cannot listen on 192\.0\.2\.1 port 0: "):
        await server.start("192.0.2.1", 0)


async def test_closing_frees_the_port_and_may_be_repeated() -> None:
    server = new_server()
    await server.start("127.0.0.1", 0)
    port = server.port
    await server.aclose()
    await server.aclose()
    with socket.create_server(("127.0.0.1", port)):
        pass
    with pytest.raises(RuntimeError, match="not started"):
        _ = server.port


# What operators ask for

API = ["overview", *(listing.path for listing in Listing)]


@pytest.mark.parametrize("path", API)
@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), ({"Authorization": "Bearer wrong"}, 401), ({"Authorization": f"Basic {TOKEN}"}, 401), (BEARER, 200)],
    ids=["nothing", "wrong", "no bearer", "right"],
)
async def test_the_token_opens_the_api(rig: Rig, path: str, headers: dict[str, str], status: int) -> None:
    async with rig.http.get(rig.url(f"/api/{path}"), headers=headers) as answer:
        assert answer.status == status
        assert TOKEN not in await answer.text()


async def test_without_a_token_the_api_is_closed(rig: Rig) -> None:
    rig.server.protection = Protection()
    async with rig.http.get(rig.url("/api/queues"), headers=BEARER) as answer:
        assert answer.status == 403
        assert "admin.token" in (await answer.json())["problem"]


@pytest.mark.parametrize(("protected", "status"), [(False, 200), (True, 401)])
async def test_metrics_may_be_protected(rig: Rig, protected: bool, status: int) -> None:
    rig.server.protection = Protection(token=TOKEN, metrics=protected)
    async with rig.http.get(rig.url("/metrics")) as answer:
        assert answer.status == status
    async with rig.http.get(rig.url("/metrics"), headers=BEARER) as answer:
        assert answer.status == 200
    async with rig.http.get(rig.url("/healthz")) as answer:
        assert answer.status == 200


async def test_a_page_says_where_the_next_begins(rig: Rig) -> None:
    async with rig.http.get(rig.url("/api/queues?limit=2&after=a"), headers=BEARER) as answer:
        assert await answer.json() == {"items": [{"name": "0"}, {"name": "1"}], "next": "1"}
    async with rig.http.get(rig.url("/api/queues?depth=true"), headers=BEARER) as answer:
        assert (await answer.json())["next"] is None
    assert rig.site.asked == [(Listing.QUEUES, 2, "a", False), (Listing.QUEUES, 100, "", True)]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "limit=-1", "limit=101&depth=true", "limit=²"])
async def test_a_page_is_bounded(rig: Rig, query: str) -> None:
    async with rig.http.get(rig.url(f"/api/queues?{query}"), headers=BEARER) as answer:
        assert answer.status == 400
        assert (await answer.text()).startswith("limit: a number from 1 to ")


async def test_a_queue_is_purged(rig: Rig) -> None:
    async with rig.http.post(rig.url("/api/purge"), headers=BEARER, json={"queue": "a/b"}) as answer:
        assert await answer.json() == {"queue": "a/b", "messages": 7}


@pytest.mark.parametrize(
    ("error", "status"),
    [(NoSuch("no queue 'x'"), 404), (Locked("x"), 409), (AccessDenied("no", resource="sqs queue x"), 502)],
)
async def test_what_cannot_be_done_is_told(rig: Rig, error: MqliftError, status: int) -> None:
    rig.site.error = error
    async with rig.http.post(rig.url("/api/purge"), headers=BEARER, json={"queue": "x"}) as answer:
        assert answer.status == status
        assert await answer.json() == {"problem": str(error)}


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"queue": 7}', b'{"queue": ""}', b"\xff"])
async def test_a_body_without_a_name_is_refused(rig: Rig, body: bytes) -> None:
    async with rig.http.post(rig.url("/api/purge"), headers=BEARER, data=body) as answer:
        assert answer.status == 400


async def test_a_connection_is_closed(rig: Rig) -> None:
    for connection, status in (("1-1", 200), ("1-2", 404)):
        async with rig.http.post(rig.url("/api/close"), headers=BEARER, json={"connection": connection}) as answer:
            assert answer.status == status
    assert rig.site.closed == ["1-1"]
