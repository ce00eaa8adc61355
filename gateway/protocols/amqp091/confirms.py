"""Publisher confirms of one channel (https://www.rabbitmq.com/docs/confirms): which publishes are finished. Pure."""

from __future__ import annotations

from gateway.protocols.amqp091.writer import write_ack, write_nack


class Confirms:
    """Turns results in any order into few frames.

    One frame confirms everything up to the lowest publish that is not finished; those that are finished ahead of it
    get frames of their own at the end of a turn. What was refused gets its own before all that.
    """

    __slots__ = ("_ahead", "_fresh", "_last", "_lowest", "_offset", "_refused", "_untold")

    def __init__(self, last: int) -> None:
        """`last`: the number of the last publish before confirms were asked for; the next one is the first."""
        self._offset = last
        self._lowest = last + 1
        """Of the publishes that are not finished."""
        self._untold = 0
        """Accepted ones below it that the client has not been told of."""
        self._last = last
        """The highest of those."""
        self._ahead: dict[int, bool] = {}
        """Finished, and above the lowest; whether the client has been told, or will be by itself."""
        self._fresh: list[int] = []
        """Accepted in this turn, and above the lowest."""
        self._refused: list[int] = []
        """In this turn."""

    def accepted(self, number: int) -> None:
        """All places have taken a publish."""
        if number == self._lowest:
            self._untold += 1
            self._last = number
            self._lowest = number + 1
            if self._ahead:
                self._advance()
        elif number > self._offset:
            self._ahead[number] = False
            self._fresh.append(number)

    def refused(self, number: int) -> None:
        """Some place has not."""
        if number > self._offset:
            self._refused.append(number)
            self._ahead[number] = True
            self._advance()

    def _advance(self) -> None:
        while (told := self._ahead.pop(self._lowest, None)) is not None:
            if not told:
                self._untold += 1
                self._last = self._lowest
            self._lowest += 1

    def write(self, channel: int, out: list[bytes]) -> None:
        """Append what the client has to be told."""
        offset = self._offset
        if self._refused:
            out += [write_nack(channel, number - offset) for number in self._refused]
            self._refused.clear()
        if self._untold:
            out.append(write_ack(channel, self._last - offset, multiple=self._untold > 1))
            self._untold = 0
        if self._fresh:
            for number in self._fresh:
                if number in self._ahead:
                    self._ahead[number] = True
                    out.append(write_ack(channel, number - offset))
            self._fresh.clear()
