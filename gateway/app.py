"""The gateway as a whole: joins the parts, starts them, and takes them down in the order that loses nothing."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from importlib import metadata
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Histogram

from adapters.aws.api import AwsClient
from adapters.aws.client import open_client
from config.settings import Settings
from gateway.admin.server import AdminServer
from gateway.assembly import (
    HOME_KIND,
    Assembly,
    IngressPart,
    ListenerPart,
    assemble,
    open_backend,
    open_inlet,
    open_store,
    open_subscribers,
)
from gateway.authentication import Access
from gateway.core.backend import Backend
from gateway.core.batcher import BatchPolicy
from gateway.core.broker import Broker, BrokerLimits
from gateway.core.health import Health
from gateway.core.ingress import Ingress
from gateway.core.metrics import Metrics, ReadsMessages, Tally
from gateway.core.receiver import ReceivePolicy
from gateway.core.retained import RetainedLimits
from gateway.core.session import Session, SessionContext
from gateway.core.store import StateStore
from gateway.core.topology import Topology
from gateway.net.limits import ConnectionLimits
from gateway.net.listener import Listener, ListenerOptions
from gateway.notify import READY, STOPPING, notify
from gateway.status import StatusTopics

log = structlog.get_logger("mqlift.app")

CLOSE_LIMIT: Final = 2.0
"""Seconds that connections have to take their last bytes, on top of the drain."""


class Gateway:
    """One running gateway. `start`, then `stop`; both once."""

    def __init__(self, assembly: Assembly, aws: AwsClient, store: StateStore, metrics: Metrics) -> None:
        settings = assembly.settings
        self.settings = settings
        self.health = Health()
        self._metrics = metrics
        self._aws = aws
        self._access = Access(assembly.access)
        backends = {kind: open_backend(kind, aws, settings) for kind in assembly.kinds}
        for kind, backend in backends.items():
            if isinstance(backend, ReadsMessages):
                metrics.count_unreadable(kind, backend)
        self._broker = Broker(
            topology=Topology(),
            routes=assembly.routes,
            backends=backends,
            home=HOME_KIND,
            authenticator=self._access.authenticator,
            authorizer=self._access.authorizer,
            sending=_sending(settings),
            receiving=_receiving(settings),
            limits=BrokerLimits(
                inflight_messages=settings.limits.gateway.inflight_messages,
                inflight_bytes=settings.limits.gateway.inflight_bytes,
                durable_queues=settings.limits.gateway.durable_queues,
                sessions=settings.limits.gateway.sessions,
                retained=RetainedLimits(
                    messages=settings.limits.gateway.retained_messages, bytes=settings.limits.gateway.retained_bytes
                ),
            ),
            store=store,
            metrics=metrics,
            health=self.health,
            subscribers=open_subscribers(assembly, aws),
        )
        self._ingress = [self._open_ingress(part, backends[HOME_KIND]) for part in assembly.ingress]
        self._status = StatusTopics(self._broker, metrics, metadata.version("mqlift"))
        self._listeners = [self._listener(listener) for listener in assembly.listeners]
        self._admin = AdminServer(settings.admin.host, settings.admin.port, metrics.registry, self.health)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Take up what was kept, and listen; when that fails, what was started before is taken down again.

        Raises `ConfigError` for a port that cannot be had, and `StoreError`.
        """
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.stop, 0.0)
            await self._admin.start()
            await self._broker.restore()
            for listener in self._listeners:
                await listener.start()
            self._tasks = [asyncio.create_task(self._broker.watch()), asyncio.create_task(self._status.run())]
            self._tasks += [asyncio.create_task(ingress.run()) for ingress in self._ingress]
            for task in self._tasks:
                task.add_done_callback(_tell_failure)
            undo.pop_all()

    async def stop(self, patience: float) -> None:
        """Take nothing new, answer publishes, release deliveries, let polls end; give up after `patience` seconds."""
        self.health.draining = True
        log.info("draining", patience=patience)
        for listener in self._listeners:
            listener.stop_listening()
        self._broker.stop_polling()
        for ingress in self._ingress:
            ingress.stop()
        try:
            async with asyncio.timeout(patience):
                await self._broker.answered()
                await self._close_connections(CLOSE_LIMIT)
                await asyncio.gather(self._broker.drain(), *(ingress.drain() for ingress in self._ingress))
        except TimeoutError:
            log.warning("drain_incomplete", patience=patience)
        finally:
            await self._close_connections(0.0)
            await self._take_down()

    async def _close_connections(self, patience: float) -> None:
        await asyncio.gather(*(listener.shutdown(patience) for listener in self._listeners))

    async def _take_down(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for ingress in self._ingress:
            await ingress.aclose()
        await self._broker.aclose()
        await self._aws.aclose()
        await self._admin.aclose()
        self._access.close()

    def _open_ingress(self, part: IngressPart, backend: Backend) -> Ingress:
        queue = backend.home(part.queue, part.spec)
        return Ingress(
            part.rule,
            open_inlet(part, self._aws, queue, self.settings),
            self._broker,
            backend,
            queue,
            part.spec,
            sending=_sending(self.settings),
            receiving=_receiving(self.settings),
            metrics=self._metrics,
            health=self.health,
        )

    def _listener(self, part: ListenerPart) -> Listener:
        server = f"mqlift/{metadata.version('mqlift')}"
        discarded = self._metrics.tally(self._metrics.discarded.labels(part.settings.protocol))

        def open_session(peer: str, now: float) -> Session:
            context = SessionContext(peer=peer, server=server, settings=part.protocol_settings, discarded=discarded)
            return part.open_session(context, now)

        return Listener(_listener_options(part, self.settings), open_session, self._broker, self._metrics)


async def serve(settings: Settings, *, ready: Callable[[Gateway], None] | None = None) -> int:
    """Run a gateway until SIGTERM or SIGINT; a second signal cuts the drain short. Gives the exit code.

    Raises `ConfigErrors` or `ConfigError` when it cannot start.
    """
    assembly = assemble(settings)
    metrics = Metrics(CollectorRegistry())
    store = open_store(settings.state)
    aws = await open_client(assembly.aws, _observer(metrics), services=assembly.kinds)
    gateway = Gateway(assembly, aws, store, metrics)
    await gateway.start()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    stop: asyncio.Task[None] | None = None

    def on_signal() -> None:
        if stopping.is_set() and stop is not None:
            log.warning("drain_cut_short")
            stop.cancel()
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    log.info("started", version=metadata.version("mqlift"))
    notify(READY, "serving")
    if ready is not None:
        ready(gateway)
    await stopping.wait()
    notify(STOPPING, "draining")
    stop = asyncio.create_task(gateway.stop(settings.drain_timeout))
    with suppress(asyncio.CancelledError):
        await stop
    log.info("stopped")
    return 0


def _tell_failure(task: asyncio.Task[None]) -> None:
    """A task that should never end has failed: a bug, to be seen at once and not at the end."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task_failed_unexpectedly", exc_info=error)


def _sending(settings: Settings) -> BatchPolicy:
    sender = settings.sender
    return BatchPolicy(
        requests=sender.requests,
        partial_requests=sender.partial_requests,
        linger=sender.linger,
        timeout=sender.timeout,
        backoff_base=sender.backoff_base,
        backoff_cap=sender.backoff_cap,
    )


def _receiving(settings: Settings) -> ReceivePolicy:
    receiver = settings.receiver
    return ReceivePolicy(visibility=receiver.visibility, wait=receiver.wait, polls=receiver.polls)


def _listener_options(part: ListenerPart, settings: Settings) -> ListenerOptions:
    listener = part.settings
    return ListenerOptions(
        protocol=listener.protocol,
        host=listener.host,
        port=listener.port,
        max_connections=listener.max_connections,
        limits=ConnectionLimits(
            connect_timeout=listener.connect_timeout,
            inflight=settings.limits.connection.inflight_messages,
            inflight_bytes=settings.limits.connection.inflight_bytes,
        ),
        tls=part.tls,
        websocket=part.websocket,
        proxy_protocol=listener.proxy_protocol,
    )


def _observer(metrics: Metrics) -> Callable[[str, str, str, float], None]:
    calls: dict[tuple[str, str, str], Tally] = {}
    latencies: dict[tuple[str, str], Histogram] = {}

    def observe(service: str, action: str, outcome: str, seconds: float) -> None:
        tally = calls.get((service, action, outcome))
        if tally is None:
            tally = calls[service, action, outcome] = metrics.tally(metrics.aws_calls.labels(service, action, outcome))
            latencies[service, action] = metrics.aws_seconds.labels(service, action)
        tally.count += 1
        latencies[service, action].observe(seconds)

    return observe
