"""All scenarios."""

from __future__ import annotations

from tests.interop.amqp import (
    scenarios_connection,
    scenarios_consuming,
    scenarios_deadletter,
    scenarios_publishing,
    scenarios_topology,
)

GROUPS = [
    scenarios_connection.scenario,
    scenarios_topology.scenario,
    scenarios_publishing.scenario,
    scenarios_consuming.scenario,
    scenarios_deadletter.scenario,
]

QUEUED = [scenarios_publishing.scenario, scenarios_consuming.scenario, scenarios_deadletter.scenario]
"""Those with queues that need not be durable: a gateway has other queues for these."""
