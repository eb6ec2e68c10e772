"""Many processes that write one store: nothing is lost, whatever else they do to its file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from _records import run_record
from _runs import besides_waiting, rows, run_at_once, run_program
from _timing import in_one_of_a_few_tries, timely
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.factory import create_storage_backend

NODES = "abcdefghij"

RUNS = """
import os, sys
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow

names = "abcdefghij"
workflow = make([calls(n, "x") for n in names], chain("START " + " ".join(names) + " END"), {"x": field("int")})
functions = {name: (lambda: 1) for name in names}

def run(times, store=sys.argv[1]):
    for _ in range(times):
        result = run_workflow(workflow, functions=functions, store=store)
        # One write: several processes share this pipe.
        os.write(1, f"{result.run_id}\\n".encode())
"""

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

IN_A_HURRY = re.compile(r"\d+ records are not in the store yet; they are kept in .*")
"""What a process may say that ends before its turn has come: a crowded machine gives it no time to open the store."""


def ids_of(start: Callable[[], tuple[int, str, str]], *, runs: int) -> list[str]:
    """Start programs that make so many runs, and give the ids of all that were made; nobody says a word about a lock."""
    run_ids: list[str] = []

    @in_one_of_a_few_tries
    def attempt() -> None:
        code, out, err = start()
        run_ids.extend(out.split())
        assert (code, besides_waiting(err)) == (0, []), err
        assert len(out.split()) == runs
        timely(all(map(IN_A_HURRY.fullmatch, err.splitlines())), err)

    attempt()
    return run_ids


def run_in_processes(target: str, *, processes: int, runs: int) -> list[str]:
    """Run workflows in processes that all begin at once, and give the runs' ids."""
    start = partial(run_at_once, RUNS, "run(int(sys.argv[2]))", target, runs, processes=processes)
    return ids_of(start, runs=processes * runs)


def check(store: StorageBackend, run_ids: Sequence[str]) -> None:
    """Every run is there, completed, with each of its nodes exactly once."""
    assert len(set(run_ids)) == len(run_ids)
    found = store.runs.list_runs(limit=len(run_ids) + 1)
    assert sorted(run.run_id for run in found) == sorted(run_ids)
    assert {run.status for run in found} == {"completed"}
    assert {run.node_executions for run in found} == {len(NODES)}
    for run_id in run_ids:
        history = store.execution_states.get_state_history(run_id)
        assert [(state.seq, state.node_id, state.status) for state in history] == [
            (seq, name, "completed") for seq, name in enumerate(NODES, 1)
        ]


@FORKS
def test_many_processes_that_first_use_one_fresh_store_lose_nothing(
    target: str, open_store: Callable[..., StorageBackend]
) -> None:
    """And none of them says a word about a lock."""
    processes = 16 if "://" not in target else 4
    run_ids = run_in_processes(target, processes=processes, runs=3)
    check(open_store(), run_ids)


PREFORK = (
    RUNS
    + """
run(1)
children = []
for _ in range(4):
    child = os.fork()
    if not child:
        run(5)
        sys.exit()
    children.append(child)
run(2)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""
)


@FORKS
def test_workers_that_a_server_forks_after_it_has_run_workflows_lose_nothing(
    target: str, open_store: Callable[..., StorageBackend]
) -> None:
    """As gunicorn does with an application that it has loaded before: open stores, threads and journals are the parent's."""
    run_ids = ids_of(partial(run_program, PREFORK, target), runs=1 + 4 * 5 + 2)
    check(open_store(), run_ids)


HALF_LOADED = (
    RUNS
    + """
import threading
thread = threading.Thread(target=run, args=[1])
thread.start()
while "psycopg" not in sys.modules:
    pass
child = os.fork()
run(1)
if child:
    thread.join()
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
)


@FORKS
@pytest.mark.postgres
def test_a_child_that_was_forked_while_the_driver_of_a_server_was_loaded_can_use_it_too(postgres_url: str) -> None:
    """What is half loaded at the fork stays half loaded in the child for ever: it would never reach the server."""
    start = partial(run_program, HALF_LOADED, postgres_url, PYTHONWARNINGS="ignore::DeprecationWarning")
    run_ids = ids_of(start, runs=3)
    with closing(create_storage_backend(postgres_url)) as store:
        check(store, run_ids)


MULTIPROCESSING = """
import multiprocessing, sys, warnings
import program
# Python 3.12 warns of a fork in a process that has threads; ours does what it has to.
warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork.*")
if __name__ == "__main__":
    program.run(1)
    context = multiprocessing.get_context(sys.argv[2])
    with context.Pool(3) as pool:
        pool.map(program.run, [2, 2, 2, 2])
        pool.close()
        pool.join()
    program.run(1)
"""


# `spawn` starts five interpreters; the programs that die, in durability, run it each time.
LONG = [pytest.param(method, marks=pytest.mark.soak) for method in ("spawn", "forkserver")]


@pytest.mark.parametrize("method", ["fork", *LONG])
def test_children_of_multiprocessing_lose_nothing(
    target: str, open_store: Callable[..., StorageBackend], tmp_path: Path, method: str
) -> None:
    """They end by `os._exit`, without the hooks of an interpreter's end."""
    if method != "spawn" and not hasattr(os, "fork"):
        pytest.skip("no fork here")
    (tmp_path / "program.py").write_text(RUNS)
    main = tmp_path / "main.py"
    main.write_text(MULTIPROCESSING)
    program = f"import runpy, sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = [{str(main)!r}, *sys.argv[1:]]"
    program += f"; runpy.run_path({str(main)!r}, run_name='__main__')"
    run_ids = ids_of(partial(run_program, program, target, method), runs=10)
    check(open_store(), run_ids)


@FORKS
@pytest.mark.parametrize("runs", [60, pytest.param(250, marks=pytest.mark.soak)])
def test_hundreds_of_runs_of_ten_nodes_from_four_processes_lose_nothing(tmp_path: Path, runs: int) -> None:
    path = tmp_path / "workflows.db"
    run_ids = run_in_processes(str(path), processes=4, runs=runs)
    with closing(create_storage_backend(path)) as store:
        check(store, run_ids)


@FORKS
@pytest.mark.soak
@pytest.mark.postgres
def test_a_server_takes_a_thousand_runs_from_four_processes_too(postgres_url: str) -> None:
    run_ids = run_in_processes(postgres_url, processes=4, runs=250)
    with closing(create_storage_backend(postgres_url)) as store:
        check(store, run_ids)


COME_AND_GO = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT count(*) FROM workflow_runs").fetchone()
connection.close()
"""


@pytest.mark.parametrize("read_only", [False, True])
def test_opening_a_store_twice_in_a_process_leaves_its_locks_to_sqlite(tmp_path: Path, read_only: bool) -> None:
    """Closing any other descriptor of the file would free them: then a process that comes and goes takes itself for the
    last one and removes the log, and what the first one commits from then on is nowhere."""
    path = tmp_path / "workflows.db"
    with closing(create_storage_backend(path)) as store:
        store.write([run_record(1)])
        create_storage_backend(path, read_only=read_only).close()
        assert run_program(COME_AND_GO, path) == (0, "", "")
        store.write([run_record(2)])
        assert rows(path, "SELECT count(*) FROM workflow_runs") == [(2,)]
