"""Names and tags of queues and topics, made from any text. Pure."""

from __future__ import annotations

import hashlib
import re
from typing import Final

FIFO_SUFFIX: Final = ".fifo"

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_ILLEGAL_IN_NAME = re.compile(r"[^A-Za-z0-9_-]")

DIGEST_LENGTH: Final = 8
"""Hexadecimal digits of SHA-256 behind a changed name: 32 bits, among names that look alike once they are changed."""

NAME_TAG: Final = "mqlift:name"
"""The tag that holds the legacy name of what was created for it."""

# Tag values: letters, digits and white space of any script, and _ . : / = + - @; at most 256 characters (AWS tagging
# guide, "Tag naming limits"). Other scripts are escaped all the same: services differ in what they call a letter.
TAG_VALUE_LIMIT: Final = 256
_ILLEGAL_IN_TAG = re.compile(r"[^A-Za-z0-9 _.:/+@-]")


def is_fifo(name: str) -> bool:
    return name.endswith(FIFO_SUFFIX)


def legal_name(name: str, limit: int, *, fifo: bool = False) -> str:
    """Any text as a name: itself where it is legal, else changed or cut to `limit` characters, with a short hash.

    A name that ends in `.fifo` is that of a FIFO queue or topic; `fifo` adds the suffix where it is not there.
    Raises `ValueError` for a name with nothing in it.
    """
    stem = name.removesuffix(FIFO_SUFFIX)
    if not stem:
        raise ValueError("a queue or topic cannot have an empty name")
    suffix = FIFO_SUFFIX if fifo or stem != name else ""
    if _NAME.fullmatch(stem) and len(stem) + len(suffix) <= limit:
        return stem + suffix
    digest = hashlib.sha256(stem.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_LENGTH]
    room = limit - len(suffix) - DIGEST_LENGTH - 1
    return f"{_ILLEGAL_IN_NAME.sub('-', stem)[:room]}-{digest}{suffix}"


def tag_value(name: str) -> str:
    """A legacy name as the value of a tag: what a tag cannot hold is `=` and two hexadecimal digits for each byte."""
    return _ILLEGAL_IN_TAG.sub(_escape, name)[:TAG_VALUE_LIMIT]


def _escape(character: re.Match[str]) -> str:
    return "".join(f"={byte:02X}" for byte in character.group().encode("utf-8", "surrogatepass"))
