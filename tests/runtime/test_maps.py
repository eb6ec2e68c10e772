"""Maps: one execution for each item, in order, so many at once, and nothing half-done on failure."""

from __future__ import annotations

import asyncio
import itertools
import threading
import tracemalloc
import weakref
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from _both_ways import both_ways
from _graphs import graph, play
from _runs import Run, asks, calls, chain, field, kept, scripted
from _timing import in_one_of_a_few_tries, timely
from _workflows import make
from configurable_agents import NodeExecutionError, WorkflowExecutionError, run_workflow
from configurable_agents.errors import MapError

ITEMS = field("list[int]", [3, 1, 2])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def map_edge(source: str, target: str = "each", items: str = "items", **more: Any) -> dict[str, Any]:
    return {"from": source, "parallel": {"items_field": items, "target_node": target, "collect_field": "all", **more}}


def mapping(kind: str = "list[int]", config: Any = None, **more: Any) -> Any:
    """`each` for every item, then `after`."""
    return graph(
        {"items": ITEMS, "one": kind.removeprefix("list[").removesuffix("]"), "all": field(kind, [])},
        {"each": "one", "after": ""},
        [map_edge("START", **more), *chain("each after END")],
        config,
        items=["each"],
    )


async def slow_first(state: dict[str, Any]) -> Any:
    await asyncio.sleep(0.01 * state["item"])
    return state["item"] * 10 + state["index"]


@both_ways
def test_results_are_collected_in_the_order_of_the_items(run: Run, store: Path) -> None:
    """The last item ends first."""
    played = play(run, mapping(), {"each": slow_first}, store)
    assert played.result.outputs["all"] == [30, 11, 22]
    assert played.result.outputs["one"] is None, "the target's own outputs are not written"
    each = played.kept.nodes[:3]
    assert [(record.map_index, record.branch, record.reads_from) for record in each] == [
        (0, "0", ()),
        (1, "1", ()),
        (2, "2", ()),
    ]
    assert [record.outputs for record in each] == [{"all": 30}, {"all": 11}, {"all": 22}]
    assert played.kept.node("after").reads_from == (1, 2, 3)
    assert dict(played.seen)["after"]["all"] == [30, 11, 22]


@both_ways
@pytest.mark.parametrize(("edge", "limit", "most"), [(2, 16, 2), (None, 2, 2), (8, 3, 3), (1, 16, 1)])
def test_so_many_items_run_at_once_and_no_more(run: Run, edge: int | None, limit: int, most: int, store: Path) -> None:
    live: set[int] = set()
    crowd = asyncio.Event()
    peak: list[int] = []

    async def each(state: dict[str, Any]) -> Any:
        live.add(state["index"])
        peak.append(len(live))
        if len(live) == most:
            crowd.set()
        await asyncio.wait_for(crowd.wait(), 30)  # else the first may have ended before the last begins
        await asyncio.sleep(0.003)
        live.remove(state["index"])
        return state["item"]

    more: dict[str, Any] = {} if edge is None else {"max_concurrency": edge}
    workflow = mapping(config={"execution": {"max_concurrency": limit}}, **more)
    played = play(run, workflow, {"each": each}, store, {"items": list(range(12))})
    assert max(peak) == most
    assert played.result.outputs["all"] == list(range(12))


@both_ways
def test_an_empty_list_gives_an_empty_list_and_goes_on(run: Run, store: Path) -> None:
    played = play(run, mapping(), {}, store, {"items": []})
    assert played.order == ["after"]
    assert played.result.outputs["all"] == []


@both_ways
def test_any_number_of_empty_lists_in_a_row_is_gone_past(run: Run, store: Path) -> None:
    """As many as a workflow may have: one function called by the other for each would be too deep."""
    targets = [f"each{number}" for number in range(500)]
    fields = {f"all{number}": field("list[int]", []) for number in range(500)}
    edges = [
        {"from": source, "parallel": {"items_field": "items", "target_node": target, "collect_field": collect}}
        for (source, target), collect in zip(itertools.pairwise(["START", *targets]), fields, strict=True)
    ]
    nodes = [calls(target, "one") for target in targets]
    workflow = make(nodes, [*edges, *chain(f"{targets[-1]} END")], {"items": ITEMS, "one": field("int"), **fields})
    result = run(workflow, {"items": []}, functions=dict.fromkeys(targets, lambda: 1), store=store)
    assert (result.node_executions, result.outputs["all499"]) == (0, [])


@both_ways
def test_an_empty_map_after_a_node_leaves_the_list_in_the_records(run: Run, store: Path) -> None:
    """A second time round, what the first time collected must not stay."""
    routes = [
        {"condition": {"logic": "state.items == []"}, "to": "END"},
        {"condition": {"logic": "default"}, "to": "cut"},
    ]
    workflow = graph(
        {"items": ITEMS, "one": "int", "all": field("list[int]", [])},
        {"cut": "items", "each": "one", "after": ""},
        [
            {"from": "START", "to": "cut"},
            map_edge("cut"),
            {"from": "each", "to": "after"},
            {"from": "after", "routes": routes},
        ],
        items=["each"],
    )
    played = play(run, workflow, {"cut": lambda s: {"items": s["items"][1:]}, "each": lambda s: s["item"]}, store)
    assert played.order == ["cut", "each", "each", "after", "cut", "each", "after", "cut", "after"]
    assert [s["all"] for name, s in played.seen if name == "after"] == [[1, 2], [2], []]


