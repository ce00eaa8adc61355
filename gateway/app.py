"""The gateway as a whole: joins the parts, starts them, and takes them down in the order that loses nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Histogram

from adapters.aws.api import AwsClient
from adapters.aws.client import open_client
from config.mistakes import ConfigErrors
from config.settings import ListenerSettings, Settings, load
from gateway import logs
from gateway.admin.server import AdminServer, Protection
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
    open_tracer,
)
from gateway.authentication import Access
from gateway.core.audit import AuditedAuthenticator
from gateway.core.backend import Backend
from gateway.core.batcher import BatchPolicy
from gateway.core.broker import Broker, BrokerLimits
from gateway.core.budget import ByteBudget
from gateway.core.errors import ConfigError
from gateway.core.fleet.broker import FleetBroker
from gateway.core.health import Health
from gateway.core.ingress import Ingress
from gateway.core.metrics import Metrics, ReadsMessages, Tally
from gateway.core.observedstore import ObservedStore
from gateway.core.receiver import ReceivePolicy
from gateway.core.retained import RetainedLimits
from gateway.core.session import Session, SessionContext
from gateway.core.store import StateStore
from gateway.core.topology import Topology
from gateway.core.workerbroker import WorkerBroker
from gateway.net.limits import ConnectionLimits
from gateway.net.listener import Listener, ListenerOptions
from gateway.net.pace import PublishRate
from gateway.net.quotas import QuotaLimits, Quotas
from gateway.notify import READY, STOPPING, notify
from gateway.operations import Operations
from gateway.reloading import can_follow, waits_for_restart
from gateway.rules import STREAM_KIND
from gateway.status import StatusTopics

log = structlog.get_logger("mqlift.app")

LISTENING: Final = b"1"
"""What a worker says when it listens."""

CLOSE_LIMIT: Final = 2.0
"""Seconds that connections have to take their last bytes, on top of the drain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which of several workers a gateway is, and where it answers the process that looks after them."""

    number: int
    """From 1."""
    socket: Path


class Gateway:
    """One running gateway. `start`, then `stop`; both once. With a `place` it shares its ports with other processes."""

    def __init__(
        self, assembly: Assembly, aws: AwsClient, store: StateStore, metrics: Metrics, place: Place | None = None
    ) -> None:
        settings = assembly.settings
        self.settings = settings
        self.health = Health()
        self._metrics = metrics
        self._aws = aws
        self._place = place
        self._access = Access(assembly.access)
        backends = {kind: open_backend(kind, aws, settings) for kind in assembly.kinds}
        for kind, backend in backends.items():
            if isinstance(backend, ReadsMessages):
                metrics.count_unreadable(kind, backend)
        self._broker = _broker_kind(place, store)(
            topology=Topology(),
            routes=assembly.routes,
            backends=backends,
            home=HOME_KIND,
            stream_home=STREAM_KIND,
            authenticator=AuditedAuthenticator(self._access.authenticator, metrics),
            authorizer=self._access.authorizer,
            sending=_sending(settings),
            receiving=_receiving(settings),
            limits=_limits(settings),
            store=ObservedStore(store, metrics),
            metrics=metrics,
            health=self.health,
            subscribers=open_subscribers(assembly, aws),
        )
        self._broker.client_ids_shared = _client_ids_shared(settings)
        self._tracer = self._broker.tracer = open_tracer(settings)
        self._ingress = [self._open_ingress(part, backends[HOME_KIND]) for part in assembly.ingress]
        self._ingress_queues = [part.rule.queue for part in assembly.ingress if part.rule.queue is not None]
        self._status = StatusTopics(self._broker, metrics, metadata.version("mqlift"))
        self._budget = aws.objects.budget
        metrics.count_large_bodies(self._budget)
        self._quotas = Quotas(_quota_limits(settings), self._budget)
        self._kinds = set(assembly.kinds)
        self._parts = list(assembly.listeners)
        self._listeners = [self._listener(part) for part in self._parts]
        number = 1 if place is None else place.number
        operations = Operations(self._broker, self._listeners, metrics, self.health, number)
        self._admin = AdminServer(operations, protection(settings) if place is None else Protection(trusted=True))
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Take up what was kept, and listen; when that fails, what was started before is taken down again.

        Raises `ConfigError` for a port that cannot be had, and `StoreError`.
        """
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.stop, 0.0)
            await self._start_admin()
            await self._broker.restore()
            for name in self._ingress_queues:
                self._broker.adopt(name)
            for listener in self._listeners:
                await listener.start()
            self._tasks = [asyncio.create_task(self._broker.watch()), asyncio.create_task(self._status.run())]
            self._tasks += [asyncio.create_task(ingress.run()) for ingress in self._ingress]
            for task in self._tasks:
                task.add_done_callback(_tell_failure)
            undo.pop_all()

    async def _start_admin(self) -> None:
        if self._place is None:
            await self._admin.start(self.settings.admin.host, self.settings.admin.port)
        else:
            await self._admin.start_at(self._place.socket)

    def reload(self, assembly: Assembly) -> None:
        """Follow another configuration, in what can be changed while running; the log says what cannot.

        Connections that are there keep what they began with: their TLS and their limits. Raises `ConfigError`, and
        changes nothing, for rules of access that cannot be followed.
        """
        self._access.use(assembly.access)
        settings = assembly.settings
        for key in waits_for_restart(self.settings, settings):
            log.warning("reload_needs_restart", key=key)
        self._reroute(assembly)
        self._broker.limit(_limits(settings))
        self._broker.client_ids_shared = _client_ids_shared(settings)
        self._quotas.change(_quota_limits(settings))
        self._budget.resize(settings.limits.gateway.large_body_bytes)
        for number, part in enumerate(self._parts):
            self._change_listener(number, part, assembly)
        if self._place is None:
            self._admin.protection = protection(settings)
        self.settings = self.settings.model_copy(
            update={key: getattr(settings, key) for key in ("routes", "auth", "limits", "log", "drain_timeout")}
        )
        log.info("reloaded", routes=len(assembly.routes.rules))

    def _reroute(self, assembly: Assembly) -> None:
        added = {
            kind: open_backend(kind, self._aws, self.settings) for kind in assembly.kinds if kind not in self._kinds
        }
        self._kinds.update(added)
        for moved in self._broker.reroute(assembly.routes, added):
            home = f"{moved.home.kind} {moved.home.name}"
            log.warning("queue_keeps_home", queue=moved.queue, home=home, wanted=moved.wanted)

    def _change_listener(self, number: int, running: ListenerPart, assembly: Assembly) -> None:
        for part in assembly.listeners:
            if can_follow(running.settings, part.settings):
                self._parts[number] = part
                self._listeners[number].change(self._options(part, assembly.settings), self._session_opener(part))

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
        if self._tracer is not None:
            await self._tracer.aclose()
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
        options = self._options(part, self.settings)
        return Listener(options, self._session_opener(part), self._broker, self._metrics, self._quotas)

    def _options(self, part: ListenerPart, settings: Settings) -> ListenerOptions:
        return _listener_options(part, settings, shared=self._place is not None)

    def _session_opener(self, part: ListenerPart) -> Callable[[str, float], Session]:
        server = f"mqlift/{metadata.version('mqlift')}"
        discarded = self._metrics.tally(self._metrics.discarded.labels(part.settings.protocol))

        def open_session(peer: str, now: float) -> Session:
            context = SessionContext(peer=peer, server=server, settings=part.protocol_settings, discarded=discarded)
            return part.open_session(context, now)

        return open_session


