"""What the gateway tells of itself on topics, for monitoring scripts: Mosquitto's `$SYS` tree (mosquitto(8))."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final

from gateway.core.broker import Broker
from gateway.core.message import TOPIC_EXCHANGE, TRANSIENT, Address, Message, Origin
from gateway.core.metrics import Metrics
from gateway.core.trie import swap_separators

PREFIX: Final = "$SYS/broker/"
INTERVAL: Final = 10.0
"""Seconds between two updates, as in Mosquitto (`sys_interval`)."""

_ORIGIN: Final = Origin("gateway")


class StatusTopics:
    """Publishes and retains the tree on a timer. Retained in memory only: old figures help nobody."""

    def __init__(self, broker: Broker, metrics: Metrics, version: str, *, interval: float = INTERVAL) -> None:
        self._broker = broker
        self._metrics = metrics
        self._version = version
        self._interval = interval
        self._started = time.monotonic()
        self._most_connected = 0

    async def run(self) -> None:
        """Never ends."""
        while True:
            self.update()
            await asyncio.sleep(self._interval)

    def update(self) -> None:
        """Publish every figure once."""
        for topic, text in self.figures().items():
            address = Address(TOPIC_EXCHANGE, swap_separators(PREFIX + topic))
            self._broker.announce(Message(address, text.encode(), TRANSIENT, origin=_ORIGIN))

    def figures(self) -> Mapping[str, str]:
        """Each topic below `$SYS/broker/`, and its payload."""
        samples = self._samples()

        def of_mqtt(name: str) -> int:
            return int(samples.get((name, "mqtt"), 0))

        connected = of_mqtt("mqlift_connections")
        self._most_connected = max(self._most_connected, connected)
        kept = self._broker.kept_sessions
        return {
            "version": f"mqlift version {self._version}",
            "uptime": f"{int(time.monotonic() - self._started)} seconds",
            "clients/connected": str(connected),
            "clients/active": str(connected),
            "clients/maximum": str(self._most_connected),
            "clients/total": str(max(connected, kept)),
            "messages/received": str(of_mqtt("mqlift_publishes_total")),
            "messages/sent": str(of_mqtt("mqlift_messages_delivered_total")),
            "publish/messages/received": str(of_mqtt("mqlift_publishes_total")),
            "publish/messages/sent": str(of_mqtt("mqlift_messages_delivered_total")),
            "publish/messages/dropped": str(int(samples.get(("mqlift_virtual_queue_dropped_total", ""), 0))),
            "bytes/received": str(of_mqtt("mqlift_received_bytes_total")),
            "bytes/sent": str(of_mqtt("mqlift_sent_bytes_total")),
            "subscriptions/count": str(self._broker.bindings),
            "retained messages/count": str(self._broker.retained_messages),
        }

    def _samples(self) -> Mapping[tuple[str, str], float]:
        """The gateway's metrics by name and protocol."""
        return {
            (sample.name, sample.labels.get("protocol", "")): sample.value
            for metric in self._metrics.registry.collect()
            for sample in metric.samples
        }
