"""A Celery application as it is written for RabbitMQ: it knows the URL of a broker, and nothing else of it."""

from __future__ import annotations

import os

from celery import Celery, Task, shared_task


def application(broker: str, queue: str) -> Celery:
    """The application, on its broker; the current one from now on, so tasks are its."""
    app = Celery("interop", broker=broker, backend="rpc://")
    app.conf.update(
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        task_default_queue=queue,
        worker_send_task_events=True,
        task_send_sent_event=True,
        broker_connection_retry_on_startup=True,
    )
    return app


app = application(os.environ.get("INTEROP_BROKER", "amqp://"), os.environ.get("INTEROP_QUEUE", "celery"))


@shared_task
def add(first: int, second: int) -> int:
    return first + second


@shared_task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@shared_task(bind=True, max_retries=3)
def fails_at_first(self: Task, failures: int) -> int:
    """Fail so many times; how often it was tried then."""
    if self.request.retries < failures:
        raise self.retry(countdown=0.2)
    return int(self.request.retries) + 1


@shared_task
def fails() -> None:
    raise ValueError("as intended")


@shared_task
def echo(value: object) -> object:
    return value