@both_ways
def test_several_outputs_give_objects(run: Run, store: Path) -> None:
    workflow = graph(
        {"items": ITEMS, "a": "int", "b": "str", "all": field("list[dict]", [])},
        {"each": "a b"},
        [map_edge("START"), {"from": "each", "to": "END"}],
        items=["each"],
    )
    played = play(run, workflow, {"each": lambda s: {"b": str(s["index"]), "a": s["item"]}}, store)
    assert played.result.outputs["all"] == [{"a": 3, "b": "0"}, {"a": 1, "b": "1"}, {"a": 2, "b": "2"}]


@both_ways
def test_templates_of_a_model_see_item_and_index(run: Run, store: Path) -> None:
    workflow = make(
        [asks("each", "one") | {"prompt": "{index}: {item.name} of {all}"}],
        [map_edge("START"), {"from": "each", "to": "END"}],
        {"items": field("list[dict]"), "one": field("str"), "all": field("list[str]", [])},
        scripted(),
    )
    result = run(workflow, {"items": [{"name": "x"}, {"name": "{index}"}]}, store=store)
    assert result.outputs["all"] == ["0: x of []", "1: {index} of []"]
    assert [record.model_calls for record in kept(store, result.run_id).nodes] == [1, 1]


@both_ways
@pytest.mark.parametrize(("width", "slots"), [(1, 16), (2, 16), (5, 2), (5, 1), (5, 16)])
def test_after_a_failing_item_the_rest_is_recorded_as_cancelled_each_once(
    run: Run, width: int, slots: int, store: Path
) -> None:
    async def each(state: dict[str, Any]) -> Any:
        if state["index"] == 1:
            raise ValueError("no second item")
        await asyncio.sleep(0 if state["index"] == 0 else 10)
        return state["item"]

    workflow = mapping(config={"execution": {"max_concurrency": slots}}, max_concurrency=width)
    with pytest.raises(NodeExecutionError, match="no second item") as caught:
        play(run, workflow, {"each": each}, store, {"items": [1, 2, 3, 4, 5]})
    assert (caught.value.node_id, caught.value.seq) == ("each", 2)
    stored = kept(store, caught.value.run_id)
    assert [record.seq for record in stored.nodes] == [1, 2, 3, 4, 5], "each item once"
    statuses = [str(record.status) for record in stored.nodes]
    assert statuses[1:] == ["failed", "cancelled", "cancelled", "cancelled"]
    assert statuses[0] in ("completed", "cancelled")
    assert all(record.end_time_unix_nano is not None for record in stored.nodes)
    assert stored.run.status == "failed"
    assert stored.run.node_executions == 5


@both_ways
def test_an_item_that_ignores_its_cancellation_is_the_last_of_its_worker(run: Run, store: Path) -> None:
    begun: list[int] = []

    async def each(state: dict[str, Any]) -> Any:
        begun.append(state["index"])
        if state["index"] == 1:
            raise ValueError("no second item")
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            return 0

    with pytest.raises(NodeExecutionError) as caught:
        play(run, mapping(max_concurrency=2), {"each": each}, store, {"items": [1, 2, 3, 4]})
    assert begun == [0, 1]
    statuses = [str(record.status) for record in kept(store, caught.value.run_id).nodes]
    assert statuses == ["completed", "failed", "cancelled", "cancelled"], "the first did complete, after all"


def test_plain_functions_of_items_run_at_the_same_time(store: Path) -> None:
    barrier = threading.Barrier(3, timeout=5)

    def each(item: int, **_: Any) -> int:
        barrier.wait()
        return item

    functions: Any = {"each": each, "after": lambda **_: None}
    assert run_workflow(mapping(), functions=functions, store=store).outputs["all"] == [3, 1, 2]


def test_a_map_does_not_hold_the_spans_of_items_that_have_ended() -> None:
    """A thousand documents would stay in memory, twice each, until the last one is done."""
    ended: list[weakref.ref[ReadableSpan]] = []
    held: list[int] = []

    class Ended:
        def on_start(self, span: ReadableSpan) -> None: ...

        def on_end(self, span: ReadableSpan) -> None:
            ended.append(weakref.ref(span))

    def each(**_: Any) -> int:
        held.append(sum(span() is not None for span in ended))
        return 1

    workflow = mapping(max_concurrency=1)
    run_workflow(workflow, functions={"each": each, "after": lambda **_: None}, store=False, observers=[Ended()])
    assert held == [0, 0, 0]
    assert len(ended) == 5


