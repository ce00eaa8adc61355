"""An AWS endpoint between gateway and emulator that injects faults on demand, and remembers what really happened."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from io import BytesIO
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs

import aiohttp

from tests.rig.faults import Answer, Call, Fault, render
from tests.rig.processes import HOST
from tests.rig.waiting import wait_for

MAX_HEAD_BYTES = 64 * 1024
MAX_HISTORY = 200_000
UPSTREAM_TIMEOUT = 60.0
LARGE = 1024 * 1024
"""Bytes of a request over which aiohttp wants a file."""
POLL_INTERVAL = 0.05
STOP_TIMEOUT = 10.0
CLOSING = 0.05
"""Seconds that closed sockets have to leave the event loop before it ends."""
HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding", "expect"}
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""`SO_LINGER` on, of no time: closing sends a reset (socket(7), tcp(7))."""


@dataclass(slots=True)
class Exchange:
    """One request, and what became of it. Times are of `time.monotonic`, which all processes of a machine share."""

    at: float
    """When the request was here, before anything was forwarded."""
    call: Call
    fault: Fault | None
    forwarded: list[tuple[Call, Answer, float]] = field(default_factory=list)
    """What the emulator was asked, what it answered, and when; receives that found nothing are left out."""
    answer: Answer | None = None
    """What the client was told; None when it was told nothing."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A message that the emulator has taken."""

    queue: str
    body: str
    at: float
    """When the emulator's answer came."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A delivery that the gateway asked to delete, or to make visible again."""

    queue: str
    body: str
    at: float
    """When the request came, before it was forwarded."""


@dataclass(slots=True)
class Rule:
    """Injects a fault for `times` calls (None: for ever) of one action, or of any (empty)."""

    fault: Fault
    action: str
    times: int | None

    def take(self, action: str) -> Fault | None:
        if self.times == 0 or self.action not in {"", action}:
            return None
        if self.times is not None:
            self.times -= 1
        return self.fault


@dataclass(slots=True)
class Chaos:
    """Injects a random one of `faults` with a probability."""

    faults: Sequence[Fault]
    probability: float
    actions: frozenset[str]
    random: random.Random

    def take(self, action: str) -> Fault | None:
        # Drawn for each call: the same seed and the same calls give the same faults.
        chance, fault = self.random.random(), self.random.choice(self.faults)
        return fault if chance < self.probability and (not self.actions or action in self.actions) else None


