"""Hides known secret values in what is kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Final

import orjson

MASK: Final = "***"
MIN_CHARACTERS: Final = 6
"""A shorter value (a region, a port) stands in too many harmless places to be hidden."""


def masker(values: Collection[str]) -> Callable[[str], str]:
    """Make a function that replaces the values in a text, also where JSON has escaped them."""
    spellings = {value for value in values if len(value) >= MIN_CHARACTERS}
    spellings |= {orjson.dumps(value).decode()[1:-1] for value in spellings if value.isprintable()}
    if not spellings:
        return _unchanged
    longest_first = sorted(spellings, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    return lambda text: pattern.sub(MASK, text)


def _unchanged(text: str) -> str:
    return text
