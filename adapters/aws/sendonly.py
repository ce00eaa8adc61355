"""The part of a backend that a service has not which is only sent to: no queue lives there, nothing is received."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.core.backend import Depth, QueueSpec, Received, Target
from gateway.core.errors import BackendError, Invalid
from gateway.core.outcome import Outcome, Result


class SendOnly:
    """Refuses what `gateway.core.backend.Backend` asks of queues; subclasses do the rest.

    The hub never asks where `limits.receive_entries` is 0, so whoever sees one of these texts has found a bug, or
    deletes a queue that a rule maps to such a service.
    """

    service = ""
    """As people call it, such as `Kinesis stream`."""

    def home(self, queue: str, spec: QueueSpec) -> Target:  # noqa: ARG002 - the port's
        raise Invalid(f"a queue cannot live in a {self.service}: nothing can be consumed from it", resource=queue)

    async def receive(
        self,
        target: Target,
        limit: int,  # noqa: ARG002 - the port's
        wait: float,  # noqa: ARG002 - the port's
        visibility: float,  # noqa: ARG002 - the port's
    ) -> Sequence[Received]:
        raise self._sent_to_only(target)

    async def settle(self, target: Target, receipts: Sequence[str], outcome: Outcome) -> Sequence[Result]:  # noqa: ARG002
        raise self._sent_to_only(target)

    async def extend(self, target: Target, receipts: Sequence[str], visibility: float) -> Sequence[Result]:  # noqa: ARG002
        raise self._sent_to_only(target)

    async def depth(self, target: Target) -> Depth:  # noqa: ARG002 - the port's
        """What waits for a consumer: nothing ever does. A queue that a rule maps here can be declared all the same."""
        return Depth(ready=0, unsettled=0, delayed=0)

    async def remove(self, target: Target) -> None:
        problem = "it is not deleted with the queue that a rule maps to it; delete it in AWS, if it is to go"
        raise BackendError(problem, resource=f"{self.service} {target.name}")

    def _sent_to_only(self, target: Target) -> BackendError:
        return BackendError(
            "it is only sent to: nothing can be consumed from it", resource=f"{self.service} {target.name}"
        )
