"""Turns a span into its record: typed fields for what people query, the rest kept as it is. Pure."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext

from configurable_agents import semconv
from configurable_agents.observability.resource import foreign_resource_text
from configurable_agents.semconv import Operation, Status
from configurable_agents.storage.base import ExecutionStateRecord, Record, RunId, SpanRecord, WorkflowRunRecord

PARENT_IS_REMOTE = 0x200
"""Bit 9 of OTLP's span flags (opentelemetry-proto, `SpanFlags`). Bit 8, which says that bit 9 means something, is understood."""


def to_record(span: ReadableSpan) -> Record:
    """Make the record of a span: of a running one what is known so far."""
    attributes: Any = span.attributes
    # Its own `copy` takes an eighth of what `dict` takes, which asks for each value through three layers.
    rest: dict[str, Any] = attributes.copy() if attributes else {}
    operation = rest.get(semconv.GEN_AI_OPERATION_NAME)
    if semconv.RUN_ID in rest:
        if operation == Operation.INVOKE_WORKFLOW:
            return _run(span, rest)
        if operation == Operation.EXECUTE_NODE:
            return _execution(span, rest)
    return _other(span, rest)


def _run(span: ReadableSpan, rest: dict[str, Any]) -> WorkflowRunRecord:
    del rest[semconv.GEN_AI_OPERATION_NAME]
    return WorkflowRunRecord(
        run_id=rest.pop(semconv.RUN_ID),
        workflow_name=rest.pop(semconv.GEN_AI_WORKFLOW_NAME, ""),
        workflow_version=rest.pop(semconv.WORKFLOW_VERSION, None),
        config_sha256=rest.pop(semconv.CONFIG_SHA256, None),
        config_text=rest.pop(semconv.CONTENT_CONFIG, None),
        inputs_json=rest.pop(semconv.CONTENT_INPUTS, None),
        defaults_json=rest.pop(semconv.CONTENT_DEFAULTS, None),
        reducers_json=rest.pop(semconv.STATE_REDUCERS, None),
        reads_from_json=_numbers(rest.pop(semconv.READS_FROM, None)),
        node_executions=rest.pop(semconv.NODE_EXECUTIONS, 0),
        resource_json=rest.pop(semconv.RESOURCE, None),
        **_outcome(span, rest),
        **_totals(rest),
        # With the version that ran it, which is not the one that may ship it later.
        **{**_span(span, rest), "scope_json": _scope(span.instrumentation_scope)},
    )


def _execution(span: ReadableSpan, rest: dict[str, Any]) -> ExecutionStateRecord:
    del rest[semconv.GEN_AI_OPERATION_NAME]
    models = rest.pop(semconv.MODELS, None)
    return ExecutionStateRecord(
        run_id=rest.pop(semconv.RUN_ID),
        seq=rest.pop(semconv.SEQ, 0),
        node_id=rest.pop(semconv.NODE_ID, ""),
        node_kind=rest.pop(semconv.NODE_KIND, ""),
        reads_from_json=_numbers(rest.pop(semconv.READS_FROM, None)) or "[]",
        branch=rest.pop(semconv.BRANCH, None),
        map_index=rest.pop(semconv.MAP_INDEX, None),
        attempts=rest.pop(semconv.ATTEMPTS, 1),
        edge=rest.pop(semconv.EDGE, None),
        provider=rest.pop(semconv.PROVIDER, None),
        model=rest.pop(semconv.MODEL, None),
        models_json=orjson.dumps(list(models)).decode() if models else None,
        inputs_json=rest.pop(semconv.CONTENT_INPUTS, None),
        outputs_json=rest.pop(semconv.CONTENT_OUTPUTS, None),
        **_outcome(span, rest),
        **_totals(rest),
        **_span(span, rest),
    )


def _other(span: ReadableSpan, rest: dict[str, Any]) -> SpanRecord:
    run_id = rest.pop(semconv.RUN_ID, None)
    # The model that answered stands in the typed field; where the answer names none, the one asked for.
    asked = rest.get(semconv.GEN_AI_REQUEST_MODEL)
    return SpanRecord(
        run_id=RunId(run_id) if isinstance(run_id, str) else None,
        operation=_text(rest.get(semconv.GEN_AI_OPERATION_NAME)),
        provider=_text(rest.get(semconv.GEN_AI_PROVIDER_NAME)),
        model=_text(rest.get(semconv.GEN_AI_RESPONSE_MODEL, asked)),
        input_tokens=_int(rest.get(semconv.GEN_AI_USAGE_INPUT_TOKENS)),
        output_tokens=_int(rest.get(semconv.GEN_AI_USAGE_OUTPUT_TOKENS)),
        cache_read_tokens=_int(rest.get(semconv.GEN_AI_USAGE_CACHE_READ)),
        cache_write_tokens=_int(rest.get(semconv.GEN_AI_USAGE_CACHE_WRITE)),
        reasoning_tokens=_int(rest.get(semconv.GEN_AI_USAGE_REASONING)),
        cost_usd=rest.pop(semconv.COST_USD, None),
        duration_seconds=rest.pop(semconv.DURATION_SECONDS, wall_seconds(span)),
        error_type=_text(rest.get(semconv.ERROR_TYPE)),
        resource_json=foreign_resource_text(span.resource) if run_id is None else None,
        **_span(span, rest),
    )


