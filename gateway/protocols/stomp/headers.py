"""Reading the headers that mean something to the gateway itself."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.protocols.stomp.codec import Frame
from gateway.protocols.stomp.errors import BadHeader, MissingDestination, MissingHeader

# `int` is quadratic in the digits: nothing longer can be within any limit.
_MAX_DIGITS = 19


def required(frame: Frame, name: str) -> str:
    """A header that the frame cannot be without. Raises `MissingHeader`."""
    value = frame.headers.get(name)
    if value:
        return value
    if name == "destination":
        raise MissingDestination(f"\"{frame.command}\" must include a 'destination' header\n")
    raise MissingHeader(f'"{frame.command}" must include the "{name}" header\n')


def parse_number(name: str, text: str, most: int) -> int:
    """A header that counts something. Raises `BadHeader` unless it is 0 to `most`."""
    text = text.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > _MAX_DIGITS or int(text) > most:
        raise BadHeader(f"{name} is not a whole number from 0 to {most}")
    return int(text)


def optional_integer(name: str, headers: Mapping[str, str]) -> int | None:
    """A header that may be missing, and is a 32-bit number, perhaps negative. Raises `BadHeader`."""
    return parse_integer(name, headers[name]) if name in headers else None


def parse_integer(name: str, text: str) -> int:
    """A header that is a 32-bit number, perhaps negative. Raises `BadHeader`."""
    digits = text.strip().removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > len(str(2**31)):
        raise BadHeader(f"{name} is not a whole number")
    return int(text)
