"""Hides known secret values in what is kept."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

from configurable_agents.core.encoding import encode

MASK: Final = "***"
MIN_CHARACTERS: Final = 6
"""A shorter value (a region, a port) stands in too many harmless places to be hidden."""


def masker(values: Collection[str]) -> Callable[[str], str]:
    """Make a function that replaces the values in a text, also where they have been escaped in it."""
    return _masker(frozenset(values))


@functools.lru_cache(maxsize=8)  # most runs of a program have the same secrets
def _masker(values: frozenset[str]) -> Callable[[str], str]:
    spellings = {spelling for value in values if len(value) >= MIN_CHARACTERS for spelling in _spellings(value)}
    if not spellings:
        return _unchanged
    longest_first = sorted(spellings, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    return lambda text: pattern.sub(MASK, text)


@functools.lru_cache(maxsize=8)
def encoder(mask: Callable[[str], str]) -> Callable[[Any], str]:
    """Make a function that gives a value as JSON text, with what a `masker` hides hidden in it."""
    return encode if mask is _unchanged else lambda value: mask(encode(value))


def _spellings(value: str) -> Iterator[str]:
    """Spell a value as texts hold it: as it is, in Python's `repr`, in JSON, and in JSON that stands in JSON."""
    # What is no UTF-8 is kept as its escapes (`encoding`, `spans.describe`).
    for text in {value, value.encode("utf-8", "backslashreplace").decode()}:
        yield text
        yield repr(text)[1:-1]
        for ascii_only in (False, True):
            once = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
            yield once
            yield json.dumps(once, ensure_ascii=ascii_only)[1:-1]


def _unchanged(text: str) -> str:
    return text
