"""What a channel in transaction mode keeps until `tx.commit` (spec §1.9): publishes and acknowledgements, bounded.

Not atomic: each publish goes to its places on its own, as in RabbitMQ over several queues. What is certain is that
`tx.commit-ok` comes after all of them were taken, and that deliveries are acknowledged after that.
"""

from __future__ import annotations

from gateway.core.delivery import Delivery
from gateway.core.message import Message
from gateway.core.outcome import ACCEPTED, Outcome, Result, worse
from gateway.protocols.amqp091.content import write_content
from gateway.protocols.amqp091.errors import ReplyCode
from gateway.protocols.amqp091.methods import BasicPublish
from gateway.protocols.amqp091.refusals import channel_error
from gateway.protocols.amqp091.settings import Settings


class Pending:
    """One publish of a transaction."""

    __slots__ = ("also", "message", "method")

    def __init__(self, method: BasicPublish, message: Message, also: tuple[str, ...]) -> None:
        self.method = method
        self.message = message
        self.also = also


class Settlement:
    """One acknowledgement of a transaction, by delivery tags."""

    __slots__ = ("deliveries", "outcome")

    def __init__(self, deliveries: dict[int, Delivery], outcome: Outcome) -> None:
        self.deliveries = deliveries
        self.outcome = outcome


class Transaction:
    """The one that is open: the next begins where it ends."""

    __slots__ = ("_awaited", "_bytes", "_result", "_settings", "publishes", "settlements")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._awaited = 0
        self._result = ACCEPTED
        self._bytes = 0
        self.publishes: list[Pending] = []
        self.settlements: list[Settlement] = []

    def add(self, pending: Pending) -> None:
        """Keep a publish. Raises `ChannelException` over a limit."""
        message = pending.message
        self._bytes += len(message.body) + len(write_content(message.properties, message.headers))
        settings = self._settings
        if len(self.publishes) >= settings.max_transaction_messages or self._bytes > settings.max_transaction_bytes:
            problem = (
                f"a transaction of more than {settings.max_transaction_messages} messages "
                f"or {settings.max_transaction_bytes} bytes"
            )
            raise channel_error(ReplyCode.PRECONDITION_FAILED, problem, BasicPublish)
        self.publishes.append(pending)

    def take_publishes(self) -> list[Pending]:
        """All that are to be published now; `answered` is called for each."""
        publishes, self.publishes = self.publishes, []
        self._bytes = 0
        self._awaited = len(publishes)
        self._result = ACCEPTED
        return publishes

    def answered(self, result: Result) -> Result | None:
        """One of them has its result. Returns the worst of all after the last."""
        self._awaited -= 1
        self._result = worse(self._result, result)
        return None if self._awaited else self._result

    def take_settlements(self) -> list[Settlement]:
        settlements, self.settlements = self.settlements, []
        return settlements

    def forget_publishes(self) -> None:
        self.publishes = []
        self._bytes = 0
