"""The dialects that a listener can have."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.protocols.stomp.activemq import ActiveMQ
from gateway.protocols.stomp.dialect import Dialect
from gateway.protocols.stomp.rabbitmq import RabbitMQ

DIALECTS: Mapping[str, Dialect] = {"activemq": ActiveMQ(), "rabbitmq": RabbitMQ()}
"""By the name in a listener's settings."""
