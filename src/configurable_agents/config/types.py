"""The types of values: checking a value, describing a type to a model, and whether one type fits another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from configurable_agents.config._adapters import annotation_of, explain
from configurable_agents.config.shapes import (
    ANY,
    Shape,
    TypeSyntaxError,
    accepts,
    is_appendable,
    parse_shape,
)
from configurable_agents.once import Once

__all__ = ["ANY_TYPE", "TypeSyntaxError", "ValueType", "parse_type"]


@dataclass(frozen=True)
class ValueType:
    """A type of the language. Made once and kept: the first `validate` builds the checker, further ones are cheap."""

    shape: Shape
    description: str | None = None

    @property
    def text(self) -> str:
        """The type as a file writes it."""
        return self.shape.text

    @property
    def nullable(self) -> bool:
        """Whether null is a value of it."""
        return self.shape.nullable

    def or_null(self) -> ValueType:
        """Give the same type with null as a further value."""
        return replace(self, shape=replace(self.shape, nullable=True))

    def validate(self, value: Any) -> Any:
        """Check and coerce a value, as pydantic does in lax mode.

        Returns:
            Plain JSON-like data that shares no container with `value`: dict, list, str, int, float, bool, None. Keys of
            a dict are texts, whole numbers have at most 64 bits, and no float is infinite or not a number: what is kept
            reads back as it was.

        Raises:
            ValueError: One line: the path to the element, what was expected, and what came.
        """
        if value is None and self.shape.nullable:
            return None
        if self._element is not None and not isinstance(value, list | tuple | set | frozenset):
            return self._element.validate(value)
        try:
            return self._adapter.validator.validate_python(value)
        except ValidationError as error:
            raise ValueError(explain(error)) from None

    def json_schema(self) -> dict[str, Any]:
        """Describe the type for asking a model: all fields of an object are required, and there are no others."""
        schema = _json_schema(self.shape)
        return {**schema, "description": self.description} if self.description else schema

    def accepts(self, other: ValueType) -> bool:
        """Tell whether every value of the type `other` can be stored as this one."""
        return accepts(self.shape, other.shape)

    def child(self, part: str) -> ValueType | None:
        """Give the type of what a path's next part reads; None if this type has no such part."""
        shape = self.shape.element if self.shape.kind == "append" and self.shape.element else self.shape
        if shape.kind == "any":
            return ANY_TYPE
        if shape.kind == "dict" or (shape.kind == "list" and part.isdecimal()):
            return ValueType(shape.element or ANY)
        field = (shape.fields or {}).get(part)
        return ValueType(field.shape, field.description) if field else None

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of an object's fields; empty for every other type."""
        return tuple(self.shape.fields or ())

    @property
    def element(self) -> ValueType | None:
        """Type of a list's elements; None for every other type."""
        shape = self.shape.element if self.shape.kind == "append" and self.shape.element else self.shape
        return ValueType(shape.element or ANY) if shape.kind == "list" else None

    @Once
    def _adapter(self) -> TypeAdapter[Any]:
        shape = self.shape.element if self.shape.kind == "append" and self.shape.element else self.shape
        shape = replace(shape, nullable=False)  # null has been looked at already
        return _common_adapter(shape.text) if _is_bare(shape) else TypeAdapter(annotation_of(shape))

    @Once
    def _element(self) -> ValueType | None:
        """Of a field that appends: the type that one element alone is checked against."""
        return self.element if self.shape.kind == "append" and is_appendable(self.shape) else None


ANY_TYPE = ValueType(ANY)
"""Any JSON-like value."""


def parse_type(text: str, *, schema: Mapping[str, Any] | None = None, enum: Sequence[Any] | None = None) -> ValueType:
    """Parse a type's text.

    Args:
        text: As `list[dict[str, int]]`.
        schema: The fields of the `object` that the text names: each a type, or a mapping with `type` and `required`,
            `default`, `description`, `enum`, `schema`. A field is required unless it has a default or says
            `required: false`; then it may be null.
        enum: The allowed values; of a list, the allowed elements.

    Raises:
        TypeSyntaxError: With a remedy, and the place below `schema` or `enum`.
    """
    return ValueType(parse_shape(text, schema=schema, enum=enum))


@lru_cache(maxsize=256)
def _common_adapter(text: str) -> TypeAdapter[Any]:
    """Keep the checkers of types that stand for themselves: a file may have hundreds of texts and numbers."""
    return TypeAdapter(annotation_of(parse_shape(text)))


def _is_bare(shape: Shape) -> bool:
    """Tell whether a type's text says all of it."""
    if shape.kind in {"object", "append"} or shape.enum is not None or shape.nullable:
        return False
    return shape.kind != "any" and (shape.element is None or shape.element.kind == "any" or _is_bare(shape.element))


_JSON_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}


def _json_schema(shape: Shape) -> dict[str, Any]:
    if shape.nullable:
        return {"anyOf": [_json_schema(replace(shape, nullable=False)), {"type": "null"}]}
    if shape.kind == "append":
        return _json_schema(shape.element or ANY)
    if shape.kind in _JSON_TYPES:
        plain: dict[str, Any] = {"type": _JSON_TYPES[shape.kind]}
        return {**plain, "enum": list(shape.enum)} if shape.enum is not None else plain
    if shape.kind == "list":
        return {"type": "array", "items": _json_schema(shape.element or ANY)}
    if shape.kind == "dict":
        return {"type": "object", "additionalProperties": _json_schema(shape.element or ANY)}
    if shape.kind == "object":
        return object_schema({name: _described(part.shape, part.description) for name, part in _fields(shape)})
    return {}


def _fields(shape: Shape) -> Sequence[tuple[str, Any]]:
    return list((shape.fields or {}).items())


def _described(shape: Shape, description: str | None) -> dict[str, Any]:
    return ValueType(shape, description).json_schema()


def object_schema(properties: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Give the JSON Schema of an object that has exactly these properties."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
