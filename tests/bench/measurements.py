"""What is measured: each benchmark runs once and gives figures by name. A run whose messages do not add up is void."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from tests.bench.endpoint import ENDLESS, ActionCount, Stats
from tests.bench.load import Consumed, Latency, Published
from tests.bench.machine import Window
from tests.bench.stage import TOPIC_ROUTES, Stage
from tests.rig.processes import Gateway, answers
from tests.rig.rabbitmq import installed
from tests.rig.waiting import wait_for

FAR_MS = 10.0
"""An endpoint of the same region is some milliseconds away; an instant one hides what waiting costs."""
PACED_CONNECTIONS = 10
PROBE_CONNECTIONS = 50
AMQP_CONNECTIONS = 10
AMQP_PREFETCH = 250
CONSUMERS = 10
SENDERS = 10
TOGETHER = 50
"""Messages of one cumulative ACK."""
SUBSCRIBERS = 50
SPREAD_CONNECTIONS = 100
STREAM_CONNECTIONS = 50
DEVICES = 20
"""Of each connection, where each has a partition key of its own: 1,000 in all."""
NO_CALLS: ActionCount = {"calls": 0, "entries": 0, "bytes": 0}

Figures: TypeAlias = Mapping[str, float]


class VoidRun(Exception):
    """The messages that were counted at both ends differ."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One line of the report."""

    title: str
    run: Callable[[Stage], Figures]


def rates(window: Window) -> dict[str, float]:
    """Messages a second, CPU microseconds a message, and how busy each process kept its core."""
    return {
        "rate": window["messages"] / window["seconds"],
        "cpu_us": window["cpu"] / window["messages"] * 1e6 if window["messages"] else 0.0,
        "busy": window["cpu"] / window["seconds"],
        "others": max(0.0, window["core_cpu"] - window["cpu"]) / window["seconds"],
        "load_busy": window["load_cpu"] / window["seconds"],
        "endpoint_busy": window["endpoint_cpu"] / window["seconds"],
    }


def calls(stats: Stats, *actions: str) -> int:
    return sum(stats["actions"].get(action, NO_CALLS)["calls"] for action in actions)


def publish(connections: int, latency_ms: float = 0.0, qos: int = 1) -> Callable[[Stage], Figures]:
    """Publishers with a window of MQTT; each acknowledged message has to be in a send that the endpoint accepted."""
    return accepted(lambda stage, gateway: stage.publish(gateway, connections, qos), latency_ms)


def send(connections: int) -> Callable[[Stage], Figures]:
    """The same of STOMP."""
    return accepted(lambda stage, gateway: stage.send(gateway, connections))


def accepted(load: Callable[[Stage, Gateway], Published], latency_ms: float = 0.0) -> Callable[[Stage], Figures]:
    """A load whose every acknowledged message has to be in a send that the endpoint accepted."""

    def run(stage: Stage) -> Figures:
        with stage.gateway() as gateway:
            stage.endpoint.control.reset({"supply": 0, "latency_ms": latency_ms})
            published = load(stage, gateway)
        stats = stage.endpoint.control.stats()  # at QoS 0 the last ones are sent when the gateway stops
        sent = stats["actions"].get("SendMessageBatch", NO_CALLS)["entries"]
        sent += stats["actions"].get("SendMessage", NO_CALLS)["entries"]
        if sent != published["messages"]:
            raise VoidRun(f"{published['messages']} messages acknowledged, {sent} sent to SQS")
        sends = calls(stats, "SendMessageBatch", "SendMessage")
        return rates(published["window"]) | {"calls": sends / published["messages"]}

    return run


def spread(workers: int) -> Callable[[Stage], Figures]:
    """As `publish`, by several workers on all cores, which load and endpoint use as well."""

    def run(stage: Stage) -> Figures:
        stage.endpoint.control.reset({"supply": 0, "latency_ms": 0.0})
        with stage.gateway(workers=workers) as gateway:
            wait_for(lambda: answers(gateway.admin_port, "/readyz"), "all workers are up")
            published = stage.publish(gateway, SPREAD_CONNECTIONS)
        sent = stage.endpoint.control.stats()["actions"].get("SendMessageBatch", NO_CALLS)["entries"]
        if sent != published["messages"]:
            raise VoidRun(f"{published['messages']} messages acknowledged, {sent} sent to SQS")
        figures = rates(published["window"])
        del figures["others"]  # no core is the gateway's own
        return figures

    return run


