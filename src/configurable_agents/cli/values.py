"""Values of the state as people read them: text as text, lists and objects as an outline, nothing as a JSON blob."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from configurable_agents.cli.text import clean, one_line

MAX_DEPTH: Final = 12
"""Deeper values are shown as JSON."""


def brief(value: Any) -> str:
    """Give a value as one line."""
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def outline(value: Any, *, depth: int = 0) -> list[str]:
    """Give a value as clean lines: a text's own lines, a list with dashes, an object with its names."""
    if isinstance(value, str):
        return clean(value).strip("\n").split("\n")
    if depth < MAX_DEPTH and isinstance(value, Mapping) and value:
        return [line for name, item in value.items() for line in _named(one_line(name), item, depth)]
    if depth < MAX_DEPTH and isinstance(value, list | tuple) and value:
        return list(_dashed(value, depth))
    return [brief(value)]


def _named(name: str, value: Any, depth: int) -> list[str]:
    lines = outline(value, depth=depth + 1)
    if len(lines) == 1 and not _nests(value):
        return [f"{name}: {lines[0]}"]
    return [f"{name}:", *(f"  {line}" for line in lines)]


def _dashed(values: Sequence[Any], depth: int) -> Iterator[str]:
    for value in values:
        first, *rest = outline(value, depth=depth + 1)
        yield f"- {first}"
        yield from (f"  {line}" for line in rest)


def _nests(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple) and bool(value)
