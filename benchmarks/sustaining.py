"""How much one process, and four at once, keep doing with everything on: nodes a second, the lag of commits, memory."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.contenders.ours import chain, wait_for_commits
from benchmarks.processes import in_a_process, memory
from benchmarks.work import CHAIN_NODES
from configurable_agents import arun_workflow, create_storage_backend, run_workflow
from configurable_agents.storage.base import StorageBackend

SECONDS: Final = 20.0
AT_ONCE: Final = 64
"""Runs of a service with some traffic; one alone is shown beside it."""
PROCESSES: Final = 4


def measure(folder: Path, *, seconds: float, processes: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Give the figures of one process with runs one by one, with many at once, and of four processes together."""
    folder.mkdir(parents=True, exist_ok=True)
    say(f"one process, run after run, for {seconds:g} s")
    alone = in_a_process(sustain, folder / "alone.db", seconds, 1)()
    say(f"one process, {AT_ONCE} runs at once, for {seconds:g} s")
    one = in_a_process(sustain, folder / "one.db", seconds, AT_ONCE)()
    say(f"{processes} processes together, for {seconds:g} s")
    waiting = [in_a_process(sustain, folder / "four.db", seconds, AT_ONCE) for _ in range(processes)]
    four = [result() for result in waiting]
    return {
        "seconds": seconds,
        "at_once": AT_ONCE,
        "run_after_run": alone,
        "one_process": one,
        "processes_together": {
            "processes": processes,
            "cpu_us_per_node": statistics.mean(each["cpu_us_per_node"] for each in four),
            "nodes_per_second": sum(each["nodes_per_second"] for each in four),
            "commit_lag_ms": {name: max(each["commit_lag_ms"][name] for each in four) for name in ("p50", "p99")},
        },
    }


_LAG_STEPS: Final = 100
"""In a millisecond. A list of all lags would be most of what the process's memory grows by."""


def _watched(store: StorageBackend) -> Counter[int]:
    """Count from now on how long after its end a node's record is committed, in steps of a hundredth of a millisecond."""
    lags: Counter[int] = Counter()
    write = store.write

    def watched(records: Sequence[Any]) -> None:
        write(records)
        now = time.time_ns()
        ends = [end for record in records if (end := getattr(record, "end_time_unix_nano", None)) is not None]
        lags.update(round((now - end) / 1e6 * _LAG_STEPS) for end in ends)

    store.write = watched  # type: ignore[method-assign]  # for this one object
    return lags


def _lag_below(lags: Counter[int], part: float) -> float:
    """Give the milliseconds that so large a part of the lags does not exceed."""
    left = part * lags.total()
    for lag in sorted(lags):
        left -= lags[lag]
        if left <= 0:
            return lag / _LAG_STEPS
    raise ValueError("nothing was committed")


def sustain(path: Path, seconds: float, at_once: int) -> dict[str, Any]:
    """Run chains of trivial nodes for so long, and give what came of it; in a process of its own."""
    names = [f"f{number}" for number in range(CHAIN_NODES)]
    workflow = chain(names)
    with contextlib.closing(create_storage_backend(path, busy_timeout_seconds=10)) as store:
        lags = _watched(store)
        if at_once == 1:
            functions: dict[str, Any] = dict.fromkeys(names, lambda x: x + 1)
            doing = _one_by_one(lambda: run_workflow(workflow, functions=functions, store=store), seconds)
        else:
            functions = dict.fromkeys(names, _add)
            doing = asyncio.run(
                _at_once(lambda: arun_workflow(workflow, functions=functions, store=store), seconds, at_once)
            )
        wait_for_commits(store)
        runs, wall, cpu, memories = doing
        return {
            "nodes_per_second": runs * CHAIN_NODES / wall,
            "cpu_us_per_node": cpu * 1e6 / runs / CHAIN_NODES,
            "commit_lag_ms": {"p50": _lag_below(lags, 0.5), "p99": _lag_below(lags, 0.99)},
            "memory_mb": [round(each / 1e6, 1) for each in memories],
        }


async def _add(x: int) -> int:
    return x + 1


Done = tuple[int, float, float, list[int]]
"""Runs, wall seconds, CPU seconds, and the memory at the end of each tenth of the time."""


def _one_by_one(run: Callable[[], object], seconds: float) -> Done:
    run()
    started, cpu, runs, memories = time.perf_counter(), time.process_time(), 0, [memory()]
    while (passed := time.perf_counter() - started) < seconds:
        run()
        runs += 1
        if passed >= len(memories) * seconds / 10:
            memories.append(memory())
    return runs, time.perf_counter() - started, time.process_time() - cpu, [*memories, memory()]


async def _at_once(run: Callable[[], Any], seconds: float, at_once: int) -> Done:
    await run()
    started, cpu, runs, memories = time.perf_counter(), time.process_time(), 0, [memory()]

    async def keep_running() -> None:
        nonlocal runs
        while (passed := time.perf_counter() - started) < seconds:
            await run()
            runs += 1
            if passed >= len(memories) * seconds / 10:
                memories.append(memory())

    await asyncio.gather(*(keep_running() for _ in range(at_once)))
    return runs, time.perf_counter() - started, time.process_time() - cpu, [*memories, memory()]
