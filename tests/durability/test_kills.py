"""Programs that die at any moment: what they knew to be finished is in the store, once, and nothing looks alive.

Each node of a program first tells an oracle that the node before it had finished; then the program is killed, and the
store is asked.
"""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from _faults import Nursery, lost_or_wrong
from _runs import rows, run_program
from configurable_agents import create_storage_backend

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork, and Linux's way to adopt orphans")

LONGEST_SECONDS = 0.4


@contextlib.contextmanager
def locked(store: Path) -> Iterator[None]:
    """Hold the database locked against every other writer."""
    create_storage_backend(store).close()
    with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def kill_often(
    nursery: Nursery,
    folder: Path,
    *,
    turns: int,
    processes: int,
    is_locked: bool = False,
    program: str = "chains",
    server: str | None = None,
) -> int:
    """Run programs on one file, kill them at random moments; gives how many finished executions they had told of.

    Every second time they have at least begun to tell, so that a slow machine does not make the test an empty one.
    """
    chance = random.Random()
    acknowledged = 0
    for turn in range(turns):
        (folder / str(turn)).mkdir()
        file = folder / str(turn) / "runs.db"
        store = server or file
        oracles = [file.with_name(f"oracle-{number}") for number in range(processes)]
        with locked(file) if is_locked else contextlib.nullcontext():
            for oracle in oracles:
                nursery.start(program, store, oracle)
            if turn % 2:
                wait_for(oracles[0])
            time.sleep(chance.uniform(0, LONGEST_SECONDS * (1 + processes) / 2))
            nursery.end(signal.SIGKILL)
        assert lost_or_wrong(store, oracles) == []
        acknowledged += sum(len(oracle.read_text().splitlines()) for oracle in oracles if oracle.exists())
    assert acknowledged >= turns // 2
    return acknowledged


VARIANTS = pytest.mark.parametrize(
    ("processes", "is_locked"),
    [(1, False), (4, False), (1, True), (4, True)],
    ids=["one", "four", "one-locked", "four-locked"],
)


@VARIANTS
def test_a_process_killed_at_any_moment_loses_nothing_it_had_finished(
    nursery: Nursery, tmp_path: Path, processes: int, is_locked: bool
) -> None:
    kill_often(nursery, tmp_path, turns=5, processes=processes, is_locked=is_locked)


@pytest.mark.postgres
def test_a_process_killed_at_any_moment_loses_nothing_on_a_server_either(
    nursery: Nursery, tmp_path: Path, postgres_url: str
) -> None:
    kill_often(nursery, tmp_path, turns=4, processes=2, server=postgres_url)


@pytest.mark.soak
@VARIANTS
def test_two_hundred_kills_lose_nothing(nursery: Nursery, tmp_path: Path, processes: int, is_locked: bool) -> None:
    acknowledged = kill_often(nursery, tmp_path, turns=200, processes=processes, is_locked=is_locked)
    print(f"200 kills, {processes} processes, locked: {is_locked}: {acknowledged} acknowledged, none lost")  # noqa: T201


def test_processes_that_forked_while_they_ran_lose_nothing_when_they_are_killed(
    nursery: Nursery, tmp_path: Path
) -> None:
    kill_often(nursery, tmp_path, turns=4, processes=1, program="forking")


@pytest.mark.parametrize(
    ("program", "signal_number", "code"),
    [
        ("chains", signal.SIGTERM, -signal.SIGTERM),
        ("chains until os._exit", None, 3),
        ("chains until a segfault", None, -signal.SIGSEGV),
        ("forking in a node", None, 0),
        ("multiprocessing fork", None, 0),
        ("multiprocessing spawn", None, 0),
    ],
)
def test_however_a_process_ends_nothing_finished_is_lost(
    nursery: Nursery, tmp_path: Path, program: str, signal_number: int | None, code: int
) -> None:
    for turn in range(3 if "spawn" not in program else 1):
        store, oracle = tmp_path / f"{turn}.db", tmp_path / f"oracle-{turn}"
        nursery.start(program, store, oracle)
        if signal_number is not None:
            wait_for(oracle)
            time.sleep(0.1 * turn)
        assert nursery.end(signal_number) == [code]
        assert lost_or_wrong(store, [oracle]) == []
        assert oracle.read_text() != ""


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 30
    while not (file.exists() and file.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.01)


DELETED = """
import os, signal, sys, time
from _runs import calls, chain, eventually, field, rows
from _workflows import make
from configurable_agents import create_storage_backend, run_workflow
from pathlib import Path

store = Path(sys.argv[1])

def last():
    eventually(lambda: rows(store, "SELECT 1 FROM execution_states WHERE node_id = 'first'"))
    backend = create_storage_backend(store)
    backend.runs.delete(backend.runs.list_runs()[0].run_id)
    os.kill(os.getpid(), signal.SIGKILL)

nodes = [calls("first", "x"), calls("last", "x")]
workflow = make(nodes, chain("START first last END"), {"x": field("str")})
run_workflow(workflow, functions={"first": lambda: "secret", "last": last}, store=store)
"""


def test_what_was_deleted_while_its_run_went_on_stays_deleted_when_that_dies(tmp_path: Path) -> None:
    """A node's end is written with the start of the next one, which is still needed."""
    store = tmp_path / "runs.db"
    code, _, err = run_program(DELETED, store)
    assert code == -signal.SIGKILL, err
    backend = create_storage_backend(store)
    assert backend.runs.list_runs() == []
    assert rows(store, "SELECT node_id FROM execution_states WHERE outputs_json LIKE '%secret%'") == []
    backend.close()
