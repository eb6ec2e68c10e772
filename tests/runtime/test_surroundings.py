"""Where a run is called from: scripts, loops, notebooks, threads; and what of its surroundings a function sees."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context

from _both_ways import both_ways
from _runs import Run, besides_waiting, calls, chain, eventually, field, kept, rows, run_program
from _timing import anew, in_one_of_a_few_tries, timely
from _workflows import make
from configurable_agents import (
    NodeExecutionError,
    RunResult,
    Workflow,
    arun_workflow,
    run_workflow,
    run_workflow_from_config,
)
from configurable_agents.runtime.executor import arun_workflow_from_config

where: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="nowhere")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def one(**more: Any) -> Workflow:
    return make([calls("look", "x") | more], chain("START look END"), {"x": field("str"), "n": field("int", 0)})


def two() -> Workflow:
    edges: list[Any] = [
        {"from": "START", "to": ["look", "b"]},
        {"from": "look", "to": "END"},
        {"from": "b", "to": "END"},
    ]
    nodes = [calls("look", "x"), calls("b", "y") | {"function": "look"}]
    return make(nodes, edges, {"x": field("str"), "y": field("str")})


def plain(look: Callable[[], str]) -> Any:
    return look


def coroutine(look: Callable[[], str]) -> Any:
    async def call() -> str:
        await asyncio.sleep(0)
        return look()

    return call


kinds = pytest.mark.parametrize("kind", [plain, coroutine])
shapes = pytest.mark.parametrize(
    "workflow", [one, lambda: one(timeout=5), two], ids=["inline", "with a timeout", "fan-out"]
)


def nested(*args: Any, **options: Any) -> RunResult:
    """Run where a loop already runs, as in a notebook."""

    async def cell() -> RunResult:
        return run_workflow(*args, **options)

    return asyncio.run(cell())


def threaded(*args: Any, **options: Any) -> RunResult:
    """Run on a thread that is not the main one, in the caller's context."""
    results: list[RunResult] = []
    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: results.append(context.run(run_workflow, *args, **options)))
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.parametrize("run", [run_workflow, nested, threaded])
@kinds
@shapes
def test_a_run_works_from_anywhere_and_functions_see_the_callers_context(
    run: Run, kind: Any, workflow: Any, store: Path
) -> None:
    token = where.set("here")
    try:
        result = run(workflow(), functions={"look": kind(where.get)}, store=store)
    finally:
        where.reset(token)
    assert result.outputs["x"] == "here"
    assert kept(store).run.status == "completed"


@both_ways
@kinds
@shapes
def test_the_current_span_in_a_function_is_its_nodes(run: Run, kind: Any, workflow: Any, store: Path) -> None:
    """A host's own spans are then children of the node that made them."""
    spans: set[str] = set()

    def look() -> str:
        context = trace.get_current_span().get_span_context()
        spans.add(f"{context.span_id:016x}")
        return f"{context.trace_id:032x}"

    result = run(workflow(), functions={"look": kind(look)}, store=store)
    assert spans == {record.span_id for record in kept(store).nodes}
    assert result.outputs["x"] == result.trace_id == kept(store).run.trace_id


@both_ways
def test_after_a_run_the_callers_own_span_and_context_are_current_again(run: Run, store: Path) -> None:
    token = otel_context.attach(baggage.set_baggage("tenant", "a"))
    try:
        before = trace.get_current_span()
        result = run(one(), functions={"look": lambda: str(baggage.get_baggage("tenant"))}, store=store)
        assert result.outputs["x"] == "a"
        assert trace.get_current_span() is before
        with pytest.raises(NodeExecutionError):
            run(one(), functions={"look": lambda: 1 / 0}, store=store)
        assert trace.get_current_span() is before
    finally:
        otel_context.detach(token)


def test_a_plain_function_alone_runs_on_the_callers_thread(store: Path) -> None:
    """A hop to another thread costs more than all the rest; and what is bound to a thread keeps working."""
    functions = {"look": lambda: threading.current_thread().name}
    assert run_workflow(one(), functions=functions, store=store).outputs["x"] == threading.current_thread().name


def test_a_plain_function_does_not_block_the_callers_loop(store: Path) -> None:
    async def program() -> bool:
        done = threading.Event()
        asyncio.get_running_loop().call_later(0.02, done.set)
        result = await arun_workflow(one(), functions={"look": lambda: str(done.wait(5))}, store=store)
        return bool(result.outputs["x"] == "True")

    assert asyncio.run(program())


