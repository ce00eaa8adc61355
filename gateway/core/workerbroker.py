"""The broker of one of several workers, which share the ports and nothing else.

Whatever another worker would have to know is refused, with an error that says so: live subscriptions and other queues
in memory, bindings, kept sessions, retained messages. Publishing to what rules name and to durable queues, and
consuming those, needs nothing but AWS, and is what workers are for (docs/operations.md).
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Final

import structlog

from gateway.core.backend import QueueSpec
from gateway.core.broker import Broker, Owner
from gateway.core.commands import Counted, Presence, SessionRecord
from gateway.core.errors import NotSupported
from gateway.core.exchanges import Destination
from gateway.core.message import DEFAULT_EXCHANGE, NO_HEADERS, RETAIN, Address, Headers, Message
from gateway.core.queues import Sink
from gateway.core.routing import Routing
from gateway.core.shared import SESSION, SHARED
from gateway.core.statewriter import Done

log = structlog.get_logger("mqlift.broker")

RESERVED: Final = "amq."
"""Names that a broker gives itself (AMQP 0-9-1 §1.7.2.1): a queue of such a name is never somebody's in AWS."""


class WorkerRouting(Routing):
    """A queue that is not known here may have been declared at another worker, so it is taken to be there."""

    def add_sinks(self, sinks: dict[object, Sink], address: Address, names: list[str], *, fan_out: bool) -> None:
        queue = address.routing_key
        unknown = address.exchange == DEFAULT_EXCHANGE and queue and not self._topology.has_queue(queue)
        if unknown and not queue.startswith(RESERVED):
            self.queues.adopt(queue, {}, declared=False)
            names = [queue]
        super().add_sinks(sinks, address, names, fan_out=fan_out)


class WorkerBroker(Broker):
    """A broker that keeps nothing that another worker's clients would miss."""

    routing = WorkerRouting

    async def declare_queue(
        self, name: str, spec: QueueSpec, owner: Owner, presence: Presence = Presence.ANY
    ) -> Counted:
        """As `Broker`; raises `NotSupported` for a queue that would live in this process."""
        if spec.virtual:
            raise _refusal("live subscriptions and temporary queues")
        if spec.arguments.get(SESSION) or spec.arguments.get(SHARED):
            raise _refusal("kept sessions and shared subscriptions")
        return await super().declare_queue(name, spec, owner, presence)

    def bind(
        self, destination: Destination, exchange: str, pattern: str, arguments: Headers = NO_HEADERS
    ) -> Awaitable[None] | None:
        """Raises `NotSupported`."""
        del pattern, arguments
        raise _refusal(f"bindings, such as of '{destination}' to '{exchange}'; a rule under routes: does the same")

    def rebind(self, queue: str, bindings: Sequence[tuple[str, str]]) -> Awaitable[None] | None:
        """Raises `NotSupported`."""
        del queue, bindings
        raise _refusal("durable subscriptions; a rule under routes: does the same")

    def keep_session(self, client_id: str, record: SessionRecord, done: Done) -> None:  # noqa: ARG002 - as Broker
        done(_refusal("kept sessions"))

    def retain(self, message: Message, done: Done) -> None:  # noqa: ARG002 - as Broker
        done(_refusal("retained messages"))

    def _publish_will(self, will: Message) -> None:
        if will.headers.get(RETAIN):
            log.warning("will_not_retained", problem=str(_refusal("retained messages")))
        self._publish_alone(will)


def _refusal(what: str) -> NotSupported:
    return NotSupported(f"several workers run here, which do not share {what}; it takes workers: 1")
