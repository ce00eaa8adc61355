"""Between the JSON of AWS's JSON protocols and the Python values of botocore, by the shapes of a service model. Pure.

The two differ in blobs (base64 in JSON, bytes in Python) and in timestamps of answers (seconds since 1970 in JSON,
`datetime` in Python). Everything else is the same.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Protocol, cast


class Shape(Protocol):
    """botocore's `Shape`: `members` is a structure's, `member` a list's, `value` a map's."""

    type_name: str
    members: Mapping[str, Shape]
    member: Shape
    value: Shape


def to_python(shape: Shape, value: object) -> object:
    """Turn the JSON value of a parameter into what botocore takes. Raises `ValueError` for bad base64."""
    if shape.type_name == "blob" and isinstance(value, str):
        return base64.b64decode(value, validate=True)
    return _inside(shape, value, to_python)


def to_json(shape: Shape, value: object) -> object:
    """Turn what botocore answered into the JSON value that the service sent."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.timestamp()
    return _inside(shape, value, to_json)


class _Conversion(Protocol):
    def __call__(self, shape: Shape, value: object, /) -> object: ...


def _inside(shape: Shape, value: object, convert: _Conversion) -> object:
    """Convert the parts of a value; members that the model does not know stay as they are, for botocore to judge."""
    if shape.type_name == "structure" and isinstance(value, dict):
        members = shape.members
        return {
            name: convert(members[name], part) if name in members else part
            for name, part in cast("dict[str, object]", value).items()
        }
    if shape.type_name == "map" and isinstance(value, dict):
        return {name: convert(shape.value, part) for name, part in cast("dict[str, object]", value).items()}
    if shape.type_name == "list" and isinstance(value, list):
        return [convert(shape.member, part) for part in cast("list[object]", value)]
    return value
