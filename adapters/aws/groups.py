"""FIFO queues and topics: message groups, which keep their order, and deduplication ids. Pure but for our own ids."""

from __future__ import annotations

import hashlib
import itertools
import re
import secrets
from collections.abc import Mapping
from typing import Final

from adapters.aws.wire import GROUP_HEADER
from gateway.core.message import Message
from gateway.core.templates import Template

# "Alphanumeric characters and punctuation", up to 128 of them (SQS API reference, SendMessage, for both ids).
ID_LIMIT: Final = 128
_LEGAL = re.compile(r"[!-~]{1,128}")
_ILLEGAL = re.compile(r"[^!-~]")
_DIGEST_LENGTH = 16

DEFAULT_GROUP: Final = "mqlift"
"""The one group of all messages that name none: such a queue keeps the order of everything."""

# JMS's name for it, and the one that AMQP applications set; the first that a message has.
_GROUP_HEADERS = tuple(Template.parse(f"{{header:{name}}}", frozenset()) for name in (GROUP_HEADER, "x-group-id"))


def legal_id(text: str) -> str:
    """A text as an id of a group or for deduplication: itself where it is legal, else with a hash of the original."""
    if _LEGAL.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
    return f"{_ILLEGAL.sub('-', text)[: ID_LIMIT - _DIGEST_LENGTH - 1]}-{digest}"


def message_group(template: Template | None, message: Message, captures: Mapping[str, str]) -> str:
    """The group of a message in a FIFO queue: as the rule says, else as the message says, else the default one."""
    if template is not None:
        group = template.render(message, captures)
        return legal_id(group) if group else DEFAULT_GROUP
    if message.headers:
        for header in _GROUP_HEADERS:
            if group := header.render(message):
                return legal_id(group)
    return DEFAULT_GROUP


class DeduplicationIds:
    """Gives every publish an id of its own: a retry of one entry is one message, two publishes are two."""

    __slots__ = ("_counter", "_prefix")

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(12)
        self._counter = itertools.count()

    def make(self, template: Template | None, message: Message, captures: Mapping[str, str]) -> str:
        """The rule's id where it gives one for this message."""
        if template is not None and (chosen := template.render(message, captures)):
            return legal_id(chosen)
        return f"{self._prefix}-{next(self._counter)}"
