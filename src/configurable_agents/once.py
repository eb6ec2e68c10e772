"""A property that is computed when it is first asked for, and kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


class Once(Generic[_T]):
    """A property that is computed once.

    Not `functools.cached_property`: up to Python 3.11 that holds one lock for all instances while it computes, and in a
    child that is forked meanwhile nobody would ever let go of it.
    """

    def __init__(self, compute: Callable[[Any], _T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> _T:
        if instance is None:
            return self  # type: ignore[return-value]  # of the class itself, as by who lists what it has
        value: _T = self._compute(instance)
        instance.__dict__[self._name] = value  # found first, from now on
        return value
