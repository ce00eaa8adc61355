"""What an application does today: aiobotocore, one call per message or batches of ten, against the same endpoint.

`python -m tests.bench.comparisons single|batch|receive …`; it writes one line of JSON to standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import orjson
import uvloop
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from tests.bench.machine import Sample, Window
from tests.bench.payload import telemetry

BATCH = 10
CLIENT_CONFIG = {"max_pool_connections": 100, "retries": {"max_attempts": 1}}

Client: TypeAlias = Any  # aiobotocore makes its clients at run time
Turn: TypeAlias = Callable[[], Awaitable[int]]


@contextlib.asynccontextmanager
async def open_client(port: int) -> AsyncIterator[Client]:
    session = get_session()
    credentials = {"aws_access_key_id": "bench", "aws_secret_access_key": "bench", "region_name": "us-east-1"}
    url = f"http://127.0.0.1:{port}"
    async with session.create_client(
        "sqs", endpoint_url=url, config=AioConfig(**CLIENT_CONFIG), **credentials
    ) as client:
        yield client


def single(client: Client, url: str, payload: str) -> Turn:
    """Send one message a call."""

    async def turn() -> int:
        await client.send_message(QueueUrl=url, MessageBody=payload)
        return 1

    return turn


def batch(client: Client, url: str, payload: str) -> Turn:
    """Send ten messages a call."""

    async def turn() -> int:
        entries = [{"Id": str(number), "MessageBody": payload} for number in range(BATCH)]
        answer = await client.send_message_batch(QueueUrl=url, Entries=entries)
        return len(answer["Successful"])

    return turn


def receive(client: Client, url: str, payload: str) -> Turn:
    """Receive ten messages, delete them together; the payload is the endpoint's."""
    del payload

    async def turn() -> int:
        answer = await client.receive_message(QueueUrl=url, MaxNumberOfMessages=BATCH, WaitTimeSeconds=20)
        entries = [
            {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
            for number, message in enumerate(answer["Messages"])
        ]
        deleted = await client.delete_message_batch(QueueUrl=url, Entries=entries)
        return len(deleted["Successful"])

    return turn


KINDS: Mapping[str, Callable[[Client, str, str], Turn]] = {"single": single, "batch": batch, "receive": receive}


class Options(argparse.Namespace):
    kind: str
    port: int
    endpoint_pid: int
    concurrency: int
    payload_bytes: int
    warmup: float
    duration: float


async def measure(options: Options) -> Window:
    """Several workers, each with one call under way at a time, as an asyncio application has."""
    done = 0
    running = True

    async def work(turn: Turn) -> None:
        nonlocal done
        while running:
            messages = await turn()  # apart from the sum: `done += await …` would read `done` before it waits
            done += messages

    async with open_client(options.port) as client:
        url = (await client.get_queue_url(QueueName="bench"))["QueueUrl"]
        turn = KINDS[options.kind](client, url, telemetry(0, options.payload_bytes).decode())
        async with asyncio.TaskGroup() as workers:
            for _ in range(options.concurrency):
                workers.create_task(work(turn))
            await asyncio.sleep(options.warmup)
            start = Sample.take(done, os.getpid(), options.endpoint_pid)
            await asyncio.sleep(options.duration)
            window = start.until(Sample.take(done, os.getpid(), options.endpoint_pid))
            running = False
    return window


def main() -> None:
    parser = argparse.ArgumentParser(description="An application that calls aiobotocore.")
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--port", type=int, required=True, help="port of the endpoint")
    parser.add_argument("--endpoint-pid", type=int, required=True, help="process of the endpoint")
    parser.add_argument("--concurrency", type=int, default=50, help="calls under way at a time")
    parser.add_argument("--payload-bytes", type=int, default=200)
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds")
    parser.add_argument("--duration", type=float, default=5.0, help="seconds")
    window = uvloop.run(measure(parser.parse_args(namespace=Options())))
    sys.stdout.write(orjson.dumps(window).decode() + "\n")


if __name__ == "__main__":
    main()