def publish_to_topic(connections: int) -> Callable[[Stage], Figures]:
    """As `publish`, to an SNS topic."""

    def run(stage: Stage) -> Figures:
        stage.endpoint.control.reset({"supply": 0, "latency_ms": 0.0})
        with stage.gateway(TOPIC_ROUTES) as gateway:
            published = stage.publish(gateway, connections)
        batches = stage.endpoint.control.stats()["actions"].get("PublishBatch", NO_CALLS)
        if batches["entries"] != published["messages"]:
            raise VoidRun(f"{published['messages']} messages acknowledged, {batches['entries']} sent to SNS")
        return rates(published["window"]) | {"calls": batches["calls"] / published["messages"]}

    return run


def put(action: str, prefix: str, topics: int) -> Callable[[Stage], Figures]:
    """Publishers with a window into a stream; each acknowledged message is in a record that the endpoint accepted.

    Where a record has several messages, there are as many of them as the gateway has counted.
    """

    def run(stage: Stage) -> Figures:
        with stage.gateway() as gateway:
            stage.endpoint.control.reset({"supply": 0, "latency_ms": 0.0})
            published = stage.publish(gateway, STREAM_CONNECTIONS, prefix=prefix, topics=topics)
            accepted = gateway.metric("mqlift_entries_total")
        stats = stage.endpoint.control.stats()
        records = stats["actions"].get(action, NO_CALLS)["entries"]
        if accepted != published["messages"] or (records != accepted and prefix != "aggregate"):
            raise VoidRun(f"{published['messages']} acknowledged, {accepted:g} accepted in {records} records")
        sends = calls(stats, action)
        figures = {"calls": sends / published["messages"], "records": records / sends}
        return rates(published["window"]) | figures

    return run


def consume(connections: int, together: int = 1) -> Callable[[Stage], Figures]:
    """Consumers of STOMP with an ACK for each message or for several."""
    return consumed_once(lambda stage, gateway: stage.consume(gateway, connections, together=together))


def consumed_once(load: Callable[[Stage, Gateway], Consumed]) -> Callable[[Stage], Figures]:
    """A load whose messages each have to come once and be deleted once."""

    def run(stage: Stage) -> Figures:
        stage.endpoint.control.reset({"supply": ENDLESS, "latency_ms": 0.0})
        with stage.gateway() as gateway:
            consumed = load(stage, gateway)
            # Answers the long polls that are under way; a gateway that stops would wait for them.
            stage.endpoint.control.reset({"supply": 0})
        stats = consumed["endpoint"]
        counts = {consumed["messages"], consumed["distinct"], stats["received"], stats["deleted"]}
        if len(counts) != 1 or stats["deleted_again"] or stats["unknown_receipts"]:
            raise VoidRun(f"delivered {consumed['messages']} ({consumed['distinct']} distinct), endpoint {stats}")
        used = calls(stats, "ReceiveMessage", "DeleteMessageBatch", "DeleteMessage", "ChangeMessageVisibilityBatch")
        return rates(consumed["window"]) | {"calls": used / consumed["messages"]}

    return run


def amqp_publish(stage: Stage, gateway: Gateway) -> Published:
    return stage.amqp_publish(gateway, AMQP_CONNECTIONS)


def amqp_consume(stage: Stage, gateway: Gateway) -> Consumed:
    return stage.amqp_consume(gateway, AMQP_CONNECTIONS, AMQP_PREFETCH)


def amqp_call(stage: Stage) -> Figures:
    """A call over a queue in the gateway's memory, and its reply: what is beyond the time of a queue in SQS."""
    with stage.gateway() as gateway:
        return called(stage.amqp_call(gateway))


