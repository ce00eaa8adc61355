"""What a client observes, as plain lines: one for each method, message or end that came from the server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from pamqp.base import Frame
from pamqp.commands import Basic

_GENERATED = re.compile(r"amq\.(gen|ctag|rabbitmq\.reply-to\.g)[-.A-Za-z0-9_+/=]+")
"""Names that the server makes up, and that nobody may rely on."""


_UNUSED = "cluster_id"
"""Reserved in the specification, and always empty."""


@dataclass(slots=True)
class Log:
    """The lines of all channels of all connections of a scenario.

    What comes on different channels has no order (AMQP 0-9-1 §4.7), so each channel's lines stand together.
    """

    suffix: str
    """What makes the names of this run its own; left out of the lines."""
    _lines: dict[tuple[int, int], list[str]] = field(default_factory=dict)

    def add(self, connection: int, channel: int, line: str) -> None:
        text = _GENERATED.sub(r"amq.\1-*", line.replace(self.suffix, ""))
        self._lines.setdefault((connection, channel), []).append(text)

    def lines(self) -> list[str]:
        return [
            f"{connection}.{channel} {line}"
            for (connection, channel), lines in sorted(self._lines.items())
            for line in lines
        ]


def described(method: Frame) -> str:
    """A method by its name in the specification, and all its arguments."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", method.name).lower()
    return " ".join([name, *_arguments(method)])


def described_content(properties: Basic.Properties, body: bytes) -> str:
    present = {name: value for name, value in properties if value is not None and name != _UNUSED}
    return " ".join([f"body={_value(body)}", *(f"{name}={_value(value)}" for name, value in present.items())])


def _arguments(method: Frame) -> Iterator[str]:
    for name, value in method:
        if name != _UNUSED:
            yield f"{name}={_value(value)}"


def _value(value: object) -> str:
    match value:
        case bytes() | bytearray():
            return repr(bytes(value).decode()) if bytes(value).isascii() else repr(bytes(value))
        case datetime():
            return "<time>"
        case dict():
            return "{" + ", ".join(f"{key}: {_value(value[key])}" for key in sorted(value)) + "}"
        case list():
            return "[" + ", ".join(map(_value, value)) + "]"
        case _:
            return repr(value)
