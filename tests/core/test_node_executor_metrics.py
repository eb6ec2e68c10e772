"""What is kept of each node execution: how long it took, what it used and cost, and all that it wrote."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from _both_ways import both_ways
from _runs import Run, asks, calls, chain, field, kept, rows, scripted
from _workflows import make
from configurable_agents import NodeExecutionError, Workflow, run_workflow

PRICE = {"input_per_mtok": 3, "output_per_mtok": 15, "cache_read_per_mtok": 0.3, "cache_write_per_mtok": 3.75}
USAGE = {
    "input_tokens": 1000,
    "output_tokens": 200,
    "cache_read_tokens": 400,
    "cache_write_tokens": 100,
    "reasoning_tokens": 50,
}
COST = (500 * 3 + 400 * 0.3 + 100 * 3.75 + 200 * 15) / 1e6


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def drafting(*replies: Any, price: Any = None) -> Workflow:
    """A model node, and a function node after it that takes at least 20 ms."""
    return make(
        [asks("draft", "text"), calls("count", "length", text="{text}")],
        chain("START draft count END"),
        {"text": field("str"), "length": field("int")},
        scripted(*replies, price=price, max_retries=0),
        name="drafting",
    )


def count(text: str) -> int:
    time.sleep(0.02)
    return len(text)


@both_ways
def test_the_state_is_saved_with_duration_tokens_model_and_cost(run: Run, store: Path) -> None:
    workflow = drafting({"text": "hello", "usage": USAGE, "model": "large-1"}, price=PRICE)
    started = time.perf_counter()
    result = run(workflow, functions={"count": count}, store=store)
    elapsed = time.perf_counter() - started
    draft, counted = kept(store, result.run_id).nodes
    assert draft.state_data == {
        "node_id": "draft",
        "status": "completed",
        "duration_seconds": draft.duration_seconds,
        "input_tokens": 1000,
        "output_tokens": 200,
        "total_tokens": 1200,
        "model": "large-1",
        "cost_usd": COST,
        "outputs": {"text": "hello"},
        "error": None,
    }
    assert (draft.cache_read_tokens, draft.cache_write_tokens, draft.reasoning_tokens) == (400, 100, 50)
    assert (draft.provider, draft.model_calls, draft.node_kind) == ("scripted", 1, "model")
    assert (counted.model, counted.total_tokens, counted.cost_usd, counted.node_kind) == (None, 0, 0.0, "function")
    assert draft.duration_seconds is not None
    assert counted.duration_seconds is not None
    assert 0.02 <= counted.duration_seconds < elapsed
    assert draft.duration_seconds + counted.duration_seconds <= result.duration_seconds <= elapsed


def test_the_view_gives_the_same_state_data_as_the_record(store: Path) -> None:
    result = run_workflow(
        drafting({"text": "hi", "usage": USAGE}, price=PRICE), functions={"count": count}, store=store
    )
    assert kept(store, result.run_id).run.status == "completed"
    shown = [json.loads(text) for (text,) in rows(store, "SELECT state_data FROM node_executions ORDER BY seq")]
    for from_view, record in zip(shown, kept(store, result.run_id).nodes, strict=True):
        # SQLite writes 15 digits of a number into JSON.
        seconds = pytest.approx(record.duration_seconds, rel=1e-12)
        assert from_view == {**record.state_data, "duration_seconds": seconds}


@both_ways
def test_outputs_are_kept_whole(run: Run, store: Path) -> None:
    """Neither a text nor a list is cut, however long: a report that shows half of an answer misleads."""
    text = "".join(f"line {number}: ünïcödé ✓\n" for number in range(5000))
    assert len(text.encode()) > 100_000
    result = run(drafting(text), functions={"count": count}, store=store)
    stored = kept(store, result.run_id)
    assert stored.node("draft").outputs == {"text": text}
    assert stored.node("count").inputs == {"text": text}
    assert result.outputs["text"] == text


@both_ways
def test_a_failed_node_is_kept_with_its_error_and_the_nodes_before_it_stay(run: Run, store: Path) -> None:
    def fail(text: str) -> int:
        raise LookupError(f"no count for {text!r}")

    with pytest.raises(NodeExecutionError) as caught:
        run(drafting({"text": "hello", "usage": USAGE}, price=PRICE), functions={"count": fail}, store=store)
    stored = kept(store, caught.value.run_id)
    draft, failed = stored.nodes
    assert (draft.status, draft.outputs, draft.cost_usd) == ("completed", {"text": "hello"}, COST)
    assert (failed.status, failed.status_code) == ("failed", "ERROR")
    assert (failed.error_type, failed.error_message) == ("LookupError", "no count for 'hello'")
    assert failed.state_data["error"] == "no count for 'hello'"
    assert (failed.inputs, failed.outputs) == ({"text": "hello"}, {})
    assert failed.duration_seconds is not None
    assert "in fail" in str(failed.events_json), "the exception event tells where it was raised"
    assert (stored.run.status, stored.run.cost_usd, stored.run.total_tokens) == ("failed", COST, 1200)


@both_ways
def test_a_model_that_fails_is_kept_as_a_failed_call_in_a_failed_node(run: Run, store: Path) -> None:
    workflow = drafting({"error": {"message": "overloaded", "status_code": 529}})
    with pytest.raises(NodeExecutionError, match="overloaded") as caught:
        run(workflow, functions={"count": count}, store=store)
    stored = kept(store, caught.value.run_id)
    (call,) = stored.spans
    draft = stored.node("draft")
    assert (call.status_code, call.status_message, call.parent_span_id) == ("ERROR", "overloaded", draft.span_id)
    assert call.error_type == draft.error_type == "configurable_agents.llm.scripted.ScriptedModelError"
    assert (draft.error_message, stored.run.error_message) == ("overloaded", "overloaded")


@both_ways
def test_a_store_that_fails_harms_no_metric(run: Run, tmp_path: Path) -> None:
    workflow = drafting({"text": "hello", "usage": USAGE}, price=PRICE)
    result = run(workflow, functions={"count": count}, store=tmp_path)
    assert (result.input_tokens, result.output_tokens, result.total_tokens) == (1000, 200, 1200)
    assert (result.total_cost_usd, result.model_calls, result.node_executions) == (COST, 1, 2)
    assert result.degraded


@both_ways
def test_without_a_store_the_result_has_the_same_metrics(run: Run) -> None:
    workflow = drafting({"text": "hello", "usage": USAGE}, price=PRICE)
    result = run(workflow, functions={"count": count}, store=False)
    assert (result.input_tokens, result.output_tokens, result.total_cost_usd) == (1000, 200, COST)
    assert (result.outputs, result.degraded) == ({"text": "hello", "length": 5}, False)


def test_an_attempt_that_failed_is_counted_and_its_tokens_are_not_lost(store: Path) -> None:
    """What a failed attempt spent has been paid for."""
    answer = {"type": "object", "fields": [{"name": "length", "type": "int"}]}
    workflow = make(
        [asks("draft", "length", output_schema=answer, retry={"max_attempts": 2, "initial_delay": 0})],
        chain("START draft END"),
        {"length": field("int")},
        scripted(*[{"text": "many", "usage": USAGE}] * 3, {"value": {"length": 3}, "usage": USAGE}, price=PRICE),
    )
    result = run_workflow(workflow, store=store)
    draft = kept(store, result.run_id).node("draft")
    assert (draft.attempts, draft.model_calls, draft.input_tokens) == (2, 4, 4000)
    assert math.isclose(draft.cost_usd or 0, 4 * COST)
    assert result.total_cost_usd == draft.cost_usd


def test_a_node_that_was_answered_by_two_models_names_both(store: Path) -> None:
    answer = {"type": "object", "fields": [{"name": "length", "type": "int"}]}
    workflow = make(
        [asks("draft", "length", output_schema=answer)],
        chain("START draft END"),
        {"length": field("int")},
        scripted({"text": "many", "model": "small"}, {"value": {"length": 3}, "model": "large"}),
    )
    result = run_workflow(workflow, store=store)
    draft = kept(store, result.run_id).node("draft")
    assert draft.model == "large"
    assert json.loads(draft.models_json or "null") == ["small", "large"]