def _outcome(span: ReadableSpan, rest: dict[str, Any]) -> dict[str, Any]:
    running = span.end_time is None
    return {
        "status": str(rest.pop(semconv.STATUS, Status.RUNNING if running else Status.INTERRUPTED)),
        "duration_seconds": rest.pop(semconv.DURATION_SECONDS, None),
        "error_type": rest.pop(semconv.ERROR_TYPE, None),
        "error_message": rest.pop(semconv.ERROR_MESSAGE, None),
    }


def _totals(rest: dict[str, Any]) -> dict[str, Any]:
    calls = rest.pop(semconv.MODEL_CALLS, 0)
    if not calls:
        return {}
    return {
        "model_calls": calls,
        "input_tokens": rest.pop(semconv.INPUT_TOKENS, 0),
        "output_tokens": rest.pop(semconv.OUTPUT_TOKENS, 0),
        "cache_read_tokens": rest.pop(semconv.CACHE_READ_TOKENS, 0),
        "cache_write_tokens": rest.pop(semconv.CACHE_WRITE_TOKENS, 0),
        "reasoning_tokens": rest.pop(semconv.REASONING_TOKENS, 0),
        "cost_usd": rest.pop(semconv.COST_USD, None),
        "priced_cost_usd": rest.pop(semconv.PRICED_COST_USD, 0.0),
        "unpriced_calls": rest.pop(semconv.UNPRICED_CALLS, 0),
    }


def _span(span: ReadableSpan, rest: Mapping[str, Any]) -> dict[str, Any]:
    context, parent, scope = span.get_span_context(), span.parent, span.instrumentation_scope
    if context is None or span.start_time is None:
        raise ValueError(f"the span {span.name!r} has not been started")
    return {
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "parent_span_id": f"{parent.span_id:016x}" if parent else None,
        "name": span.name,
        "kind": span.kind.name,
        "start_time_unix_nano": span.start_time,
        "end_time_unix_nano": span.end_time,
        "status_code": span.status.status_code.name,
        "status_message": span.status.description,
        "attributes_json": _json(rest) if rest else "{}",
        "events_json": _events(span.events),
        "links_json": _links(span.links),
        "scope_json": None if scope is None or scope.name == semconv.SCOPE_NAME else _scope(scope),
        "trace_flags": context.trace_flags | (PARENT_IS_REMOTE if parent is not None and parent.is_remote else 0),
        "trace_state": context.trace_state.to_header() if context.trace_state else None,
    }


def _scope(scope: InstrumentationScope | None) -> str | None:
    if scope is None:
        return None
    more = {"schema_url": scope.schema_url, "attributes": dict(scope.attributes or {})}
    return _json({"name": scope.name, "version": scope.version, **{key: value for key, value in more.items() if value}})


def _events(events: Sequence[Event]) -> str | None:
    if not events:
        return None
    return _json(
        [{"name": e.name, "time_unix_nano": e.timestamp, "attributes": dict(e.attributes or {})} for e in events]
    )


def _links(links: Sequence[Link]) -> str | None:
    if not links:
        return None
    return _json(
        [{**_ids(link.context), "attributes": dict(link.attributes or {}), **_more(link.context)} for link in links]
    )


def _ids(context: SpanContext) -> dict[str, str]:
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def _more(context: SpanContext) -> dict[str, Any]:
    flags = context.trace_flags | (PARENT_IS_REMOTE if context.is_remote else 0)
    more = {"flags": flags, "trace_state": context.trace_state.to_header() if context.trace_state else None}
    return {key: value for key, value in more.items() if value}


def _numbers(value: Any) -> str | None:
    return None if value is None else orjson.dumps(list(value)).decode()


def _json(value: Any) -> str:
    try:
        text = orjson.dumps(value, default=_foreign)
    except (TypeError, ValueError):  # a lone surrogate, or an integer beyond 64 bits, in a foreign span
        text = b"null"
    # JSON has no word for a number that is none, and `null` would not come back as one.
    return (orjson.dumps(_printable(value)) if b"null" in text else text).decode()


def _foreign(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def _printable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_printable(str(key)): _printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$double": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, bytes):
        return _foreign(value)
    if isinstance(value, bool | float | None):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else {"$int": str(value)}
    text = value if isinstance(value, str) else str(value)
    return text.encode("utf-8", "backslashreplace").decode()


def wall_seconds(span: ReadableSpan) -> float | None:
    """Give how long a span lasted by the wall clock, which is all that a foreign one says; None while it goes on."""
    if span.end_time is None or span.start_time is None:
        return None
    return (span.end_time - span.start_time) / 1e9


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) else None
