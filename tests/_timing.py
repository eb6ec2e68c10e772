"""Bounds on time that are promised: told from the noise of a busy machine.

A machine that runs tests may stall a process for a second, and a bound of half a second cannot be seen to hold just then.
That something can be done in time one try shows which does it; what is really late is late each time.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

TRIES: Final = 5

P = ParamSpec("P")
T = TypeVar("T")


class LateError(AssertionError):
    """Something took longer than it may, or than the rest of the test can be seen in: another try may show it."""


def in_one_of_a_few_tries(attempt: Callable[P, T]) -> Callable[P, T]:
    """Have a test, or a part of one, begin anew where it was late; only its last try may be late for good.

    Whatever else is wrong fails at once.
    """

    @functools.wraps(attempt)
    def tried(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(TRIES - 1):
            with contextlib.suppress(LateError):
                return attempt(*args, **kwargs)
        return attempt(*args, **kwargs)

    return tried


_numbers = itertools.count(1)


def anew(path: Path) -> Path:
    """Give a path beside another one where nothing is yet, for a test that begins anew."""
    return path.with_name(f"{next(_numbers)}-{path.name}")


def timely(condition: bool, said: object = "") -> None:
    """Assert what a stall of the machine may spoil."""
    if not condition:
        raise LateError(said)


@contextlib.contextmanager
def within(most: float, *, least: float = 0.0) -> Iterator[None]:
    """Bound the seconds that a block takes, below and above; the lower one no stall can spoil."""
    started = time.perf_counter()
    yield
    took = time.perf_counter() - started
    assert least <= took, f"took {took:.2f} s, less than {least:g}"
    timely(took < most, f"took {took:.2f} s, not less than {most:g}")


def cpu_seconds(call: Callable[[], object], *, limit: float) -> float:
    """Give the CPU time of a call: the least of a few tries, where the first ones take longer than `limit`."""
    least = float("inf")
    for _ in range(TRIES):
        started = time.process_time()
        call()
        least = min(least, time.process_time() - started)
        if least <= limit:
            break
    return least
