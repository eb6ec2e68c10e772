"""Plain edges, routes and loops: which node comes next, how often, and with which state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from _both_ways import both_ways
from _graphs import graph, play
from _runs import Run, chain, field, kept
from configurable_agents import WorkflowExecutionError, run_workflow
from configurable_agents.errors import ConditionError, ExecutionLimitError

INT = field("int", 0)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def plus_one(state: dict[str, Any]) -> Any:
    return {"n": state["n"] + 1}


@both_ways
def test_plain_edges_run_nodes_in_order_each_on_the_state_before_it(run: Run, store: Path) -> None:
    workflow = graph({"n": INT}, {"a": "n", "b": "n", "c": "n"}, chain("START a b c END"))
    played = play(run, workflow, dict.fromkeys("abc", plus_one), store)
    assert [(name, state["n"]) for name, state in played.seen] == [("a", 0), ("b", 1), ("c", 2)]
    assert [record.edge for record in played.kept.nodes] == ["b", "c", "END"]
    assert [record.reads_from for record in played.kept.nodes] == [(), (1,), (2,)]
    assert played.result.outputs == {"n": 3}


ROUTES = [
    {"condition": {"logic": "state.n > 5"}, "to": "big"},
    {"condition": {"logic": "default"}, "to": "other"},
    {"condition": {"logic": "state.n > 1"}, "to": "middle"},
    {"condition": {"logic": "state.n > 7"}, "to": "huge"},
]


@both_ways
@pytest.mark.parametrize(
    ("n", "taken"),
    [(9, "big"), (6, "big"), (2, "middle"), (1, "other")],
    ids=["first of several", "one", "late", "none"],
)
def test_the_first_route_that_holds_is_taken_and_the_default_last(run: Run, n: int, taken: str, store: Path) -> None:
    names = ["big", "other", "middle", "huge"]
    workflow = graph(
        {"n": INT, "way": "str"},
        {"a": "n", **dict.fromkeys(names, "way")},
        [{"from": "START", "to": "a"}, {"from": "a", "routes": ROUTES}, *({"from": x, "to": "END"} for x in names)],
    )
    bodies = {"a": lambda _: {"n": n}} | {name: lambda _, name=name: {"way": name} for name in names}
    played = play(run, workflow, bodies, store)
    assert played.order == ["a", taken]
    assert played.result.outputs["way"] == taken
    assert played.kept.node("a").edge == taken


@both_ways
def test_a_route_from_the_start_looks_at_the_inputs(run: Run, store: Path) -> None:
    routes = [
        {"condition": {"logic": "state.n > 0"}, "to": "a"},
        {"condition": {"logic": "default"}, "to": "b"},
    ]
    ends = [{"from": name, "to": "END"} for name in "ab"]
    workflow = graph({"n": INT}, {"a": "n", "b": "n"}, [{"from": "START", "routes": routes}, *ends])
    assert play(run, workflow, {"a": plus_one, "b": plus_one}, store, {"n": 1}).order == ["a"]
    assert play(run, workflow, {"a": plus_one, "b": plus_one}, store, {"n": 0}).order == ["b"]


def looping(**loop: Any) -> Any:
    edges = [{"from": "START", "to": "a"}, {"from": "a", "loop": loop}]
    return graph({"n": INT, "done": field("bool", False)}, {"a": "n done"}, edges)


@both_ways
@pytest.mark.parametrize("loop", [{"condition_field": "done"}, {"condition": "state.n >= 3"}])
def test_a_loop_ends_when_its_condition_holds(run: Run, loop: Any, store: Path) -> None:
    body = {"a": lambda state: {"n": state["n"] + 1, "done": state["n"] == 2}}
    played = play(run, looping(**loop), body, store)
    assert played.result.outputs == {"n": 3, "done": True}
    assert [record.edge for record in played.kept.nodes] == ["a", "a", "END"]
    assert "loop_exhausted" not in played.kept.nodes[-1].attributes_json


@both_ways
@pytest.mark.parametrize("times", [1, 4])
def test_a_loop_ends_at_max_iterations_and_its_last_span_says_so(run: Run, times: int, store: Path) -> None:
    body = {"a": lambda state: {"n": state["n"] + 1, "done": False}}
    played = play(run, looping(condition_field="done", max_iterations=times), body, store)
    assert played.result.outputs["n"] == times
    marked = [
        '"configurable_agents.node.loop_exhausted":true' in record.attributes_json for record in played.kept.nodes
    ]
    assert marked == [False] * (times - 1) + [True]


def test_a_loop_whose_condition_holds_at_the_last_iteration_is_not_marked(store: Path) -> None:
    body = {"a": lambda state: {"n": state["n"] + 1, "done": state["n"] == 1}}
    played = play(run_workflow, looping(condition_field="done", max_iterations=2), body, store)
    assert "loop_exhausted" not in played.kept.nodes[-1].attributes_json


@both_ways
def test_a_loop_goes_back_to_restart_at_and_leaves_to_exit_to(run: Run, store: Path) -> None:
    loop = {"condition": "state.n >= 4", "restart_at": "a", "exit_to": "d"}
    workflow = graph(
        {"n": INT},
        {"a": "n", "b": "n", "d": "n"},
        [*chain("START a b"), {"from": "b", "loop": loop}, {"from": "d", "to": "END"}],
    )
    played = play(run, workflow, dict.fromkeys("abd", plus_one), store)
    assert played.order == ["a", "b", "a", "b", "d"]


@both_ways
def test_a_loop_inside_a_loop_counts_anew_each_time_it_is_entered(run: Run, store: Path) -> None:
    inner = {"condition": "false", "max_iterations": 3, "exit_to": "c"}
    outer = {"condition": "false", "max_iterations": 2, "restart_at": "a"}
    workflow = graph(
        {"n": INT},
        {"a": "n", "b": "n", "c": "n"},
        [*chain("START a b"), {"from": "b", "loop": inner}, {"from": "c", "loop": outer}],
    )
    played = play(run, workflow, dict.fromkeys("abc", plus_one), store)
    assert played.order == ["a", "b", "b", "b", "c"] * 2


@both_ways
def test_a_loop_that_a_route_comes_back_to_counts_anew(run: Run, store: Path) -> None:
    """`c` lies inside the loop as long as the loop has not been left: from `a` it leads back to `b`."""
    routes = [{"condition": {"logic": "state.n < 8"}, "to": "a"}, {"condition": {"logic": "default"}, "to": "END"}]
    escape = [{"condition": {"logic": "state.n == 2"}, "to": "c"}, {"condition": {"logic": "default"}, "to": "b"}]
    loop = {"condition": "false", "max_iterations": 3, "restart_at": "a", "exit_to": "c"}
    workflow = graph(
        {"n": INT},
        {"a": "n", "b": "", "c": "n"},
        [
            {"from": "START", "to": "a"},
            {"from": "a", "routes": escape},
            {"from": "b", "loop": loop},
            {"from": "c", "routes": routes},
        ],
    )
    played = play(run, workflow, {"a": plus_one, "c": plus_one}, store)
    assert "".join(played.order) == "abac" + "abab" + "c" + "ababab" + "c"


@both_ways
def test_a_route_cycle_stops_at_max_node_executions(run: Run, store: Path) -> None:
    routes = [{"condition": {"logic": "state.n < 0"}, "to": "END"}, {"condition": {"logic": "default"}, "to": "a"}]
    workflow = graph(
        {"n": INT},
        {"a": "n"},
        [{"from": "START", "to": "a"}, {"from": "a", "routes": routes}],
        {"execution": {"max_node_executions": 25}},
    )
    with pytest.raises(WorkflowExecutionError, match=r"max_node_executions \(25\)") as caught:
        play(run, workflow, {"a": plus_one}, store)
    assert isinstance(caught.value.__cause__, ExecutionLimitError)
    stored = kept(store, caught.value.run_id)
    assert (stored.run.status, stored.run.node_executions) == ("failed", 25)
    assert stored.said() == [("a", "completed")] * 25


@both_ways
@pytest.mark.parametrize(
    "edge",
    [
        {
            "routes": [
                {"condition": {"logic": "state.m > 1"}, "to": "b"},
                {"condition": {"logic": "default"}, "to": "b"},
            ]
        },
        {"loop": {"condition": "state.m > 1", "exit_to": "b"}},
    ],
    ids=["route", "loop"],
)
def test_a_condition_that_cannot_be_computed_fails_the_run_and_not_its_node(run: Run, edge: Any, store: Path) -> None:
    workflow = graph(
        {"n": INT, "m": "int"},
        {"a": "n", "b": "n"},
        [{"from": "START", "to": "a"}, {"from": "a", **edge}, {"from": "b", "to": "END"}],
    )
    with pytest.raises(WorkflowExecutionError) as caught:
        play(run, workflow, {"a": plus_one}, store)
    assert type(caught.value) is WorkflowExecutionError, "no node is at fault"
    assert isinstance(caught.value.__cause__, ConditionError)
    stored = kept(store, caught.value.run_id)
    assert stored.said() == [("a", "completed")]
    assert stored.node("a").outputs == {"n": 1}
    assert (stored.run.status, stored.run.error_type) == ("failed", "configurable_agents.errors.ConditionError")
    assert "state.m" in str(stored.run.error_message)
