"""What a type is made of: the parsed form of a text as `list[dict[str, int]]`. Pure data; `types` gives it meaning."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Final, Literal

Kind = Literal["any", "str", "int", "float", "bool", "list", "dict", "object", "append"]
Path = tuple[str | int, ...]

SCALARS: Final = ("str", "int", "float", "bool")
NAMES: Final = (*SCALARS, "list", "dict", "object")
MAX_TYPE_LENGTH: Final = 500
MAX_TYPE_DEPTH: Final = 20
"""Of a type's text, and of objects in objects. A value nested deeper is untyped data; a hostile file must not recurse far."""

MAX_ERRORS: Final = 200
"""Told of one type: more are not read, and looking for similar names costs time."""

_SYNONYMS: Final = MappingProxyType(
    {
        "string": "str",
        "text": "str",
        "integer": "int",
        "number": "float",
        "double": "float",
        "boolean": "bool",
        "array": "list",
        "map": "dict",
        "mapping": "dict",
    }
)
_TOKEN = re.compile(r"\s*([^\W\d]\w*|\d+|\S)")
_FIELD_KEYS = frozenset({"type", "required", "default", "description", "schema", "enum"})


class TypeSyntaxError(ValueError):
    """A type's text, or what stands beside it (`schema`, `enum`), says nothing that is a type."""

    def __init__(
        self, message: str, *, remedy: str = "", path: Path = (), others: Sequence[TypeSyntaxError] = ()
    ) -> None:
        self.message = message
        self.remedy = remedy
        self.path = path
        """Where below the type's own field, as `("schema", "age")`."""
        self.others = tuple(others)
        """What else is wrong beside it."""
        super().__init__(f"{message}. {remedy}" if remedy else message)

    def below(self, *path: str | int) -> list[TypeSyntaxError]:
        """Give this error and the others as they are seen from further out."""
        return [TypeSyntaxError(e.message, remedy=e.remedy, path=(*path, *e.path)) for e in (self, *self.others)]


def _raise_all(errors: Sequence[TypeSyntaxError]) -> None:
    if errors:
        first = errors[0]
        raise TypeSyntaxError(first.message, remedy=first.remedy, path=first.path, others=errors[1:])


@dataclass(frozen=True, slots=True)
class Shape:
    """One type, taken apart."""

    kind: Kind
    element: Shape | None = None
    """Of `list` and of the values of `dict`; of `append`, the list that it may also be an element of."""
    key: Shape | None = None
    fields: Mapping[str, Part] | None = None
    enum: tuple[Any, ...] | None = None
    nullable: bool = False
    partial: bool = False
    """An object of which any field may be left out: what is merged into one."""

    @property
    def text(self) -> str:
        """The type as a file writes it."""
        if self.kind == "list" and self.element and self.element.kind != "any":
            return f"list[{self.element.text}]"
        if self.kind == "dict" and self.element and self.key and (self.element.kind, self.key.kind) != ("any", "str"):
            return f"dict[{self.key.text}, {self.element.text}]"
        if self.kind == "append" and self.element:
            return self.element.text
        return self.kind


@dataclass(frozen=True, slots=True)
class Part:
    """One field of an object."""

    shape: Shape
    required: bool = True
    default: Any = None
    """What a field that is not required is if it is left out."""
    description: str | None = None


ANY: Final = Shape("any")


def parse_shape(text: str, *, schema: Mapping[str, Any] | None = None, enum: Sequence[Any] | None = None) -> Shape:
    """Parse a type's text with what stands beside it.

    Args:
        schema: The fields of the `object` that the text names.
        enum: The allowed values; of a list, the allowed elements.

    Raises:
        TypeSyntaxError: The first thing that is wrong.
    """
    return _parse(text, schema, enum, depth=0)


def _parse(text: str, schema: Any, enum: Sequence[Any] | None, depth: int) -> Shape:
    shape = _with_schema(_Parser(text).parse(), schema, depth)
    return shape if enum is None else _with_enum(shape, enum)


