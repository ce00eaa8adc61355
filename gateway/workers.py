"""Several gateways on the same ports, as one: a process starts them, looks after them, and answers for all.

Each worker is a whole gateway (`gateway/app.py`) that binds the ports with SO_REUSEPORT, so that the kernel spreads the
connections. It answers this process on a Unix socket in a directory that only we can enter; what operators and
Prometheus ask for is gathered from there (`gateway/workersite.py`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter

from config.settings import ListenerSettings, Settings
from gateway.admin.server import AdminServer
from gateway.app import CLOSE_LIMIT, LISTENING, protection, read_again
from gateway.assembly import Assembly, assemble
from gateway.core.errors import ConfigError
from gateway.notify import READY, SOCKET_VARIABLE, STOPPING, notify
from gateway.reloading import waits_for_restart
from gateway.workersite import Worker, WorkerSite

log = structlog.get_logger("mqlift.workers")

BACKOFF_BASE: Final = 0.5
BACKOFF_CAP: Final = 30.0
"""Seconds before a worker that ended by itself is started again: doubled each time, up to the cap."""
SETTLED: Final = 60.0
"""Seconds after which a worker that ran so long counts as well: its next end is the first one again."""
START_LIMIT: Final = 60.0
"""Seconds that a worker has to take up its state and listen."""
KILL_AFTER: Final = 5.0
"""Seconds on top of the drain before a worker that does not end is killed."""


class Workers:
    """Owns the processes, from `start` to `stop`: each end that nobody asked for is followed by a new one."""

    def __init__(self, settings: Settings, config: Path, directory: Path, registry: CollectorRegistry) -> None:
        self.settings = settings
        self.config = config
        self.all = [Worker(number, directory / f"{number}.sock") for number in range(1, settings.workers + 1)]
        self.failure = 0
        """The exit code of a worker that could not start at first: the configuration, or a port."""
        self._restarts = Counter("mqlift_worker_restarts", "Workers that ended by themselves", registry=registry)
        reloads = Counter("mqlift_config_reloads", "Reloads of the configuration", ["result"], registry=registry)
        self.refused_reloads = reloads.labels("refused")
        self._tasks: list[asyncio.Task[None]] = []
        self._began = asyncio.Event()
        """All listen, or one cannot."""
        self._stopping = asyncio.Event()
        self._reloads = 0

    @property
    def began(self) -> bool:
        """Whether all have listened once."""
        return self._began.is_set()

    @property
    def draining(self) -> bool:
        return self._stopping.is_set()

    async def start(self) -> None:
        """Start all, and wait until they listen, or one says that it cannot (`failure`)."""
        self._tasks = [asyncio.create_task(self._look_after(worker)) for worker in self.all]
        for task in self._tasks:
            task.add_done_callback(_tell_failure)
        try:
            async with asyncio.timeout(START_LIMIT):
                await self._began.wait()
        except TimeoutError:
            log.error("workers_do_not_start", seconds=START_LIMIT)  # noqa: TRY400 - no bug
            self.failure = 1

    def signal(self, number: signal.Signals) -> None:
        """Pass a signal on."""
        for worker in self.all:
            if worker.process is not None:
                _send(worker.process, number)

    def reload(self) -> None:
        """Have all read the configuration again; those that start just now, when they are up."""
        self._reloads += 1
        self.signal(signal.SIGHUP)

    async def stop(self) -> None:
        """Have all drain, and wait for their end; those that take too long are killed."""
        self._stopping.set()
        self.signal(signal.SIGTERM)
        patience = self.settings.drain_timeout + CLOSE_LIMIT + KILL_AFTER
        _, late = await asyncio.wait(self._tasks, timeout=patience)
        if late:
            log.error("workers_killed", count=len(late), patience=patience)
            self.signal(signal.SIGKILL)
            await asyncio.wait(late)

    async def _look_after(self, worker: Worker) -> None:
        """Run a worker again and again, until `stop`."""
        loop = asyncio.get_running_loop()
        while not self.draining:
            started = loop.time()
            listened, code = await self._run(worker)
            if self.draining:
                return
            if code == _MISTAKE and not listened and not self._began.is_set():
                self.failure = code  # it has said why
                self._began.set()
                return
            worker.failures = 1 if loop.time() - started > SETTLED else worker.failures + 1
            delay = min(BACKOFF_CAP, BACKOFF_BASE * 2 ** (worker.failures - 1))
            self._restarts.inc()
            log.error("worker_ended", worker=worker.number, code=code, restart_in=delay)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def _run(self, worker: Worker) -> tuple[bool, int]:
        """Run one process to its end: whether it has listened, and its exit code."""
        worker.socket.unlink(missing_ok=True)
        reloads = self._reloads
        command = (sys.executable, "-m", "gateway.worker", str(self.config), str(worker.number), str(worker.socket))
        # systemd hears of this process only, which knows when all are up.
        environment = {name: value for name, value in os.environ.items() if name != SOCKET_VARIABLE}
        # It says by its standard input that it listens, and sees there that this process is gone.
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *command, stdin=theirs.fileno(), env=environment, start_new_session=True
                )
            worker.process = process
            log.info("worker_started", worker=worker.number, pid=process.pid)
            if self.draining:
                _send(process, signal.SIGTERM)
            ours.setblocking(False)
            with suppress(ConnectionError):
                worker.up = await asyncio.get_running_loop().sock_recv(ours, len(LISTENING)) == LISTENING
            listened = worker.up
            if listened and reloads != self._reloads:
                _send(process, signal.SIGHUP)
            if all(each.up for each in self.all):
                self._began.set()
            try:
                return listened, await process.wait()
            finally:
                worker.process = None
                worker.up = False


_MISTAKE: Final = 2
"""Exit code of a worker whose configuration or port cannot be used (`gateway/cli.py`)."""


async def serve(settings: Settings, config: Path) -> int:
    """Run `settings.workers` gateways until SIGTERM or SIGINT. Gives the exit code.

    Raises `ConfigErrors` or `ConfigError` when they cannot start.
    """
    assemble(settings)
    for number, listener in enumerate(settings.listeners):
        await _check_free(number, listener)
    with tempfile.TemporaryDirectory(prefix="mqlift-") as directory:  # of mode 0700
        registry = CollectorRegistry()
        workers = Workers(settings, config, Path(directory), registry)
        admin = AdminServer(WorkerSite(workers, registry), protection(settings))
        await admin.start(settings.admin.host, settings.admin.port)
        try:
            return await _supervise(workers, admin)
        finally:
            await admin.aclose()


async def _supervise(workers: Workers, admin: AdminServer) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stopping.is_set():
            workers.signal(signal.SIGTERM)  # the second one cuts the drain short
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    loop.add_signal_handler(signal.SIGHUP, lambda: _reload(workers, admin))
    await workers.start()
    if not workers.failure:
        log.info("started", version=metadata.version("mqlift"), workers=len(workers.all))
        notify(READY, "serving")
        await stopping.wait()
        notify(STOPPING, "draining")
    await workers.stop()
    log.info("stopped")
    return workers.failure


def _reload(workers: Workers, admin: AdminServer) -> None:
    """Have all workers read the configuration again, unless it has a mistake: then none does."""
    assembly: Assembly | None = read_again(workers.config)
    if assembly is None:
        workers.refused_reloads.inc()
        return
    for key in waits_for_restart(workers.settings, assembly.settings):
        log.warning("reload_needs_restart", key=key)
    admin.protection = protection(assembly.settings)
    workers.settings = workers.settings.model_copy(update={"drain_timeout": assembly.settings.drain_timeout})
    workers.reload()


async def _check_free(number: int, listener: ListenerSettings) -> None:
    """Whether nobody else has a port. The workers would share it, with whoever it is. Raises `ConfigError`."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(
            listener.host or None, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        where = f"{listener.host}:{listener.port}"
        raise ConfigError(
            f"listeners.{number}.port", f"cannot listen on {where}: {reason}", "a free port of this machine"
        ) from error


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        process.send_signal(number)


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task_failed_unexpectedly", exc_info=error)
