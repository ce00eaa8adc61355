"""Records of one shard that the service brings by itself, to one consumer that it knows by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import structlog

from gateway.core.backend import Target
from gateway.core.errors import BackendError, Contended
from gateway.core.health import Health
from gateway.core.retrying import retried
from gateway.core.streams.guide import ShardSource
from gateway.core.streams.port import Page, Position, Shard, StreamBackend, Whence
from gateway.core.streams.reader import BACKOFF, Cursor, Reader, Trouble

log = structlog.get_logger("mqlift.stream")

ENROLL_SECONDS: Final = 30.0
"""How long a consumer that begins is kept waiting until the service knows it. Registering one takes some seconds."""

STEADY_SECONDS: Final = 10.0
"""A subscription that has lasted so long works; those that are cut sooner are renewed less and less often."""


class ShardSubscriber:
    """See `reader.Reader`. It fills one cursor, and takes nothing from the network while that has no room.

    A subscription ends by itself after a while, and is cut when nobody reads it. The next one goes on behind what the
    cursor was given.
    """

    def __init__(
        self,
        backend: StreamBackend,
        target: Target,
        consumer: str,
        shard: str,
        *,
        health: Health,
        ended: Callable[[ShardSubscriber], None],
    ) -> None:
        """`ended`: called when it has done with the network."""
        self._backend = backend
        self._target = target
        self._consumer = consumer
        self._shard = shard
        self._resource = f"{target.kind} {target.name} (shard {shard}, enhanced fan-out consumer {consumer})"
        self._trouble = Trouble(self._resource, health, self._gone)
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._cursor: Cursor | None = None
        self._wanted = asyncio.Event()
        self._started = 0.0
        """When the last subscription began."""
        self._agreed: asyncio.Future[None] | None = None
        """Somebody waits for the first page, or to be told why there is none."""
        self._task: asyncio.Task[None] | None = None

    async def place(self, cursor: Cursor) -> None:
        """As `Reader.place`: the first page tells where the subscription stands."""
        self.join(cursor)
        if self._task is None or self._task.done():
            raise self._over()
        self._agreed = self._loop.create_future()
        try:
            await self._agreed
        finally:
            self._agreed = None

    def join(self, cursor: Cursor) -> None:
        if self._task is None:
            self._cursor = cursor
            self._task = self._loop.create_task(self._run(cursor))
            self._task.add_done_callback(self._done)

    def leave(self, cursor: Cursor) -> None:  # noqa: ARG002 - there is one
        self._trouble.over()  # nobody would find out
        if self._task is None:
            self._ended(self)
        self.stop()

    def wake(self) -> None:
        self._wanted.set()

    def stop(self) -> None:
        """End the subscription. What was not given to the cursor stays in the stream."""
        if self._task is not None:
            self._task.cancel()

    async def aclose(self) -> None:
        """Wait for the end of the subscription."""
        self.stop()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def _gone(self) -> None:
        """The stream, or what the service knows the consumer by; others may well go on reading."""
        if self._cursor is not None:
            self._cursor.owner.gone()

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("reader_failed_unexpectedly", stream=self._target.name, shard=self._shard, exc_info=error)
        self._answer(self._over())
        self._ended(self)

    async def _run(self, cursor: Cursor) -> None:
        """One subscription after the other, to the end of the shard."""
        while not cursor.ended:
            await self._room(cursor)
            wait = await self._subscription(cursor)
            renewed = self._started + self._backend.read_limits.subscription_seconds
            await asyncio.sleep(max(wait, renewed - self._loop.time()))

    async def _subscription(self, cursor: Cursor) -> float:
        """Seconds to wait before the next one."""
        self._started = self._loop.time()
        try:
            async with self._backend.subscribe(self._target, self._consumer, self._shard, _next(cursor)) as pages:
                await self._follow(cursor, pages)
        except Contended as error:
            # Who has lost the shard to another gateway learns so meanwhile, instead of taking it back.
            log.info("subscription_taken_over", stream=self._target.name, shard=self._shard, consumer=self._consumer)
            return max(self._failed(error), self._backend.read_limits.subscription_seconds)
        except BackendError as error:
            return self._failed(error)
        except Exception:
            log.exception("read_failed_unexpectedly", stream=self._target.name, shard=self._shard)
            return self._failed(self._trouble.bug())
        return 0.0

    def _failed(self, error: BackendError) -> float:
        self._answer(error)
        return self._trouble.met(error)

    async def _follow(self, cursor: Cursor, pages: AsyncIterator[Page]) -> None:
        async for page in pages:
            cursor.take(page)
            self._answer(None)
            if cursor.ended or self._loop.time() - self._started >= STEADY_SECONDS:
                self._trouble.over()
            if cursor.ended:
                return
            await self._room(cursor)

    async def _room(self, cursor: Cursor) -> None:
        while not cursor.owner.has_room():
            self._wanted.clear()
            await self._wanted.wait()

    def _over(self) -> BackendError:
        return BackendError("nobody wants it any more", resource=self._resource)

    def _answer(self, error: BackendError | None) -> None:
        if self._agreed is None or self._agreed.done():
            return
        if error is None:
            self._agreed.set_result(None)
        else:
            self._agreed.set_exception(error)


def _next(cursor: Cursor) -> Position:
    """Where the next subscription begins. The service counts on also where nothing was written: `iterator`."""
    return cursor.position if cursor.iterator is None else Position(Whence.AFTER, cursor.iterator)


class PushedShards:
    """See `guide.ShardSource`: the shards of a stream, each brought to one consumer."""

    def __init__(
        self, source: ShardSource, enroll: Callable[[], Awaitable[None]], open_reader: Callable[[str], Reader]
    ) -> None:
        """`enroll` has the service know the consumer; raises `BackendError`."""
        self._source = source
        self._enroll = enroll
        self._open_reader = open_reader
        self._enrolled = False

    @property
    def name(self) -> str:
        return self._source.name

    async def list_shards(self) -> Sequence[Shard]:
        """As `ShardSource.list_shards`; the first time it is found out whether records can be brought at all."""
        if not self._enrolled:
            await retried(self._enroll, asyncio.get_running_loop().time() + ENROLL_SECONDS, BACKOFF)
            self._enrolled = True
        return await self._source.list_shards()

    def reader(self, shard: str) -> Reader:
        """One for each time that the shard is begun: who has it now is told apart from who had it."""
        return self._open_reader(shard)
