"""The smallest value that a JSON Schema allows, for models that make no sense but must fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

MAX_DEPTH: Final = 50
"""A schema that needs more than this of itself has no smallest value."""


def smallest_instance(schema: Mapping[str, Any]) -> Any:
    """Make the smallest value: required properties only, the first of an enum, empty strings and lists, zero, false.

    Knows what workflow files can say (types, enums, unions, nesting, bounds); `pattern` and `format` are not obeyed.

    Raises:
        ValueError: The schema allows nothing finite.
    """
    return _smallest(schema, schema, 0)


def _smallest(schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError("the schema nests without end")
    if not isinstance(schema, Mapping) or not schema:
        return None
    for key in ("const", "enum"):
        if key in schema:
            return schema[key] if key == "const" else schema[key][0]
    if "$ref" in schema:
        return _smallest(_resolve(schema["$ref"], root), root, depth + 1)
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return _first(schema[key], root, depth)
    if schema.get("allOf"):
        merged: dict[str, Any] = {}
        for part in schema["allOf"]:
            merged |= _resolve(part["$ref"], root) if "$ref" in part else part
        return _smallest(merged, root, depth + 1)
    return _by_type(schema, root, depth)


def _first(choices: Any, root: Mapping[str, Any], depth: int) -> Any:
    for choice in choices:
        try:
            return _smallest(choice, root, depth + 1)
        except ValueError:  # a schema that contains itself: another choice ends it
            continue
    raise ValueError("the schema nests without end")


def _by_type(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind is None:
        kind = "object" if "properties" in schema else "array" if "items" in schema else None
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: _smallest(properties.get(name, {}), root, depth + 1) for name in schema.get("required", ())}
    if kind == "array":
        first = [_smallest(item, root, depth + 1) for item in schema.get("prefixItems", ())]
        missing = max(0, int(schema.get("minItems", 0)) - len(first))
        return [*first, *(_smallest(schema.get("items", {}), root, depth + 1) for _ in range(missing))]
    if kind in {"integer", "number"}:
        return _number(schema, whole=kind == "integer")
    scalars: Mapping[str | None, Any] = {"string": "x" * int(schema.get("minLength", 0)), "boolean": False}
    return scalars.get(kind)


def _number(schema: Mapping[str, Any], *, whole: bool) -> int | float:
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    step = schema.get("multipleOf") or (1 if whole else 0)
    nudge = step or 1e-6
    low = max(low, schema["exclusiveMinimum"] + nudge) if "exclusiveMinimum" in schema else low
    high = min(high, schema["exclusiveMaximum"] - nudge) if "exclusiveMaximum" in schema else high
    value = min(max(0, low), high)
    if step:
        value = math.ceil(value / step) * step
    return int(value) if whole else float(value)


def _resolve(reference: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    at: Any = root
    for part in str(reference).removeprefix("#").strip("/").split("/"):
        at = at.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(at, Mapping) and part else at
    if not isinstance(at, Mapping):
        raise ValueError(f"{reference!r} leads nowhere")
    return at
