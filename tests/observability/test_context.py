"""In a node's function the current span is the node's, however the function goes on from there."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.propagate import inject
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from _both_ways import both_ways
from _runs import calls, chain, field, kept
from _workflows import make
from configurable_agents import Workflow, arun_workflow, run_workflow


def here() -> str:
    """What a library would send along from here: the id of the current span."""
    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier["traceparent"].split("-")[2]


def one(**more: Any) -> Workflow:
    return make([calls("a", "x") | more], chain("START a END"), {"x": field("list[str]")})


def plainly() -> list[str]:
    return [here()]


def in_a_thread() -> list[str]:
    """A thread of the function's own begins with an empty context: it is copied, as everywhere in Python."""
    found: list[str] = []
    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: found.append(context.run(here)))
    thread.start()
    thread.join()
    return [*found, here()]


def in_an_executor() -> list[str]:
    with ThreadPoolExecutor(2) as pool:
        return [future.result() for future in [pool.submit(contextvars.copy_context().run, here) for _ in range(3)]]


def in_a_generator() -> list[str]:
    def generate() -> Iterator[str]:
        for _ in range(3):
            yield here()

    return list(generate())


def in_a_loop_of_its_own() -> list[str]:
    async def work() -> str:
        await asyncio.sleep(0)
        return here()

    with ThreadPoolExecutor(1) as pool:
        return [pool.submit(contextvars.copy_context().run, asyncio.run, work()).result(), here()]


async def awaiting() -> list[str]:
    before = here()
    await asyncio.sleep(0.001)
    return [before, here()]


async def in_tasks() -> list[str]:
    return list(await asyncio.gather(*(awaiting_one() for _ in range(3))))


async def awaiting_one() -> str:
    await asyncio.sleep(0)
    return here()


async def in_an_async_generator() -> list[str]:
    async def generate() -> AsyncIterator[str]:
        for _ in range(3):
            await asyncio.sleep(0)
            yield here()

    return [text async for text in generate()]


async def in_to_thread() -> list[str]:
    return [await asyncio.to_thread(here), here()]


def handing_back_a_coroutine() -> Any:
    return awaiting()


WAYS: list[Callable[..., Any]] = [
    plainly,
    in_a_thread,
    in_an_executor,
    in_a_generator,
    in_a_loop_of_its_own,
    awaiting,
    in_tasks,
    in_an_async_generator,
    in_to_thread,
    handing_back_a_coroutine,
]


@both_ways
@pytest.mark.parametrize("pooled", [False, True], ids=["inline", "in the pool"])
def test_the_nodes_span_is_current_wherever_its_function_goes(run: Any, pooled: bool, tmp_path: Path) -> None:
    """Then what libraries send along, and the spans that they make, belong to the node."""
    store = tmp_path / "runs.db"
    names = [way.__name__ for way in WAYS]
    # A function under a timeout runs in the pool, one alone in a blocking run on the loop's own thread.
    nodes = [calls(name, name) | ({"timeout": 30} if pooled else {}) for name in names]
    fields = {name: field("list[str]") for name in names}
    workflow = make(nodes, chain(" ".join(["START", *names, "END"])), fields)
    result = run(workflow, functions={way.__name__: way for way in WAYS}, store=store)
    stored = kept(store, result.run_id)
    assert {name: set(result.outputs[name]) for name in names} == {name: {stored.node(name).span_id} for name in names}


@both_ways
def test_branches_side_by_side_have_each_their_own_span(run: Any, tmp_path: Path) -> None:
    async def branch() -> str:
        first = here()
        await asyncio.sleep(0.005)
        assert here() == first
        return first

    names = [f"n{number}" for number in range(8)]
    edges: list[Mapping[str, Any]] = [{"from": "START", "to": names}, *({"from": n, "to": "END"} for n in names)]
    workflow = make([calls(name, name) for name in names], edges, {name: field("str") for name in names})
    functions: dict[str, Callable[..., Any]] = {name: branch if int(name[1]) % 2 else here for name in names}
    result = run(workflow, functions=functions, store=tmp_path / "runs.db")
    stored = kept(tmp_path / "runs.db", result.run_id)
    assert result.outputs == {name: stored.node(name).span_id for name in names}


def test_the_callers_own_span_is_current_again_after_a_run(tmp_path: Path) -> None:
    caller = NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1)))
    with trace.use_span(caller):
        run_workflow(one(), functions={"a": plainly}, store=tmp_path / "runs.db")
        assert trace.get_current_span() is caller
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_runs_side_by_side_in_one_loop_are_each_in_their_callers_trace(tmp_path: Path) -> None:
    """As requests to a service are."""
    store = tmp_path / "runs.db"
    provider = TracerProvider(shutdown_on_exit=False)
    tracer = provider.get_tracer("host")

    async def request(number: int) -> tuple[str, int]:
        with tracer.start_as_current_span(f"request {number}") as span:
            await asyncio.sleep(0.001 * number)
            result = await arun_workflow(one(), functions={"a": awaiting}, store=store)
            assert trace.get_current_span() is span
            return result.trace_id, span.get_span_context().trace_id

    async def all_of_them() -> list[tuple[str, int]]:
        return await asyncio.gather(*(request(number) for number in range(8)))

    pairs = asyncio.run(all_of_them())
    assert [ours for ours, _ in pairs] == [f"{theirs:032x}" for _, theirs in pairs]
    assert len(set(pairs)) == 8
    provider.shutdown()
