"""Encodes any value into JSON text that any parser reads, in bounded time and size. It never raises.

What JSON cannot hold becomes a typed stub, an object with one key that begins with `$`:
`{"$float": "nan"}`, `{"$int": "123…"}`, `{"$bytes": "base64"}`, `{"$set": [...]}`, `{"$object": "type", ...}`.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import enum
import hashlib
import math
import uuid
from collections.abc import Mapping, Set
from pathlib import PurePath
from typing import Any, Final

import orjson

MAX_BYTES: Final = 16 * 1024 * 1024
"""A larger text is replaced by a stub with its size and hash: one value must not fill the store."""
MAX_DEPTH: Final = 200
"""orjson refuses more than 254 levels, and most parsers fewer than 1,000."""
MAX_ITEMS: Final = 1_000_000
"""Elements looked at in one value, so that encoding ends."""
MAX_REPR: Final = 200
"""Characters kept of a foreign object's text."""

_INT64: Final = range(-(2**63), 2**64)  # what orjson writes as a number
_OPTIONS: Final = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def encode(value: Any) -> str:
    """Give the JSON text of a value; of plain JSON values the exact one."""
    try:
        data = orjson.dumps(value)
        # orjson writes NaN and infinities as null: only a text with a null can hide one.
        # (`find`, since `in` would first try to take the bytes for a number: for a short text that is most of the time.)
        if data.find(b"null") >= 0 and _has_odd_float(value):
            data = orjson.dumps(_plain(value, _Budget()))
    except (TypeError, ValueError, RecursionError):
        data = _encode_odd(value)
    if len(data) > MAX_BYTES:
        data = orjson.dumps({"$too_large": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}})
    return data.decode()


def _encode_odd(value: Any) -> bytes:
    try:
        return orjson.dumps(_plain(value, _Budget()), option=_OPTIONS)
    except Exception:  # noqa: BLE001 - a hostile object may raise anything from anywhere; the run must not notice
        return orjson.dumps({"$object": _type_name(value)})


@dataclasses.dataclass(slots=True)
class _Budget:
    items: int = MAX_ITEMS
    open: set[int] = dataclasses.field(default_factory=set)
    """Ids of the containers that are being encoded: a cycle comes back to one of them."""


def _plain(value: Any, budget: _Budget, depth: int = 0) -> Any:
    """Rebuild a value from what orjson writes without loss."""
    budget.items -= 1
    try:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, enum.Enum):
            return _plain(value.value, budget, depth)
        if isinstance(value, int):
            return int(value) if value in _INT64 else {"$int": _int_text(value)}
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
        if isinstance(value, str):
            return _text(value)
        if depth >= MAX_DEPTH or budget.items < 0:
            return {"$cut": "too deep" if depth >= MAX_DEPTH else "too many items"}
        if id(value) in budget.open:
            return {"$cut": "cycle"}
        budget.open.add(id(value))
        try:
            return _container(value, budget, depth + 1)
        finally:
            budget.open.discard(id(value))
    except Exception:  # noqa: BLE001 - a hostile object may raise anything; caught here it spoils nothing beside it
        return {"$object": _type_name(value)}


def _container(value: Any, budget: _Budget, depth: int) -> Any:
    if isinstance(value, Mapping):
        return {_key(key): _plain(item, budget, depth) for key, item in _within(value.items(), budget)}
    if isinstance(value, list | tuple):
        return [_plain(item, budget, depth) for item in _within(value, budget)]
    if isinstance(value, Set):
        return {"$set": [_plain(item, budget, depth) for item in _within(value, budget)]}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": base64.b64encode(value).decode()}
    return _object(value, budget, depth)


def _object(value: Any, budget: _Budget, depth: int) -> Any:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, uuid.UUID | PurePath):
        return _text(str(value))
    dump = getattr(value, "model_dump", None)  # pydantic
    if callable(dump):
        return _plain(dump(), budget, depth)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), budget, depth) for f in dataclasses.fields(value)}
    return {"$object": _type_name(value), "text": _repr(value)}


def _within(items: Any, budget: _Budget) -> Any:
    for item in items:
        if budget.items < 0:
            return
        yield item


def _key(key: Any) -> str:
    if isinstance(key, str):
        return _text(key)
    return _text(str(key)) if isinstance(key, int | float | bool | None | uuid.UUID) else _repr(key)


def _text(value: str) -> str:
    """Replace lone surrogates, which are no UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "backslashreplace").decode()
    return str(value)


def _int_text(value: int) -> str:
    # Python refuses to write integers of more than 4,300 digits in decimal; hexadecimal has no such limit.
    return str(value) if value.bit_length() < 10_000 else f"{value:#x}"[:MAX_BYTES]


def _repr(value: Any) -> str:
    try:
        return _text(repr(value))[:MAX_REPR]
    except Exception:  # noqa: BLE001 - a foreign __repr__ may raise anything
        return "?"


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _has_odd_float(value: Any) -> bool:
    stack, left = [value], MAX_ITEMS
    while stack and left > 0:
        item = stack.pop()
        left -= 1
        if isinstance(item, float):
            if not math.isfinite(item):
                return True
        elif isinstance(item, Mapping):
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)
    return False


def copy_plain(value: Any) -> Any:
    """Copy the lists and dicts of a JSON-like value, so that whoever gets it cannot change the state."""
    kind = type(value)
    if kind is dict:
        return {key: copy_plain(item) for key, item in value.items()}
    if kind is list:
        return [copy_plain(item) for item in value]
    return value
