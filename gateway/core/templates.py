"""Texts with fields in braces: partition keys, group ids and resource names made from a message and a rule's captures.

`{{` and `}}` stand for literal braces. A field that the message does not have renders as nothing.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TypeAlias

import orjson

from gateway.core.backend import NO_CAPTURES
from gateway.core.errors import ConfigError
from gateway.core.message import Address, Message, Properties
from gateway.core.trie import swap_separators

PROPERTY_NAMES = tuple(sorted(spec.name for spec in fields(Properties)))

_NO_MESSAGE = Message(Address("", ""), b"")

_Part: TypeAlias = Callable[[Message, Mapping[str, str]], str]

_INDEX = re.compile(r"[0-9]{1,9}")
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed text. Equal texts are equal templates, so a template can be part of a target's options."""

    text: str
    fields: frozenset[str] = field(compare=False)
    """The fields as written between the braces, such as `device` or `header:JMSXGroupID`."""
    constant: str | None = field(compare=False)
    """What a template without fields always renders to, with doubled braces undone."""
    _parts: tuple[_Part, ...] = field(compare=False, repr=False)

    @classmethod
    def parse(cls, text: str, captures: AbstractSet[str]) -> Template:
        """Raises `ValueError`, with one line that says what is wrong and what is allowed."""
        return cls._compile(text, lambda name: _part_of(name, captures))

    @classmethod
    def parse_name(cls, text: str, captures: AbstractSet[str]) -> Template:
        """As `parse`, for the name of a resource: only captures are known before there is a message."""
        return cls._compile(text, lambda name: _capture_of(name, captures))

    @classmethod
    def _compile(cls, text: str, part_of: Callable[[str], _Part]) -> Template:
        pieces, names = _scan(text)
        constant = None if names else "".join(piece for piece, _ in pieces)
        parts = tuple(part_of(piece) if is_field else _literal(piece) for piece, is_field in pieces)
        return cls(text, frozenset(names), constant, parts)

    def render(self, message: Message, captures: Mapping[str, str] = NO_CAPTURES) -> str:
        """Never raises: what is missing renders as nothing, and so does a table, a list or a JSON object."""
        if self.constant is not None:
            return self.constant
        parts = self._parts
        if len(parts) == 1:
            return parts[0](message, captures)
        return "".join([part(message, captures) for part in parts])

    def render_captures(self, captures: Mapping[str, str]) -> str:
        """Render without a message, for a template that was parsed by `parse_name`."""
        return self.render(_NO_MESSAGE, captures)

    def preview(self, known: Mapping[str, str]) -> str:
        """The text with these fields filled in and the others as they are written, to show to people."""
        pieces, _ = _scan(self.text)
        return "".join(known.get(piece, f"{{{piece}}}") if is_field else piece for piece, is_field in pieces)


def template_option(key: str, value: object, captures: AbstractSet[str]) -> Template | None:
    """An option of a rule's target that is a template; None where it is not set. Raises `ConfigError` with its key."""
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise ConfigError(key, "not a text with fields", 'give a text such as "{client_id}"')
    try:
        return Template.parse(value, captures)
    except ValueError as error:
        raise ConfigError(key, str(error)) from None


def _scan(text: str) -> tuple[list[tuple[str, bool]], list[str]]:
    """Cut into (literal, False) and (field name, True), adjacent literals joined; and the field names."""
    pieces: list[tuple[str, bool]] = []
    names: list[str] = []
    literal = ""
    for token in _TOKEN.finditer(text):
        name = token.group(1)
        if name is None:
            literal += _literal_text(token.group(), text)
            continue
        if literal:
            pieces.append((literal, False))
            literal = ""
        pieces.append((name, True))
        names.append(name)
    if literal:
        pieces.append((literal, False))
    return pieces, names


def _literal_text(token: str, text: str) -> str:
    if token in ("{", "}"):
        raise ValueError(f"unbalanced {token!r} in {text!r}; a literal brace is written twice")
    return token[0] if token in ("{{", "}}") else token


def _literal(text: str) -> _Part:
    return lambda _message, _captures: text


def _capture(name: str) -> _Part:
    return lambda _message, captures: captures.get(name, "")


def _capture_of(name: str, captures: AbstractSet[str]) -> _Part:
    if name not in captures:
        raise ValueError(f"unknown field {{{name}}}; {_known(sorted(captures), 'the pattern captures nothing')}")
    return _capture(name)


def _part_of(name: str, captures: AbstractSet[str]) -> _Part:
    if name in captures:
        return _capture(name)
    if name in _PLAIN_FIELDS:
        return _PLAIN_FIELDS[name]
    kind, colon, argument = name.partition(":")
    if colon and kind in _ARGUMENT_FIELDS:
        if not argument:
            raise ValueError(f"field {{{name}}} names no {kind}; write {{{kind}:NAME}}")
        return _ARGUMENT_FIELDS[kind](argument)
    known = [*sorted(captures), *_PLAIN_FIELDS, "header:NAME", "property:NAME", "json:a.b"]
    raise ValueError(f"unknown field {{{name}}}; {_known(known)}")


def _known(names: list[str], none: str = "") -> str:
    return "known are " + ", ".join(f"{{{name}}}" for name in names) if names else none


def _header(name: str) -> _Part:
    return lambda message, _captures: _text(message.headers.get(name))


def _property(name: str) -> _Part:
    if name not in PROPERTY_NAMES:
        raise ValueError(f"unknown field {{property:{name}}}; properties are {', '.join(PROPERTY_NAMES)}")
    return lambda message, _captures: _text(getattr(message.properties, name))


def _json(path: str) -> _Part:
    steps = path.split(".")
    return lambda message, _captures: _text(_lookup(message.body, steps))


def _lookup(body: bytes, steps: list[str]) -> object:
    """The value at a path of member names and array indices; None where there is none."""
    try:
        value: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    for step in steps:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and _INDEX.fullmatch(step) and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _text(value: object) -> str:
    """A scalar as text: JSON's words for booleans, ISO 8601 for times, bytes as UTF-8 or else base64."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return _bytes_text(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if value is None or isinstance(value, (list, dict)):
        return ""
    return str(value)


def _bytes_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()


_PLAIN_FIELDS: dict[str, _Part] = {
    "client_id": lambda message, _captures: message.origin.client_id,
    "user": lambda message, _captures: message.origin.user,
    "topic": lambda message, _captures: swap_separators(message.address.routing_key),
    "key": lambda message, _captures: message.address.routing_key,
}

_ARGUMENT_FIELDS: dict[str, Callable[[str], _Part]] = {"header": _header, "property": _property, "json": _json}

RESERVED_NAMES = frozenset(_PLAIN_FIELDS)
"""Fields that every template knows; a pattern may not capture under these names."""
