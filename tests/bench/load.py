"""The load generator: `python -m tests.bench.load KIND …`.

It runs as a process of its own, on another core than the gateway, and writes one line of JSON to standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypedDict, TypeVar

import orjson
import uvloop

from tests.bench import amqp_load
from tests.bench.control import Control
from tests.bench.endpoint import Stats
from tests.bench.machine import Sample, Window, resident_bytes
from tests.bench.mqtt_deliveries import Fan, FanPublisher, FencedPublisher, IdleSubscriber, Subscriber, TwofoldPublisher
from tests.bench.mqtt_load import IdleConnection, LoadError, MqttConnection, PacedPublisher, Publisher
from tests.bench.probe import Probe, send_request
from tests.bench.stomp_load import Consumer, Seen, Sender

SETUP_TIMEOUT = 60.0
FIRST_LOOK = 0.01
"""Seconds between two looks for the first message."""
DRAIN_TIMEOUT = 60.0
"""Seconds for everything that was sent to be answered, after the load has stopped."""
DRAIN_POLL = 0.05
CONNECTING_AT_A_TIME = 100
"""Under the usual backlog of a listener."""
HOST = "127.0.0.1"


class Published(TypedDict):
    window: Window
    messages: int
    """Published and acknowledged over the whole run, warm-up included."""


class Consumed(TypedDict):
    window: Window
    messages: int
    distinct: int
    endpoint: Stats


class Latency(TypedDict):
    """Milliseconds."""

    messages: int
    median: float
    p99: float
    maximum: float
    late: float
    """How far the generator itself was behind its schedule, 99th percentile."""


class Idle(TypedDict):
    connections: int
    before: int
    """Bytes."""
    after: int


class Options(argparse.Namespace):
    """What the command line gave."""

    kind: str
    port: int
    endpoint: int
    endpoint_pid: int
    connections: int
    window: int
    payload_bytes: int
    rate: int
    prefetch: int
    together: int
    queue: str
    warmup: float
    duration: float
    watch: int
    qos: int
    prefix: str
    topics: int
    subscribe: bool
    messages: int


ConnectionT = TypeVar("ConnectionT", bound=MqttConnection | Sender | amqp_load.AmqpConnection)


class Windowed(Protocol):
    """Keeps a number of messages without an answer, until it is stopped and `ended`."""

    ended: asyncio.Future[None]

    @property
    def acked(self) -> int: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def close(self) -> None: ...


class Ending(Protocol):
    """A connection that has `ended` when it is closed, or when something is wrong."""

    ended: asyncio.Future[None]

    def close(self) -> None: ...


class Paced(Protocol):
    """Something that sends one message when it is told to."""

    def publish(self) -> None: ...


async def attach(port: int, protocol: asyncio.Protocol) -> None:
    await asyncio.get_running_loop().create_connection(lambda: protocol, HOST, port)


async def connect(port: int, connections: Sequence[ConnectionT]) -> Sequence[ConnectionT]:
    """Connect all, a few at a time. Raises `LoadError` when one is refused."""
    async with asyncio.timeout(SETUP_TIMEOUT):
        for start in range(0, len(connections), CONNECTING_AT_A_TIME):
            some = connections[start : start + CONNECTING_AT_A_TIME]
            await asyncio.gather(*(attach(port, connection) for connection in some))
            await asyncio.gather(*(connection.established for connection in some))
    return connections


def topic_of(number: int) -> str:
    return f"bench/device-{number}/telemetry"


def topics_of(options: Options, number: int) -> list[str]:
    """The topics of one connection: with several, they are those of devices behind a concentrator."""
    if options.topics == 1:
        return [f"{options.prefix}/device-{number}/telemetry"]
    return [f"{options.prefix}/device-{number:03}-{each:02}/telemetry" for each in range(options.topics)]


async def measured(options: Options, messages: Callable[[], int]) -> Window:
    """Wait for the first message, the warm-up and the duration, and count what happened in the last."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SETUP_TIMEOUT
    while not messages() and loop.time() < deadline:  # noqa: ASYNC110 - a count, which nobody announces
        await asyncio.sleep(FIRST_LOOK)
    await asyncio.sleep(options.warmup)
    start = Sample.take(messages(), options.watch, options.endpoint_pid)
    await asyncio.sleep(options.duration)
    return start.until(Sample.take(messages(), options.watch, options.endpoint_pid))


