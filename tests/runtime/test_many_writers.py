"""Many threads that all first use one fresh store: nothing is lost. Processes: `storage/test_many_processes.py`."""

from __future__ import annotations

import threading
from pathlib import Path

from _runs import calls, chain, eventually, field, rows
from _workflows import make
from configurable_agents import RunResult, run_workflow


def check(store: Path, run_ids: list[str]) -> None:
    """Every run is there, completed, with both its nodes."""
    query = (
        "SELECT r.run_id, r.status, group_concat(e.seq || e.node_id || e.status, ' ')"
        " FROM workflow_runs r LEFT JOIN (SELECT * FROM execution_states ORDER BY seq) e ON e.run_id = r.run_id"
        " GROUP BY r.run_id, r.status"
    )
    expected = sorted((run_id, "completed", "1acompleted 2bcompleted") for run_id in run_ids)
    eventually(lambda: sorted(rows(store, query)) == expected)


def test_eight_threads_that_first_use_one_fresh_store_lose_nothing(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    workflow = make([calls("a", "x"), calls("b", "x")], chain("START a b END"), {"x": field("int")})
    results: list[RunResult] = []
    gate = threading.Barrier(8)

    def run_some() -> None:
        gate.wait()
        functions = {"a": lambda: 1, "b": lambda: 2}
        results.extend(run_workflow(workflow, functions=functions, store=store) for _ in range(15))

    threads = [threading.Thread(target=run_some) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 120
    check(store, [result.run_id for result in results])
