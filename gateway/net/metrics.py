"""The metrics of one listener's connections, with their labels resolved once."""

from __future__ import annotations

from gateway.core.metrics import Metrics
from gateway.core.outcome import Outcome


class ConnectionMetrics:
    """What connections of one protocol count."""

    __slots__ = (
        "connections",
        "delivered",
        "errors",
        "logins_refused",
        "opened",
        "paused",
        "publishes",
        "received",
        "results",
        "sent",
    )

    def __init__(self, metrics: Metrics, protocol: str) -> None:
        self.connections = metrics.connections.labels(protocol)
        self.opened = metrics.connections_total.labels(protocol)
        self.errors = metrics.protocol_errors.labels(protocol)
        self.logins_refused = metrics.logins_refused.labels(protocol)
        self.received = metrics.tally(metrics.received_bytes.labels(protocol))
        self.sent = metrics.tally(metrics.sent_bytes.labels(protocol))
        self.paused = metrics.reading_paused.labels(protocol)
        self.delivered = metrics.tally(metrics.delivered.labels(protocol))
        self.publishes = metrics.tally(metrics.publishes.labels(protocol))
        self.results = [metrics.tally(metrics.publish_results.labels(outcome.name.lower())) for outcome in Outcome]
