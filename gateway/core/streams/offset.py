"""Where a consumer of a stream begins: the argument `x-stream-offset`, and the text of positions. Pure.

https://www.rabbitmq.com/docs/streams#consuming. RabbitMQ numbers the messages of a stream; the records of a stream in
shards have no numbers, so an offset is a text that says for each shard how far its consumer has come:

    0@4964…0258.0,1@4964…7714,2@~1763856000000,3@end

The first part is the message's own place: to go on from there means to get it again, as in RabbitMQ. The others say
what the consumer had been given before it. `docs/wire-format.md` has the format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from gateway.core.errors import InvalidArgument
from gateway.core.message import Headers
from gateway.core.streams.port import END, FIRST, NEXT, Position, Whence

STREAM_OFFSET: Final = "x-stream-offset"
"""Argument of a consumer, and header of each of its deliveries."""

NAMES: Final = ("x-stream-name", "name")
"""Arguments that name a consumer; the first one counts."""

LAST_SECONDS: Final = 60.0
"""What `last` means: RabbitMQ has chunks and gives the last of them, however old; Kinesis cannot be asked for that."""

OFFSET_SHARDS: Final = 100
"""Shards that an offset speaks of at most: each takes some 60 bytes of every message."""

OFFSET_LENGTH: Final = 16_384
"""Characters of an offset at most: more than `OFFSET_SHARDS` parts have."""

NAME_LENGTH: Final = 255
"""Bytes of a consumer's name at most: AMQP's short string."""

AFTER_MARK: Final = ">"
"""Before an offset: go on behind its own message."""

# As in RabbitMQ's x-max-age: a number and a unit.
_AGE = re.compile(r"([0-9]{1,9})([YMDhms])")
_SECONDS: Final = {"Y": 31_536_000, "M": 2_592_000, "D": 86_400, "h": 3_600, "m": 60, "s": 1}

_PART = re.compile(r"([A-Za-z0-9_.-]{1,128})@(?:(end)|~([0-9]{1,15})|([0-9]{1,128})(?:\.([0-9]{1,9}))?)")
_NUMBER = re.compile(r"(timestamp|offset)=([0-9]{1,19})")

_ADVICE: Final = "pass first, last, next, a timestamp, or the text of a delivery's header"


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin: in the shards of `positions` there, in others at `default`."""

    default: Position = NEXT
    positions: Mapping[str, Position] = field(default_factory=dict)


def read_start(arguments: Headers, now: float) -> Start:
    """What `x-stream-offset` says, `next` where there is none. `now`: seconds since 1970. Raises `InvalidArgument`."""
    value = arguments.get(STREAM_OFFSET)
    if value is None:
        return Start()
    if isinstance(value, datetime):
        return _from_time(value.timestamp(), now)
    if isinstance(value, str):
        return _read_text(value, now)
    if isinstance(value, int) and not isinstance(value, bool):
        return _read_number(value)
    raise InvalidArgument(STREAM_OFFSET, _ADVICE)


def read_name(arguments: Headers) -> str:
    """The consumer's name, empty for none. Raises `InvalidArgument`."""
    for argument in NAMES:
        value = arguments.get(argument)
        if value is None:
            continue
        if not isinstance(value, str) or not value or len(value.encode(errors="replace")) > NAME_LENGTH:
            raise InvalidArgument(argument, f"a name is text of 1 to {NAME_LENGTH} bytes")
        return value
    return ""


def _read_text(value: str, now: float) -> Start:
    if value == "first":
        return Start(FIRST)
    if value == "next":
        return Start(NEXT)
    if value == "last":
        return _from_time(now - LAST_SECONDS, now)
    if age := _AGE.fullmatch(value):
        return _from_time(now - int(age[1]) * _SECONDS[age[2]], now)
    if number := _NUMBER.fullmatch(value):  # as STOMP writes them
        if number[1] == "offset":
            return _read_number(int(number[2]))
        return _from_time(float(number[2]), now)
    return Start(FIRST, parse_offset(value.removeprefix("offset=")))


def _from_time(time: float, now: float) -> Start:
    """A time out of the stream's range means its beginning or its end, as in RabbitMQ."""
    return Start(NEXT) if time > now else Start(Position(Whence.TIME, time=max(0.0, time)))


def _read_number(value: int) -> Start:
    """The only number that means something here is that of the first message."""
    if value:
        raise InvalidArgument(STREAM_OFFSET, f"there is no message number {value} in Kinesis; {_ADVICE}")
    return Start(FIRST)


def parse_offset(text: str) -> dict[str, Position]:
    """The positions of an offset, by shard. Raises `InvalidArgument`."""
    after = text.startswith(AFTER_MARK)
    if len(text) > OFFSET_LENGTH:
        raise InvalidArgument(STREAM_OFFSET, f"over {OFFSET_LENGTH} characters; {_ADVICE}")
    positions: dict[str, Position] = {}
    for part in text.removeprefix(AFTER_MARK).split(","):
        found = _PART.fullmatch(part)
        if found is None or found[1] in positions:
            raise InvalidArgument(STREAM_OFFSET, f"{part[:80]!r} is no part of an offset; {_ADVICE}")
        position = parse_position(part[len(found[1]) + 1 :])
        if after and not positions and position.whence is Whence.AT:
            position = Position(Whence.AT, position.sequence, position.index + 1)
        positions[found[1]] = position
    return positions


def parse_position(text: str) -> Position:
    """The reverse of `position_text`. Raises `InvalidArgument`."""
    if not text:
        return FIRST
    found = _PART.fullmatch(f"0@{text}")
    if found is None:
        raise InvalidArgument(STREAM_OFFSET, f"{text[:80]!r} is no position")
    _, end, milliseconds, sequence, index = found.groups()
    if end:
        return END
    if milliseconds:
        return Position(Whence.TIME, time=int(milliseconds) / 1000)
    return Position(Whence.AFTER, sequence) if index is None else Position(Whence.AT, sequence, int(index))


def position_text(position: Position) -> str:
    """A position in an offset, or in the state store; empty for the beginning. `NEXT` has none: it is a time."""
    match position.whence:
        case Whence.FIRST:
            return ""
        case Whence.END:
            return "end"
        case Whence.TIME:
            return f"~{round(position.time * 1000)}"
        case Whence.AT:
            return f"{position.sequence}.{position.index}"
        case Whence.AFTER:
            return position.sequence
    raise ValueError("what is written from now on is no place in a shard")


def format_offset(own: str, others: Iterable[tuple[str, str]], count: int) -> str:
    """The offset of a message: its own part, and (shard, position text) of `count` shards, its own among them or not.

    Over `OFFSET_SHARDS` it has its own part only: whoever goes on from it gets all that is kept of the other shards.
    """
    if count > OFFSET_SHARDS:
        return own
    shard = own.partition("@")[0]
    return ",".join([own, *(f"{each}@{text}" for each, text in others if text and each != shard)])