@both_ways
@pytest.mark.parametrize("shape", ["fan-out", "map"])
def test_what_runs_at_once_does_not_hold_a_value_that_was_replaced_before(run: Run, shape: str) -> None:
    """A document would stay in memory for as long as all of a fan-out or a map takes."""
    size, held = 10_000_000, list[int]()

    async def each(**_: Any) -> int:
        held.append(tracemalloc.get_traced_memory()[0])
        return 1

    fields = {
        "items": ITEMS,
        "x": field("str"),
        "one": field("int"),
        "two": field("int"),
        "all": field("list[int]", []),
    }
    nodes = [calls("big", "x"), calls("small", "x"), calls("each", "one")]
    edges = [*chain("START big small"), *chain("each END")]
    if shape == "map":
        edges.append(map_edge("small"))
    else:
        nodes.append(calls("other", "two") | {"function": "each"})
        edges += [{"from": "small", "to": ["each", "other"]}, *chain("other END")]
    functions = {"big": lambda: "x" * size, "small": lambda: "", "each": each}
    tracemalloc.start()
    try:
        run(make(nodes, edges, fields), functions=functions, store=False)
    finally:
        tracemalloc.stop()
    assert len(held) == (3 if shape == "map" else 2)
    assert max(held) < size


@both_ways
def test_a_map_inside_a_branch_joins_the_other_branch(run: Run, store: Path) -> None:
    log = field("list[str]", [], reduce="append")
    workflow = graph(
        {"items": ITEMS, "one": "int", "all": field("list[int]", []), "log": log},
        {"a": "log", "b": "log", "each": "one", "join": "log"},
        [
            {"from": "START", "to": ["a", "b"]},
            map_edge("a"),
            {"from": "each", "to": "join"},
            {"from": "b", "to": "join"},
            {"from": "join", "to": "END"},
        ],
        items=["each"],
    )
    bodies = {"each": slow_first, **{name: (lambda s, name=name: {"log": [name]}) for name in ["a", "b", "join"]}}
    played = play(run, workflow, bodies, store)
    assert played.counts == {"a": 1, "b": 1, "each": 3, "join": 1}
    assert dict(played.seen)["join"] == {"items": [3, 1, 2], "one": None, "all": [30, 11, 22], "log": ["a", "b"]}
    assert [record.branch for record in played.kept.nodes if record.node_id == "each"] == ["0.0", "0.1", "0.2"]


@both_ways
def test_after_a_map_the_run_may_fan_out(run: Run, store: Path) -> None:
    log = field("list[str]", [], reduce="append")
    workflow = graph(
        {"items": ITEMS, "one": "int", "all": field("list[int]", []), "log": log},
        {"each": "one", "b": "log", "c": "log", "d": "log"},
        [
            map_edge("START"),
            {"from": "each", "to": ["b", "c"]},
            {"from": "b", "to": "d"},
            {"from": "c", "to": "d"},
            {"from": "d", "to": "END"},
        ],
        items=["each"],
    )
    bodies = {"each": slow_first, **{name: (lambda s, name=name: {"log": [name]}) for name in "bcd"}}
    played = play(run, workflow, bodies, store)
    assert played.order == ["each", "each", "each", "b", "c", "d"]
    assert dict(played.seen)["d"]["all"] == [30, 11, 22]


@both_ways
def test_a_map_over_what_is_no_list_fails_the_run(run: Run, store: Path) -> None:
    workflow = graph(
        {"items": "list[int]", "one": "int", "all": field("list[int]", [])},
        {"a": "", "each": "one"},
        [{"from": "START", "to": "a"}, map_edge("a"), {"from": "each", "to": "END"}],
        items=["each"],
    )
    with pytest.raises(WorkflowExecutionError, match="'items' needs a list; it holds null") as caught:
        play(run, workflow, {}, store)
    assert isinstance(caught.value.__cause__, MapError)
    assert kept(store, caught.value.run_id).said() == [("a", "completed")]


@both_ways
def test_the_items_of_a_map_count_for_max_node_executions(run: Run, store: Path) -> None:
    workflow = mapping(config={"execution": {"max_node_executions": 3}})
    with pytest.raises(WorkflowExecutionError, match="max_node_executions"):
        play(run, workflow, {"each": lambda s: s["item"]}, store, {"items": [1, 2, 3, 4]})


@both_ways
@in_one_of_a_few_tries
def test_a_thousand_items_are_a_thousand_rows(run: Run, store: Path) -> None:
    workflow = mapping(config={"execution": {"max_node_executions": 2000}})
    played_items = list(range(1000))
    result = run(
        workflow,
        {"items": played_items},
        functions={"each": lambda item, **_: item + 1, "after": lambda **_: None},
        store=store,
    )
    assert result.outputs["all"] == [item + 1 for item in played_items]
    timely(not result.degraded)
    assert [record.seq for record in kept(store, result.run_id).nodes] == list(range(1, 1002))
