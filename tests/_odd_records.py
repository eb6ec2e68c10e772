"""Hypothesis strategies for records with odd values."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from _records import run_id
from configurable_agents.semconv import Status
from configurable_agents.storage.records import ExecutionStateRecord, SpanRecord, WorkflowRunRecord

# What every database takes as text; the rest has a test of its own.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30)
json_texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
).map(lambda value: json.dumps({"value": value}))
_counts = st.integers(0, 2**63 - 1)
_amounts = st.floats(0, 1e6)


def _optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def _hex_ids(digits: int) -> st.SearchStrategy[str]:
    return st.integers(1, 16**digits - 1).map(lambda value: f"{value:0{digits}x}")


_span_values = {
    "trace_id": _hex_ids(32),
    "span_id": _hex_ids(16),
    "parent_span_id": _optional(_hex_ids(16)),
    "name": texts,
    "kind": st.sampled_from(["INTERNAL", "CLIENT", "SERVER"]),
    "start_time_unix_nano": _counts,
    "end_time_unix_nano": _optional(_counts),
    "status_code": st.sampled_from(["UNSET", "OK", "ERROR"]),
    "status_message": _optional(texts),
    "attributes_json": json_texts,
    "events_json": _optional(json_texts),
    "links_json": _optional(json_texts),
    "scope_json": _optional(json_texts),
    "trace_flags": st.integers(0, 255) | st.integers(0x200, 0x2FF),
    "trace_state": _optional(st.sampled_from(["vendor=1", "a=b,c=d"])),
}
_token_names = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
_totals_values = {
    **dict.fromkeys(("model_calls", "unpriced_calls", *_token_names), _counts),
    "cost_usd": _optional(_amounts),
    "priced_cost_usd": _amounts,
}
_outcome_values = {
    "status": st.sampled_from([status.value for status in Status]),
    "duration_seconds": _optional(_amounts),
    "error_type": _optional(texts),
    "error_message": _optional(texts),
}
_runs = st.integers(1, 5).map(run_id)


def _built(kind: Callable[..., Any], *parts: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({name: value for part in parts for name, value in part.items()}).map(
        lambda values: kind(**values)
    )


run_records: st.SearchStrategy[WorkflowRunRecord] = _built(
    WorkflowRunRecord,
    _span_values,
    _totals_values,
    _outcome_values,
    {
        "run_id": st.uuids().map(str),
        "workflow_name": texts,
        "workflow_version": _optional(texts),
        "config_sha256": _optional(_hex_ids(64)),
        "inputs_json": _optional(json_texts),
        "defaults_json": _optional(json_texts),
        "reducers_json": _optional(json_texts),
        "reads_from_json": _optional(st.just("[1, 2]")),
        "node_executions": _counts,
        "resource_json": _optional(json_texts),
    },
)
node_records: st.SearchStrategy[ExecutionStateRecord] = _built(
    ExecutionStateRecord,
    _span_values,
    _totals_values,
    _outcome_values,
    {
        "run_id": _runs,
        "seq": _counts,
        "node_id": texts,
        "node_kind": st.sampled_from(["model", "function"]),
        "reads_from_json": st.just("[]"),
        "branch": _optional(texts),
        "map_index": _optional(_counts),
        "attempts": _counts,
        "edge": _optional(texts),
        "provider": _optional(texts),
        "model": _optional(texts),
        "models_json": _optional(json_texts),
        "inputs_json": _optional(json_texts),
        "outputs_json": _optional(json_texts),
    },
)
span_records: st.SearchStrategy[SpanRecord] = _built(
    SpanRecord,
    _span_values,
    {name: _optional(_counts) for name in _token_names},
    {
        "run_id": _optional(_runs),
        "operation": _optional(texts),
        "provider": _optional(texts),
        "model": _optional(texts),
        "cost_usd": _optional(_amounts),
        "duration_seconds": _optional(_amounts),
        "error_type": _optional(texts),
        "resource_json": _optional(json_texts),
    },
)
