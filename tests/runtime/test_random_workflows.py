"""Random workflows: they never stall, and what they give does not depend on timing."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from _workflows import Spans, make
from configurable_agents import semconv
from configurable_agents.deltas import Delta, fold_state
from configurable_agents.errors import ConfigError, WorkflowExecutionError
from configurable_agents.runtime.executor import run_workflow
from configurable_agents.runtime.workflow import Workflow

FIELDS: dict[str, Any] = {
    "log": {"type": "list[str]", "default": [], "reduce": "append"},
    "count": {"type": "int", "default": 0, "reduce": "sum"},
    "items": {"type": "list[int]", "default": [1, 2, 3]},
    "none": {"type": "list[int]", "default": []},
}


@st.composite
def shapes(draw: st.DrawFn, *, cycles: bool) -> Workflow:
    """A sound workflow of 2 to 8 nodes: forward edges of all kinds, and (with `cycles`) routes and loops that go back."""
    size = draw(st.integers(2, 8))
    # Everyone but the first has a parent before it, so that every node is reachable.
    children: dict[int, list[int]] = {number: [] for number in range(size)}
    for number in range(1, size):
        children[draw(st.integers(0, number - 1))].append(number)
    one_child = [own[0] for own in children.values() if len(own) == 1]
    mapped = set(draw(st.lists(st.sampled_from(one_child), unique=True))) if one_child else set()
    edges = [draw(exits(number, size, children[number], mapped, cycles=cycles)) for number in range(size)]
    nodes = [
        {
            "id": f"n{number}",
            "function": f"n{number}",
            "outputs": ["text"] if number in mapped else ["log", "count"],
            "output_schema": {"type": "str"} if number in mapped else None,
            "inputs": {"seen": "{log}", "count": "{count}"},
        }
        for number in range(size)
    ]
    fields = FIELDS | {f"from_{number}": {"type": "list[str]", "default": []} for number in mapped}
    limits = {"execution": {"max_node_executions": 150}}
    try:
        return make([_given(node) for node in nodes], [{"from": "START", "to": "n0"}, *edges], fields, limits)
    except ConfigError as error:
        # A map that may overlap itself would write its field twice at once: rightly refused, and no case of ours.
        if all("at once" in problem.message for problem in error.problems):
            reject()
        raise


def _given(node: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if value is not None}


@st.composite
def exits(
    draw: st.DrawFn, number: int, size: int, children: list[int], mapped: set[int], *, cycles: bool
) -> dict[str, Any]:
    """One way on from a node: to its children, and perhaps to others further on, or back."""
    name = f"n{number}"
    if children and children[0] in mapped:
        items = draw(st.sampled_from(["items", "none"]))
        parallel = {"items_field": items, "target_node": f"n{children[0]}", "collect_field": f"from_{children[0]}"}
        return {"from": name, "parallel": parallel}
    others = [other for other in range(number + 1, size) if other not in mapped and other not in children]
    targets = [f"n{other}" for other in children] + [f"n{other}" for other in others if draw(st.integers(0, 3)) == 0]
    kinds = ["to", "routes"] + ["loop"] * (cycles and len(children) <= 1 and number not in mapped)
    kind = draw(st.sampled_from(kinds))
    if kind == "loop":
        times = draw(st.integers(1, 4))
        leave = f"n{children[0]}" if children else "END"
        condition = f"state.count % {times + 1} == 0"
        return {"from": name, "loop": {"condition": condition, "max_iterations": times, "exit_to": leave}}
    if kind == "to" and targets:
        return {"from": name, "to": targets}
    ways = targets or ["END"]
    back = [f"n{other}" for other in range(number + 1) if other not in mapped] if cycles else []
    goes_back: bool = draw(st.booleans())
    if back and goes_back:
        ways = [*ways, draw(st.sampled_from(back))]
    routes: list[dict[str, Any]] = [
        {"condition": {"logic": f"state.count % {len(ways) + 1} == {index}"}, "to": way}
        for index, way in enumerate(ways)
    ]
    return {"from": name, "routes": [*routes, {"condition": {"logic": "default"}, "to": ways[0]}]}


def functions(workflow: Workflow, seed: int | None) -> dict[str, Callable[..., Awaitable[Any]]]:
    """The nodes' bodies: they add their name and what they see, after a wait that the seed decides."""
    waits = random.Random(seed)

    def body(name: str, *, mapped: bool) -> Callable[..., Awaitable[Any]]:
        async def run(seen: list[str], count: int) -> Any:
            for _ in range(0 if seed is None else waits.randint(0, 5)):
                await asyncio.sleep(0)
            line = f"{name}({len(seen)})"
            return line if mapped else {"log": [line], "count": 1}

        return run

    return {node.id: body(node.id, mapped=node.outputs == ("text",)) for node in workflow.config.nodes}


def run(workflow: Workflow, seed: int | None) -> tuple[Any, Counter[str], Spans]:
    """Run, and give the final state (or how it failed) and how often each node ran."""
    spans = Spans()
    try:
        result = run_workflow(
            workflow, functions=functions(workflow, seed), store=False, observers=[spans], timeout_seconds=30
        )
        outcome: Any = dict(result.outputs)
    except WorkflowExecutionError as error:
        outcome = type(error.__cause__).__name__
    return outcome, Counter(str(node[semconv.NODE_ID]) for node in spans.nodes()), spans


relaxed = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@relaxed
@given(shapes(cycles=True), st.integers(0, 2**16))
def test_a_run_never_stalls_and_gives_the_same_whatever_the_timing(workflow: Workflow, seed: int) -> None:
    outcome, counts, _ = run(workflow, None)
    again, counts_again, _ = run(workflow, seed)
    assert outcome != "RunTimeoutError", "the run stalled"
    assert again == outcome
    if isinstance(outcome, dict):
        assert counts_again == counts


@relaxed
@given(shapes(cycles=False), st.integers(0, 2**16))
def test_each_wave_of_a_join_runs_once(workflow: Workflow, seed: int) -> None:
    """Without a way back there is one wave: whoever runs, runs once (the target of a map once an item)."""
    _, counts, _ = run(workflow, seed)
    mapped = {edge.parallel.target_node for edge in workflow.config.edges if edge.parallel}
    assert all(count == 1 for node, count in counts.items() if node not in mapped)
    assert all(counts[node] in (0, 3) for node in mapped)


@relaxed
@given(shapes(cycles=True), st.integers(0, 2**16))
def test_the_spans_alone_give_the_final_state(workflow: Workflow, seed: int) -> None:
    """Engine and trace are one: what readers fold from the records is what the engine had."""
    outcome, _, spans = run(workflow, seed)
    if not isinstance(outcome, dict):
        return
    deltas = [
        Delta(
            node[semconv.SEQ],
            tuple(node.get(semconv.READS_FROM, ())),
            orjson.loads(node[semconv.CONTENT_OUTPUTS]),
            node.get(semconv.MAP_INDEX),
        )
        for node in spans.nodes()
    ]
    root = dict(spans.ended[-1].attributes or {})
    initial = {**orjson.loads(str(root[semconv.CONTENT_DEFAULTS])), **orjson.loads(str(root[semconv.CONTENT_INPUTS]))}
    heads: Any = root[semconv.READS_FROM]
    assert fold_state(initial, workflow.plan.reducers, deltas, heads) == outcome
