"""Every metric of the gateway, in one registry that the composition root owns.

A counter of prometheus-client takes a lock: it is updated for requests and batches, and a `Tally` for single messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol, runtime_checkable
from weakref import WeakSet

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.core.budget import ByteBudget

BATCH_BUCKETS: Final = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 25, 100, 250, 500)
LATENCY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30)


class CountedQueue(Protocol):
    """A queue whose state is read when metrics are scraped."""

    @property
    def unsettled(self) -> int:
        """Deliveries that clients hold."""

    @property
    def polls(self) -> int:
        """Receive requests under way."""


@runtime_checkable
class ReadsMessages(Protocol):
    """A backend that may meet messages in a form that it cannot read."""

    unreadable: int
    """Those that it took for native ones."""


class Count:
    """What happens with single messages, counted by somebody who knows of no metrics."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Tally(Count):
    """A counter for what happens with every message: counted without a lock, shown when metrics are scraped."""

    __slots__ = ("_counter", "_shown")

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self._counter = counter
        self._shown = 0

    def show(self) -> None:
        """Bring the counter up to date."""
        self._counter.inc(self.count - self._shown)
        self._shown = self.count


class _Read:
    """A counter for what somebody else counts: read when metrics are scraped."""

    __slots__ = ("_read", "_tally")

    def __init__(self, tally: Tally, read: Callable[[], int]) -> None:
        self._tally = tally
        self._read = read

    def show(self) -> None:
        self._tally.count = self._read()
        self._tally.show()


class _Tallies(Collector):
    """Registered before all counters, so that they are up to date when they are collected."""

    def __init__(self) -> None:
        self.all: dict[Counter, Tally] = {}
        self.read: list[_Read] = []

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        for tally in list(self.all.values()):
            tally.show()
        for each in self.read:
            each.show()
        return ()