async def serve(
    settings: Settings,
    *,
    ready: Callable[[Gateway], None] | None = None,
    config: Path | None = None,
    place: Place | None = None,
) -> int:
    """Run a gateway until SIGTERM or SIGINT; a second signal cuts the drain short. Gives the exit code.

    At SIGHUP the configuration is read again from `config` and the environment. Raises `ConfigErrors`, `ConfigError` or
    `StoreError` when it cannot start.
    """
    assembly = assemble(settings)
    metrics = Metrics(CollectorRegistry())
    budget = ByteBudget(settings.limits.gateway.large_body_bytes)
    aws = await open_client(assembly.aws, _observer(metrics), services=assembly.services, budget=budget)
    async with AsyncExitStack() as undo:
        undo.push_async_callback(aws.aclose)
        store = await open_store(assembly, aws)
        undo.pop_all()
    gateway = Gateway(assembly, aws, store, metrics, place)
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
    loop.add_signal_handler(signal.SIGHUP, lambda: _reload(gateway, config, metrics))
    if place is not None:
        tell_supervisor(on_signal)
    log.info("started", version=metadata.version("mqlift"))
    notify(READY, "serving")
    if ready is not None:
        ready(gateway)
    await stopping.wait()
    notify(STOPPING, "draining")
    stop = asyncio.create_task(gateway.stop(gateway.settings.drain_timeout))
    with suppress(asyncio.CancelledError):
        await stop
    log.info("stopped")
    return 0