def publisher_of(options: Options, number: int) -> FencedPublisher | Publisher | TwofoldPublisher:
    """One connection, by its QoS."""
    name, topics = f"load-{number}", topics_of(options, number)
    if options.qos == 1:
        return Publisher(name, topics, options.payload_bytes, options.window)
    kind = TwofoldPublisher if options.qos else FencedPublisher
    return kind(name, topics[0], options.payload_bytes, options.window)


async def publish(options: Options) -> Published:
    """Publishes as fast as the window allows."""
    publishers = [publisher_of(options, number) for number in range(options.connections)]
    return await run_windows(options, await connect(options.port, publishers))


async def send(options: Options) -> Published:
    """SENDs to a queue as fast as the window of receipts allows."""
    senders = [Sender(options.queue, options.payload_bytes, options.window) for _ in range(options.connections)]
    return await run_windows(options, await connect(options.port, senders))


async def run_windows(options: Options, publishers: Sequence[Windowed]) -> Published:
    for publisher in publishers:
        publisher.start()
    window = await measured(options, lambda: sum(publisher.acked for publisher in publishers))
    for publisher in publishers:
        publisher.stop()
    async with asyncio.timeout(DRAIN_TIMEOUT):
        await asyncio.gather(*(publisher.ended for publisher in publishers))
    for publisher in publishers:
        publisher.close()
    return {"window": window, "messages": sum(publisher.acked for publisher in publishers)}


async def fan(options: Options) -> Published:
    """One publisher to many live subscribers; the messages are counted where they arrive."""
    topic = "live/prices"
    publisher = FanPublisher("fan-publisher", topic, options.payload_bytes, options.qos)
    whole = Fan(publisher, options.window)
    subscribers = [
        Subscriber(f"fan-{number}", topic, options.payload_bytes, options.qos, whole.received)
        for number in range(options.connections)
    ]
    whole.subscribers += subscribers
    await connect(options.port, [publisher, *subscribers])
    for subscriber in subscribers:
        subscriber.subscribe()
    async with asyncio.timeout(SETUP_TIMEOUT):
        await asyncio.gather(*(subscriber.subscribed for subscriber in subscribers))
    whole.start()
    window = await measured(options, lambda: whole.delivered)
    whole.stop()
    async with asyncio.timeout(DRAIN_TIMEOUT):
        while not whole.quiet.done():
            raise_failed([each.ended for each in (publisher, *subscribers)])
            await asyncio.sleep(DRAIN_POLL)
    for connection in (publisher, *subscribers):
        connection.close()
    return {"window": window, "messages": whole.delivered}


async def pace(options: Options, senders: Callable[[], Paced]) -> list[float]:
    """Send at an even rate for warm-up and duration; returns how late each message was, in seconds."""
    interval = 1 / options.rate
    late = []
    start = time.perf_counter()
    for number in range(int((options.warmup + options.duration) * options.rate)):
        due = start + number * interval
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        late.append(time.perf_counter() - due)
        senders().publish()
    return late


def latency_of(options: Options, round_trips: list[float], late: list[float]) -> Latency:
    return {
        "messages": len(round_trips),
        "median": statistics.median(round_trips) * 1000,
        "p99": statistics.quantiles(round_trips, n=100)[98] * 1000,
        "maximum": max(round_trips) * 1000,
        "late": statistics.quantiles(late[int(options.warmup * options.rate) :], n=100)[98] * 1000 if late else 0.0,
    }


