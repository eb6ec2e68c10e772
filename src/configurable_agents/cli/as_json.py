"""What `--json` prints: one object a line, with the keys that docs/cli.md names. These are a contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from configurable_agents.cli.figures import precise_instant
from configurable_agents.cli.tree import RunView
from configurable_agents.semconv import Operation
from configurable_agents.storage.records import DeliveryRecord, ExecutionStateRecord, SpanRecord, WorkflowRunRecord

if TYPE_CHECKING:
    from configurable_agents.runtime.result import RunResult


def run_object(run: WorkflowRunRecord) -> dict[str, Any]:
    """Give a run as `runs list` prints it."""
    return {
        "run_id": run.run_id,
        "trace_id": run.trace_id,
        "workflow": run.workflow_name,
        "version": run.workflow_version,
        "status": run.status,
        "started_at": precise_instant(run.start_time_unix_nano),
        "ended_at": _end(run),
        "duration_seconds": run.duration_seconds,
        "node_executions": run.node_executions,
        **_totals(run),
        "total_cost_usd": run.cost_usd,
        "priced_cost_usd": run.priced_cost_usd,
        "unpriced_calls": run.unpriced_calls,
        "error": _error(run),
    }


def result_object(result: RunResult) -> dict[str, Any]:
    """Give a run that completed as `run` prints it."""
    return {
        "run_id": result.run_id,
        "trace_id": result.trace_id,
        "workflow": result.workflow,
        "status": result.status,
        "outputs": dict(result.outputs),
        "duration_seconds": result.duration_seconds,
        "node_executions": result.node_executions,
        "model_calls": result.model_calls,
        "input_tokens": result.input_tokens,
        "output_tokens": result.output_tokens,
        "total_tokens": result.total_tokens,
        "total_cost_usd": result.total_cost_usd,
        "priced_cost_usd": result.priced_cost_usd,
        "unpriced_calls": result.unpriced_calls,
        "store": result.store,
        "degraded": result.degraded,
        "error": None,
    }


def unfinished_object(
    run: WorkflowRunRecord, *, store: str | None, degraded: bool, node_id: str | None = None, seq: int | None = None
) -> dict[str, Any]:
    """Give a run that failed or was cancelled as `run` prints it: the keys of one that completed, without outputs.

    Args:
        store: Where it is kept.
        degraded: It should be kept and is not.
        node_id: The node that failed, with its `seq`.
        seq: Number of its execution.
    """
    return {
        "run_id": run.run_id,
        "trace_id": run.trace_id,
        "workflow": run.workflow_name,
        "status": run.status,
        "outputs": None,
        "duration_seconds": run.duration_seconds,
        "node_executions": run.node_executions,
        "model_calls": run.model_calls,
        "input_tokens": run.input_tokens,
        "output_tokens": run.output_tokens,
        "total_tokens": run.total_tokens,
        "total_cost_usd": run.cost_usd,
        "priced_cost_usd": run.priced_cost_usd,
        "unpriced_calls": run.unpriced_calls,
        "store": store,
        "degraded": degraded,
        "error": {"type": run.error_type, "message": run.error_message, "node_id": node_id, "seq": seq},
    }


def view_object(
    view: RunView,
    outputs: dict[str, Any] | None,
    *,
    deliveries: Sequence[DeliveryRecord] = (),
    trace_url: str | None = None,
) -> dict[str, Any]:
    """Give a run with all that happened in it as `runs show` prints it.

    Args:
        outputs: The final state; of a run that did not complete the state so far.
        deliveries: Where it has been delivered to.
        trace_url: Where its trace can be looked at.
    """
    strays = [_span_object(span, view) for span in view.strays()]
    return {
        **run_object(view.run),
        "inputs": view.run.inputs,
        "outputs": outputs,
        "trace_url": trace_url,
        "deliveries": [
            {"destination": mark.destination, "delivered_at": precise_instant(mark.delivered_at_unix_nano)}
            for mark in deliveries
        ],
        "nodes": [_node_object(node, view) for node in view.nodes],
        **({"spans": strays} if strays else {}),
    }


def _node_object(node: ExecutionStateRecord, view: RunView) -> dict[str, Any]:
    below = view.children(node.span_id)
    return {
        "seq": node.seq,
        **node.state_data,
        "error": _error(node),
        "kind": node.node_kind,
        "started_at": precise_instant(node.start_time_unix_nano),
        "ended_at": _end(node),
        "edge": node.edge,
        "branch": node.branch,
        "map_index": node.map_index,
        "attempts": node.attempts,
        "reads_from": list(node.reads_from),
        "inputs": node.inputs,
        **_totals(node),
        "priced_cost_usd": node.priced_cost_usd,
        "unpriced_calls": node.unpriced_calls,
        "span_id": node.span_id,
        "calls": [_span_object(span, view) for span in below if span.operation == Operation.CHAT],
        "spans": [_span_object(span, view) for span in below if span.operation != Operation.CHAT],
    }


def _span_object(span: SpanRecord, view: RunView) -> dict[str, Any]:
    below = [_span_object(child, view) for child in view.children(span.span_id)]
    return {
        "name": span.name,
        "span_id": span.span_id,
        "started_at": precise_instant(span.start_time_unix_nano),
        "duration_seconds": span.duration_seconds,
        "provider": span.provider,
        "model": span.model,
        "input_tokens": span.input_tokens,
        "output_tokens": span.output_tokens,
        "cache_read_tokens": span.cache_read_tokens,
        "cache_write_tokens": span.cache_write_tokens,
        "reasoning_tokens": span.reasoning_tokens,
        "cost_usd": span.cost_usd,
        "error_type": span.error_type,
        **({"spans": below} if below else {}),
    }


def _totals(record: WorkflowRunRecord | ExecutionStateRecord) -> dict[str, Any]:
    return {
        "model_calls": record.model_calls,
        "input_tokens": record.input_tokens,
        "output_tokens": record.output_tokens,
        "total_tokens": record.total_tokens,
        "cache_read_tokens": record.cache_read_tokens,
        "cache_write_tokens": record.cache_write_tokens,
        "reasoning_tokens": record.reasoning_tokens,
    }


def _error(record: WorkflowRunRecord | ExecutionStateRecord) -> dict[str, Any] | None:
    if not (record.error_type or record.error_message):
        return None
    return {"type": record.error_type, "message": record.error_message}


def _end(record: WorkflowRunRecord | ExecutionStateRecord) -> str | None:
    return None if record.end_time_unix_nano is None else precise_instant(record.end_time_unix_nano)