class FaultEndpoint:
    """Use it as a context manager; the gateway's `endpoint_url` is `url`. All methods are for the test's thread."""

    def __init__(self, upstream: str, port: int = 0) -> None:
        self._upstream = upstream
        self._port = port
        self._plan: list[Rule | Chaos] = []
        self._history: list[Exchange] = []
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._errors: list[Exception] = []
        self._thread = threading.Thread(target=self._run, name="fault-endpoint", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        wait_for(lambda: self._loop is not None or not self._thread.is_alive(), "the fault endpoint listens")
        if self._loop is None:
            raise OSError(f"cannot listen on port {self._port}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STOP_TIMEOUT)
        if self._errors and error is None:
            raise ExceptionGroup("bugs of the fault endpoint", self._errors)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    def inject(self, fault: Fault, *, action: str = "", times: int | None = 1) -> None:
        """Let the next `times` calls of `action` (any, when empty) meet a fault; None means until `clear`.

        Faults that are injected earlier are used up first.
        """
        with self._lock:
            self._plan.append(Rule(fault, action, times))

    def chaos(self, faults: Sequence[Fault], probability: float, *, seed: int, actions: Sequence[str] = ()) -> None:
        """Let calls meet random faults until `clear`."""
        with self._lock:
            self._plan.append(Chaos(faults, probability, frozenset(actions), random.Random(seed)))

    def clear(self) -> None:
        """Inject nothing more. Calls that wait for an answer go on waiting."""
        with self._lock:
            self._plan.clear()

    @property
    def history(self) -> list[Exchange]:
        """Everything so far, in the order of arrival."""
        with self._lock:
            return list(self._history)

    def calls(self, *actions: str) -> list[Exchange]:
        return [exchange for exchange in self.history if exchange.call.action in actions]

    def injected(self) -> Counter[Fault]:
        """How often each fault was met."""
        return Counter(exchange.fault for exchange in self.history if exchange.fault is not None)

    def stored(self, queue: str = "") -> list[Stored]:
        """Every message that the emulator has taken through here, whatever the gateway was told."""
        return [
            each
            for exchange in self.calls("SendMessage", "SendMessageBatch")
            for each in _stored(exchange)
            if queue in {"", each.queue}
        ]

    def handed_out(self) -> dict[str, str]:
        """The bodies that the emulator has handed out through here, by receipt handle."""
        return {
            message["ReceiptHandle"]: message["Body"]
            for exchange in self.calls("ReceiveMessage")
            for _, answer, _ in exchange.forwarded
            for message in answer.document.get("Messages", ())
        }

    def deleted(self, queue: str = "") -> list[Ended]:
        """Every delete that was asked for, whether or not it took effect."""
        return list(self._ended(queue, "DeleteMessage", "DeleteMessageBatch"))

    def released(self, queue: str = "") -> list[Ended]:
        """Every delivery that was made visible at once."""
        return list(self._ended(queue, "ChangeMessageVisibility", "ChangeMessageVisibilityBatch"))

    def _ended(self, queue: str, *actions: str) -> Iterator[Ended]:
        bodies = self.handed_out()
        for exchange in self.calls(*actions):
            if queue not in {"", exchange.call.queue}:
                continue
            for entry in exchange.call.entries:
                if entry.get("VisibilityTimeout", 0) == 0:
                    yield Ended(exchange.call.queue, bodies.get(entry["ReceiptHandle"], ""), exchange.at)

    # From here on: the endpoint's own thread.

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        timeout = aiohttp.ClientTimeout(total=UPSTREAM_TIMEOUT)
        connector = aiohttp.TCPConnector(limit=0)
        tasks: set[asyncio.Task[None]] = set()
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False) as upstream:

            def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                if self._stop.is_set():
                    writer.transport.abort()  # it was in the backlog
                    return
                task = asyncio.create_task(self._converse(_Peer(reader, writer), upstream))
                tasks.add(task)
                task.add_done_callback(ended)

            def ended(task: asyncio.Task[None]) -> None:
                tasks.discard(task)
                if not task.cancelled() and isinstance(error := task.exception(), Exception):
                    self._errors.append(error)

            server = await asyncio.start_server(connected, HOST, self._port, limit=MAX_HEAD_BYTES)
            self._port = server.sockets[0].getsockname()[1]
            self._loop = asyncio.get_running_loop()
            await self._stop.wait()
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        # What was aborted, here and upstream, is closed in the next turns of the loop.
        await asyncio.sleep(CLOSING)

    async def _converse(self, peer: _Peer, upstream: aiohttp.ClientSession) -> None:
        try:
            while (call := await peer.request()) is not None:
                answer = await self._exchange(call, peer, upstream)
                if answer is None:
                    return
                peer.write(render(answer))
                await peer.flush()
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client left, which it may at any time
        except asyncio.CancelledError:
            peer.abort()  # the end: nothing waits for a client that does not read
            raise
        finally:
            peer.close()

    async def _exchange(self, call: Call, peer: _Peer, upstream: aiohttp.ClientSession) -> Answer | None:
        exchange = self._begin(call)

        async def forward(forwarded: Call) -> Answer:
            if call.action == "ReceiveMessage":
                answer = await self._long_poll(forwarded, peer, upstream)
            else:
                answer = await self._forward(forwarded, upstream)
            if call.action != "ReceiveMessage" or answer.document.get("Messages"):
                with self._lock:
                    exchange.forwarded.append((forwarded, answer, time.monotonic()))
            return answer

        answer: Answer | None
        if exchange.fault is None:
            answer = await forward(call)
        else:
            answer = await exchange.fault.serve(call, forward, peer)
        with self._lock:
            exchange.answer = answer
        return answer

    def _begin(self, call: Call) -> Exchange:
        with self._lock:
            if len(self._history) >= MAX_HISTORY:
                raise RuntimeError("more calls than a test may make")
            fault = next(filter(None, (each.take(call.action) for each in self._plan)), None)
            exchange = Exchange(time.monotonic(), call, fault)
            self._history.append(exchange)
        return exchange

    async def _long_poll(self, call: Call, peer: _Peer, upstream: aiohttp.ClientSession) -> Answer:
        """Ask again and again without waiting: the emulator's own polls outlive their clients, and hide what they take.

        Raises `ConnectionResetError` as soon as the client has gone.
        """
        document = call.document
        short = replace(call, body=json.dumps(document | {"WaitTimeSeconds": 0}).encode())
        deadline = time.monotonic() + document.get("WaitTimeSeconds", 0)
        gone = asyncio.create_task(peer.gone())
        try:
            while True:
                answer = await self._forward(short, upstream)
                if not answer.ok or answer.document.get("Messages") or time.monotonic() >= deadline:
                    return answer
                await asyncio.wait((gone,), timeout=POLL_INTERVAL)
                if gone.done():
                    raise ConnectionResetError("the client has given up its long poll")
        finally:
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)

    async def _forward(self, call: Call, upstream: aiohttp.ClientSession) -> Answer:
        headers = {name: value for name, value in call.headers.items() if name not in HOP_BY_HOP}
        body = call.body.replace(self.url.encode(), self._upstream.encode())
        url = self._upstream + call.path
        try:
            async with upstream.request(
                call.method,
                url,
                data=BytesIO(body) if len(body) > LARGE else body,
                headers=headers,
                allow_redirects=False,
            ) as response:
                kept = {name: value for name, value in response.headers.items() if name.lower() not in HOP_BY_HOP}
                if call.method == "HEAD":
                    kept["Content-Length"] = response.headers.get("Content-Length", "0")
                text = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            return Answer(HTTPStatus.BAD_GATEWAY, repr(error).encode(), {"Content-Type": "text/plain"})
        # Queue URLs name the emulator; a client that follows them would go past this endpoint.
        return Answer(response.status, text.replace(self._upstream.encode(), self.url.encode()), kept)


