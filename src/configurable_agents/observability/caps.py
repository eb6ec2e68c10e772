"""Caps on what leaves: how long a value may be and how deep, and how it is cut. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

_ELLIPSIS: Final = "…"
_NUMBERS: Final = frozenset({bool, int, float})
MAX_DEPTH: Final = 24
"""Of values in values: readers of protobuf refuse messages that are nested 100 deep, and each such value is up to three."""


def capped(value: Any, limit: int, depth: int = MAX_DEPTH) -> Any:
    """Give the value of an attribute, cut where it takes more bytes than the limit, or goes deeper."""
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else cut(hex(value), limit)  # OTLP has no larger ones
    if isinstance(value, str):
        return cut(value, limit)
    if isinstance(value, bytes):
        return value[:limit]
    if isinstance(value, Sequence):
        return _cut_items(value, limit, depth - 1) if depth else _ELLIPSIS
    if isinstance(value, Mapping):  # newer SDKs know them
        whole = {key: capped(item, limit, depth - 1) for key, item in value.items()} if depth else _ELLIPSIS
        return whole if bytes_of(whole) <= limit else cut(str(whole), limit)
    return value


def cut(text: str, limit: int) -> str:
    """Cut a text to so many bytes of UTF-8, between two characters; what is no UTF-8 stands as its escapes."""
    if text.isascii() and len(text) <= limit:
        return text
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[: max(0, limit - len(_ELLIPSIS.encode()))].decode("utf-8", "ignore") + _ELLIPSIS


def _cut_items(values: Sequence[Any], limit: int, depth: int) -> tuple[Any, ...]:
    """Cut a list where its items together are too long."""
    taken: list[Any] = []
    left = limit
    for value in values:
        item = capped(value, limit, depth)
        left -= bytes_of(item)
        if left < 0:
            break
        taken.append(item)
    return tuple(taken)


def cut_messages(text: str, limit: int) -> str:
    """Cut messages (JSON by the GenAI conventions' schema) to so many bytes: their texts, so that they stay JSON."""
    if len(text) <= limit and text.isascii():
        return text
    try:
        messages = orjson.loads(text)
        for shorter in (1, 2, 4, 8, 16, 32, 64):
            cut_down = orjson.dumps([_shortened(message, limit // shorter) for message in messages])
            if len(cut_down) <= limit:
                return cut_down.decode()
    except (
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
    ):  # of another shape, or a stub that says how large they were
        pass
    return cut(text, limit)


def _shortened(message: Any, limit: int) -> Any:
    parts = [{key: capped(value, limit) for key, value in part.items()} for part in message["parts"]]
    return {**message, "parts": parts}


def bytes_of_all(attributes: Mapping[str, Any] | None) -> int:
    """Estimate what attributes take in a request, from above."""
    if not attributes:
        return 0
    whole: Mapping[str, Any] = attributes.copy() if hasattr(attributes, "copy") else attributes
    size = 22 * len(whole) + bytes_of("".join(whole))
    for value in whole.values():
        if type(value) is str:
            size += len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
        elif type(value) not in _NUMBERS:
            size += bytes_of(value)
    return size


def bytes_of(value: Any) -> int:
    """Estimate what a value takes in a request, from above."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, Sequence):
        return sum(6 + bytes_of(item) for item in value)
    if isinstance(value, Mapping):
        return sum(18 + bytes_of(str(key)) + bytes_of(item) for key, item in value.items())
    return 10
