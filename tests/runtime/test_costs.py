"""What runs cost: exact for every call, node and run, and unknown where it is unknown."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from _both_ways import both_ways
from _runs import Run, asks, chain, field, kept, rows, scripted
from _workflows import make
from configurable_agents import NodeExecutionError, Workflow, run_workflow

PRICE = {"input_per_mtok": 0.1, "output_per_mtok": 0.3, "cache_read_per_mtok": 0.01, "cache_write_per_mtok": 0.125}
ANSWER = {"type": "object", "fields": [{"name": "score", "type": "int"}]}


def usage(tokens_in: int, tokens_out: int, *, read: int = 0, written: int = 0, reasoning: int = 0) -> dict[str, int]:
    return {
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "cache_read_tokens": read,
        "cache_write_tokens": written,
        "reasoning_tokens": reasoning,
    }


def cost(used: dict[str, int]) -> Decimal:
    """The price of one call, worked out by hand: cached and reasoning tokens count once."""
    fresh = used["input_tokens"] - used["cache_read_tokens"] - used["cache_write_tokens"]
    per_token = [Decimal("0.1"), Decimal("0.01"), Decimal("0.125"), Decimal("0.3")]
    counts = [fresh, used["cache_read_tokens"], used["cache_write_tokens"], used["output_tokens"]]
    return sum((price * count for price, count in zip(per_token, counts, strict=True)), Decimal(0)) / 1_000_000


USED = [
    usage(1000, 100),
    usage(3333, 77, read=1111),
    usage(7, 3, read=7),
    usage(123_457, 8191, read=50_000, written=12_345, reasoning=8000),
    usage(0, 0),
    usage(1, 1, written=1, reasoning=1),
]


def a_loop_of_structured_answers(price: Any) -> Workflow:
    """`plan`, then `score` three times; its second execution is asked again."""
    replies = [
        {"text": "the plan", "usage": USED[0], "match": "plan"},
        {"value": {"score": 1}, "usage": USED[1]},
        {"text": "two", "usage": USED[2]},
        {"value": {"score": 2}, "usage": USED[3]},
        {"value": {"score": 3}, "usage": USED[4]},
    ]
    return make(
        [asks("plan", "text"), asks("score", "score", output_schema=ANSWER)],
        [*chain("START plan score"), {"from": "score", "loop": {"condition": "state.score >= 3", "max_iterations": 9}}],
        {"text": field("str"), "score": field("int")},
        scripted(*replies, price=price),
    )


@both_ways
def test_costs_are_exact_for_every_call_node_and_run(run: Run, tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    result = run(a_loop_of_structured_answers(PRICE), store=store)
    stored = kept(store, result.run_id)
    expected = [cost(used) for used in USED[:5]]
    assert [span.cost_usd for span in stored.spans] == [float(one) for one in expected]
    by_node = [expected[0], expected[1], expected[2] + expected[3], expected[4]]
    assert [node.cost_usd for node in stored.nodes] == [float(one) for one in by_node]
    assert [node.node_id for node in stored.nodes] == ["plan", "score", "score", "score"]
    assert result.total_cost_usd == stored.run.cost_usd == result.priced_cost_usd == float(sum(expected))
    assert (result.model_calls, stored.run.model_calls, stored.run.unpriced_calls) == (5, 5, 0)


@both_ways
def test_tokens_of_calls_nodes_and_run_add_up(run: Run, tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    result = run(a_loop_of_structured_answers(PRICE), store=store)
    columns = (
        "sum(input_tokens), sum(output_tokens), sum(cache_read_tokens), sum(cache_write_tokens), sum(reasoning_tokens)"
    )
    by_hand = tuple(sum(used[key] for used in USED[:5]) for key in USED[0])
    names = ("input", "output", "cache_read", "cache_write", "reasoning")
    columns = ", ".join(f"coalesce(sum({name}_tokens), 0)" for name in names)
    assert kept(store).run.status == "completed"
    for table in ("spans", "execution_states", "workflow_runs"):
        assert rows(store, f"SELECT {columns} FROM {table}") == [by_hand], table
    assert (result.input_tokens, result.output_tokens) == by_hand[:2]
    assert result.total_tokens == by_hand[0] + by_hand[1]


@both_ways
def test_the_calls_of_concurrent_nodes_add_up(run: Run, tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    names = "abcdef"
    replies = [{"match": name, "text": name, "usage": used} for name, used in zip(names, USED, strict=True)]
    workflow = make(
        [asks(name, f"from_{name}") for name in names],
        [{"from": "START", "to": list(names)}, *({"from": name, "to": "END"} for name in names)],
        {f"from_{name}": field("str") for name in names},
        scripted(*replies, price=PRICE),
    )
    result = run(workflow, store=store)
    stored = kept(store, result.run_id)
    assert {node.node_id: node.cost_usd for node in stored.nodes} == {
        name: float(cost(used)) for name, used in zip(names, USED, strict=True)
    }
    assert result.total_cost_usd == stored.run.cost_usd == float(sum(map(cost, USED)))


def half_priced() -> Workflow:
    """A node with a price, and one whose usage nobody knows."""
    return make(
        [asks("known", "a"), asks("unknown", "b")],
        chain("START known unknown END"),
        {"a": field("str"), "b": field("str")},
        scripted(
            {"match": "unknown", "text": "x", "usage": None},
            {"match": "known", "text": "y", "usage": USED[0]},
            price=PRICE,
        ),
    )


@both_ways
def test_an_unpriced_call_makes_the_cost_unknown_and_never_zero(run: Run, tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    result = run(half_priced(), store=store)
    stored = kept(store, result.run_id)
    assert (result.total_cost_usd, result.priced_cost_usd, result.unpriced_calls) == (None, float(cost(USED[0])), 1)
    assert (stored.run.cost_usd, stored.run.priced_cost_usd, stored.run.unpriced_calls) == (
        None,
        float(cost(USED[0])),
        1,
    )
    assert [node.cost_usd for node in stored.nodes] == [float(cost(USED[0])), None]
    assert rows(store, "SELECT cost_usd FROM runs") == [(None,)]
    assert rows(store, "SELECT count(*) FROM spans WHERE cost_usd IS NULL") == [(1,)]


def test_a_price_of_zero_is_a_price(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    result = run_workflow(a_loop_of_structured_answers({"input_per_mtok": 0, "output_per_mtok": 0}), store=store)
    assert (result.total_cost_usd, result.unpriced_calls) == (0.0, 0)
    assert kept(store).run.cost_usd == 0.0


def test_a_failing_run_is_stored_with_what_it_spent(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    workflow = make(
        [asks("score", "score", output_schema=ANSWER)],
        chain("START score END"),
        {"score": field("int")},
        scripted({"text": "none", "usage": USED[3]}, price=PRICE),
    )
    with pytest.raises(NodeExecutionError) as caught:
        run_workflow(workflow, store=store)
    stored = kept(store, caught.value.run_id)
    assert stored.run.model_calls == 3, "asked once, and twice more with the reason"
    assert stored.run.cost_usd == stored.node("score").cost_usd == float(3 * cost(USED[3]))
    assert [span.cost_usd for span in stored.spans] == [float(cost(USED[3]))] * 3
