"""Records for tests: builders with sensible values."""

from __future__ import annotations

import itertools
import json
from typing import Any

from configurable_agents.semconv import Status
from configurable_agents.storage.records import ExecutionStateRecord, RunId, SpanRecord, WorkflowRunRecord

START_UNIX_NANO = 1_760_000_000_123_456_789
"""2025-10-09T08:53:20.123456789Z"""

_numbers = itertools.count(1)


def run_id(number: int = 1) -> RunId:
    """Give the id of a run that started `number` milliseconds after the first one, as a UUIDv7."""
    millis = START_UNIX_NANO // 1_000_000 + number
    text = f"{millis:012x}"
    return RunId(f"{text[:8]}-{text[8:]}-7000-8000-{number:012x}")


def span_id() -> str:
    """Give a span id that was not given before."""
    return f"{next(_numbers):016x}"


def run_record(number: int = 1, **values: Any) -> WorkflowRunRecord:
    """Make a completed run."""
    given = {
        "trace_id": f"{number:032x}",
        "span_id": f"{number:016x}",
        "name": "invoke_workflow support",
        "start_time_unix_nano": START_UNIX_NANO + number * 1_000_000,
        "run_id": run_id(number),
        "workflow_name": "support",
        "status": Status.COMPLETED,
        "duration_seconds": 1.5,
    }
    return WorkflowRunRecord(**{**given, **values})


def node_record(seq: int = 1, *, run: int = 1, **values: Any) -> ExecutionStateRecord:
    """Make a completed node execution; `outputs` and `reads_from` may be given as Python values."""
    for name in ("outputs", "inputs", "reads_from"):
        if name in values:
            values[f"{name}_json"] = json.dumps(values.pop(name))
    given = {
        "trace_id": f"{run:032x}",
        "span_id": f"{run:08x}{seq:08x}",
        "parent_span_id": f"{run:016x}",
        "name": "execute_node draft",
        "start_time_unix_nano": START_UNIX_NANO + run * 1_000_000 + seq,
        "end_time_unix_nano": START_UNIX_NANO + run * 1_000_000 + seq + 500_000_000,
        "run_id": run_id(run),
        "seq": seq,
        "node_id": "draft",
        "node_kind": "model",
        "status": Status.COMPLETED,
        "duration_seconds": 0.5,
        "outputs_json": '{"answer": "yes"}',
    }
    return ExecutionStateRecord(**{**given, **values})


def span_record(number: int = 1, *, run: int = 1, **values: Any) -> SpanRecord:
    """Make a finished model call."""
    given = {
        "trace_id": f"{run:032x}",
        "span_id": f"{run:04x}5{number:011x}",
        "name": "chat fake-model",
        "kind": "CLIENT",
        "start_time_unix_nano": START_UNIX_NANO + run * 1_000_000 + number,
        "end_time_unix_nano": START_UNIX_NANO + run * 1_000_000 + number + 1,
        "run_id": run_id(run),
        "operation": "chat",
        "provider": "fake",
        "model": "fake-model",
        "input_tokens": 10,
        "output_tokens": 5,
        "cost_usd": 0.001,
    }
    return SpanRecord(**{**given, **values})
