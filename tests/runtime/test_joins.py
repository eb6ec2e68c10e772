"""Fan-outs and joins: what runs at once, when it comes together, and in which order it merges."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from _both_ways import both_ways
from _graphs import graph, play
from _runs import Run, chain, field
from configurable_agents import run_workflow

LOG = field("list[str]", [], reduce="append")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def logs(name: str) -> Any:
    """A body that adds its name to the log."""

    def body(_: dict[str, Any]) -> Any:
        return {"log": [name]}

    return body


@both_ways
@pytest.mark.parametrize("slowest", ["b", "c"])
def test_a_join_runs_once_and_merges_in_the_order_of_the_edges(run: Run, slowest: str, store: Path) -> None:
    workflow = graph(
        {"log": LOG},
        dict.fromkeys("abcd", "log"),
        [
            {"from": "START", "to": "a"},
            {"from": "a", "to": ["c", "b"]},
            {"from": "b", "to": "d"},
            {"from": "c", "to": "d"},
            {"from": "d", "to": "END"},
        ],
    )

    async def body(name: str) -> Any:
        await asyncio.sleep(0.03 if name == slowest else 0)
        return {"log": [name]}

    bodies: Any = {name: (lambda _, name=name: body(name)) for name in "abcd"}
    played = play(run, workflow, bodies, store)
    assert sorted(played.order) == ["a", "b", "c", "d"]
    stored = played.kept
    # The edge from b stands before that from c, so b merges first, whichever ended first and whichever forked first.
    assert stored.node("d").inputs["log"] == ["a", "b", "c"]
    assert stored.node("d").reads_from == (stored.node("b").seq, stored.node("c").seq)
    assert (stored.node("c").branch, stored.node("b").branch, stored.node("d").branch) == ("0", "1", None)
    assert played.result.outputs["log"] == ["a", "b", "c", "d"]


@both_ways
def test_branches_do_not_see_each_other_before_they_join(run: Run, store: Path) -> None:
    fields = {"x": field("int", 1), "y": field("int", 1)}
    edges = [
        {"from": "START", "to": ["a", "b"]},
        {"from": "a", "to": "a2"},
        {"from": "b", "to": "join"},
        {"from": "a2", "to": "join"},
        {"from": "join", "to": "END"},
    ]
    workflow = graph(fields, {"a": "x", "b": "y", "a2": "x", "join": ""}, edges)
    bodies = {"a": lambda s: {"x": 10}, "b": lambda s: {"y": 20}, "a2": lambda s: {"x": s["x"] + s["y"]}}
    played = play(run, workflow, bodies, store)
    assert dict(played.seen)["a2"] == {"x": 10, "y": 1}
    assert dict(played.seen)["join"] == {"x": 11, "y": 20}


@both_ways
@pytest.mark.parametrize(
    ("kind", "reduce", "start", "first", "second", "merged"),
    [
        ("list[int]", "append", [0], [1], [2, 3], [0, 1, 2, 3]),
        ("dict[str, int]", "merge", {"a": 0, "b": 0}, {"b": 1, "c": 1}, {"c": 2}, {"a": 0, "b": 1, "c": 2}),
        ("int", "sum", 1, 10, 100, 111),
        ("float", "sum", 0.5, 0.25, 0.125, 0.875),
        ("int", "min", 5, 3, 9, 3),
        ("int", "max", 5, 3, 9, 9),
        ("int", "max", None, 3, None, 3),
    ],
)
def test_a_reduce_says_how_branches_combine(
    run: Run, kind: str, reduce: str, start: Any, first: Any, second: Any, merged: Any, store: Path
) -> None:
    edges = [
        {"from": "START", "to": ["a", "b"]},
        {"from": "a", "to": "join"},
        {"from": "b", "to": "join"},
        {"from": "join", "to": "END"},
    ]
    workflow = graph({"x": field(kind, start, reduce=reduce)}, {"a": "x", "b": "x", "join": ""}, edges)
    played = play(run, workflow, {"a": lambda s: {"x": first}, "b": lambda s: {"x": second}}, store)
    assert played.result.outputs == {"x": merged}
    assert dict(played.seen)["join"] == {"x": merged}


@both_ways
def test_a_join_of_some_branches_does_not_wait_for_the_others(run: Run, store: Path) -> None:
    """a forks to b, c and d; b and c meet at e; e and d meet at f."""
    edges = [
        {"from": "START", "to": "a"},
        {"from": "a", "to": ["b", "c", "d"]},
        {"from": "b", "to": "e"},
        {"from": "c", "to": "e"},
        {"from": "d", "to": "d2"},
        {"from": "d2", "to": "f"},
        {"from": "e", "to": "f"},
        {"from": "f", "to": "END"},
    ]
    workflow = graph({"log": LOG}, dict.fromkeys(["a", "b", "c", "d", "d2", "e", "f"], "log"), edges)
    names = ["a", "b", "c", "d", "d2", "e", "f"]
    played = play(run, workflow, {name: logs(name) for name in names}, store)
    assert all(count == 1 for count in played.counts.values())
    assert dict(played.seen)["e"]["log"] == ["a", "b", "c"]
    assert dict(played.seen)["f"]["log"] == ["a", "d", "d2", "b", "c", "e"]
    assert played.kept.node("f").reads_from == (played.kept.node("d2").seq, played.kept.node("e").seq)


@both_ways
@pytest.mark.parametrize("targets", [["b", "END"], ["END", "b"], ["b", "END", "c"]])
def test_a_branch_may_end_at_once(run: Run, targets: list[str], store: Path) -> None:
    named = [name for name in targets if name != "END"]
    edges = [{"from": "START", "to": "a"}, {"from": "a", "to": targets}, *({"from": x, "to": "END"} for x in named)]
    workflow = graph({"log": LOG}, dict.fromkeys(["a", *named], "log"), edges)
    played = play(run, workflow, {name: logs(name) for name in ["a", *named]}, store)
    assert played.order == ["a", *named]
    assert played.result.outputs == {"log": ["a", *named]}


@both_ways
def test_branches_that_end_apart_all_count_for_the_result(run: Run, store: Path) -> None:
    edges = [{"from": "START", "to": ["a", "b"]}, *chain("a a2 END"), {"from": "b", "to": "END"}]
    workflow = graph({"log": LOG}, dict.fromkeys(["a", "a2", "b"], "log"), edges)
    played = play(run, workflow, {name: logs(name) for name in ["a", "a2", "b"]}, store)
    assert played.result.outputs == {"log": ["a", "a2", "b"]}
    assert len(played.kept.run.reads_from) == 2


@both_ways
def test_several_plain_edges_from_one_node_are_a_fan_out(run: Run, store: Path) -> None:
    edges = [*chain("START a b END"), {"from": "a", "to": "c"}, {"from": "c", "to": "END"}]
    workflow = graph({"log": LOG}, dict.fromkeys("abc", "log"), edges)
    played = play(run, workflow, {name: logs(name) for name in "abc"}, store)
    assert played.counts == {"a": 1, "b": 1, "c": 1}
    assert played.result.outputs == {"log": ["a", "b", "c"]}


@both_ways
def test_a_fan_out_inside_a_loop_joins_once_for_each_time_round(run: Run, store: Path) -> None:
    loop = {"condition": "false", "max_iterations": 3, "restart_at": "a"}
    edges = [
        {"from": "START", "to": "a"},
        {"from": "a", "to": ["b", "c"]},
        {"from": "b", "to": "d"},
        {"from": "c", "to": "d"},
        {"from": "d", "loop": loop},
    ]
    workflow = graph({"log": LOG, "n": field("int", 0, reduce="sum")}, dict.fromkeys("abcd", "log n"), edges)
    bodies = {name: (lambda s, name=name: {"log": [name], "n": 1}) for name in "abcd"}
    played = play(run, workflow, bodies, store)
    assert played.order == list("abcd" * 3)
    assert played.result.outputs == {"log": list("abcd" * 3), "n": 12}
    assert {record.branch for record in played.kept.nodes if record.node_id in "ad"} == {None}


@both_ways
def test_a_loop_inside_a_branch_holds_the_join_until_it_is_left(run: Run, store: Path) -> None:
    edges = [
        {"from": "START", "to": ["a", "b"]},
        {"from": "a", "loop": {"condition": "false", "max_iterations": 4, "exit_to": "c"}},
        {"from": "b", "to": "c"},
        {"from": "c", "to": "END"},
    ]
    workflow = graph({"log": LOG}, dict.fromkeys("abc", "log"), edges)
    played = play(run, workflow, {name: logs(name) for name in "abc"}, store)
    assert played.counts == {"a": 4, "b": 1, "c": 1}
    assert played.result.outputs == {"log": ["a"] * 4 + ["b", "c"]}


@both_ways
def test_a_fork_inside_a_branch_joins_in_the_branch(run: Run, store: Path) -> None:
    edges = [
        {"from": "START", "to": ["a", "z"]},
        {"from": "a", "to": ["b", "c"]},
        {"from": "b", "to": "d"},
        {"from": "c", "to": "d"},
        {"from": "d", "to": "e"},
        {"from": "z", "to": "e"},
        {"from": "e", "to": "END"},
    ]
    workflow = graph({"log": LOG}, dict.fromkeys("abcdez", "log"), edges)
    played = play(run, workflow, {name: logs(name) for name in "abcdez"}, store)
    assert played.result.outputs == {"log": ["a", "b", "c", "d", "z", "e"]}
    branches = {record.node_id: record.branch for record in played.kept.nodes}
    assert branches == {"a": "0", "z": "1", "b": "0.0", "c": "0.1", "d": "0", "e": None}


@both_ways
def test_no_more_nodes_run_at_once_than_max_concurrency_says(run: Run, store: Path) -> None:
    names = [f"n{number}" for number in range(6)]
    live: list[str] = []
    crowd = asyncio.Event()
    most: list[int] = []

    async def body(name: str) -> Any:
        live.append(name)
        most.append(len(live))
        if len(live) == 2:
            crowd.set()
        await asyncio.wait_for(crowd.wait(), 30)  # else the first may have ended before the second begins
        await asyncio.sleep(0.005)
        live.remove(name)
        return {"log": [name]}

    workflow = graph(
        {"log": LOG},
        dict.fromkeys(names, "log"),
        [{"from": "START", "to": names}, *({"from": name, "to": "END"} for name in names)],
        {"execution": {"max_concurrency": 2}},
    )
    bodies: Any = {name: (lambda _, name=name: body(name)) for name in names}
    played = play(run, workflow, bodies, store)
    assert max(most) == 2
    assert played.result.outputs == {"log": names}


def test_plain_functions_of_branches_run_at_the_same_time(store: Path) -> None:
    """Each waits for the other, so that neither could end if they ran one after the other."""
    barrier = threading.Barrier(2, timeout=5)

    def wait(**_: Any) -> Any:
        barrier.wait()
        return {"log": ["x"]}

    edges = [{"from": "START", "to": ["a", "b"]}, {"from": "a", "to": "END"}, {"from": "b", "to": "END"}]
    workflow = graph({"log": LOG}, {"a": "log", "b": "log"}, edges)
    assert run_workflow(workflow, functions={"a": wait, "b": wait}, store=store).outputs == {"log": ["x", "x"]}
