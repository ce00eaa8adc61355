"""The deliveries of one channel that the client has not acknowledged, by their delivery tags (spec §1.8.3.12). Pure."""

from __future__ import annotations

from gateway.core.delivery import Delivery


class Unacknowledged:
    """Tags count the deliveries of a channel from 1, those without acknowledgements included.

    Its members are open to consumers: a call for each delivery would cost as much as what it does.
    """

    __slots__ = ("_lowest", "held", "last")

    def __init__(self) -> None:
        self.last = 0
        """The tag of the last delivery."""
        self.held: dict[int, Delivery] = {}
        """In the order of their tags."""
        self._lowest = 1
        """Nothing is held below it: so many acknowledgements up to a tag together look at each tag once."""

    def __len__(self) -> int:
        return len(self.held)

    def take(self, delivery_tag: int, *, multiple: bool) -> dict[int, Delivery]:
        """What an acknowledgement speaks of; tag 0 with `multiple` is all there is. Raises `KeyError`."""
        if multiple and delivery_tag == 0:
            return self.take_all()
        if not multiple:
            return {delivery_tag: self.held.pop(delivery_tag)}
        if delivery_tag not in self.held:
            raise KeyError(delivery_tag)
        held = self.held
        taken = {tag: held.pop(tag) for tag in range(self._lowest, delivery_tag + 1) if tag in held}
        self._lowest = delivery_tag + 1
        return taken

    def take_all(self) -> dict[int, Delivery]:
        taken, self.held = self.held, {}
        self._lowest = self.last + 1
        return taken

    def restore(self, deliveries: dict[int, Delivery]) -> None:
        """Hold again what was taken."""
        if deliveries:
            self.held = dict(sorted({**self.held, **deliveries}.items()))
            self._lowest = min(self._lowest, min(deliveries))