def _reload(gateway: Gateway, config: Path | None, metrics: Metrics) -> None:
    """Read the configuration again; one with a mistake is refused as a whole."""
    assembly = read_again(config)
    result = "refused"
    if assembly is not None:
        try:
            gateway.reload(assembly)
            result = "applied"
        except ConfigError as error:
            log.error("reload_refused", key=error.key, problem=str(error))  # noqa: TRY400 - no bug
    metrics.reloads.labels(result).inc()


def read_again(config: Path | None) -> Assembly | None:
    """The configuration as it is now, checked; None, and a line for each mistake, when it has any."""
    try:
        settings = load(config)
        assembly = assemble(settings)
        logs.configure_by(settings.log)
    except ConfigErrors as errors:
        for error in errors.errors:
            log.error("reload_refused", key=error.key, problem=str(error))  # noqa: TRY400 - no bug
        return None
    except ConfigError as error:
        log.error("reload_refused", key=error.key, problem=str(error))  # noqa: TRY400 - no bug
        return None
    return assembly


def tell_supervisor(stop: Callable[[], None]) -> None:
    """Say to the process at the other end of standard input that this one listens, and stop when it is gone.

    It never sends anything; and nobody else would end its workers.
    """
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()

    def gone() -> None:
        loop.remove_reader(descriptor)
        log.warning("supervisor_gone")
        stop()

    loop.add_reader(descriptor, gone)
    with suppress(ConnectionError):  # then `gone` follows
        os.write(descriptor, LISTENING)


def protection(settings: Settings) -> Protection:
    """Who may use the admin server."""
    token = settings.admin.token
    return Protection(token=None if token is None else token.get_secret_value(), metrics=settings.admin.protect_metrics)


def _limits(settings: Settings) -> BrokerLimits:
    limits = settings.limits.gateway
    return BrokerLimits(
        inflight_messages=limits.inflight_messages,
        inflight_bytes=limits.inflight_bytes,
        durable_queues=limits.durable_queues,
        sessions=limits.sessions,
        retained=RetainedLimits(messages=limits.retained_messages, bytes=limits.retained_bytes),
    )


def _broker_kind(place: Place | None, store: StateStore) -> type[Broker]:
    if place is not None:
        return WorkerBroker
    return FleetBroker if store.shared else Broker


def _client_ids_shared(settings: Settings) -> bool:
    return settings.auth.client_ids == "shared"


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


def _listener_options(part: ListenerPart, settings: Settings, *, shared: bool) -> ListenerOptions:
    listener = part.settings
    return ListenerOptions(
        protocol=listener.protocol,
        host=listener.host,
        port=listener.port,
        max_connections=listener.max_connections,
        limits=_connection_limits(listener, settings),
        tls=part.tls,
        websocket=part.websocket,
        proxy_protocol=listener.proxy_protocol,
        reuse_port=shared,
    )


def _connection_limits(listener: ListenerSettings, settings: Settings) -> ConnectionLimits:
    limits = listener.connection_limits(settings.limits.connection)
    return ConnectionLimits(
        connect_timeout=listener.connect_timeout,
        inflight=limits.inflight_messages,
        inflight_bytes=limits.inflight_bytes,
        publish_rate=PublishRate(messages=limits.publish_rate, bytes=limits.publish_bytes_rate),
        consumers=limits.consumers,
        unacknowledged=limits.unacknowledged,
        write_timeout=limits.write_timeout,
    )


def _quota_limits(settings: Settings) -> QuotaLimits:
    limits = settings.limits
    return QuotaLimits(
        connections=limits.gateway.connections,
        address_connections=limits.address.connections,
        address_attempts=limits.address.attempts,
        user_connections=limits.user.connections,
        user_rate=PublishRate(messages=limits.user.publish_rate, bytes=limits.user.publish_bytes_rate),
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
