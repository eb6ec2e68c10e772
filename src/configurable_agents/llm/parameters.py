"""What a chat model is asked for beside the messages: its sampling parameters, as langchain-core's integrations hold them.

There is no interface for them; but the integrations share the names, and pass on what stands in `model_kwargs` and
`extra_body` under the providers' own, which are the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypedDict

_PLACES: Final = ("model_kwargs", "extra_body")


class Parameters(TypedDict):
    """Fields of `ModelInfo` of the same names."""

    top_p: float | None
    top_k: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    seed: int | None
    choice_count: int | None
    stop_sequences: tuple[str, ...]


def read_parameters(model: Any) -> Parameters:
    """Read what a chat model will send with each request; what it leaves to the provider stays None."""
    return {
        "top_p": number(_find(model, "top_p")),
        "top_k": number(_find(model, "top_k")),
        "frequency_penalty": number(_find(model, "frequency_penalty")),
        "presence_penalty": number(_find(model, "presence_penalty")),
        "seed": whole(_find(model, "seed")),
        "choice_count": whole(_find(model, "n")),
        "stop_sequences": _texts(_find(model, "stop", "stop_sequences")),
    }


def number(value: Any) -> float | None:
    """Give a number that is one, else None."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def whole(value: Any) -> int | None:
    """Give a whole number that fits into an attribute, else None."""
    usable = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return value if usable else None


def _find(model: Any, *names: str) -> Any:
    given = [getattr(model, name, None) for name in names]
    for place in _PLACES:
        extra = getattr(model, place, None)
        if isinstance(extra, Mapping):
            given += [extra.get(name) for name in names]
    return next((value for value in given if value is not None), None)


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Iterable) or isinstance(value, Mapping | bytes):
        return ()
    return tuple(text for text in value if isinstance(text, str))
