"""Ctrl-C, in programs of their own: the run ends at once, is kept as cancelled, and the program hears of it."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from _runs import kept, rows, run_program, start_program
from _timing import anew, in_one_of_a_few_tries, within

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")

PROGRAM = """
import asyncio, signal, sys, threading, time
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import arun_workflow, run_workflow

store, way, body, shape = sys.argv[1:]

async def sleeping():
    print("begun", flush=True)
    await asyncio.sleep(30)
    return 1

def blocking():
    print("begun\\n", end="", flush=True)  # in one piece: another thread says the same
    for _ in range(3000):
        time.sleep(0.01)  # not in one go: a signal that comes just before a sleep does not end it
    return 1

timeout = {"timeout": 20} if shape == "timeout" else {}
nodes = [calls("slow", "x") | timeout]
edges = [*chain("START slow END")]
if shape == "fan-out":
    nodes.append(calls("other", "y") | {"function": "slow"})
    edges = [{"from": "START", "to": ["slow", "other"]}, {"from": "slow", "to": "END"}, {"from": "other", "to": "END"}]
workflow = make(nodes, edges, {"x": field("int"), "y": field("int")})
options = {"functions": {"slow": globals()[body]}, "store": store}

async def in_the_programs_loop():
    # What wakes the loop for a handler of its own does so for Ctrl-C: else asyncio may fall asleep over it.
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)
    return await arun_workflow(workflow, **options)

async def blocking_a_loop():
    return run_workflow(workflow, **options)

try:
    if way == "run":
        run_workflow(workflow, **options)
    elif way == "arun":
        asyncio.run(in_the_programs_loop())
    else:
        asyncio.run(blocking_a_loop())
except KeyboardInterrupt as error:
    print("KeyboardInterrupt", repr(error.__cause__), flush=True)
