"""What is wrong in a configuration, told so that it can be mended: one line for each mistake, all at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from gateway.core.errors import ConfigError

_SHOWN_LENGTH: Final = 60
_MAPPING_SHOWN: Final = "a mapping"
_SECRET_NAME: Final = re.compile(r"pass|secret|token|credential|access_key", re.IGNORECASE)

_NUMBER: Final = ("{given} is not a number", "a number such as 10")
_WHOLE_NUMBER: Final = ("{given} is not a whole number", "a number such as 10")
_SWITCH: Final = ("{given} is neither true nor false", "true or false")
_TEXT: Final = ("{given} is not text", "put it in quotes")
_LIST: Final = ("{given} is not a list", "put each item on its own line behind '- '; in the environment, write JSON")
_MAPPING: Final = ("{given} is not a mapping", "keys and values, as in {{key: value}}")

_TEXTS: Final[Mapping[str, tuple[str, str]]] = {
    "bool_parsing": _SWITCH,
    "bool_type": _SWITCH,
    "dict_type": _MAPPING,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "finite_number": _NUMBER,
    "greater_than": ("{given} is too small", "more than {gt}"),
    "greater_than_equal": ("{given} is too small", "{ge} or more"),
    "int_from_float": _WHOLE_NUMBER,
    "int_parsing": _WHOLE_NUMBER,
    "int_parsing_size": _WHOLE_NUMBER,
    "int_type": _WHOLE_NUMBER,
    "less_than": ("{given} is too large", "less than {lt}"),
    "less_than_equal": ("{given} is too large", "{le} or less"),
    "list_type": _LIST,
    "literal_error": ("{given} is not one of the choices", "{expected}"),
    "missing": ("is missing", "set it"),
    "model_type": _MAPPING,
    "path_type": _TEXT,
    "string_pattern_mismatch": ("{given} has a character that is not allowed", "a text that matches {pattern}"),
    "string_too_long": ("{given} is too long", "{max_length} characters at most"),
    "string_too_short": ("{given} is too short", "{min_length} characters at least"),
    "string_type": _TEXT,
    "too_short": ("{given} is too short", "{min_length} or more items"),
    "tuple_type": _LIST,
}


class ConfigErrors(ConfigError):
    """All mistakes that were found: `errors` in the order of the file; `str()` has a line for each."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        super().__init__("", f"{len(errors)} mistakes")
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


def mistake(problem: str, remedy: str, key: str = "") -> PydanticCustomError:
    """An error for validators to raise. `key` is relative to what is validated."""
    context = {"problem": problem, "remedy": remedy, "key": key}
    return PydanticCustomError("mistake", "{problem}; {remedy}", context)


def under(prefix: str, error: ConfigError) -> ConfigError:
    """The same mistake, its key below another one."""
    return ConfigError(f"{prefix}.{error.key}" if error.key else prefix, error.problem, error.remedy)


def unknown_key(key: str, known: Iterable[str]) -> ConfigError:
    """A key that is not there, with the one that was probably meant, or else all that are."""
    names = sorted(known)
    return ConfigError(key, "there is no such key", _suggestion(key.rpartition(".")[2], names))


def closest(name: str, known: Iterable[str]) -> str:
    """What was probably meant, or an empty text."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return found[0] if found else ""


def from_validation(
    error: ValidationError, model: type[BaseModel], also_known: Iterable[str] = ()
) -> list[ConfigError]:
    """What pydantic found in the data of a model, keys relative to it. `also_known`: keys beside the model's own."""
    return [_translated(details, model, also_known) for details in error.errors(include_url=False)]


def _translated(details: ErrorDetails, model: type[BaseModel], also_known: Iterable[str]) -> ConfigError:
    place = details["loc"]
    key = ".".join(str(step) for step in place)
    context = details.get("ctx", {})
    if details["type"] == "mistake":
        key = ".".join(part for part in (key, context["key"]) if part)
        return ConfigError(key, context["problem"], context["remedy"])
    if details["type"] == "extra_forbidden":
        return unknown_key(key, [*_known_keys(model, place[:-1]), *(also_known if len(place) == 1 else ())])
    given = _shown(key, details["input"])
    if details["type"] == "value_error":
        reason = str(context["error"])
        return (
            ConfigError(key, reason) if given == _MAPPING_SHOWN else ConfigError(key, f"{given} cannot be used", reason)
        )
    problem, remedy = _TEXTS.get(details["type"], (_escaped(details["msg"]), ""))
    return ConfigError(key, problem.format(given=given), remedy.format(**context))


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _suggestion(name: str, known: list[str]) -> str:
    meant = closest(name, known)
    return f"did you mean {meant}?" if meant else f"known are {', '.join(known)}"


def _shown(key: str, value: object) -> str:
    """A value in few words; nothing of it when its name sounds like a secret."""
    if isinstance(value, Mapping):
        return _MAPPING_SHOWN
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    if value is None:
        return "nothing"
    if _SECRET_NAME.search(key):
        return "the value"
    if isinstance(value, bool):
        return "true" if value else "false"
    shown = repr(value)
    return shown if len(shown) <= _SHOWN_LENGTH else f"{shown[:_SHOWN_LENGTH]}…"


def _known_keys(model: type[BaseModel], place: Sequence[str | int]) -> list[str]:
    for step in place:
        if isinstance(step, str) and step in model.model_fields:
            model = _model_in(model.model_fields[step].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The model that an annotation such as `tuple[Model, ...]` or `Model | None` is about."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)
