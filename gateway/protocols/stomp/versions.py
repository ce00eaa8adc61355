"""What differs on the wire between the versions of STOMP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.protocols.stomp.errors import MalformedFrame

_ESCAPE_SEQUENCE = re.compile(r"\\.?", re.DOTALL)
_SPECIAL = re.compile(r"[\\\r\n:\0]")

UNWRITABLE = "\ufffd"
"""Stands for a character that a version cannot carry in a header: it would end the line or the frame."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version's rules for header names and values, read and written, and for acknowledgements."""

    name: str
    unescapes: Mapping[str, str]
    """Escape sequences that may be read. Empty: a backslash is just a backslash."""
    escapes: Mapping[str, str]
    """Characters that may not be written as they are. Every version has a rule for each that would break a frame."""
    ack_header: str = "message-id"
    """What names a message in ACK and NACK."""
    trims: bool = False
    """Whether spaces before a header's value are not part of it."""

    def unescape(self, text: str) -> str:
        """Raises `MalformedFrame` for a sequence that the version does not define."""
        if not self.unescapes or "\\" not in text:
            return text
        return _ESCAPE_SEQUENCE.sub(self._unescaped, text)

    def escape(self, text: str) -> str:
        if _SPECIAL.search(text) is None:
            return text
        return _SPECIAL.sub(self._escaped, text)

    def _unescaped(self, sequence: re.Match[str]) -> str:
        character = self.unescapes.get(sequence[0])
        if character is None:
            # [STOMP 1.2, Value Encoding] "Undefined escape sequences ... MUST be treated as a fatal protocol error."
            raise MalformedFrame(f"undefined escape sequence {sequence[0]} in a header")
        return character

    def _escaped(self, special: re.Match[str]) -> str:
        return self.escapes.get(special[0], special[0])


# Version 1.0 has no escapes, so a line feed cannot be written; a colon in a value can. Its examples
# have a space after the colon of a header, and brokers drop it; since version 1.1 it counts.
UNESCAPED = Version("1.0", {}, {"\n": UNWRITABLE, "\r": UNWRITABLE, "\0": UNWRITABLE})
"""[STOMP 1.2, Value Encoding] CONNECT and CONNECTED do not escape, to stay readable for version 1.0."""

V1_0 = replace(UNESCAPED, trims=True)

# [STOMP 1.1, Value Encoding] \n, \c and \\. No carriage return: lines that end in CR LF are read in every version.
V1_1 = Version(
    "1.1",
    {"\\n": "\n", "\\c": ":", "\\\\": "\\"},
    {"\n": "\\n", ":": "\\c", "\\": "\\\\", "\r": UNWRITABLE, "\0": UNWRITABLE},
)

# [STOMP 1.2, Value Encoding] adds \r.
V1_2 = Version(
    "1.2",
    {**V1_1.unescapes, "\\r": "\r"},
    {**V1_1.escapes, "\r": "\\r"},
    ack_header="id",
)

OFFERED = {version.name: version for version in (V1_0, V1_1, V1_2)}
"""The versions that a client can get."""
