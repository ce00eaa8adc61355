"""What operators see of several workers together: each is asked, and the answers are put together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import aiohttp
import orjson
import structlog
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics_core import Metric

from gateway.admin.pages import place
from gateway.admin.port import Listing, NoSuch, Readiness, Row
from gateway.core.errors import MqliftError, Refused, Unavailable
from gateway.core.health import Problem
from gateway.exposition import Exposition, Shown, add_up, lasting, parse

log = structlog.get_logger("mqlift.workers")

ANSWER_LIMIT: Final = 5.0
"""Seconds that a worker has for an answer; with counts from AWS it takes some."""

ADDED: Final = ("connections", "paused", "published", "delivered", "unrouted", "inflight", "unsettled", "queues")
"""Figures of an overview that are sums. A queue that two workers use counts twice."""

_SUMMED_OF_QUEUE: Final = ("consumers", "unsettled", "published", "delivered")


@dataclass(slots=True)
class Worker:
    """One process. `process` is None while it waits to be started again."""

    number: int
    socket: Path
    process: asyncio.subprocess.Process | None = None
    up: bool = False
    """Whether it listens."""
    failures: int = 0


class Crew(Protocol):
    """Those who look after the workers."""

    all: list[Worker]

    @property
    def began(self) -> bool:
        """Whether all have listened once."""

    @property
    def draining(self) -> bool: ...


class WorkerSite:
    """The `Site` of all workers."""

    def __init__(self, workers: Crew, own: CollectorRegistry) -> None:
        self._workers = workers
        self._own = own
        self._last: dict[tuple[int, int], Exposition] = {}
        """What each process said last, by worker and process id."""
        self._ended: Exposition = {}
        """What processes that have ended had counted when they were last asked: counters never fall."""
        gauge = Gauge("mqlift_workers", "Workers that answer", registry=own)
        gauge.set_function(lambda: len(self._up()))

    async def registry(self) -> CollectorRegistry:
        await self._ask_for_metrics()
        registry = CollectorRegistry()
        registry.register(Shown(self._families()))
        return registry

    async def readiness(self) -> Readiness:
        answers = await self._gather("/readyz", also=(503,))
        problems: dict[str, Problem] = {}
        for report in answers.values():
            for problem in _rows(report.get("problems")):
                resource, text = str(problem["resource"]), str(problem["problem"])
                problems[resource] = Problem(resource, text, bool(problem["fatal"]))
        for worker in self._workers.all:
            if worker.number not in answers:
                resource = f"worker {worker.number}"
                problems[resource] = Problem(resource, "does not answer", not answers)
        ready = bool(answers) and all(bool(report["ready"]) for report in answers.values())
        draining = self._workers.draining
        ready = ready and self._workers.began
        return Readiness(ready=ready and not draining, draining=draining, problems=tuple(problems.values()))

    async def overview(self) -> Row:
        answers = list((await self._gather("/api/overview")).values())
        if not answers:
            raise Unavailable("no worker answers")
        readiness = await self.readiness()
        shown = dict(answers[0])
        for key in ADDED:
            shown[key] = sum(_number(answer, key) for answer in answers)
        shown |= {"workers": len(answers), "ready": readiness.ready, "problems": len(readiness.problems)}
        shown["started"] = min(_number(answer, "started") for answer in answers)
        return shown

    async def rows(self, listing: Listing, limit: int, after: str, *, depth: bool) -> list[Row]:
        query = {"limit": str(limit), "after": after} | ({"depth": "true"} if depth else {})
        answers = await self._gather(f"/api/{listing.path}", query=query)
        merged: dict[str, Row] = {}
        for answer in answers.values():
            for row in _rows(answer.get("items")):
                key = str(row[listing.key])
                merged[key] = _one_queue(merged.get(key), row) if listing is Listing.QUEUES else row
        return [merged[key] for key in sorted(merged, key=place)[:limit]]

    async def purge(self, queue: str) -> int:
        """Any worker that knows the queue can do it: the messages are in AWS."""
        problem: MqliftError = NoSuch(f"no queue {queue!r}")
        for worker in self._up():
            status, answer = await self._ask(worker, "/api/purge", body={"queue": queue})
            if status == 200:
                return int(_number(answer, "messages"))
            if status != 404:
                problem = Refused(str(answer.get("problem", f"worker {worker.number} answered {status}")))
        raise problem

    async def close(self, connection: str) -> None:
        number = connection.partition("-")[0]
        for worker in self._up():
            if str(worker.number) == number:
                status, _ = await self._ask(worker, "/api/close", body={"connection": connection})
                if status == 200:
                    return
        raise NoSuch(f"no connection {connection!r}")

    def _up(self) -> list[Worker]:
        return [worker for worker in self._workers.all if worker.up]

    async def _gather(
        self, path: str, *, query: Mapping[str, str] | None = None, also: Sequence[int] = ()
    ) -> dict[int, Row]:
        """The answers of those that are up, by their number."""
        up = self._up()
        answers = await asyncio.gather(*(self._ask(worker, path, query=query) for worker in up), return_exceptions=True)
        found: dict[int, Row] = {}
        for worker, answer in zip(up, answers, strict=True):
            if isinstance(answer, Unavailable):
                log.warning("worker_does_not_answer", worker=worker.number, problem=str(answer))
            elif isinstance(answer, BaseException):
                raise answer
            elif answer[0] == 200 or answer[0] in also:
                found[worker.number] = answer[1]
        return found

    async def _ask(
        self, worker: Worker, path: str, *, query: Mapping[str, str] | None = None, body: Row | None = None
    ) -> tuple[int, Row]:
        """Raises `Unavailable`."""
        status, content = await self._fetch(worker, path, query, body)
        document = orjson.loads(content)
        return status, document if isinstance(document, dict) else {}

    async def _fetch(
        self, worker: Worker, path: str, query: Mapping[str, str] | None = None, body: Row | None = None
    ) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(total=ANSWER_LIMIT)
        connector = aiohttp.UnixConnector(str(worker.socket))
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.request(
                    "GET" if body is None else "POST",
                    f"http://worker{path}",
                    params=query,
                    data=None if body is None else orjson.dumps(body),
                ) as answer,
            ):
                return answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(str(error) or "no answer", resource=f"worker {worker.number}") from error

    # Metrics

    async def _ask_for_metrics(self) -> None:
        up = self._up()
        texts = await asyncio.gather(*(self._fetch(worker, "/metrics") for worker in up), return_exceptions=True)
        for worker, answer in zip(up, texts, strict=True):
            if isinstance(answer, Unavailable):
                log.warning("worker_does_not_answer", worker=worker.number, problem=str(answer))
            elif isinstance(answer, BaseException):
                raise answer
            elif worker.process is not None:
                self._last[worker.number, worker.process.pid] = parse(answer[1].decode())
        self._bury_ended()

    def _bury_ended(self) -> None:
        alive = {(worker.number, worker.process.pid) for worker in self._workers.all if worker.process is not None}
        for process in self._last.keys() - alive:
            self._ended = add_up([self._ended, lasting(self._last.pop(process))])

    def _families(self) -> list[Metric]:
        own = {family.name: family for family in self._own.collect()}
        return list(add_up([self._ended, *self._last.values(), own]).values())


def _rows(value: object) -> Iterable[Row]:
    return (row for row in value if isinstance(row, dict)) if isinstance(value, list) else ()


def _number(row: Row, key: str) -> float:
    value = row.get(key)
    return value if isinstance(value, (int, float)) else 0


def _one_queue(known: Row | None, row: Row) -> Row:
    """A queue that several workers use."""
    if known is None:
        return row
    return known | {key: _number(known, key) + _number(row, key) for key in _SUMMED_OF_QUEUE}
