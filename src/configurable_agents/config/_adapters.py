"""Pydantic's part in types: the annotation that checks a shape, and its errors in one readable line."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from enum import Enum
from types import GenericAlias
from typing import Annotated, Any, Final, NotRequired, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError
from typing_extensions import TypedDict

from configurable_agents.config.shapes import Part, Shape

MIN_INT: Final = -(2**63)
MAX_INT: Final = 2**63 - 1
"""Whole numbers have 64 bits: what a database column and other readers of JSON hold without loss."""
MAX_DEPTH: Final = 200
"""Of a value: below the 254 levels that orjson writes."""


def annotation_of(shape: Shape) -> Any:
    """Give the annotation whose pydantic validator checks and coerces values of this shape."""
    made = _plain_annotation(shape)
    if shape.enum is not None:
        made = Annotated[made, AfterValidator(_member_of(shape.enum))]
    return made | None if shape.nullable else made


def _plain_annotation(shape: Shape) -> Any:
    if shape.kind == "object":
        return Annotated[_typed_dict(shape), BeforeValidator(_as_mapping)]
    if shape.kind == "list" and shape.element is not None:
        return GenericAlias(list, annotation_of(shape.element))
    if shape.kind == "dict" and shape.element is not None and shape.key is not None:
        made: Any = GenericAlias(dict, (annotation_of(shape.key), annotation_of(shape.element)))
        keyed = made if shape.key.kind == "str" else Annotated[made, AfterValidator(_text_keys)]
        return Annotated[keyed, BeforeValidator(_as_mapping)]
    return _SIMPLE[shape.kind]


def _typed_dict(shape: Shape) -> Any:
    hints = {name: _field(part, partial=shape.partial) for name, part in (shape.fields or {}).items()}
    made = cast("Any", TypedDict)("object", hints)
    made.__pydantic_config__ = ConfigDict(extra="forbid")
    if shape.partial or all(part.required for part in (shape.fields or {}).values()):
        return made
    # A typed dict has no defaults of its own: what was left out is filled in first, so that it is checked too.
    defaults = {name: part.default for name, part in (shape.fields or {}).items() if not part.required}
    return Annotated[made, BeforeValidator(_filling(defaults))]


def _field(part: Part, *, partial: bool) -> Any:
    made = annotation_of(part.shape)
    return NotRequired[made] if partial else made


def _filling(defaults: Mapping[str, Any]) -> Callable[[Any], Any]:
    def fill(value: Any) -> Any:
        return {**defaults, **value} if isinstance(value, Mapping) else value

    return fill


def _as_mapping(value: Any) -> Any:
    """Functions like to return their own classes: a pydantic model and a dataclass count as their fields."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value


def _text_keys(value: dict[Any, Any]) -> dict[str, Any]:
    """JSON's keys are texts; `1` and `true` are kept as JSON writes them."""
    return {_key(key): item for key, item in value.items()}


def _member_of(enum: tuple[Any, ...]) -> Callable[[Any], Any]:
    choices = ", ".join(repr(value) for value in enum[:10]) + (", …" if len(enum) > 10 else "")

    def check(value: Any) -> Any:
        if value not in enum:
            raise ValueError(f"expected one of {choices}, got {describe(value)}")
        return value

    return check


def json_like(value: Any) -> Any:
    """Copy a value as plain JSON-like data.

    Raises:
        ValueError: It holds something that is no JSON.
    """
    return _json_like(value, 0)


def _json_like(value: Any, depth: int) -> Any:
    if value is None or type(value) in {str, bool}:
        return value
    if type(value) in {int, float}:
        return _number(value)
    if depth >= MAX_DEPTH:
        raise ValueError(f"expected a value nested at most {MAX_DEPTH} deep")
    if isinstance(value, list | tuple | set | frozenset):
        return [_json_like(item, depth + 1) for item in value]
    value = _as_mapping(value)
    if isinstance(value, Mapping):
        return {_key(key): _json_like(item, depth + 1) for key, item in value.items()}
    return _scalar(value)


def _scalar(value: Any) -> Any:
    """Subclasses of the plain types, and enums, count as what they hold."""
    value = value.value if isinstance(value, Enum) else value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return _number(int(value) if isinstance(value, int) else float(value))
    raise ValueError(f"expected a JSON value, got {describe(value)}")


def _number(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    if isinstance(value, int) and not MIN_INT <= value <= MAX_INT:
        raise ValueError("expected a whole number of at most 64 bits")
    return value


def _key(key: Any) -> str:
    if isinstance(key, str):
        return str.__str__(key)
    if key is None or isinstance(key, bool):
        return "null" if key is None else str(key).lower()
    if isinstance(key, int | float):
        return str(key)
    raise ValueError(f"expected a text as key, got {describe(key)}")


_SIMPLE: Final[Mapping[str, Any]] = {
    "any": Annotated[Any, PlainValidator(json_like)],
    "str": str,
    "int": Annotated[int, Field(ge=MIN_INT, le=MAX_INT)],
    "float": Annotated[float, Field(allow_inf_nan=False)],
    "bool": bool,
}

_EXPECTED: Final[Mapping[str, str]] = {
    "string": "str",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "list": "a list",
    "dict": "a mapping",
    "mapping": "a mapping",
    "finite": "a finite number",
    "greater": "a whole number of at most 64 bits",
    "less": "a whole number of at most 64 bits",
}


def explain(error: ValidationError) -> str:
    """Say in one line where a value does not fit: the path, what was expected, what came."""
    first = error.errors(include_url=False)[0]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{_shown_key(part)}" for part in first["loc"]).lstrip(
        "."
    )
    what = _what(first)
    return f"{where}: {what}" if where else what


def _shown_key(text: str) -> str:
    """Write a key of a mapping; one that would break the line, or is hardly seen, as its escapes."""
    return text if text.isprintable() and text.strip() else repr(text)


def _what(error: Any) -> str:
    kind = error["type"]
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "missing":
        return "this field is missing"
    if kind == "extra_forbidden":
        return "the type has no such field"
    expected = _EXPECTED.get(kind.split("_")[0])
    return f"expected {expected}, got {describe(error['input'])}" if expected else str(error["msg"])


def describe(value: Any) -> str:
    """Name a value's type, and the value itself where it is short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"bool {str(value).lower()}"
    if isinstance(value, str):
        return f"str {value!r}" if len(value) <= 40 else f"str {value[:37] + '...'!r}"
    if isinstance(value, int | float):
        small = not isinstance(value, int) or MIN_INT <= value <= MAX_INT
        return f"{type(value).__name__} {value}" if small else "a whole number of more than 64 bits"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return "a mapping" if isinstance(value, Mapping) else f"{type(value).__name__}"
