"""Makes a store with many runs: `python -m benchmarks.filling STORE [--runs N]`, 10 node executions and 2 model calls each.

One real run is the pattern; its rows are copied in the database itself, each with ids and times of its own. So the rows
have the real schema and shape, and ten million are there in minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.contenders.ours import wait_for_commits
from configurable_agents import create_storage_backend, run_workflow
from configurable_agents.runtime.workflow import workflow_from_config
from configurable_agents.storage.upkeep import rebuild_usage

RUNS: Final = 10_000
FULL_RUNS: Final = 1_000_000
NODES: Final = 10
MODEL_CALLS: Final = 2
WORKFLOWS: Final = 20
MODELS: Final = 5
FAILED_ONE_IN: Final = 50
DAYS: Final = 365
_FIRST_MS: Final = 1_750_000_000_000
_STEPS: Final = 20
"""A store is filled in so many transactions."""


def main() -> None:
    """Fill a store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="the file to make; it must not exist")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"default {RUNS}; the large size is {FULL_RUNS}")
    options = parser.parse_args()
    started = time.perf_counter()
    fill(options.store, options.runs, say=print)
    print(f"{options.store.stat().st_size / 1e6:.0f} MB in {time.perf_counter() - started:.0f} s")


def fill(path: Path, runs: int, *, say: Callable[[str], None]) -> None:
    """Make a store with so many runs, spread over a year.

    Raises:
        FileExistsError: There is a file already.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; name a file that does not")
    pattern = path.with_name(path.name + ".pattern")
    _pattern(pattern)
    create_storage_backend(path).close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # Whatever happens to a store that is only being made: it is made again.
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -500000"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("ATTACH ? AS pattern", [str(pattern)])
        connection.execute("INSERT INTO workflow_configs SELECT * FROM pattern.workflow_configs")
        for number, (first, last) in enumerate(_parts(runs)):
            say(f"filling the store: {number * 100 // _STEPS} %")
            for table, values in _TABLES.items():
                connection.execute(_copy(connection, table, values, runs), [first, last])
        connection.execute("DETACH pattern")
        connection.execute("PRAGMA journal_mode = WAL")
    say("summing up tokens and cost")
    with contextlib.closing(create_storage_backend(path)) as store:
        rebuild_usage(store)  # the rows above were copied past the rollup
    for left in path.parent.glob(pattern.name + "*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _pattern(path: Path) -> None:
    """Run a chain of functions and two model calls once."""
    names = [f"f{number}" for number in range(NODES)]
    answer = "a model's answer of about a hundred characters, so that rows have the size that they usually have"
    nodes: list[dict[str, Any]] = [
        {"id": name, "prompt": "Write on: {x}", "outputs": ["x"]}
        if number < MODEL_CALLS
        else {"id": name, "function": name, "inputs": {"x": "{x}"}, "outputs": ["x"]}
        for number, name in enumerate(names)
    ]
    llm = {"provider": "scripted", "model": "scripted", "price": {"input_per_mtok": 1.0, "output_per_mtok": 2.0}}
    workflow = workflow_from_config(
        {
            "schema_version": "1.0",
            "flow": {"name": "pattern"},
            "state": {"fields": {"x": {"type": "str", "default": answer}}},
            "nodes": nodes,
            "edges": [{"from": a, "to": b} for a, b in itertools.pairwise(["START", *names, "END"])],
            "config": {"llm": llm},
        }
    )
    run_workflow(workflow, functions=dict.fromkeys(names[MODEL_CALLS:], lambda x: x), store=path)
    wait_for_commits(path)


def _parts(runs: int) -> list[tuple[int, int]]:
    bounds = [runs * number // _STEPS for number in range(_STEPS + 1)]
    return [(first + 1, last) for first, last in itertools.pairwise(bounds) if last > first]


_MS: Final = f"({_FIRST_MS} + n * {DAYS * 86_400_000} / {{runs}})"
_FAILED: Final = f"n % {FAILED_ONE_IN} = 0"
_SPAN: Final[Mapping[str, str]] = {
    # As ours are: milliseconds high, a counter low; so new rows go to the end of the key's tree.
    "span_id": f"printf('%016x', ({_MS} << 22) + ({{kind}} << 10) + p.rowid)",
    "trace_id": "printf('%016x%016x', n * 2654435761, n * 40503)",
    "start_time_unix_nano": f"{_MS} * 1000000 + p.rowid",
    "end_time_unix_nano": f"{_MS} * 1000000 + p.rowid + 1000",
    "run_id": f"printf('%08x-%04x-7000-8000-%012x', {_MS} >> 16, {_MS} & 65535, n)",
}
_TABLES: Final[Mapping[str, Mapping[str, str]]] = {
    "workflow_runs": {
        **_SPAN,
        "workflow_name": f"printf('workflow-%02d', n % {WORKFLOWS})",
        "status": f"CASE WHEN {_FAILED} THEN 'failed' ELSE 'completed' END",
    },
    "execution_states": {
        **_SPAN,
        "status": f"CASE WHEN {_FAILED} AND seq = {NODES} THEN 'failed' ELSE 'completed' END",
    },
    "spans": {**_SPAN, "model": f"printf('model-%d', n % {MODELS})"},
}


def _copy(connection: sqlite3.Connection, table: str, values: Mapping[str, str], runs: int) -> str:
    names = [row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")]
    kind = list(_TABLES).index(table)
    found = ", ".join(values[name].format(runs=runs, kind=kind) if name in values else f"p.{name}" for name in names)
    return (
        "WITH RECURSIVE numbers(n) AS (SELECT ? UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"
        f" INSERT INTO main.{table} ({', '.join(names)})"
        # A cross join keeps this order: run after run, as they would have come.
        f" SELECT {found} FROM numbers CROSS JOIN pattern.{table} AS p"
    )


if __name__ == "__main__":
    main()
