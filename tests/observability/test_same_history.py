"""What is kept of a run depends on the run alone: not on what OpenTelemetry is told to sample, cut or leave off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from _runs import run_program

PROGRAM = """
import json, sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from _runs import asks, calls, chain, field, kept, scripted
from _workflows import make
from configurable_agents import NodeExecutionError, run_workflow

def numbers(answer):
    return [1, 2, 3]

attempts = []
def unsure():
    attempts.append(1)
    if len(attempts) % 2:
        raise ValueError("not yet")
    return "x" * 5_000

config = scripted({"text": "an answer", "usage": {"input_tokens": 11, "output_tokens": 7}}, price={"input_per_mtok": 1, "output_per_mtok": 2})
nodes = [
    asks("ask", "answer"),
    calls("split", "numbers", answer="{answer}"),
    calls("square", "n", item="{item}"),
    calls("unsure", "text") | {"retry": {"max_attempts": 2, "initial_delay": 0}},
    calls("last", "total", squares="{squares}"),
]
edges = [
    *chain("START ask split"),
    {"from": "split", "parallel": {"target_node": "square", "items_field": "numbers", "collect_field": "squares"}},
    *chain("square unsure last END"),
]
fields = {"answer": field("str"), "numbers": field("list[int]", []), "squares": field("list[int]", []), "text": field("str"), "total": field("int")}
workflow = make(nodes, edges, fields, config)
functions = {"split": numbers, "square": lambda item: item * item, "unsure": unsure, "last": lambda squares: sum(squares)}

def histories(store):
    found = []
    for last in (functions["last"], lambda squares: 1 / 0):
        try:
            run_id = run_workflow(workflow, functions={**functions, "last": last}, store=store).run_id
        except NodeExecutionError as error:
            run_id = error.run_id
        stored = kept(Path(store), run_id)
        found.append([asdict(record) for record in (stored.run, *stored.nodes, *stored.spans)])
    return found

store, parent = sys.argv[1:]
context = SpanContext(0x1234 << 64, 0x5678, is_remote=True, trace_flags=TraceFlags(0))
with trace.use_span(NonRecordingSpan(context)) if parent == "unsampled" else nullcontext():
    print(json.dumps(histories(store)))
"""
LIMITS = [
    *(f"OTEL_{kind}_COUNT_LIMIT" for kind in ("ATTRIBUTE", "SPAN_ATTRIBUTE", "SPAN_EVENT", "EVENT_ATTRIBUTE")),
    *(f"OTEL_{kind}_VALUE_LENGTH_LIMIT" for kind in ("ATTRIBUTE", "SPAN_ATTRIBUTE")),
]
OF_THE_MOMENT = {
    *("run_id", "trace_id", "span_id", "parent_span_id", "trace_flags"),
    *("start_time_unix_nano", "end_time_unix_nano", "duration_seconds"),
}


def history(store: Path, parent: str = "none", **environment: str) -> list[list[dict[str, Any]]]:
    """Give all records of a run that ends well and of one that fails, without ids and times."""
    code, out, err = run_program(PROGRAM, store, parent, **environment)
    assert (code, err) == (0, "")
    return [[timeless(record) for record in records] for records in json.loads(out)]


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    events = json.loads(record["events_json"] or "[]")
    for event in events:
        del event["time_unix_nano"]
    found = {name: value for name, value in record.items() if name not in OF_THE_MOMENT} | {"events_json": events}
    return found | {"is root": record["parent_span_id"] in (None, f"{0x5678:016x}")}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    found = history(tmp_path_factory.mktemp("usual") / "runs.db")
    assert [len(records) for records in found] == [1 + 7 + 1, 1 + 7 + 1], "a run, its nodes, its model call"
    assert [records[0]["status"] for records in found] == ["completed", "failed"]
    assert [records[6]["attempts"] for records in found] == [2, 2]
    assert max(len(records[6]["outputs_json"]) for records in found) > 5_000
    return found


@pytest.mark.parametrize(
    ("parent", "environment"),
    [
        ("none", {"OTEL_SDK_DISABLED": "true"}),
        ("none", {"OTEL_TRACES_SAMPLER": "always_off"}),
        ("unsampled", {}),
        ("none", dict.fromkeys(LIMITS, "1")),
        ("none", dict.fromkeys(LIMITS, "10")),
        ("unsampled", {"OTEL_SDK_DISABLED": "true", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "1"}),
    ],
    ids=["disabled", "always_off", "unsampled", "limits of 1", "limits of 10", "disabled and limited"],
)
def test_the_history_of_a_run_is_the_same_whatever_opentelemetry_is_told(
    parent: str, environment: dict[str, str], usual: list[list[dict[str, Any]]], tmp_path: Path
) -> None:
    assert history(tmp_path / "runs.db", parent, **environment) == usual