print("handler", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


@pytest.mark.parametrize(
    ("way", "body", "shape"),
    [
        ("run", "sleeping", "line"),
        ("run", "blocking", "line"),
        ("run", "blocking", "fan-out"),
        ("arun", "sleeping", "fan-out"),
        ("arun", "blocking", "timeout"),
        ("nested", "sleeping", "timeout"),
        ("nested", "blocking", "line"),
    ],
)
@in_one_of_a_few_tries
def test_ctrl_c_cancels_the_run_at_once(way: str, body: str, shape: str, tmp_path: Path) -> None:
    store = anew(tmp_path / "runs.db")
    with start_program(PROGRAM, store, way, body, shape) as process:
        assert process.stdout is not None
        for _ in range(2 if shape == "fan-out" else 1):
            assert process.stdout.readline() == "begun\n", process.communicate(timeout=5)
        with within(2):
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert out.splitlines() == ["KeyboardInterrupt None", "handler True"]
    assert err == "", "a cancelled run is nothing to report"
    stored = kept(store)
    assert stored.run.status == "cancelled"
    assert {str(record.status) for record in stored.nodes} == {"cancelled"}


AS_THE_LOOP_FALLS_ASLEEP = """
import _thread, asyncio, operator, select, selectors
from functools import partial
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow

class Sleeps(selectors.SelectSelector):
    is_the_moment = False

    def select(self, timeout=None):
        if not Sleeps.is_the_moment:
            return super().select(timeout)
        Sleeps.is_the_moment = False
        files = self.get_map()
        asleep = partial(select.select, [*files], [], [], timeout)
        # What a signal's arrival does, then the sleep: `map` leaves the interpreter no step between them to see it in.
        _, (readable, _, _) = map(operator.call, [_thread.interrupt_main, asleep])
        return [(files[file], selectors.EVENT_READ) for file in readable]

selectors.DefaultSelector = Sleeps

async def node():
    Sleeps.is_the_moment = True
    await asyncio.sleep(20)

workflow = make([calls("node", "x")], chain("START node END"), {"x": field("int")})
try:
    run_workflow(workflow, functions={"node": node}, store=False)
except KeyboardInterrupt:
    print("KeyboardInterrupt")
"""


def test_ctrl_c_is_heard_the_moment_before_the_loop_falls_asleep() -> None:
    """It is no part of the sleep then, and does not end it by itself."""
    began = time.monotonic()
    assert run_program(AS_THE_LOOP_FALLS_ASLEEP) == (0, "KeyboardInterrupt\n", "")
    assert time.monotonic() - began < 10


BETWEEN_NODES = """
import os, signal, sys
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow

store, when = sys.argv[1:]
called = []

class Interrupts:
    def on_start(self, span):
        pass

    def on_end(self, span):
        if span.name == f"execute_node {when}":
            os.kill(os.getpid(), signal.SIGINT)

workflow = make([calls(name, "x") for name in "abc"], chain("START a b c END"), {"x": field("int")})
functions = {name: lambda name=name: called.append(name) or 1 for name in "abc"}
try:
    run_workflow(workflow, functions=functions, store=store, observers=[Interrupts()])
except KeyboardInterrupt:
    print("KeyboardInterrupt", *called)
print(run_workflow(workflow, functions=functions, store=store).status)
"""


@pytest.mark.parametrize(("when", "called", "status"), [("a", "a", "cancelled"), ("c", "a b c", "completed")])
def test_ctrl_c_between_plain_functions_is_not_lost(when: str, called: str, status: str, tmp_path: Path) -> None:
    """Nothing is awaited there, and the store must not be interrupted amid a write."""
    code, out, err = run_program(BETWEEN_NODES, tmp_path / "runs.db", when)
    assert (code, out, err) == (0, f"KeyboardInterrupt {called}\ncompleted\n", "")
    assert statuses_in(tmp_path / "runs.db") == [status, "completed"]


def statuses_in(store: Path) -> list[str]:
    """Give what became of the runs, in their order."""
    return [status for (status,) in rows(store, "SELECT status FROM workflow_runs ORDER BY run_id")]


WITHIN_A_RUN = """
import os, signal, sys
import sqlalchemy as sa
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow

store, waits = sys.argv[1], []

def trace(statement):
    if statement == "COMMIT" and waits:
        waits.clear()
        os.kill(os.getpid(), signal.SIGINT)

sa.event.listen(sa.Engine, "connect", lambda driver, _: driver.set_trace_callback(trace))
workflow = make([calls("a", "x")], chain("START a END"), {"x": field("int")})

def inner():
    return run_workflow(workflow, functions={"a": lambda: 1}, store=store).outputs["x"]

run_workflow(workflow, functions={"a": inner}, store=store)
waits.append("for the next commit, which is the inner run's")
try:
    run_workflow(workflow, functions={"a": inner}, store=store)
except KeyboardInterrupt:
    print("KeyboardInterrupt")
print(run_workflow(workflow, functions={"a": inner}, store=store).degraded)
"""


def test_ctrl_c_in_a_run_within_a_run_leaves_the_store_whole(tmp_path: Path) -> None:
    """The outer run's function is interrupted at once; what the inner one does for it is not, wherever it is."""
    code, out, err = run_program(WITHIN_A_RUN, tmp_path / "runs.db")
    assert (code, out, err) == (0, "KeyboardInterrupt\nFalse\n", "")
    statuses = statuses_in(tmp_path / "runs.db")
    assert statuses[2] == "cancelled"
    assert {*statuses[:2], *statuses[4:]} == {"completed"}
    assert statuses[3] in {"cancelled", "completed"}


RUNS_IN_A_HANDLER = """
import random, signal, sys, time
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import StorageError, create_storage_backend, run_workflow

workflow = make([calls("a", "x"), calls("b", "x")], chain("START a b END"), {"x": field("int")})
ended, in_handler, refused = [], [], []

def run():
    result = run_workflow(workflow, functions={"a": lambda: 1, "b": lambda: 2}, store=sys.argv[1])
    ended.append(result.run_id)
    return result

def handle(*_):
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        in_handler.append(run())
    except StorageError as error:
        refused.append(str(error))
        if sys.argv[2] == "raises":
            raise

for number in range(1000):
    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0001 + number % 100 * 0.00001)
    try:
        run()
    except StorageError:  # of the handler, just when the run was to begin or to be committed
        pass
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
run()
store = create_storage_backend(sys.argv[1])
found = {run.run_id: run for run in store.runs.list_runs(limit=100_000)}
whole = [
    found[run_id].status == "completed" and len(store.execution_states.get_state_history(run_id)) == 2
    for run_id in ended
]
print(all(whole), len(in_handler) > 0, set(error.partition(":")[0] for error in refused))
"""


@pytest.mark.parametrize("way", ["catches", "raises"])
def test_a_signals_handler_that_runs_a_workflow_is_refused_rather_than_stuck(way: str, tmp_path: Path) -> None:
    """It may have come amid a write: its own run would wait for that, and that for the handler's end."""
    code, out, _ = run_program(RUNS_IN_A_HANDLER, tmp_path / "runs.db", way)
    assert (code, out) == (0, 'True True {"a signal\'s handler cannot run a workflow"}\n')
