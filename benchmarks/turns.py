"""The engine's cost: CPU and time for one node execution, of every contender and every work, in turns."""

from __future__ import annotations

import contextlib
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.contenders import SPAN, Contender
from benchmarks.processes import Runner, RunnerError, Spent, runner
from benchmarks.work import CHAIN, WORKS

ROUNDS: Final = 21
_TIMES_THE_ROUNDS: Final = {CHAIN: 2}
"""Most of what we promise is about the chain, and the machine is not the same in each round: the median of more rounds stands
more firmly."""
TURN_SECONDS: Final = 0.15
"""About as long is a turn: long against a clock's step, short against what else goes on on the machine."""
_MOST_RUNS: Final = 400


@dataclass(frozen=True)
class Spread:
    """The rounds of one figure."""

    median: float
    low: float
    """A tenth of the rounds was below."""
    high: float
    """A tenth of the rounds was above."""
    deviation: float
    """The median of the distances from the median."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up the rounds."""
        median = statistics.median(values)
        tenths = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else [values[0]] * 9
        return cls(median, tenths[0], tenths[-1], statistics.median(abs(value - median) for value in values))


def measure(
    contenders: Sequence[Contender],
    works: Sequence[str],
    folder: Path,
    *,
    rounds: int,
    turn_seconds: float = TURN_SECONDS,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Give for each work and contender the microseconds of a node execution."""
    with contextlib.ExitStack() as stack:
        runners = []
        for contender in contenders:
            say(f"starting {contender.label}")
            try:
                runners.append(stack.enter_context(runner(contender, folder / contender.name)))
            except RunnerError as failure:
                say(f"left out: {failure}")
        found = {}
        for work in works:
            able = [each for each in runners if work in each.works]
            times = rounds * _TIMES_THE_ROUNDS.get(work, 1)
            found[work] = _figures(work, _rounds(able, work, times, turn_seconds, say))
        return found


Found = dict[str, list[Spent]]


def _rounds(
    runners: Sequence[Runner], work: str, rounds: int, turn_seconds: float, say: Callable[[str], None]
) -> Found:
    times: dict[str, int] = {}
    for one in list(runners):
        with contextlib.suppress(RunnerError):
            times[one.contender.name] = _calibrated(one, work, turn_seconds)
    left = [one for one in runners if one.contender.name in times]
    for one in runners:
        if one not in left:
            say(f"{one.contender.label} cannot do {WORKS[work].label}")
    found: Found = {one.contender.name: [] for one in left}
    order = random.Random(0)  # who comes after whom must not be always the same
    for number in range(rounds):
        say(f"{WORKS[work].label}: round {number + 1} of {rounds}")
        order.shuffle(left)
        for one in left:
            name = one.contender.name
            spent = one.turn(work, times[name])
            found[name].append(Spent(spent.wall_seconds / times[name], spent.cpu_seconds / times[name]))
    return found


def _calibrated(one: Runner, work: str, turn_seconds: float) -> int:
    """Say how many runs make a turn; the first ones, with what they load and open, count for nothing."""
    one.turn(work, 3)
    a_run = one.turn(work, 3).wall_seconds / 3
    return max(1, min(_MOST_RUNS, round(turn_seconds / a_run)))


def _figures(work: str, found: Found) -> dict[str, Any]:
    return {name: _figure(spent, found.get(SPAN), WORKS[work].nodes) for name, spent in found.items()}


def _figure(spent: Sequence[Spent], span: Sequence[Spent] | None, nodes: int) -> dict[str, Any]:
    cpu = [one.cpu_seconds * 1e6 / nodes for one in spent]
    wall = [one.wall_seconds * 1e6 / nodes for one in spent]
    figure: dict[str, Any] = {"cpu_us": asdict(Spread.of(cpu)), "wall_us": asdict(Spread.of(wall))}
    if span is not None:
        # Within a round: the machine was the same for both.
        ratios = [mine.cpu_seconds / bare.cpu_seconds for mine, bare in zip(spent, span, strict=True)]
        figure["cpu_ratio_to_span"] = asdict(Spread.of(ratios))
    figure["cpu_us_of_rounds"] = [round(value, 2) for value in cpu]
    return figure


def ratio(figures: Mapping[str, Any], name: str, against: str) -> float | None:
    """Give the median over the rounds of one contender's CPU by another's; None if either did not take part."""
    if name not in figures or against not in figures:
        return None
    mine, theirs = (figures[one]["cpu_us_of_rounds"] for one in (name, against))
    return float(statistics.median(one / other for one, other in zip(mine, theirs, strict=True)))
