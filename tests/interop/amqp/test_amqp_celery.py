"""A Celery application, unchanged: `amqp://` as its broker, `rpc://` for results, its worker a process of its own."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery, chain, group

from tests.interop.amqp import celery_app
from tests.interop.amqp.celery_app import add, echo, fails, fails_at_first, total
from tests.interop.amqp.scenario import Target
from tests.rig.processes import HOST, ROOT, ServerProcess
from tests.rig.waiting import wait_for

QUEUE = "interop-celery"
TIMEOUT = 20.0
DELAY = 1.0
READY = " ready."


class Worker(ServerProcess):
    """`celery worker`."""

    def __init__(self, broker: str, directory: Path) -> None:
        command = [sys.executable, "-m", "celery", "-A", "tests.interop.amqp.celery_app", "worker"]
        environment = {"INTEROP_BROKER": broker, "INTEROP_QUEUE": QUEUE, "PYTHONPATH": str(ROOT), "C_FORCE_ROOT": "1"}
        super().__init__(
            "celery",
            [*command, "--concurrency", "2", "--pool", "threads", "--loglevel", "INFO", "-n", "interop@%h"],
            directory / "celery.log",
            environment=environment,
        )

    def ready(self) -> bool:
        return READY in self.log


@pytest.fixture(scope="module")
def app(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Celery]:
    """The application, with a worker that runs."""
    broker = f"amqp://guest:guest@{HOST}:{target.port}//"
    os.environ.pop("CELERY_BROKER_URL", None)
    # One of its own: an application keeps the connection for its results as long as it lives.
    application = celery_app.application(broker, QUEUE)
    worker = Worker(broker, tmp_path_factory.mktemp("celery"))
    worker.start()
    yield application
    application.backend.result_consumer.stop()
    application.close()
    print(worker.log_tail())
    worker.close()


def test_results_come_back(app: Celery) -> None:
    results = [add.delay(number, 1) for number in range(20)]
    assert [each.get(TIMEOUT) for each in results] == list(range(1, 21))
    value = {"text": "grün", "list": [1, 2.5, None, True], "large": "x" * 200_000}
    assert echo.delay(value).get(TIMEOUT) == value


def test_a_chain(app: Celery) -> None:
    assert chain(add.s(1, 2), add.s(10), add.s(100)).apply_async().get(TIMEOUT) == 113


def test_a_group(app: Celery) -> None:
    assert group(add.s(number, number) for number in range(10)).apply_async().get(TIMEOUT) == list(range(0, 20, 2))


def test_a_task_that_is_tried_again(app: Celery) -> None:
    assert fails_at_first.delay(2).get(TIMEOUT) == 3


def test_a_task_that_fails(app: Celery) -> None:
    with pytest.raises(ValueError, match="as intended"):
        fails.delay().get(TIMEOUT)


def test_a_task_for_later(app: Celery) -> None:
    begun = time.monotonic()
    assert add.apply_async((1, 2), countdown=DELAY).get(TIMEOUT) == 3
    assert time.monotonic() - begun >= DELAY


def test_a_task_that_expired(app: Celery) -> None:
    result = total.apply_async(([1],), countdown=DELAY, expires=DELAY / 2)
    with pytest.raises(Exception, match="expired"):
        result.get(TIMEOUT)


def test_remote_control(app: Celery) -> None:
    [answer] = app.control.ping(timeout=5, limit=1)
    [(worker, pong)] = answer.items()
    assert worker.startswith("interop@")
    assert pong == {"ok": "pong"}
    inspect = app.control.inspect(timeout=5, limit=1)
    registered = inspect.registered()
    assert registered is not None
    assert "tests.interop.amqp.celery_app.add" in registered[worker]
    [queue] = inspect.active_queues()[worker]
    assert queue["name"] == QUEUE


def test_a_task_that_is_revoked(app: Celery) -> None:
    result = add.apply_async((1, 2), countdown=3600)
    inspect = app.control.inspect(timeout=5, limit=1)
    wait_for(lambda: any((inspect.scheduled() or {}).values()), "the worker has the task")
    app.control.revoke(result.id, reply=True, timeout=5, limit=1)
    assert result.id in next(iter((inspect.revoked() or {}).values()))


def test_events(app: Celery) -> None:
    seen: list[dict[str, object]] = []
    ready = threading.Event()

    def receive() -> None:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": seen.append})
            iterator = receiver.itercapture(limit=None, timeout=TIMEOUT, wakeup=False)
            ready.set()
            for _ in iterator:
                if any(event["type"] == "task-succeeded" for event in seen):
                    return

    thread = threading.Thread(target=receive)
    thread.start()
    try:
        ready.wait(TIMEOUT)
        wait_for(lambda: add.delay(1, 1).get(TIMEOUT) == 2 and not thread.is_alive(), "an event of a task")
    finally:
        thread.join(TIMEOUT)
    kinds = {str(event["type"]) for event in seen}
    assert "task-succeeded" in kinds


def test_a_queue_is_purged(app: Celery) -> None:
    app.control.cancel_consumer(QUEUE, reply=True, timeout=5, limit=1)
    for number in range(3):
        add.delay(number, number)
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        wait_for(lambda: channel.queue_declare(QUEUE, passive=True).message_count == 3, "all wait in the queue")
    assert app.control.purge() == 3
    app.control.add_consumer(QUEUE, reply=True, timeout=5, limit=1)
    assert add.delay(2, 2).get(TIMEOUT) == 4
