"""Methods as payloads of method frames, both ways, by the fields that their classes have (spec §4.2.4).

pamqp, which has these methods too, refuses names that RabbitMQ takes, accepts fields that are cut off, and conflates
types of table values. With a reader and a writer of our own fields, what is left of it is the list in `methods`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final, NamedTuple

from gateway.protocols.amqp091.errors import ConnectionException, ReplyCode
from gateway.protocols.amqp091.fields import FieldReader, FieldWriter
from gateway.protocols.amqp091.methods import METHODS, Method


class _FieldType(NamedTuple):
    read: Callable[[FieldReader], object]
    write: Callable[[FieldWriter, Any], None]


_FIELD_TYPES: Final[Mapping[str, _FieldType]] = {
    "Bit": _FieldType(FieldReader.bit, FieldWriter.bit),
    "Octet": _FieldType(FieldReader.octet, FieldWriter.octet),
    "Short": _FieldType(FieldReader.short, FieldWriter.short),
    "Long": _FieldType(FieldReader.long, FieldWriter.long),
    "LongLong": _FieldType(FieldReader.long_long, FieldWriter.long_long),
    "ShortStr": _FieldType(FieldReader.short_string, FieldWriter.short_string),
    "LongStr": _FieldType(FieldReader.long_string, FieldWriter.long_string),
    "Table": _FieldType(FieldReader.table, FieldWriter.table),
}
"""By what the annotations of the methods' fields say."""


class _Layout(NamedTuple):
    method: type[Method]
    fields: tuple[tuple[str, _FieldType], ...]


def _layout(method: type[Method]) -> _Layout:
    return _Layout(method, tuple((each.name, _FIELD_TYPES[str(each.type)]) for each in fields(method)))


def _key(class_id: int, method_id: int) -> bytes:
    return bytes((class_id >> 8, class_id & 0xFF, method_id >> 8, method_id & 0xFF))


_BY_KEY: Final[Mapping[bytes, _Layout]] = {_key(*ids): _layout(method) for ids, method in METHODS.items()}
_BY_TYPE: Final[Mapping[type[Method], tuple[bytes, _Layout]]] = {
    layout.method: (key, layout) for key, layout in _BY_KEY.items()
}


def read_method(payload: bytes) -> Method:
    """The method in the payload of a method frame. Raises `ConnectionException`: 502, or 540 for unknown ones."""
    layout = _BY_KEY.get(payload[:4])
    if layout is None:
        raise _unknown(payload)
    reader = FieldReader(payload, 4)
    try:
        values: dict[str, Any] = {name: kind.read(reader) for name, kind in layout.fields}
        reader.finish()
    except ConnectionException as error:
        method = layout.method
        raise ConnectionException(
            error.reply_code, f"{method.__name__}: {error}", method.CLASS_ID, method.METHOD_ID
        ) from None
    return layout.method(**values)


def _unknown(payload: bytes) -> ConnectionException:
    reader = FieldReader(payload)
    class_id, method_id = reader.short(), reader.short()
    problem = f"there is no method {method_id} of class {class_id}"
    return ConnectionException(ReplyCode.NOT_IMPLEMENTED, problem, class_id, method_id)


def method_payload(method: Method) -> bytes:
    """The payload of its frame. Raises `ValueError` for names over 255 bytes and tables that cannot be written."""
    key, layout = _BY_TYPE[type(method)]
    writer = FieldWriter(key)
    for name, kind in layout.fields:
        kind.write(writer, getattr(method, name))
    return writer.getvalue()
