"""Many threads and many processes that all first use one fresh store: nothing is lost."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

from _runs import calls, chain, eventually, field, rows, start_program
from _workflows import make
from configurable_agents import RunResult, run_workflow

PROCESS = """
import sys
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow

workflow = make(
    [calls("a", "x"), calls("b", "x")], chain("START a b END"), {"x": field("int")}
)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(30):
    print(run_workflow(workflow, functions={"a": lambda: 1, "b": lambda: 2}, store=sys.argv[1]).run_id)
"""


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


def test_four_processes_that_first_use_one_fresh_store_lose_nothing(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    processes = [start_program(PROCESS, store) for _ in range(4)]
    for process in processes:  # so that all begin at once
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    run_ids: list[str] = []
    for process in processes:
        out, err = communicate(process)
        assert process.returncode == 0, err
        run_ids += out.split()
    assert len(set(run_ids)) == 120
    check(store, run_ids)


def communicate(process: subprocess.Popen[str]) -> tuple[str, str]:
    with process:
        return process.communicate(timeout=60)