async def paced(options: Options) -> Latency:
    """QoS 1 publishes at an even rate, from PUBLISH to PUBACK."""
    publishers = await connect(
        options.port,
        [
            PacedPublisher(f"paced-{number}", topic_of(number), options.payload_bytes)
            for number in range(options.connections)
        ],
    )
    turn = 0

    def next_publisher() -> Paced:
        nonlocal turn
        turn += 1
        return publishers[turn % len(publishers)]

    late = await pace(options, next_publisher)
    for publisher in publishers:
        publisher.stop()
    async with asyncio.timeout(DRAIN_TIMEOUT):
        await asyncio.gather(*(publisher.ended for publisher in publishers))
    for publisher in publishers:
        publisher.close()
    warm = int(options.warmup * options.rate / len(publishers))
    return latency_of(options, [each for publisher in publishers for each in publisher.round_trips[warm:]], late)


async def probe(options: Options) -> Latency:
    """Bare requests to the endpoint at the same rate."""
    request = send_request(options.payload_bytes)
    idle: asyncio.Queue[Probe] = asyncio.Queue()
    probes = [Probe(request, idle) for _ in range(options.connections)]
    await asyncio.gather(*(attach(options.port, each) for each in probes))
    for each in probes:
        idle.put_nowait(each)
    late = await pace(options, idle.get_nowait)
    async with asyncio.timeout(DRAIN_TIMEOUT):
        for _ in probes:
            await idle.get()
    for each in probes:
        each.close()
    warm = int(options.warmup * options.rate / len(probes))
    return latency_of(options, [trip for each in probes for trip in each.round_trips[warm:]], late)


async def consume(options: Options) -> Consumed:
    """Consumers over an endless supply."""
    seen = Seen()
    consumers = [Consumer(options.queue, options.prefetch, seen, options.together) for _ in range(options.connections)]
    await asyncio.gather(*(attach(options.port, consumer) for consumer in consumers))

    def finish() -> None:
        for consumer in consumers:
            consumer.finish()

    return await run_consumers(options, seen, consumers, finish)


async def run_consumers(
    options: Options, seen: Seen, consumers: Sequence[Ending], finish: Callable[[], None] = lambda: None
) -> Consumed:
    """When the supply is stopped, all that was handed out has to be acknowledged. `finish` asks for the last ones."""
    window = await measured(options, lambda: seen.messages)
    endpoint = Control(options.endpoint)
    await asyncio.to_thread(endpoint.stop_supply)
    async with asyncio.timeout(DRAIN_TIMEOUT):
        stats = await asyncio.to_thread(endpoint.stats)
        while stats["deleted"] < stats["received"]:
            raise_failed([consumer.ended for consumer in consumers])
            await asyncio.sleep(DRAIN_POLL)
            finish()
            stats = await asyncio.to_thread(endpoint.stats)
    for consumer in consumers:
        consumer.close()
    await asyncio.gather(*(consumer.ended for consumer in consumers))
    return {"window": window, "messages": seen.messages, "distinct": seen.distinct, "endpoint": stats}


