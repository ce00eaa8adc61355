"""Names of a virtual host, which are the hub's names without the host's prefix; and names that the server gives."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final, NamedTuple

from gateway.core.exchanges import ALTERNATE
from gateway.core.message import DEFAULT_EXCHANGE, Address, Headers, HeaderValue

RESERVED_PREFIX: Final = "amq."
"""Of names that only the server gives (spec §3.1.3.1, §2.1.5)."""

REPLY_TO: Final = "amq.rabbitmq.reply-to"
"""The pseudo-queue that a client consumes to get replies (https://www.rabbitmq.com/docs/direct-reply-to)."""

DEAD_LETTER_EXCHANGE: Final = "x-dead-letter-exchange"
DEAD_LETTER_ROUTING_KEY: Final = "x-dead-letter-routing-key"

_QUEUE_BYTES: Final = 16
"""Random bytes in a queue's name: no two queues get the same one."""
_REPLY_BYTES: Final = 24
"""In the name of a reply queue, which anybody who knows it may publish to."""


def new_queue_name() -> str:
    """For a queue that is declared without a name: 22 characters follow its prefix, as in RabbitMQ."""
    return f"amq.gen-{secrets.token_urlsafe(_QUEUE_BYTES)}"


def new_consumer_tag() -> str:
    """For a consumer that has none."""
    return f"amq.ctag-{secrets.token_urlsafe(_QUEUE_BYTES)}"


def new_reply_name() -> str:
    """Where the replies to one channel go."""
    return f"{REPLY_TO}.g-{secrets.token_urlsafe(_REPLY_BYTES)}"


class VirtualHost(NamedTuple):
    """One virtual host: its name, and what the hub's names of its queues and exchanges begin with."""

    name: str
    prefix: str

    def queue(self, name: str) -> str:
        """The hub's name of a queue."""
        return self.prefix + name

    def exchange(self, name: str) -> str:
        """The hub's name of an exchange. There is one default exchange for all."""
        return self.prefix + name if name != DEFAULT_EXCHANGE else name

    def address(self, exchange: str, routing_key: str) -> Address:
        """Where the hub publishes. On the default exchange a routing key is the name of a queue."""
        if not self.prefix:
            return Address(exchange, routing_key)
        if exchange == DEFAULT_EXCHANGE:
            return Address(exchange, self.prefix + routing_key)
        return Address(self.prefix + exchange, routing_key)

    def local_name(self, name: str) -> str:
        """What a client calls a queue or exchange of the hub."""
        return name.removeprefix(self.prefix)

    def local(self, address: Address) -> Address:
        """An address of the hub as a client knows it."""
        if not self.prefix:
            return address
        exchange, routing_key = address
        if exchange == DEFAULT_EXCHANGE:
            return Address(exchange, routing_key.removeprefix(self.prefix))
        return Address(exchange.removeprefix(self.prefix), routing_key)

    def arguments(self, arguments: Headers) -> Mapping[str, HeaderValue]:
        """Arguments of queues and exchanges, in which other ones are named."""
        if not self.prefix:
            return arguments
        mapped = dict(arguments)
        for name in (ALTERNATE, DEAD_LETTER_EXCHANGE):
            if isinstance(named := mapped.get(name), str):
                mapped[name] = self.exchange(named)
        routing_key = mapped.get(DEAD_LETTER_ROUTING_KEY)
        if mapped.get(DEAD_LETTER_EXCHANGE) == DEFAULT_EXCHANGE and isinstance(routing_key, str):
            mapped[DEAD_LETTER_ROUTING_KEY] = self.queue(routing_key)
        return mapped
