"""Hub messages from and to the headers of SEND and MESSAGE frames, as ActiveMQ has them. Pure.

https://activemq.apache.org/components/classic/documentation/stomp, "Message Header Reference". A header that stands for
no property of a JMS message becomes one of its own, as text; `JMSXGroupID` among them, for rules to make groups of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from gateway.core.errors import Refused
from gateway.core.message import Address, HeaderValue, Message, Properties
from gateway.protocols.stomp.convert import (
    MAX_EXPIRATION,
    PERSISTENT,
    as_text,
    optional_number,
    user_lines,
)
from gateway.protocols.stomp.dialect import Sender
from gateway.protocols.stomp.errors import BadHeader
from gateway.protocols.stomp.headers import parse_number
from gateway.protocols.stomp.versions import Version

MESSAGE_TYPE: Final = "amq-msg-type"
"""Header: `text` or `bytes`, which of the JMS message types it is. Without it, it is `bytes`."""

MAX_DELAY: Final = 366 * 24 * 3600 * 1000
"""Milliseconds of `AMQ_SCHEDULED_DELAY`: a year."""

_MAP_AS_JSON = "jms-map-json"
"""The one transformation whose result and origin are the same here: who sends a map as JSON, and who asks for one as
JSON, speaks of the same text."""
_ORIGINAL = "original-destination"
_DELAY = "AMQ_SCHEDULED_DELAY"
_REPEATED_SCHEDULE = ("AMQ_SCHEDULED_CRON", "AMQ_SCHEDULED_PERIOD", "AMQ_SCHEDULED_REPEAT")

_FIELDS = {
    "content-type": "content_type",
    "persistent": "delivery_mode",
    "priority": "priority",
    "correlation-id": "correlation_id",
    "reply-to": "reply_to",
    "type": "type",
}
"""Headers of a frame that are properties of the message, besides the two of time."""

_HIGHEST_PRIORITY = 9
_DEFAULT_PRIORITY = 4
_MAX_TIME = 2**63 - 1  # milliseconds since 1970, a Java long

# Also what ActiveMQ itself says in a MESSAGE, and drops from a SEND so that nobody can forge it.
_NOT_USER_HEADERS = frozenset(_FIELDS) | {
    "destination",
    "receipt",
    "transaction",
    "content-length",
    "expires",
    "message-id",
    "timestamp",
    "redelivered",
    "subscription",
    _ORIGINAL,
    "JMSXUserID",
    "transformation-error",
    _DELAY,
    MESSAGE_TYPE,
}
_OF_MESSAGE_FRAMES = frozenset(
    {
        "subscription",
        "destination",
        "message-id",
        "ack",
        "redelivered",
        "content-length",
        "receipt",
        "transaction",
        "expires",
        "timestamp",
        MESSAGE_TYPE,
    }
)


def to_message(
    headers: Mapping[str, str], address: Address, body: bytes, sender: Sender, original: str | None = None
) -> Message:
    """What a SEND publishes, with the time and the id that the broker puts on it.

    `original` is the composite destination that the address is a part of. Raises `BadHeader`, or `Refused` for a
    schedule with repetitions and for a transformation.
    """
    _check_offered(headers)
    now = sender.clock()
    expires = optional_number("expires", headers.get("expires"), _MAX_TIME)
    properties = _properties(tuple(map(headers.get, _FIELDS)), int(now), _expiration(expires, now), sender.next_id())
    user: dict[str, HeaderValue] = {name: value for name, value in headers.items() if name not in _NOT_USER_HEADERS}
    if _message_type(headers) == "text":
        user[MESSAGE_TYPE] = "text"
    if original is not None:
        user[_ORIGINAL] = original
    delay = headers.get(_DELAY)
    not_before = 0.0 if delay is None else now + parse_number(_DELAY, delay, MAX_DELAY) / 1000
    return Message(address, body, properties, user, sender.origin, not_before)


def _check_offered(headers: Mapping[str, str]) -> None:
    for name in _REPEATED_SCHEDULE:
        if name in headers:
            raise Refused(f"{name}: only a single delay ({_DELAY}) is available")
    if headers.get("transformation", _MAP_AS_JSON) != _MAP_AS_JSON:
        raise Refused(f"transformation:{headers['transformation'][:40]}: only {_MAP_AS_JSON} is available")


def _message_type(headers: Mapping[str, str]) -> str:
    """ActiveMQ's rule: a SEND with a content-length is a BytesMessage, one without is a TextMessage."""
    said = headers.get(MESSAGE_TYPE)
    if said is None:
        return "bytes" if "content-length" in headers else "text"
    if said not in ("text", "bytes"):
        raise BadHeader(f"{MESSAGE_TYPE} is neither text nor bytes")
    return said


def _expiration(expires: int | None, now: float) -> int | None:
    """`expires` is a point in time in milliseconds, 0 for never."""
    if not expires:
        return None
    return min(max(expires - int(now * 1000), 0), MAX_EXPIRATION)


def _properties(values: tuple[str | None, ...], timestamp: int, expiration: int | None, message_id: str) -> Properties:
    """From the values of `_FIELDS`, in that order."""
    content_type, persistent, priority, correlation_id, reply_to, type_ = values
    number = optional_number("priority", priority, 2**31 - 1)
    return Properties(
        content_type=content_type,
        delivery_mode=PERSISTENT if persistent == "true" else None,
        priority=None if number is None else min(number, _HIGHEST_PRIORITY),
        correlation_id=correlation_id,
        reply_to=reply_to,
        expiration=expiration,
        message_id=message_id,
        timestamp=timestamp,
        type=type_,
    )


def message_headers(message: Message, reply_to: Callable[[str], str], version: Version) -> str:
    """The header lines of a MESSAGE that come from the message itself, but its destination.

    `expires`, `priority` and `timestamp` are always there. `reply_to` makes of the message's own one that an answer can
    be sent to.
    """
    properties = message.properties
    timestamp = (properties.timestamp or 0) * 1000
    expires = timestamp + properties.expiration if timestamp and properties.expiration is not None else 0
    priority = _DEFAULT_PRIORITY if properties.priority is None else min(properties.priority, _HIGHEST_PRIORITY)
    lines = f"expires:{expires}\npriority:{priority}\ntimestamp:{timestamp}\n"
    escape = version.escape
    if properties.delivery_mode == PERSISTENT:
        lines += "persistent:true\n"
    if properties.correlation_id is not None:
        lines += f"correlation-id:{escape(as_text(properties.correlation_id))}\n"
    if properties.type is not None:
        lines += f"type:{escape(properties.type)}\n"
    if properties.content_type is not None:
        lines += f"content-type:{escape(properties.content_type)}\n"
    if properties.reply_to is not None:
        lines += f"reply-to:{escape(reply_to(properties.reply_to))}\n"
    if message.headers:
        lines += user_lines(message.headers, properties, _FIELDS, _OF_MESSAGE_FRAMES, version)
    return lines + _length_line(message)


def _length_line(message: Message) -> str:
    """None for a TextMessage: clients tell the types apart by it. A body with a NUL could not be read without."""
    body = message.body
    if message.headers.get(MESSAGE_TYPE) == "text" and b"\0" not in body:
        return ""
    return f"content-length:{len(body)}\n"