class Metrics:
    """All metrics, by name. Labels are few and closed: never a client id, a topic or anything else a peer chooses.

    `destination` is a resource in AWS (`sqs:orders`); their number is bounded by the configuration and by what may be
    created.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"mqlift_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"mqlift_{name}", text, labels, registry=registry)

        self.registry = registry
        self._tallies = _Tallies()
        registry.register(self._tallies)
        self.connections = gauge("connections", "Open connections", "protocol")
        self.connections_total = counter("connections_opened", "Connections accepted", "protocol")
        self.connections_refused = counter("connections_refused", "Connections refused", "protocol", "reason")
        self.protocol_errors = counter("protocol_errors", "Connections closed for what the peer sent", "protocol")
        self.logins_refused = counter("logins_refused", "Peers that were not let in", "protocol")
        self.logins_accepted = counter("logins_accepted", "Peers that were let in", "protocol")
        self.takeovers = counter("takeovers", "Connections closed because their client id connected again")
        self.received_bytes = counter("received_bytes", "Bytes read from clients", "protocol")
        self.sent_bytes = counter("sent_bytes", "Bytes written to clients", "protocol")
        self.reading_paused = gauge("reading_paused", "Connections not read, for back-pressure", "protocol")

        self.delivered = counter("messages_delivered", "Messages given to clients", "protocol")
        self.discarded = counter(
            "messages_discarded", "Messages not sent to a client: expired, or too large for it", "protocol"
        )
        self.publishes = counter("publishes", "Messages published by clients", "protocol")
        self.publish_results = counter("publish_results", "What became of published messages", "outcome")
        self.unrouted = counter("unrouted", "Messages published that no queue and no rule wanted")
        self.dead_letters = counter("dead_letters", "Messages that queues gave up", "reason")
        self.dead_letters_dropped = counter("dead_letters_dropped", "Dead letters that could go nowhere, or in circles")
        self.inflight = gauge("inflight_messages", "Published messages that wait for the backend")
        self.inflight_bytes = gauge("inflight_bytes", "Bytes of published messages that wait for the backend")

        self.large_body_bytes = gauge("large_body_bytes", "Bytes of large bodies that are in memory, or will be")
        self.large_bodies_waiting = gauge("large_bodies_waiting", "Connections and fetches that wait for that memory")

        self.entries = counter("entries", "Entries answered by the backend", "destination", "outcome")
        self.retries = counter("entry_retries", "Entries sent again", "destination")
        self.publish_seconds = Histogram(
            "mqlift_publish_seconds",
            "Time from routing a message to its result, retries included; taken of one at a time per destination",
            ["destination"],
            registry=registry,
            buckets=LATENCY_BUCKETS,
        )
        self.best_effort_lost = counter(
            "best_effort_lost", "Messages that a best-effort target has not taken", "destination"
        )
        self.throttles = counter("throttles", "Requests or entries that the backend throttled", "destination")
        self.batch_entries = Histogram(
            "mqlift_batch_entries", "Entries in a request", ["destination"], registry=registry, buckets=BATCH_BUCKETS
        )

        self.deliveries = counter("deliveries", "Messages handed to consumers", "queue")
        self.redeliveries = counter("redeliveries", "Messages handed out that had been received before", "queue")
        self.passed_over = counter(
            "messages_passed_over", "Messages that no consumer's selector took, hidden for a while", "queue"
        )
        self.settlements = counter("settlements", "Deliveries ended by consumers", "queue", "outcome")
        self.settle_failures = counter("settle_failures", "Settlements that the backend refused", "queue")
        self.unreadable = counter(
            "messages_unreadable",
            "Messages whose mqlift attributes could not be read, taken for native ones",
            "backend",
        )
        self.renewals = counter("visibility_renewals", "Deliveries whose visibility was extended", "queue")
        self.unsettled = gauge("unsettled_deliveries", "Deliveries that clients hold", "queue")
        self.polls = gauge("polls", "Receive requests under way", "queue")
        self.dropped = counter("virtual_queue_dropped", "Messages dropped from a full virtual queue of a slow consumer")

        self.durable_queues = gauge("durable_queues", "Durable queues that are in use")
        self.virtual_queues = gauge("virtual_queues", "Queues in the gateway's memory")
        self.bindings = gauge("bindings", "Bindings to queues and exchanges")
        self.sessions = gauge("sessions", "Sessions that are kept")
        self.gateways = gauge("gateways", "Gateways that share the state store and are alive, this one among them")
        self.gateways.set(1)
        self.retained = gauge("retained_messages", "Retained messages")

        self.state_calls = counter("state_calls", "Calls of the state store", "action", "outcome")
        self.state_seconds = Histogram(
            "mqlift_state_call_seconds",
            "Time of a call of the state store",
            ["action"],
            registry=registry,
            buckets=LATENCY_BUCKETS,
        )
        self.reloads = counter("config_reloads", "Reloads of the configuration", "result")
        self.virtual_ready = gauge("virtual_queue_messages", "Messages in memory that wait for a consumer")

        self._queues: dict[str, WeakSet[CountedQueue]] = {}

        self.aws_calls = counter("aws_calls", "Requests to AWS", "service", "action", "outcome")
        self.aws_seconds = Histogram(
            "mqlift_aws_call_seconds",
            "Time of a request to AWS, long polls included",
            ["service", "action"],
            registry=registry,
            buckets=LATENCY_BUCKETS,
        )

    def count_queue(self, label: str, queue: CountedQueue) -> None:
        """Show a queue's state with that of all others of the same label, as long as it lives."""
        if label not in self._queues:
            queues = self._queues[label] = WeakSet()
            self.unsettled.labels(label).set_function(lambda: sum(each.unsettled for each in queues))
            self.polls.labels(label).set_function(lambda: sum(each.polls for each in queues))
        self._queues[label].add(queue)

    def count_large_bodies(self, budget: ByteBudget) -> None:
        """Show the memory of large bodies."""
        self.large_body_bytes.set_function(lambda: budget.used)
        self.large_bodies_waiting.set_function(lambda: budget.waiting)

    def count_unreadable(self, kind: str, backend: ReadsMessages) -> None:
        """Show what a backend, the only one of its kind, could not read."""
        self._tallies.read.append(_Read(Tally(self.unreadable.labels(kind)), lambda: backend.unreadable))

    def total(self, name: str) -> int:
        """A counter's sum over all its labels; `name` without `_total`."""
        for family in self.registry.collect():
            if family.name == name:
                return int(sum(sample.value for sample in family.samples if sample.name == f"{name}_total"))
        return 0

    def tally(self, counter: Counter) -> Tally:
        """The tally of a counter, or of one of its children."""
        if counter not in self._tallies.all:
            self._tallies.all[counter] = Tally(counter)
        return self._tallies.all[counter]
