"""Password hashes that take no time, for tests that are not about hashing."""

from __future__ import annotations

import base64
import hashlib


def quick_hash(password: str) -> str:
    """RabbitMQ's form, which is one round."""
    salt = b"salt"
    return "$rabbitmq-sha256$" + base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
