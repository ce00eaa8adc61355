"""What a service says that cannot keep a message until it is due."""

from __future__ import annotations

from gateway.core.errors import Invalid
from gateway.core.message import Message


def refuse_delay(message: Message, service: str, name: str) -> None:
    """Raises `Invalid` for a message that is not due at once. `service` as people call it, such as `kinesis stream`."""
    if message.not_before:
        raise Invalid(f"a {service} cannot delay single messages", resource=f"{service} {name}")
