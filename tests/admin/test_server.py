"""The admin server, asked by a real HTTP client."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from gateway.admin.server import MAX_HEADER_LINE, AdminServer
from gateway.core.errors import AccessDenied, ConfigError, CredentialsInvalid
from gateway.core.health import Health
from gateway.core.metrics import Metrics


class Rig:
    """A started server, what it shows, and a client."""

    def __init__(self, server: AdminServer, metrics: Metrics, health: Health, http: aiohttp.ClientSession) -> None:
        self.server = server
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
    server = AdminServer("127.0.0.1", 0, metrics.registry, health)
    await server.start()
    async with aiohttp.ClientSession() as http:
        yield Rig(server, metrics, health, http)
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
        server = AdminServer("127.0.0.1", port, CollectorRegistry(), Health())
        with pytest.raises(ConfigError, match=rf"^admin\.port: port {port} on 127\.0\.0\.1 is taken; "):
            await server.start()
        await server.aclose()


async def test_an_address_of_another_machine_is_a_configuration_error() -> None:
    server = AdminServer("192.0.2.1", 0, CollectorRegistry(), Health())
    with pytest.raises(ConfigError, match=r"^admin: cannot listen on 192\.0\.2\.1 port 0: "):
        await server.start()


async def test_closing_frees_the_port_and_may_be_repeated() -> None:
    server = AdminServer("127.0.0.1", 0, CollectorRegistry(), Health())
    await server.start()
    port = server.port
    await server.aclose()
    await server.aclose()
    with socket.create_server(("127.0.0.1", port)):
        pass
    with pytest.raises(RuntimeError, match="not started"):
        _ = server.port