def test_runs_in_several_threads_at_once_keep_apart(store: Path) -> None:
    results: dict[int, RunResult] = {}
    workflow = make([calls("look", "x", n="{n}")], chain("START look END"), {"x": field("str"), "n": field("int", 0)})

    def run_some(number: int) -> None:
        for turn in range(5):
            n = number * 100 + turn
            results[n] = run_workflow(workflow, {"n": n}, functions={"look": lambda n: f"x{n}"}, store=store)

    threads = [threading.Thread(target=run_some, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {n: result.outputs["x"] for n, result in results.items()} == {n: f"x{n}" for n in results}
    assert len({result.trace_id for result in results.values()}) == len(results) == 30
    for n, result in results.items():
        assert kept(store, result.run_id).node("look").outputs == {"x": f"x{n}"}


def test_runs_gathered_on_one_loop_keep_apart(store: Path) -> None:
    workflow = make([calls("look", "x", n="{n}")], chain("START look END"), {"x": field("str"), "n": field("int", 0)})

    async def look(n: int) -> str:
        await asyncio.sleep(0.001 * (20 - n))
        return f"x{n}"

    async def program() -> list[RunResult]:
        runs = [arun_workflow(workflow, {"n": n}, functions={"look": look}, store=store) for n in range(20)]
        return await asyncio.gather(*runs)

    results = asyncio.run(program())
    assert [result.outputs["x"] for result in results] == [f"x{n}" for n in range(20)]
    counts = "SELECT count(*), count(DISTINCT run_id), count(DISTINCT trace_id) FROM execution_states"
    eventually(lambda: rows(store, counts) == [(20, 20, 20)])


def test_a_function_may_run_another_workflow(store: Path) -> None:
    """Its run is one of its own, in the same trace, below the node that called it."""

    def look() -> str:
        return str(run_workflow(one(), functions={"look": lambda: "inner"}, store=store).run_id)

    async def look_async() -> str:
        return str((await arun_workflow(one(), functions={"look": lambda: "inner"}, store=store)).run_id)

    for function in (look, look_async):
        outer = run_workflow(one(), functions={"look": function}, store=store)
        inner = kept(store, outer.outputs["x"])
        stored = kept(store, outer.run_id)
        assert inner.run.trace_id == stored.run.trace_id
        assert inner.run.parent_span_id == stored.node("look").span_id
        assert (stored.run.node_executions, inner.run.node_executions) == (1, 1)


def test_nobody_can_change_the_state_through_what_a_function_was_given(store: Path) -> None:
    workflow = make(
        [calls("spoil", "n", items="{items}"), calls("look", "x", items="{items}")],
        chain("START spoil look END"),
        {"items": field("list[int]", [1]), "n": field("int"), "x": field("str")},
    )

    def spoil(items: list[int]) -> int:
        items.append(2)
        return 1

    given = [7]
    functions: Any = {"spoil": spoil, "look": lambda items: str(items)}
    result = run_workflow(workflow, {"items": given}, functions=functions, store=store)
    assert result.outputs == {"items": [7], "n": 1, "x": "[7]"}
    assert given == [7]


def test_a_workflow_that_a_program_put_together_runs_like_a_file(store: Path) -> None:
    config = {
        "schema_version": "1.0",
        "flow": {"name": "made"},
        "state": {"fields": {"x": {"type": "str"}}},
        "nodes": [{"id": "look", "function": "look", "outputs": ["x"]}],
        "edges": [{"from": "START", "to": "look"}, {"from": "look", "to": "END"}],
    }
    options: Any = {"functions": {"look": lambda: "seen"}, "store": store}
    assert run_workflow_from_config(config, **options).outputs == {"x": "seen"}
    assert asyncio.run(arun_workflow_from_config(config, **options)).outputs == {"x": "seen"}
    assert run_workflow_from_config(one().config, **options).outputs == {"x": "seen", "n": 0}


SCRIPT = """
import sys
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow

workflow = make([calls("look", "x")], chain("START look END"), {"x": field("str")})
print(run_workflow(workflow, functions={"look": lambda: "seen"}, store=sys.argv[1]).outputs["x"])
"""


def test_a_script_runs_and_ends_without_a_word_of_ours(store: Path) -> None:
    assert run_program(SCRIPT, store) == (0, "seen\n", "")
    assert kept(store).run.status == "completed"


FORK = """
import os, sys
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow

workflow = make([calls("look", "x")], chain("START look END"), {"x": field("str")})
run = lambda text: run_workflow(workflow, functions={"look": lambda: text}, store=sys.argv[1])
run("parent")
child = os.fork()
for number in range(10):
    run("child" if child == 0 else "parent")
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@in_one_of_a_few_tries
def test_a_forked_child_runs_into_the_same_store(store: Path) -> None:
    store = anew(store)
    code, _, err = run_program(FORK, store)
    assert (code, besides_waiting(err)) == (0, [])
    timely(err == "", err)
    found = rows(
        store,
        "SELECT json_extract(outputs_json, '$.x'), count(*), count(DISTINCT span_id) FROM execution_states GROUP BY 1",
    )
    assert found == [("child", 10, 10), ("parent", 11, 11)]


LEAVES_NOTHING = """
import asyncio, gc
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow

async def second(x):
    await asyncio.sleep(0)
    return x

workflow = make([calls("first", "x"), calls("second", "x", x="{x}")], chain("START first second END"), {"x": field("int")})

def run():
    assert run_workflow(workflow, functions={"first": lambda: 1, "second": second}, store="runs.db").outputs["x"] == 1

for _ in range(3):
    run()
gc.collect()
gc.disable()
gc.set_debug(gc.DEBUG_SAVEALL)
for _ in range(20):
    run()
gc.collect()
print(sorted({type(left).__name__ for left in gc.garbage}))
"""


def test_a_run_leaves_nothing_to_the_garbage_collector(tmp_path: Path) -> None:
    """What refers to itself would stay until a pause that stops every thread of the program."""
    code, out, err = run_program(f"import os; os.chdir({str(tmp_path)!r})\n" + LEAVES_NOTHING)
    assert (code, out, err) == (0, "[]\n", "")


def test_a_run_within_a_run_may_go_as_deep_as_threads_do() -> None:
    workflow = make([calls("look", "n", n="{n}")], chain("START look END"), {"n": field("int", 0)})

    def look(n: int) -> int:
        return (
            n if n == 100 else run_workflow(workflow, {"n": n + 1}, functions={"look": look}, store=False).outputs["n"]
        )

    assert run_workflow(workflow, functions={"look": look}, store=False).outputs["n"] == 100
