"""A thousand runs at once: chains of nodes that sleep, in one event loop. Every time in a fresh process."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.contenders import Contender
from benchmarks.processes import RunnerError, Spent, runner
from benchmarks.turns import Spread
from benchmarks.work import CHAIN_NODES, SLEEP_SECONDS

RUNS: Final = 1_000
ROUNDS: Final = 5
SLOW_SECONDS: Final = 20.0
"""Who takes longer takes part in the first round alone: the ratio is clear then."""


def measure(
    contenders: Sequence[Contender], folder: Path, *, runs: int, rounds: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Give for each contender the seconds, and the memory of a run."""
    found: dict[str, list[Spent]] = {}
    left, order = list(contenders), random.Random(0)
    for number in range(rounds):
        order.shuffle(left)
        for contender in list(left):
            say(f"{runs} runs at once, round {number + 1} of {rounds}: {contender.label}")
            spent = _once(contender, folder / f"{contender.name}-{number}", runs, say)
            if spent is not None:
                found.setdefault(contender.name, []).append(spent)
            if spent is None or spent.wall_seconds > SLOW_SECONDS:
                left.remove(contender)
    return {
        "runs": runs,
        "nodes": CHAIN_NODES,
        "sleep_seconds": SLEEP_SECONDS,
        "least_seconds": CHAIN_NODES * SLEEP_SECONDS,
        "contenders": {name: _figure(spent, runs) for name, spent in found.items()},
    }


def _once(contender: Contender, folder: Path, runs: int, say: Callable[[str], None]) -> Spent | None:
    try:
        with runner(contender, folder) as one:
            return one.asleep(runs)
    except RunnerError as failure:
        say(str(failure))
        return None


def _figure(spent: Sequence[Spent], runs: int) -> dict[str, Any]:
    return {
        "wall_seconds": asdict(Spread.of([one.wall_seconds for one in spent])),
        "cpu_seconds": asdict(Spread.of([one.cpu_seconds for one in spent])),
        "memory_bytes_per_run": asdict(Spread.of([one.memory_bytes / runs for one in spent])),
        "rounds": len(spent),
    }
