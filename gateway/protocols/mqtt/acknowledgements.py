"""The publishes of a client that the hub has not answered, and the order in which they are acknowledged."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class PublishOrder:
    """Acknowledgements of one kind go out in the order in which the PUBLISHes came in, whatever the order of the
    answers: PUBACKs [MQTT-4.6.0-2], PUBRECs [MQTT-4.6.0-3].

    Bounded by the protocol: there are 65,535 packet identifiers.
    """

    __slots__ = ("_answered", "_order")

    def __init__(self) -> None:
        self._order: deque[int] = deque()
        self._answered: dict[int, bool] = {}

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, packet_id: int) -> bool:
        return packet_id in self._answered

    def add(self, packet_id: int) -> None:
        """A publish was handed to the hub. The identifier must not be in flight."""
        self._answered[packet_id] = False
        self._order.append(packet_id)

    def answered(self, packet_id: int) -> Sequence[int]:
        """The hub answered for a publish: the identifiers that may be acknowledged now, in their order."""
        order = self._order
        if order[0] != packet_id:
            self._answered[packet_id] = True
            return ()
        del self._answered[order.popleft()]
        if not order or not self._answered[order[0]]:
            return (packet_id,)
        released = [packet_id]
        while order and self._answered[order[0]]:
            released.append(order.popleft())
            del self._answered[released[-1]]
        return released
