"""Where settings come from: a YAML file, and environment variables `MQLIFT_SECTION__KEY` that win over it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from config.mistakes import closest
from gateway.core.errors import ConfigError

PREFIX: Final = "MQLIFT_"
DELIMITER: Final = "__"

OTHER_VARIABLES: Final = frozenset({"MQLIFT_ADMIN_URL", "MQLIFT_PASSWORD", "MQLIFT_TRACEBACK"})
"""Of the command line; they are no settings."""

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""Thousands of rules fit; a log file or a disk image given by mistake does not."""

_YAML_REMEDY: Final = "check indentation, colons and quotes here and in the line above"


class Environment(EnvSettingsSource):
    """The environment, where lists and whole sections are JSON. What is no JSON is left to validation to refuse."""

    # `Any` is pydantic-settings' signature.
    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def read_file(path: Path) -> dict[str, object]:
    """The mapping in a YAML file. Raises `ConfigError`, with the file as the first part of its key."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}", "the path of a YAML file") from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(str(path), f"is larger than {MAX_FILE_BYTES} bytes", "the path of a YAML file")
    document = _parse(path, content)
    if document is None:
        raise ConfigError(str(path), "is empty", "at least listeners: with one listener")
    if not isinstance(document, dict):
        raise ConfigError(str(path), "is not a mapping", "keys and values, such as 'prefix: test-'")
    for key in document:
        if not isinstance(key, str):
            raise ConfigError(f"{path}: {key}", "the key is not text", "put it in quotes")
    return document


def _parse(path: Path, content: bytes) -> object:
    try:
        # A SafeLoader with one more check.
        return yaml.load(content.decode(), _UniqueKeyLoader)  # noqa: S506
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line}", "is not UTF-8 text", "save the file as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = " ".join(str(error.problem or error.context).split())
        raise ConfigError(f"{path}: line {line}", problem, _YAML_REMEDY) from error
    except yaml.reader.ReaderError as error:
        line = content.decode().count("\n", 0, error.position) + 1
        problem = f"character U+{error.character:04X} is not allowed"
        raise ConfigError(f"{path}: line {line}", problem, "remove it") from error
    except RecursionError as error:
        raise ConfigError(str(path), "is nested too deeply", "at most some dozen levels") from error


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML asks for unique keys (1.2.2 §3.2.1.1); the library would silently let the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is set twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def variable_at(place: Sequence[str], environ: Mapping[str, str] = os.environ) -> str:
    """The environment variable that set the value at a place, or an empty text."""
    given = {name.upper(): name for name in environ}
    for length in range(len(place), 0, -1):
        name = PREFIX + DELIMITER.join(place[:length]).upper()
        if name in given:
            return given[name]
    return ""


def unknown_variables(model: type[BaseModel], environ: Mapping[str, str] = os.environ) -> dict[str, ConfigError]:
    """Variables that look like settings and set nothing, by name."""
    known = dict(_variables(model, PREFIX))
    unknown: dict[str, ConfigError] = {}
    for name in sorted(environ):
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in OTHER_VARIABLES or upper in known:
            continue
        if not any(free and upper.startswith(section + DELIMITER) for section, free in known.items()):
            meant = closest(upper, known)
            remedy = f"did you mean {meant}?" if meant else f"names are {PREFIX}KEY or {PREFIX}SECTION{DELIMITER}KEY"
            unknown[name] = ConfigError(f"environment: {name}", "there is no such setting", remedy)
    return unknown


def _variables(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, bool]]:
    """Names of all variables, and whether any key may follow."""
    for key, field in model.model_fields.items():
        name = prefix + key.upper()
        yield name, get_origin(field.annotation) is dict
        section = _section(field.annotation)
        if section is not None:
            yield from _variables(section, name + DELIMITER)


def _section(annotation: object) -> type[BaseModel] | None:
    """The model of a section, also of one that may be left out."""
    choices = get_args(annotation) if get_origin(annotation) in (UnionType, Union) else (annotation,)
    for choice in choices:
        if isinstance(choice, type) and issubclass(choice, BaseModel):
            return choice
    return None
