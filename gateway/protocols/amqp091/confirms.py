"""Publisher confirms of one channel (https://www.rabbitmq.com/docs/confirms): which publishes are finished. Pure."""

from __future__ import annotations

from gateway.protocols.amqp091.writer import write_ack, write_nack


class Confirms:
    """Turns results in any order into few frames.

    One frame confirms everything up to the lowest publish that is not finished; those that are finished ahead of it
    get frames of their own at the end of a turn. What was refused gets its own before all that.
    """

    __slots__ = ("_ahead", "_fresh", "_lowest", "_offset", "_refused", "_told")

    def __init__(self, last: int) -> None:
        """`last`: the number of the last publish before confirms were asked for; the next one is the first."""
        self._offset = last
        self._lowest = last + 1
        """Of the publishes that are not finished."""
        self._told = last
        """All up to here are confirmed."""
        self._ahead: set[int] = set()
        """Finished, and above the lowest."""
        self._fresh: list[int] = []
        """Those of them that the client has not been told of."""
        self._refused: list[int] = []

    def accepted(self, number: int) -> None:
        """All places have taken a publish."""
        if number == self._lowest:
            self._lowest = number + 1
            if self._ahead:
                self._advance()
        elif number > self._offset:
            self._ahead.add(number)
            self._fresh.append(number)

    def refused(self, number: int) -> None:
        """Some place has not."""
        if number <= self._offset:
            return
        self._refused.append(number)
        self._ahead.add(number)
        self._advance()

    def _advance(self) -> None:
        ahead = self._ahead
        while self._lowest in ahead:
            ahead.discard(self._lowest)
            self._lowest += 1

    def write(self, channel: int, out: list[bytes]) -> None:
        """Append what the client has to be told."""
        offset = self._offset
        refused = self._refused
        if refused:
            out += [write_nack(channel, number - offset) for number in refused]
        upto = self._lowest - 1
        count = upto - self._told
        if count == 1 and upto not in refused:
            out.append(write_ack(channel, upto - offset))
        elif count > 1 and count != len([number for number in refused if number <= upto]):
            # Those among them that were told before are not waited for by the client any more.
            out.append(write_ack(channel, upto - offset, multiple=True))
        self._told = upto
        if self._fresh:
            out += [write_ack(channel, number - offset) for number in self._fresh if number > upto]
            self._fresh.clear()
        if refused:
            refused.clear()
