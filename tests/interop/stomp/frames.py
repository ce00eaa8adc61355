"""STOMP frames as they are on the wire: nothing is escaped or unescaped, so that a test sees what a peer wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NUL = b"\0"


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of a server. Of repeated headers all are here."""

    command: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """The first header of that name; empty when there is none."""
        return next((value for each, value in self.headers if each == name), "")


def written(command: str, headers: Sequence[str], body: bytes = b"") -> bytes:
    """A frame of these header lines, as they are."""
    return "\n".join([command, *headers, "", ""]).encode() + body + NUL


class FrameReader:
    """Bytes in, frames out."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        self._data += data

    def next(self) -> Frame | None:
        """The next complete frame."""
        self._data = self._data.lstrip(b"\r\n")
        head, gap, _ = bytes(self._data).partition(b"\n\n")
        if not gap or NUL in head:
            return None
        command, *lines = head.decode("utf-8", "replace").split("\n")
        headers = tuple((name, value) for name, _, value in (line.partition(":") for line in lines))
        start = len(head) + len(gap)
        end = self._end(headers, start)
        if end < 0 or end >= len(self._data):
            return None
        body = bytes(self._data[start:end])
        del self._data[: end + 1]
        return Frame(command, headers, body)

    def _end(self, headers: tuple[tuple[str, str], ...], start: int) -> int:
        length = next((value for name, value in headers if name == "content-length"), None)
        return self._data.find(NUL, start) if length is None else start + int(length)
