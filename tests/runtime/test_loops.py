"""The event loops of blocking runs: used again, and only as good as new."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _runs import calls, chain, field, run_program
from _workflows import make
from configurable_agents import arun_workflow, run_workflow

PIPE = os.pipe()
"""Nobody writes into it."""


def loop_of_a_run(leave: Callable[[asyncio.AbstractEventLoop], Any] = lambda loop: None) -> asyncio.AbstractEventLoop:
    """Give the loop that a run had, after its node has left something in it."""
    seen: list[asyncio.AbstractEventLoop] = []

    async def node() -> int:
        seen.append(asyncio.get_running_loop())
        leave(seen[0])
        return 1

    workflow = make([calls("node", "x")], chain("START node END"), {"x": field("int")})
    run_workflow(workflow, functions={"node": node}, store=False)
    return seen[0]


def test_a_loop_that_is_as_it_was_is_the_next_runs_too() -> None:
    assert loop_of_a_run() is loop_of_a_run()


def test_a_timer_that_was_cancelled_is_nothing_that_a_run_has_left() -> None:
    """As each time limit leaves one."""
    assert loop_of_a_run(lambda loop: loop.call_later(60, print).cancel()) is loop_of_a_run()


@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(lambda loop: loop.call_later(60, print), id="a timer"),
        pytest.param(lambda loop: loop.set_exception_handler(lambda *_: None), id="an exception handler"),
        pytest.param(lambda loop: loop.set_task_factory(asyncio.Task), id="a task factory"),
        pytest.param(lambda loop: loop.set_debug(True), id="debugging"),
        pytest.param(lambda loop: loop.add_signal_handler(10, print), id="a signal handler"),
        pytest.param(lambda loop: loop.add_reader(PIPE[0], str), id="a reader"),
        pytest.param(lambda loop: loop.set_default_executor(concurrent.futures.ThreadPoolExecutor()), id="an executor"),
    ],
)
def test_a_loop_in_which_a_run_left_something_is_closed(leave: Callable[[Any], Any]) -> None:
    """What one run leaves would happen in the middle of another."""
    left = loop_of_a_run(leave)
    assert left.is_closed()
    assert loop_of_a_run() is not left


FORKS = """
import asyncio, os, threading
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import arun_workflow, run_workflow

async def node():
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    threading.Timer(0.05, loop.call_soon_threadsafe, [done.set]).start()  # wakes the loop through its own files
    await done.wait()
    return 1

workflow = make([calls("node", "x")], chain("START node END"), {"x": field("int")})

def run():
    return run_workflow(workflow, functions={"node": node}, store=False).outputs["x"]

run()
child = os.fork()
if not child:
    run()
    os._exit(0)
print(run(), run(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_share_a_loop_with_its_parent() -> None:
    """They would share its files, and one would wake the other, or nobody."""
    assert run_program(FORKS) == (0, "1 1 0\n", "")


def test_a_plain_function_may_run_a_loop_of_its_own() -> None:
    """As it does in a program without workflows, and where other nodes are live and it runs in a thread."""

    async def later() -> int:
        await asyncio.sleep(0)
        return 1

    workflow = make([calls("node", "x")], chain("START node END"), {"x": field("int")})
    assert run_workflow(workflow, functions={"node": lambda: asyncio.run(later())}, store=False).outputs["x"] == 1


def test_a_run_that_needs_a_loop_only_later_goes_on_in_its_context() -> None:
    said = contextvars.ContextVar("said", default="nothing")

    def first() -> int:
        said.set("by the first node")
        return 1

    async def second() -> str:
        async with asyncio.timeout(5):  # which only a task can use
            await asyncio.sleep(0)
        return said.get()

    nodes = [calls("first", "x"), calls("second", "y"), calls("third", "z")]
    fields = {"x": field("int"), "y": field("str"), "z": field("str")}
    workflow = make(nodes, chain("START first second third END"), fields)
    result = run_workflow(workflow, functions={"first": first, "second": second, "third": said.get}, store=False)
    assert (result.outputs["y"], result.outputs["z"]) == ("by the first node",) * 2
    assert said.get() == "nothing"


@pytest.mark.parametrize("before", ["nothing", "an async node"])
def test_a_plain_function_never_finds_a_loop_running(before: str, tmp_path: Path) -> None:
    """Whatever else the run does: the first of a process waits for its store, and some nodes are awaited."""

    def plain() -> int:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return asyncio.run(later())

    async def later() -> int:
        await asyncio.sleep(0)
        return 1

    names = ["later", "plain"] if before == "an async node" else ["plain"]
    workflow = make([calls(name, "x") for name in names], chain(f"START {' '.join(names)} END"), {"x": field("int")})
    for _ in range(2):
        result = run_workflow(workflow, functions={"plain": plain, "later": later}, store=tmp_path / "runs.db")
        assert result.outputs["x"] == 1
    assert (
        asyncio.run(arun_workflow(workflow, functions={"plain": plain, "later": later}, store=False)).outputs["x"] == 1
    )


def test_a_run_for_which_no_loop_can_be_had_fails_with_the_reason(tmp_path: Path) -> None:
    code, out, err = run_program(NO_LOOP, tmp_path / "runs.db")
    assert (code, out) == (0, "Too many open files failed failed\n"), err
    assert "never awaited" not in err


NO_LOOP = """
import os, resource, sys
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import NodeExecutionError, create_storage_backend, run_workflow

async def node():
    return 1

def use_up():
    opened.append(os.open(os.devnull, os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(opened) + 1, 4096))
    return 1

opened, store = [], create_storage_backend(sys.argv[1])
workflow = make([calls("use_up", "x"), calls("node", "y")], chain("START use_up node END"), {"x": field("int"), "y": field("int")})
run_workflow(workflow, functions={"use_up": lambda: 1, "node": lambda: 1}, store=store)
try:
    run_workflow(workflow, functions={"use_up": use_up, "node": node}, store=store)
except NodeExecutionError as error:
    said = error.__cause__.strerror
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
run = store.runs.get("last")
print(said, run.status, store.execution_states.get_latest_state(run.run_id).status)
store.close()
"""