def called(latency: Latency) -> Figures:
    return {"median": latency["median"], "p99": latency["p99"]}


def rabbitmq_publish(stage: Stage) -> Figures:
    """The same load on RabbitMQ's durable classic queue."""
    with stage.rabbitmq() as broker:
        return rates(stage.amqp_publish(broker, AMQP_CONNECTIONS)["window"])


def rabbitmq_consume(stage: Stage) -> Figures:
    """Consumers of what has been published to it before."""
    with stage.rabbitmq() as broker:
        messages = stage.amqp_publish(broker, AMQP_CONNECTIONS)["messages"]
        return rates(stage.amqp_drain(broker, AMQP_CONNECTIONS, AMQP_PREFETCH, messages)["window"])


def rabbitmq_call(stage: Stage) -> Figures:
    with stage.rabbitmq() as broker:
        return called(stage.amqp_call(broker))


def fan(subscribers: int, qos: int) -> Callable[[Stage], Figures]:
    """One publisher to live subscribers; the gateway counts as many deliveries as have come."""

    def run(stage: Stage) -> Figures:
        with stage.gateway() as gateway:
            stage.endpoint.control.reset({"supply": 0, "latency_ms": 0.0})
            published = stage.fan(gateway, subscribers, qos)
            delivered = gateway.metric("mqlift_messages_delivered_total")
            dropped = gateway.metric("mqlift_virtual_queue_dropped_total")
        if delivered != published["messages"] or dropped:
            raise VoidRun(f"{published['messages']} messages came of {delivered:g}, {dropped:g} were dropped")
        return rates(published["window"])

    return run


def latency(latency_ms: float = 0.0) -> Callable[[Stage], Figures]:
    """From PUBLISH to PUBACK at an even rate, and what the endpoint alone takes.

    The endpoint's median is taken off both figures; off the 99th percentile, too, so that it flatters nobody.
    """

    def run(stage: Stage) -> Figures:
        stage.endpoint.control.reset({"supply": 0, "latency_ms": latency_ms})
        own = stage.probe(PROBE_CONNECTIONS)
        with stage.gateway() as gateway:
            whole = stage.paced(gateway, PACED_CONNECTIONS)
        return {
            "median": whole["median"],
            "p99": whole["p99"],
            "own_median": own["median"],
            "own_p99": own["p99"],
            "added_median": whole["median"] - own["median"],
            "added_p99": whole["p99"] - own["median"],
            "late": whole["late"],
        }

    return run


def idle(stage: Stage, *, subscribe: bool = False) -> Figures:
    """Resident memory that each connection adds to a fresh gateway."""
    with stage.gateway() as gateway:
        result = stage.idle(gateway, subscribe=subscribe)
    grown = result["after"] - result["before"]
    return {
        "kib_each": grown / result["connections"] / 1024,
        "connections": result["connections"],
        "before_mib": result["before"] / 2**20,
        "after_mib": result["after"] / 2**20,
    }


def application(kind: str) -> Callable[[Stage], Figures]:
    """What an application does without a gateway."""

    def run(stage: Stage) -> Figures:
        stage.endpoint.control.reset({"supply": ENDLESS, "latency_ms": 0.0})
        window = stage.application(kind)
        figures = rates(window)
        del figures["load_busy"]  # it is its own load
        return figures

    return run


def operations(module: str) -> Callable[[Stage], Figures]:
    """Single operations, in µs; no gateway, no messages."""

    def run(stage: Stage) -> Figures:
        return stage.operations(module)

    return run


RABBITMQ: Mapping[str, Benchmark] = {
    "rabbitmq-publish": Benchmark(
        f"RabbitMQ: AMQP publishes with confirms, {AMQP_CONNECTIONS} connections, window 100", rabbitmq_publish
    ),
    "rabbitmq-consume": Benchmark(
        f"RabbitMQ: {AMQP_CONNECTIONS} AMQP consumers, prefetch {AMQP_PREFETCH}, an ack each", rabbitmq_consume
    ),
    "rabbitmq-call": Benchmark("RabbitMQ: an AMQP call and its reply", rabbitmq_call),
}
"""Where it is installed."""

