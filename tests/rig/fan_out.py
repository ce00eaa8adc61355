"""Enhanced fan-out in front of an emulator, which need not have it: subscriptions end when a test likes."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections import deque
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self, TypeAlias

import aiohttp
from aiohttp import web

from tests.rig.event_stream import CONTENT, event, fault, initial
from tests.rig.processes import HOST
from tests.rig.waiting import wait_for

TAKEOVER_SECONDS = 5.0
"""As in Kinesis: who subscribes sooner after another is refused, later takes the shard over."""
IDLE_SECONDS = 1.0
POLL_SECONDS = 0.05
STOP_TIMEOUT = 10.0
KEPT = {"authorization", "content-type", "x-amz-date"}

Document: TypeAlias = dict[str, Any]  # AWS's own shapes


class Ending(Enum):
    """How a subscription ends that is to end early, behind its first event with records."""

    DONE = auto()
    """As after its time."""
    FAULT = auto()
    """With an event InternalFailureException."""
    CUT = auto()
    """The connection is gone."""
    CUT_WITHIN = auto()
    """The connection is gone in the middle of the next event, which has been read from the shard."""


class FanOutEndpoint:
    """Use it as a context manager; the gateway's `endpoint_url` is `url`. It forwards what is no subscription."""

    def __init__(self, upstream: str, *, subscription_seconds: float = 300.0) -> None:
        self._upstream = upstream
        self._seconds = subscription_seconds
        self._live: dict[tuple[str, str], tuple[float, int]] = {}
        self._numbers = itertools.count(1)
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="fan-out", daemon=True)
        self._port = 0
        self.endings: deque[Ending] = deque()
        """What the next subscriptions that have records are ended with."""
        self.agreed: list[Document] = []
        """The requests of subscriptions that were agreed to."""
        self.reads: list[str] = []
        """The shards of `GetRecords` and `GetShardIterator`, as far as the gateway itself asked for them."""

    def __enter__(self) -> Self:
        self._thread.start()
        wait_for(lambda: self._port or not self._thread.is_alive(), "the endpoint listens")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STOP_TIMEOUT)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with aiohttp.ClientSession() as self._session:
            application = web.Application(client_max_size=16 * 1024 * 1024)
            application.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(application, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, HOST, 0)
            await site.start()
            self._port = runner.addresses[0][1]
            await self._stop.wait()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        action = request.headers.get("x-amz-target", "").rpartition(".")[2]
        if action == "SubscribeToShard":
            return await self._subscribe(request, json.loads(body))
        if action in {"GetRecords", "GetShardIterator"}:
            self.reads.append(action)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        async with self._session.request(
            request.method, self._upstream + request.path_qs, data=body, headers=headers
        ) as answer:
            content = answer.headers.get("content-type", "")
            return web.Response(status=answer.status, body=await answer.read(), headers={"content-type": content})

    async def _call(self, request: web.Request, action: str, document: Document) -> Document:
        headers = {name: value for name, value in request.headers.items() if name.lower() in KEPT}
        headers["x-amz-target"] = f"Kinesis_20131202.{action}"
        async with self._session.post(self._upstream, data=json.dumps(document), headers=headers) as answer:
            answer.raise_for_status()
            found: Document = json.loads(await answer.read())
            return found

    async def _subscribe(self, request: web.Request, asked: Document) -> web.StreamResponse:
        key = asked["ConsumerARN"], asked["ShardId"]
        now = time.monotonic()
        if key in self._live and now - self._live[key][0] < TAKEOVER_SECONDS:
            refusal = {"__type": "ResourceInUseException", "message": "there is another one"}
            return web.json_response(refusal, status=400)
        number = next(self._numbers)
        self._live[key] = now, number
        self.agreed.append(asked)
        response = web.StreamResponse(headers={"content-type": CONTENT})
        await response.prepare(request)
        try:
            await response.write(initial())
            await self._bring(request, response, asked, key, number)
        except ConnectionResetError:
            pass  # the gateway has hung up
        finally:
            if self._live.get(key, (0.0, 0))[1] == number:
                del self._live[key]
        return response

    async def _bring(
        self, request: web.Request, response: web.StreamResponse, asked: Document, key: tuple[str, str], number: int
    ) -> None:
        stream = asked["ConsumerARN"].partition("/consumer/")[0].rpartition("/")[2]
        place = asked["StartingPosition"]
        iterator = await self._iterator(request, stream, asked["ShardId"], place)
        following = place.get("SequenceNumber", "0")
        told, ending, end = 0.0, None, time.monotonic() + self._seconds
        while time.monotonic() < end and not self._stop.is_set():
            if self._live[key][1] != number:
                await response.write(fault("ResourceInUseException", "taken over"))
                return
            page = await self._call(request, "GetRecords", {"ShardIterator": iterator})
            records = page["Records"]
            document: Document = {"Records": records, "MillisBehindLatest": page.get("MillisBehindLatest", 0)}
            if not page.get("NextShardIterator"):
                document["ChildShards"] = await self._children(request, stream, asked["ShardId"])
                await response.write(event("SubscribeToShardEvent", document))
                return
            iterator = page["NextShardIterator"]
            following = records[-1]["SequenceNumber"] if records else following
            document["ContinuationSequenceNumber"] = following
            if ending is not None and (records or ending is not Ending.CUT_WITHIN):
                await self._end(request, response, ending, document)
                return
            if records or time.monotonic() - told > IDLE_SECONDS:
                await response.write(event("SubscribeToShardEvent", document))
                told = time.monotonic()
            if records and self.endings:
                ending = self.endings.popleft()
            await asyncio.sleep(POLL_SECONDS)

    async def _end(
        self, request: web.Request, response: web.StreamResponse, ending: Ending, document: Document
    ) -> None:
        if ending is Ending.FAULT:
            await response.write(fault("InternalFailureException", "not our day"))
        if ending is Ending.CUT_WITHIN:
            await response.write(event("SubscribeToShardEvent", document)[:-20])
        if ending in {Ending.CUT, Ending.CUT_WITHIN} and request.transport is not None:
            request.transport.close()

    async def _iterator(self, request: web.Request, stream: str, shard: str, place: Document) -> str:
        asked: Document = {"StreamName": stream, "ShardId": shard, "ShardIteratorType": place["Type"]}
        if "SequenceNumber" in place:
            asked["StartingSequenceNumber"] = place["SequenceNumber"]
        if "Timestamp" in place:
            asked["Timestamp"] = place["Timestamp"]
        return str((await self._call(request, "GetShardIterator", asked))["ShardIterator"])

    async def _children(self, request: web.Request, stream: str, shard: str) -> list[Document]:
        shards = (await self._call(request, "ListShards", {"StreamName": stream}))["Shards"]
        parents = {each["ShardId"]: [each.get("ParentShardId"), each.get("AdjacentParentShardId")] for each in shards}
        return [
            {"ShardId": child, "ParentShards": [name for name in names if name]}
            for child, names in parents.items()
            if shard in names
        ]
