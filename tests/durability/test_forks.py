"""Forks at any moment, in a program whose threads write into the store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from _runs import run_program

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

FORK_WHILE_WRITING = """
import os, sys, threading, warnings
from _records import node_record, run_record
from configurable_agents import create_storage_backend

warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads forks is the point
store = create_storage_backend(sys.argv[1], busy_timeout_seconds=5)
stop = threading.Event()

def write(run):
    seq = 0
    while not stop.is_set():
        seq += 1
        store.write([node_record(seq, run=run)])

threads = [threading.Thread(target=write, args=(run,)) for run in (1, 2)]
for thread in threads:
    thread.start()
for number in range(40):
    child = os.fork()
    if child == 0:
        store.write([run_record(100 + number)])
        os._exit(0)
    os.waitpid(child, 0)
stop.set()
for thread in threads:
    thread.join()
print(len(store.runs.list_runs(limit=1000)))
"""


def test_a_child_can_use_the_store_whatever_the_parents_threads_did_at_the_fork(tmp_path: Path) -> None:
    """SQLite has locks of its own: one that a thread holds at the fork would stay locked in the child for ever."""
    code, out, err = run_program(FORK_WHILE_WRITING, tmp_path / "runs.db")
    assert (code, out) == (0, "40\n"), err


FORK_WHILE_A_CHECKER_IS_MADE = """
import os, signal, threading, time, warnings
from configurable_agents.config.types import parse_type

warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads forks is the point
names = [f"f{number}" for number in range(3000)]
kind = parse_type("object", schema=dict.fromkeys(names, "list[dict[str, int]]"))
thread = threading.Thread(target=kind.validate, args=(dict.fromkeys(names, []),))
thread.start()
children = []
while not children or (thread.is_alive() and len(children) < 4):  # it takes longer than a moment, mostly
    time.sleep(0.05 * bool(children))
    children.append(os.fork())
    if children[-1] == 0:
        signal.alarm(30)
        parse_type("object", schema={"a": "int"}).validate({"a": 1})
        os._exit(0)
print({os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children})
thread.join()
"""


def test_a_child_can_check_values_whatever_the_parents_threads_did_at_the_fork(tmp_path: Path) -> None:
    """A type's checker is made when it is first used, perhaps in another thread just then."""
    assert run_program(FORK_WHILE_A_CHECKER_IS_MADE) == (0, "{0}\n", "")
