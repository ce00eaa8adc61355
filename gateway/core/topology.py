"""Exchanges, queues and bindings: which queues a message goes to. Pure; nothing here waits or does I/O."""

from __future__ import annotations

_SWAP = str.maketrans("./", "/.")


def swap_separators(name: str) -> str:
    """A routing key as an MQTT topic, or the other way round: `.` and `/` change places, as in RabbitMQ."""
    return name.translate(_SWAP)
