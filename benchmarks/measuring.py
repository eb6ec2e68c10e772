"""How steps are timed: in turns, many rounds in one run, so that what slows the machine down slows all of them."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """Something that costs time."""

    name: str
    call: Callable[[], object]
    """Does it once."""
    times: int = 1
    """How often in one round; the round's figure is the mean of them."""
    units: int = 1
    """What one call does so many of: rows in a commit, nodes in a run."""
    after: Callable[[], object] = lambda: None
    """Brings back the state before the round; not timed."""


@dataclass(frozen=True)
class Figure:
    """What one unit of a step cost."""

    name: str
    median_us: float
    low_us: float
    high_us: float
    """A tenth of the rounds was below `low_us`, and a tenth above `high_us`."""

    @classmethod
    def of(cls, name: str, rounds_us: Sequence[float]) -> Figure:
        """Sum up the rounds."""
        tenths = statistics.quantiles(rounds_us, n=10)
        return cls(name, statistics.median(rounds_us), tenths[0], tenths[-1])


def measure(steps: Sequence[Step], *, rounds: int) -> dict[str, list[float]]:
    """Give each step's microseconds for a unit, by round; the steps take turns in every round."""
    found: dict[str, list[float]] = {step.name: [] for step in steps}
    for step in steps:
        _round(step)  # imports, caches, files that grow
    for _ in range(rounds):
        for step in steps:
            found[step.name].append(_round(step))
    return found


def _round(step: Step) -> float:
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for _ in range(step.times):
            step.call()
        seconds = time.perf_counter() - start
    finally:
        gc.enable()
    step.after()
    return seconds * 1e6 / step.times / step.units