class _Peer:
    """One connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def request(self) -> Call | None:
        """The next request, None when the client has closed the connection between two."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return None
        line, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, path, _ = line.split(" ", 2)
        fields = (each.partition(":") for each in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        if headers.get("expect", "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Call(method, path, headers, body, action_of(headers, body) or s3_action_of(method, path, headers))

    async def gone(self) -> None:
        while await self._reader.read(MAX_HEAD_BYTES):
            pass

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def flush(self) -> None:
        await self._writer.drain()

    def reset(self) -> None:
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._writer.transport.abort()

    def close(self) -> None:
        with contextlib.suppress(ConnectionError):
            self._writer.close()

    def abort(self) -> None:
        self._writer.transport.abort()


def action_of(headers: dict[str, str], body: bytes) -> str:
    """The operation that is asked for: AWS's JSON protocols name it in a header, the query protocol in a field."""
    target = headers.get("x-amz-target", "")
    if target:
        return target.rpartition(".")[2]
    if headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return next(iter(parse_qs(body.decode("latin-1")).get("Action", ())), "")
    return ""


_S3_ACTIONS = {"PUT": "PutObject", "GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}
_S3_UPLOAD_ACTIONS = {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}


def s3_action_of(method: str, path: str, headers: dict[str, str]) -> str:
    """The operation on an object that is asked for of S3, which names it nowhere; empty for another service."""
    if "/s3/aws4_request" not in headers.get("authorization", ""):
        return ""
    query = parse_qs(path.partition("?")[2], keep_blank_values=True)
    if "uploads" in query:
        return "CreateMultipartUpload"
    return (_S3_UPLOAD_ACTIONS if "uploadId" in query else _S3_ACTIONS).get(method, "")


def _stored(exchange: Exchange) -> Iterator[Stored]:
    for call, answer, at in exchange.forwarded:
        if not answer.ok:
            continue
        failed = {entry["Id"] for entry in answer.document.get("Failed", ())}
        for entry in call.entries:
            if entry.get("Id") not in failed:
                yield Stored(call.queue, entry["MessageBody"], at)
