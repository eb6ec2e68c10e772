"""How long reading takes in a store with many runs, what a cold start costs, and whether opening grows with the store."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.filling import FAILED_ONE_IN, WORKFLOWS, fill
from configurable_agents import create_storage_backend

TIMES: Final = 15
_LATEST: Final = 20
_ENOUGH_MS: Final = 10_000
"""What is so slow needs no more rounds."""
_COMMAND: Final = "import sys; from configurable_agents.cli.main import main; sys.exit(main())"


def measure(
    folder: Path, *, runs: int, store: Path | None = None, times: int = TIMES, say: Callable[[str], None]
) -> dict[str, Any]:
    """Give the times of reading, in milliseconds, from a store that `filling` made (or makes now)."""
    folder.mkdir(parents=True, exist_ok=True)
    path, small = store or folder / "many.db", folder / "small.db"
    if not path.exists():
        fill(path, runs, say=say)
    fill(small, 100, say=lambda text: None)
    say("reading")
    figures = _in_process(path, times)
    # The least of the turns: what it takes is a few milliseconds, and the question is whether the store's size is in it.
    opened = _by_turns({"open_ms": lambda: _open(path), "open_small_ms": lambda: _open(small)}, 4 * times, of=min)
    say("starting commands")
    cold = partial(_cold, times=times, bytecode=folder / "bytecode")
    return {
        "runs": _count(path),
        "store_mb": round(path.stat().st_size / 1e6),
        **figures,
        **opened,
        "python_cpu_seconds": cold("pass"),
        "import_cpu_seconds": cold("import configurable_agents"),
        "runs_list_cpu_seconds": cold(_COMMAND, "runs", "list", "--store", str(path)),
        "runs_list_small_cpu_seconds": cold(_COMMAND, "runs", "list", "--store", str(small)),
    }


def _in_process(path: Path, times: int) -> dict[str, float]:
    with contextlib.closing(create_storage_backend(path)) as store:
        latest = store.runs.list_runs(limit=_LATEST)
        assert len(latest) == _LATEST
        # In the middle of the store, where no cache has it because it is new.
        ids = iter(_ids_in_the_middle(path, 2 * times))
        # The numbers of failed runs are multiples of these both, so that this workflow has some.
        failed = f"workflow-{FAILED_ONE_IN % WORKFLOWS:02d}"

        def tree() -> None:
            run = store.runs.get(next(ids))
            assert store.execution_states.get_state_history(run.run_id)
            assert store.execution_states.list_spans(run.run_id)

        def failed_runs() -> None:
            assert store.runs.list_runs(workflow_name=failed, status="failed", limit=_LATEST)

        def costs() -> None:
            assert store.runs.usage_by_model()

        return _by_turns(
            {
                "latest_20_ms": lambda: store.runs.list_runs(limit=_LATEST),
                "tree_ms": tree,
                "failed_ms": failed_runs,
                "cost_by_model_and_day_ms": costs,
            },
            times,
        )


def _by_turns(
    calls: dict[str, Callable[[], object]], times: int, *, of: Callable[[list[float]], float] = statistics.median
) -> dict[str, float]:
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # statements are prepared, pages are read
    for _ in range(times):
        for name, call in calls.items():
            if sum(found[name]) < _ENOUGH_MS:
                started = time.perf_counter()
                call()
                found[name].append((time.perf_counter() - started) * 1e3)
    return {name: of(each) for name, each in found.items()}


def _open(path: Path) -> None:
    create_storage_backend(path).close()


def _count(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM workflow_runs").fetchone()[0])


def _ids_in_the_middle(path: Path, times: int) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        query = "SELECT run_id FROM workflow_runs ORDER BY run_id LIMIT ? OFFSET ?"
        return [row[0] for row in connection.execute(query, (times, _count(path) // 2))]


def _cold(code: str, *arguments: str, times: int, bytecode: Path) -> float:
    """Give the CPU seconds of a fresh interpreter, which finds everything compiled: pip does that when it installs."""
    command = [sys.executable, "-c", code, *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(bytecode)
    _cpu_of(command, environment)
    return statistics.median(_cpu_of(command, environment) for _ in range(times))


def _cpu_of(command: list[str], environment: dict[str, str]) -> float:
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return usage.ru_utime + usage.ru_stime
