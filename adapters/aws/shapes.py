"""Between what AWS's protocols send and the Python values of botocore, by the shapes of a service model. Pure.

JSON and Python differ in blobs (base64 in JSON, bytes in Python) and in timestamps of answers (seconds since 1970 in
JSON, `datetime` in Python), and in nothing else. A form of the query protocol has texts only, under paths.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Final, Protocol, cast
from urllib.parse import parse_qsl


class Shape(Protocol):
    """botocore's `Shape`: `members` is a structure's, `member` a list's, `key` and `value` a map's."""

    type_name: str
    members: Mapping[str, Shape]
    member: Shape
    key: Shape
    value: Shape
    serialization: Mapping[str, str]


FIELD_LIMIT: Final = 1_000
"""Fields of one form: more than ten entries with ten attributes have."""


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


def from_form(shape: Shape, body: bytes) -> dict[str, object]:
    """Turn a form into what botocore takes. Raises `ValueError` for fields that the shape does not have."""
    tree: dict[str, object] = {}
    for path, value in parse_qsl(
        body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=FIELD_LIMIT
    ):
        _plant(tree, path.split("."), value)
    parameters = _parameter(shape, tree)
    assert isinstance(parameters, dict)
    return parameters


def _plant(tree: dict[str, object], path: list[str], value: str) -> None:
    for step in path[:-1]:
        branch = tree.setdefault(step, {})
        if not isinstance(branch, dict):
            raise ValueError(f"{step} is a value and has fields")  # noqa: TRY004 - of what was sent, not of a type
        tree = cast("dict[str, object]", branch)
    tree[path[-1]] = value


def _parameter(shape: Shape, value: object) -> object:
    if not isinstance(value, dict):
        return _scalar(shape, str(value))
    branches = cast("dict[str, object]", value)
    if shape.type_name == "structure":
        for name in branches:
            if name not in shape.members:
                raise ValueError(f"there is no parameter {name}")
        return {name: _parameter(shape.members[name], part) for name, part in branches.items()}
    if shape.type_name == "list":
        return [_parameter(shape.member, part) for part in _numbered(branches, "member")]
    if shape.type_name == "map":
        return dict(_entry(shape, entry) for entry in _numbered(branches, "entry"))
    raise ValueError("a value has fields")


def _numbered(branches: dict[str, object], name: str) -> list[object]:
    numbered = branches.get(name)
    if not isinstance(numbered, dict) or len(branches) != 1:
        raise ValueError(f"not a series of {name}")
    return [part for _, part in sorted(numbered.items(), key=lambda item: int(item[0]))]


def _entry(shape: Shape, entry: object) -> tuple[str, object]:
    key, value = (each.serialization.get("name", usual) for each, usual in ((shape.key, "key"), (shape.value, "value")))
    if not isinstance(entry, dict) or entry.keys() != {key, value}:
        raise ValueError(f"not {key} and {value}")
    return str(entry[key]), _parameter(shape.value, entry[value])


def _scalar(shape: Shape, text: str) -> object:
    if shape.type_name == "boolean":
        return text == "true"
    if shape.type_name == "integer":
        return int(text)
    if shape.type_name == "blob":
        return base64.b64decode(text, validate=True)
    return text