class _Parser:
    def __init__(self, text: str) -> None:
        if len(text) > MAX_TYPE_LENGTH:
            raise TypeSyntaxError(f"a type has at most {MAX_TYPE_LENGTH} characters, this one has {len(text)}")
        self._text = text
        self._tokens = _TOKEN.findall(text)
        self._at = 0

    def parse(self) -> Shape:
        shape = self._type(0)
        if self._at < len(self._tokens):
            raise self._error(f"{self._tokens[self._at]!r} is too much")
        return shape

    def _type(self, depth: int) -> Shape:
        if depth > MAX_TYPE_DEPTH:
            raise TypeSyntaxError(f"a type is nested at most {MAX_TYPE_DEPTH} deep")
        name = self._next()
        if name not in NAMES:
            raise unknown_type(name, self._text)
        arguments = self._arguments(depth) if self._peek() == "[" else None
        return self._made(name, arguments)

    def _arguments(self, depth: int) -> list[Shape]:
        self._next()
        shapes = [self._type(depth + 1)]
        while self._peek() == ",":
            self._next()
            shapes.append(self._type(depth + 1))
        if self._next() != "]":
            raise self._error("a ']' is missing")
        return shapes

    def _made(self, name: str, arguments: list[Shape] | None) -> Shape:
        if name == "list" and (arguments is None or len(arguments) == 1):
            return Shape("list", element=arguments[0] if arguments else ANY)
        if name == "dict" and (arguments is None or len(arguments) == 2):
            key, element = arguments or (Shape("str"), ANY)
            if key.kind not in SCALARS:
                raise self._error(f"a dict's keys are {', '.join(SCALARS)}, not {key.text}")
            return Shape("dict", key=key, element=element)
        if arguments is not None:
            takes = {"list": "one type, as list[str]", "dict": "two types, as dict[str, int]"}.get(
                name, "no type in []"
            )
            raise self._error(f"{name!r} takes {takes}")
        return Shape(name)  # type: ignore[arg-type]  # every other name of NAMES is a kind

    def _peek(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _next(self) -> str:
        token = self._peek()
        if token is None:
            raise self._error("it ends too early")
        self._at += 1
        return token

    def _error(self, message: str) -> TypeSyntaxError:
        return TypeSyntaxError(f"{_short(self._text)} is not a type: {message}", remedy=_CHOICES)


_CHOICES = "Types are str, int, float, bool, list, dict, object, list[T] and dict[K, V]."


def unknown_type(name: str, text: str) -> TypeSyntaxError:
    """Make the error for a name that is no type, with the type that was probably meant."""
    meant = _SYNONYMS.get(name.lower()) or next(iter(get_close_matches(name[:50].lower(), NAMES, 1)), None)
    where = "" if name == text.strip() else f" (in {_short(text)})"
    remedy = f"Did you mean {meant!r}?" if meant else _CHOICES
    return TypeSyntaxError(f"no type is called {_short(name)}{where}", remedy=remedy)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _has_object(shape: Shape) -> bool:
    return shape.kind == "object" or (shape.element is not None and _has_object(shape.element))


def _with_schema(shape: Shape, schema: Any, depth: int) -> Shape:
    if not _has_object(shape):
        if schema is not None:
            raise TypeSyntaxError(f"'schema' belongs to an object, and {shape.text!r} has none", path=("schema",))
        return shape
    if schema is None:
        raise TypeSyntaxError(
            "an object needs a 'schema' that names its fields",
            remedy="Add 'schema: {name: type}', or use 'dict' for any fields.",
        )
    if not isinstance(schema, Mapping) or not schema:
        raise TypeSyntaxError("a schema is a mapping of names to types, with at least one", path=("schema",))
    return _filled(shape, _parts(schema, depth + 1))


def _filled(shape: Shape, parts: Mapping[str, Part]) -> Shape:
    if shape.kind == "object":
        return replace(shape, fields=parts)
    return replace(shape, element=_filled(shape.element, parts)) if shape.element else shape


def _parts(schema: Mapping[str, Any], depth: int) -> Mapping[str, Part]:
    if depth > MAX_TYPE_DEPTH:
        raise TypeSyntaxError(f"objects are nested at most {MAX_TYPE_DEPTH} deep", path=("schema",))
    parts, errors = {}, []
    for name, field in schema.items():
        try:
            parts[name] = _part(field, depth)
        except TypeSyntaxError as error:
            errors += error.below("schema", name)
            if len(errors) >= MAX_ERRORS:
                break
    _raise_all(errors)
    return MappingProxyType(parts)


def _part(field: Any, depth: int) -> Part:
    if isinstance(field, str):
        return Part(_parse(field, None, None, depth))
    if not isinstance(field, Mapping) or not isinstance(field.get("type"), str):
        raise TypeSyntaxError("a field of an object is a type, or a mapping with a 'type'")
    _refuse_unknown_keys(field)
    shape = _parse(field["type"], field.get("schema"), field.get("enum"), depth)
    required = field.get("required", "default" not in field)
    default = field.get("default")
    if required and default is not None:
        raise TypeSyntaxError("a field is either required or has a default", path=("default",))
    if not required and default is None:
        shape = replace(shape, nullable=True)
    description = field.get("description")
    return Part(shape, required, default, description if isinstance(description, str) else None)


def _refuse_unknown_keys(field: Mapping[str, Any]) -> None:
    for key in field:
        if key not in _FIELD_KEYS:
            meant = get_close_matches(str(key)[:50], _FIELD_KEYS, 1)
            remedy = f"Did you mean {meant[0]!r}?" if meant else f"A field has {', '.join(sorted(_FIELD_KEYS))}."
            raise TypeSyntaxError("unknown key", remedy=remedy, path=(key,))
    if not isinstance(field.get("required", False), bool):
        raise TypeSyntaxError("expected true or false", path=("required",))


def _with_enum(shape: Shape, enum: Sequence[Any]) -> Shape:
    if shape.kind == "list" and shape.element is not None and shape.element.kind in SCALARS:
        return replace(shape, element=_with_enum(shape.element, enum))
    if shape.kind not in SCALARS:
        raise TypeSyntaxError(
            f"'enum' belongs to str, int, float, bool, or a list of these, not to {shape.text!r}", path=("enum",)
        )
    if not isinstance(enum, Sequence) or isinstance(enum, str) or not enum:
        raise TypeSyntaxError("an enum is a list of at least one value", path=("enum",))
    wrong = [index for index, value in enumerate(enum) if not _is_of(value, shape.kind)]
    remedy = "Put it in quotes." if shape.kind == "str" else ""
    message = f"this value is not of the type {shape.kind!r}"
    _raise_all([TypeSyntaxError(message, remedy=remedy, path=("enum", index)) for index in wrong[:MAX_ERRORS]])
    return replace(shape, enum=tuple(dict.fromkeys(enum)))


def _is_of(value: Any, kind: Kind) -> bool:
    if isinstance(value, bool):
        return kind == "bool"
    return isinstance(value, {"str": str, "int": int, "float": int | float, "bool": bool}[kind])


def accepts(wanted: Shape, given: Shape) -> bool:
    """Tell whether every value of the type `given` can be stored as `wanted`."""
    if wanted.kind == "any":
        return True
    if given.nullable and not wanted.nullable:
        return False
    if wanted.kind == "append" and wanted.element is not None and given.kind != "append":
        return accepts(wanted.element, given) or (is_appendable(wanted) and accepts(_element(wanted.element), given))
    if wanted.enum is not None and (given.enum is None or not set(given.enum) <= set(wanted.enum)):
        return False
    if wanted.kind == "dict" and given.kind == "object":
        parts = given.fields or {}
        return _element(wanted) == ANY or all(accepts(_element(wanted), part.shape) for part in parts.values())
    if wanted.kind != given.kind:
        return (wanted.kind, given.kind) == ("float", "int")
    return _same_kind(wanted, given)


def _same_kind(wanted: Shape, given: Shape) -> bool:
    if wanted.kind == "object":
        return _object_accepts(wanted, given)
    if wanted.key is not None and given.key is not None and not _key_fits(wanted.key, given.key):
        return False
    return wanted.element is None or accepts(wanted.element, _element(given))


def _key_fits(wanted: Shape, given: Shape) -> bool:
    # Keys are texts once they are stored, so that any key fits `str`.
    return wanted.kind == "str" or accepts(wanted, given)


def _object_accepts(wanted: Shape, given: Shape) -> bool:
    wanted_parts, given_parts = wanted.fields or {}, given.fields or {}
    if not set(given_parts) <= set(wanted_parts):
        return False
    if not wanted.partial and any(part.required and name not in given_parts for name, part in wanted_parts.items()):
        return False
    return all(accepts(wanted_parts[name].shape, part.shape) for name, part in given_parts.items())


def _element(shape: Shape) -> Shape:
    return shape.element or ANY


def is_appendable(shape: Shape) -> bool:
    """Tell whether one element alone may be written to a field that appends: not where it could be taken for a list."""
    return _element(_element(shape)).kind not in {"list", "any"}