def raise_failed(waiters: Sequence[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if waiter.done():
            waiter.result()


async def amqp_publish(options: Options) -> Published:
    """Publishes with confirms as fast as the window allows."""
    publishers = [
        amqp_load.Publisher(options.queue, options.payload_bytes, options.window) for _ in range(options.connections)
    ]
    return await run_windows(options, await connect(options.port, publishers))


async def amqp_consume(options: Options) -> Consumed:
    """Consumers over an endless supply."""
    seen = Seen()
    consumers = [amqp_load.Consumer(options.queue, options.prefetch, seen) for _ in range(options.connections)]
    return await run_consumers(options, seen, await connect(options.port, consumers))


async def amqp_drain(options: Options) -> Published:
    """Consumers of a queue with so many messages, until they have them all."""
    seen = Seen()
    consumers = [
        amqp_load.Consumer(options.queue, options.prefetch, seen, numbered=False) for _ in range(options.connections)
    ]
    start = Sample.take(0, options.watch, options.endpoint_pid)
    await connect(options.port, consumers)
    async with asyncio.timeout(DRAIN_TIMEOUT):
        while seen.messages < options.messages:
            raise_failed([consumer.ended for consumer in consumers])
            await asyncio.sleep(DRAIN_POLL)
    window = start.until(Sample.take(seen.messages, options.watch, options.endpoint_pid))
    for consumer in consumers:
        consumer.close()
    return {"window": window, "messages": seen.messages}


async def amqp_call(options: Options) -> Latency:
    """Calls one after the other, each answered at once by a server beside it; from the call to its reply."""
    server = amqp_load.Server(options.queue)
    await connect(options.port, [server])
    caller = amqp_load.Caller(options.queue, options.payload_bytes)
    await connect(options.port, [caller])
    caller.start()
    await asyncio.sleep(options.warmup)
    warm = len(caller.round_trips)
    await asyncio.sleep(options.duration)
    caller.stop()
    async with asyncio.timeout(DRAIN_TIMEOUT):
        await caller.ended
    raise_failed([server.ended])
    for connection in (caller, server):
        connection.close()
    return latency_of(options, caller.round_trips[warm:], [])


async def idle(options: Options) -> Idle:
    """Connections that answer a ping, and may subscribe before; the watched process is weighed before and after."""
    before = resident_bytes(options.watch)
    kind = IdleSubscriber if options.subscribe else IdleConnection
    connections = await connect(
        options.port, [kind(f"idle-device-{number:05d}") for number in range(options.connections)]
    )
    for connection in connections:
        connection.ping()
    async with asyncio.timeout(SETUP_TIMEOUT):
        await asyncio.gather(*(connection.ponged for connection in connections))
    after = resident_bytes(options.watch)
    for connection in connections:
        connection.close()
    return {"connections": len(connections), "before": before, "after": after}


KINDS = {
    "publish": publish,
    "send": send,
    "fan": fan,
    "paced": paced,
    "probe": probe,
    "consume": consume,
    "idle": idle,
    "amqp-publish": amqp_publish,
    "amqp-consume": amqp_consume,
    "amqp-drain": amqp_drain,
    "amqp-call": amqp_call,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Load for the benchmarks.")
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--port", type=int, required=True, help="the gateway's listener, or the endpoint (probe)")
    parser.add_argument("--watch", type=int, required=True, help="process whose CPU and memory are measured")
    parser.add_argument("--endpoint", type=int, required=True, help="port of the endpoint")
    parser.add_argument("--endpoint-pid", type=int, required=True, help="process of the endpoint")
    parser.add_argument("--connections", type=int, default=10)
    parser.add_argument("--window", type=int, default=100, help="unacknowledged publishes of a connection")
    parser.add_argument("--payload-bytes", type=int, default=200)
    parser.add_argument("--rate", type=int, default=1000, help="messages a second over all connections (paced, probe)")
    parser.add_argument("--prefetch", type=int, default=100, help="unacknowledged deliveries of a consumer")
    parser.add_argument("--together", type=int, default=1, help="messages that one ACK is for (consume)")
    parser.add_argument("--queue", default="bench")
    parser.add_argument("--qos", type=int, default=1, choices=(0, 1, 2), help="of publishes (publish, fan)")
    parser.add_argument("--prefix", default="bench", help="first level of the topics (publish)")
    parser.add_argument("--topics", type=int, default=1, help="of each connection, at QoS 1 (publish)")
    parser.add_argument("--subscribe", action="store_true", help="one subscription for each connection (idle)")
    parser.add_argument("--messages", type=int, default=0, help="in the queue (amqp-drain)")
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds")
    parser.add_argument("--duration", type=float, default=5.0, help="seconds")
    options = parser.parse_args(namespace=Options())
    try:
        result = uvloop.run(KINDS[options.kind](options))
    except (LoadError, OSError, TimeoutError, asyncio.QueueEmpty) as error:
        sys.exit(f"load: {options.kind}: {type(error).__name__}: {error}")
    sys.stdout.write(orjson.dumps(result).decode() + "\n")


if __name__ == "__main__":
    main()
