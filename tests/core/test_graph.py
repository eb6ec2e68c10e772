"""The decisions of a run, without running: which nodes go now, and where a token goes next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from _graphs import graph
from _runs import chain, field
from configurable_agents.core.graph import Plan, Token, decide, move, next_nodes
from configurable_agents.errors import ConditionError, MapError


def plan_of(nodes: str, edges: Sequence[Any], **fields: Any) -> Plan:
    """Compile a graph whose nodes all write an appended log."""
    log = {"log": field("list[str]", [], reduce="append"), "n": field("int", 0)}
    return graph({**log, **fields}, dict.fromkeys(nodes.split(), "log"), edges).plan


DIAMOND: list[Any] = [
    {"from": "START", "to": "a"},
    {"from": "a", "to": ["b", "c"]},
    {"from": "b", "to": "d"},
    {"from": "c", "to": "d"},
    {"from": "d", "to": "END"},
]


def token(at: str, edge: int = 0, path: tuple[int, ...] = ()) -> Token:
    return Token(at, edge, {"n": 0}, {}, path=path)


def going(plan: Plan, waiting: Sequence[Token], running: Sequence[str] = ()) -> list[tuple[str, list[tuple[int, ...]]]]:
    """Name the nodes that go, with the paths of the tokens that each takes."""
    return [(arrival.node, [t.path for t in arrival.tokens]) for arrival in next_nodes(plan, waiting, running)]


def test_tokens_on_plain_nodes_all_go_at_once_in_file_order() -> None:
    plan = plan_of("a b c d", DIAMOND)
    assert going(plan, [token("c", path=(1,)), token("b", path=(0,))]) == [("b", [(0,)]), ("c", [(1,)])]


@pytest.mark.parametrize("other", ["b", "c"])
def test_a_token_waits_at_a_join_for_whoever_can_still_come(other: str) -> None:
    plan = plan_of("a b c d", DIAMOND)
    assert going(plan, [token("d", 2)], running=[other]) == []
    assert going(plan, [token("d", 2), token(other)]) == [(other, [()])]


def test_tokens_that_wait_at_a_join_merge_in_the_order_of_the_edges() -> None:
    plan = plan_of("a b c d", DIAMOND)
    assert going(plan, [token("d", 3, (1,)), token("d", 2, (0,))]) == [("d", [(0,), (1,)])]


def test_a_join_does_not_wait_for_a_token_that_cannot_reach_it() -> None:
    edges = [
        {"from": "START", "to": ["a", "x"]},
        {"from": "a", "to": ["b", "c"]},
        *chain("b d"),
        *chain("c d END"),
        *chain("x END"),
    ]
    plan = plan_of("a b c d x", edges)
    assert going(plan, [token("d", 2), token("d", 3, (1,))], running=["x"]) == [("d", [(), (1,)])]


def test_of_joins_that_wait_for_each_other_the_first_in_the_file_goes() -> None:
    back = [{"condition": {"logic": "state.n > 3"}, "to": "END"}, {"condition": {"logic": "default"}, "to": "one"}]
    edges = [
        {"from": "START", "to": ["a", "b"]},
        {"from": "a", "to": "one"},
        {"from": "b", "to": "two"},
        {"from": "one", "to": "two"},
        {"from": "two", "routes": back},
    ]
    plan = plan_of("a b one two", edges)
    assert going(plan, [token("two", 2), token("one", 1)]) == [("one", [()])]
    turned = plan_of("a b two one", edges)
    assert going(turned, [token("two", 2), token("one", 1)]) == [("two", [()])]


def test_a_join_that_leads_to_another_goes_before_it() -> None:
    edges = [
        {"from": "START", "to": ["a", "b", "c"]},
        {"from": "a", "to": "last"},
        {"from": "b", "to": "first"},
        {"from": "c", "to": "first"},
        {"from": "first", "to": "last"},
        {"from": "last", "to": "END"},
    ]
    plan = plan_of("last a b c first", edges)
    assert going(plan, [token("last", 1), token("first", 2), token("first", 3)]) == [("first", [(), ()])]


def test_a_fork_gives_each_branch_its_path_and_its_edge() -> None:
    plan = plan_of("a b c d", DIAMOND)
    start = token("a")
    branches = move(plan, start, decide(plan, "a", {"n": 0}, {}), start.state, (1,))
    assert [(t.at, t.edge, t.path) for t in branches] == [("b", 1, (0,)), ("c", 1, (1,))]
    assert branches[0].fork is branches[1].fork is not None
    (only,) = move(plan, branches[0], decide(plan, "b", {"n": 0}, {}), start.state, (2,))
    assert (only.at, only.edge, only.path, only.fork) == ("d", 2, (0,), branches[0].fork)


def test_a_loop_counts_in_the_token_and_forgets_when_it_is_left() -> None:
    loop = {"condition": "state.n > 0", "max_iterations": 3, "exit_to": "b"}
    plan = plan_of("a b", [{"from": "START", "to": "a"}, {"from": "a", "loop": loop}, {"from": "b", "to": "END"}])
    first = decide(plan, "a", {"n": 0}, {})
    second = decide(plan, "a", {"n": 0}, first.loops)
    third = decide(plan, "a", {"n": 0}, second.loops)
    assert [one.label for one in (first, second, third)] == ["a", "a", "b"]
    assert [dict(one.loops) for one in (first, second, third)] == [{1: 1}, {1: 2}, {}]
    assert [one.exhausted for one in (first, second, third)] == [False, False, True]
    by_condition = decide(plan, "a", {"n": 1}, second.loops)
    assert (by_condition.label, by_condition.exhausted) == ("b", False)


def test_maps_over_empty_lists_are_passed_one_after_another() -> None:
    def mapped(source: str, target: str, collect: str) -> dict[str, Any]:
        return {"from": source, "parallel": {"items_field": "items", "target_node": target, "collect_field": collect}}

    lists = {name: field("list[list[str]]", []) for name in ("one", "two")}
    nodes = {"a": "log", "x": "item", "y": "item", "z": "log"}
    log = field("list[str]", [], reduce="append")
    fields: Any = {"log": log, "item": field("list[str]"), "items": field("list[str]"), **lists}
    edges = [{"from": "START", "to": "a"}, mapped("a", "x", "one"), mapped("x", "y", "two"), *chain("y z END")]
    plan = graph(fields, nodes, edges).plan
    past = decide(plan, "a", {"items": []}, {})
    assert (past.label, past.items, past.emptied) == ("z", None, {"one": [], "two": []})
    into = decide(plan, "a", {"items": ["i"]}, {})
    assert (into.label, into.items is not None, into.emptied) == ("x", True, {})
    for value in (None, "text", {"a": 1}):
        with pytest.raises(MapError, match="needs a list"):
            decide(plan, "a", {"items": value}, {})


def test_a_condition_that_cannot_be_computed_is_an_error_and_not_false() -> None:
    routes = [{"condition": {"logic": "state.n > 1"}, "to": "b"}, {"condition": {"logic": "default"}, "to": "END"}]
    edges = [{"from": "START", "to": "a"}, {"from": "a", "routes": routes}, {"from": "b", "to": "END"}]
    with pytest.raises(ConditionError):
        decide(plan_of("a b", edges), "a", {"n": None}, {})