BENCHMARKS: Mapping[str, Benchmark] = {
    "publish-10": Benchmark("QoS 1 publishes to SQS, 10 connections, window 100", publish(10)),
    "publish-50": Benchmark("QoS 1 publishes to SQS, 50 connections, window 100", publish(50)),
    "workers-1": Benchmark(f"QoS 1 publishes, {SPREAD_CONNECTIONS} connections, 1 worker, all on all cores", spread(1)),
    "workers-2": Benchmark(
        f"QoS 1 publishes, {SPREAD_CONNECTIONS} connections, 2 workers, all on all cores", spread(2)
    ),
    "publish-topic": Benchmark("QoS 1 publishes to SNS, 50 connections, window 100", publish_to_topic(50)),
    "app-single": Benchmark("Application, aiobotocore, one call per message", application("single")),
    "app-batch": Benchmark("Application, aiobotocore, batches of 10", application("batch")),
    "publish-far": Benchmark(f"QoS 1 publishes, 50 connections, endpoint {FAR_MS:g} ms away", publish(50, FAR_MS)),
    "consume": Benchmark(f"SQS to STOMP, {CONSUMERS} consumers, client-individual acks", consume(CONSUMERS)),
    "consume-50": Benchmark(
        f"SQS to STOMP, {CONSUMERS} consumers, one client ACK for {TOGETHER}", consume(CONSUMERS, TOGETHER)
    ),
    "send": Benchmark(f"STOMP SENDs with receipts to SQS, {SENDERS} connections, window 100", send(SENDERS)),
    "amqp-publish": Benchmark(
        f"AMQP publishes with confirms to SQS, {AMQP_CONNECTIONS} connections, window 100", accepted(amqp_publish)
    ),
    "amqp-consume": Benchmark(
        f"SQS to {AMQP_CONNECTIONS} AMQP consumers, prefetch {AMQP_PREFETCH}, an ack each", consumed_once(amqp_consume)
    ),
    "amqp-call": Benchmark("AMQP call and its reply, over queues in memory", amqp_call),
    **(RABBITMQ if installed() else {}),
    "app-receive": Benchmark("Application, aiobotocore, receive 10 and delete them", application("receive")),
    "kinesis": Benchmark(
        "QoS 1 publishes to Kinesis, 50 connections, 1,000 keys", put("PutRecords", "stream", DEVICES)
    ),
    "kinesis-50-keys": Benchmark("QoS 1 publishes to Kinesis, 50 connections, 50 keys", put("PutRecords", "stream", 1)),
    "kinesis-aggregate": Benchmark(
        "QoS 1 publishes to Kinesis in KPL's format, 50 connections, 50 keys", put("PutRecords", "aggregate", 1)
    ),
    "firehose": Benchmark("QoS 1 publishes to Firehose, 50 connections", put("PutRecordBatch", "archive", 1)),
    "latency": Benchmark("1,000 QoS 1 messages/s, instant endpoint", latency()),
    "latency-far": Benchmark(f"1,000 QoS 1 messages/s, endpoint {FAR_MS:g} ms away", latency(FAR_MS)),
    "publish-qos-0": Benchmark("QoS 0 publishes to SQS, 50 connections, fences of 100", publish(50, qos=0)),
    "publish-qos-2": Benchmark("QoS 2 publishes to SQS, 50 connections, window 100", publish(50, qos=2)),
    "fan-qos-0": Benchmark(f"QoS 0, 1 publisher to {SUBSCRIBERS} live subscribers", fan(SUBSCRIBERS, 0)),
    "fan-qos-1": Benchmark(f"QoS 1, 1 publisher to {SUBSCRIBERS} live subscribers", fan(SUBSCRIBERS, 1)),
    "idle": Benchmark("Idle MQTT connections", idle),
    "idle-subscribed": Benchmark("Idle MQTT connections with one subscription each", partial(idle, subscribe=True)),
    "codecs": Benchmark("Reading and writing single frames", operations("tests.bench.codecs")),
    "trie": Benchmark("Matching a topic", operations("tests.bench.trie")),
}
