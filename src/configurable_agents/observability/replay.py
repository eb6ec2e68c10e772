"""Makes spans of records, to be shipped or written later: those that were there when the records were made. Pure."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState
from opentelemetry.trace import Status as SpanStatus

from configurable_agents import semconv
from configurable_agents.observability.records import wall_seconds
from configurable_agents.observability.resource import resource_of
from configurable_agents.observability.spans import PARENT_IS_REMOTE
from configurable_agents.semconv import Operation, Status
from configurable_agents.storage.records import ExecutionStateRecord, Record, SpanRecord, WorkflowRunRecord

_TOTALS: Final = {
    "model_calls": semconv.MODEL_CALLS,
    "input_tokens": semconv.INPUT_TOKENS,
    "output_tokens": semconv.OUTPUT_TOKENS,
    "cache_read_tokens": semconv.CACHE_READ_TOKENS,
    "cache_write_tokens": semconv.CACHE_WRITE_TOKENS,
    "reasoning_tokens": semconv.REASONING_TOKENS,
    "priced_cost_usd": semconv.PRICED_COST_USD,
    "unpriced_calls": semconv.UNPRICED_CALLS,
    "cost_usd": semconv.COST_USD,
}
_FIGURES: Final = {
    "input_tokens": semconv.GEN_AI_USAGE_INPUT_TOKENS,
    "output_tokens": semconv.GEN_AI_USAGE_OUTPUT_TOKENS,
    "cache_read_tokens": semconv.GEN_AI_USAGE_CACHE_READ,
    "cache_write_tokens": semconv.GEN_AI_USAGE_CACHE_WRITE,
    "reasoning_tokens": semconv.GEN_AI_USAGE_REASONING,
    "operation": semconv.GEN_AI_OPERATION_NAME,
    "provider": semconv.GEN_AI_PROVIDER_NAME,
    "error_type": semconv.ERROR_TYPE,
}
"""Of a span that is neither a run nor a node: its fields that also stand among its attributes."""
_W3C_FLAGS: Final = 0xFF


def to_spans(
    run: WorkflowRunRecord, nodes: Sequence[ExecutionStateRecord], spans: Sequence[SpanRecord]
) -> list[ReadableSpan]:
    """Give the spans of a run: its own first, then those of its nodes, then the others."""
    resource, scope = resource_of(run.resource_json), _scope(run.scope_json)
    records: list[Record] = [run, *nodes, *spans]
    return [to_span(record, resource, scope) for record in records]


def to_span(record: Record, resource: Resource, scope: InstrumentationScope | None) -> ReadableSpan:
    """Give the span of one record.

    Args:
        record: A run, node execution or any other span.
        resource: That of the run.
        scope: The run's, which all of our own spans have.
    """
    context = _context(record)
    return ReadableSpan(
        name=record.name,
        context=context,
        parent=_parent(record, context),
        resource=resource,
        attributes=_attributes(record),
        events=_events(record.events_json),
        links=_links(record.links_json),
        kind=SpanKind[record.kind],
        status=_status(record),
        start_time=record.start_time_unix_nano,
        end_time=record.end_time_unix_nano,
        instrumentation_scope=_scope(record.scope_json) or scope or InstrumentationScope(semconv.SCOPE_NAME),
    )


def changed(span: ReadableSpan, **values: Any) -> ReadableSpan:
    """Copy a span with other values."""
    given: dict[str, Any] = {
        "name": span.name,
        "context": span.context,
        "parent": span.parent,
        "resource": span.resource,
        "attributes": span.attributes,
        "events": span.events,
        "links": span.links,
        "kind": span.kind,
        "status": span.status,
        "start_time": span.start_time,
        "end_time": span.end_time,
        "instrumentation_scope": span.instrumentation_scope,
    }
    return ReadableSpan(**{**given, **values})


def ended(spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
    """Give those that never ended, because their process died, an end (the last moment that is known) and a status.

    A backend takes a span without an end for one of negative duration, and one without a status for a success.
    """
    last = max((span.end_time or span.start_time or 0 for span in spans), default=0)
    status = SpanStatus(StatusCode.ERROR, Status.INTERRUPTED.value)
    return [
        changed(span, end_time=max(last, span.start_time or 0), status=status) if span.end_time is None else span
        for span in spans
    ]


# --- attributes: the other way round than in `records` ------------------------------------------------------------------


def _attributes(record: Record) -> dict[str, Any]:
    rest = {key: _value(value) for key, value in _object(record.attributes_json).items()}
    if isinstance(record, WorkflowRunRecord):
        first = _of_run(record)
    elif isinstance(record, ExecutionStateRecord):
        first = _of_node(record)
    else:
        first = _of_other(record, rest)
    return {**{key: value for key, value in first.items() if value is not None}, **rest}


def _of_run(run: WorkflowRunRecord) -> dict[str, Any]:
    return {
        semconv.GEN_AI_OPERATION_NAME: Operation.INVOKE_WORKFLOW.value,
        semconv.GEN_AI_WORKFLOW_NAME: run.workflow_name,
        semconv.RUN_ID: run.run_id,
        semconv.WORKFLOW_VERSION: run.workflow_version,
        semconv.CONFIG_SHA256: run.config_sha256,
        semconv.CONTENT_CONFIG: run.config_text,
        semconv.CONTENT_INPUTS: run.inputs_json,
        semconv.CONTENT_DEFAULTS: run.defaults_json,
        semconv.STATE_REDUCERS: run.reducers_json,
        semconv.READS_FROM: _items(run.reads_from_json),
        # One that never ended has not counted them.
        semconv.NODE_EXECUTIONS: run.node_executions if run.end_time_unix_nano or run.node_executions else None,
        **_outcome(run),
        **_totals(run),
    }


def _of_node(node: ExecutionStateRecord) -> dict[str, Any]:
    return {
        semconv.GEN_AI_OPERATION_NAME: Operation.EXECUTE_NODE.value,
        semconv.RUN_ID: node.run_id,
        semconv.NODE_ID: node.node_id,
        semconv.NODE_KIND: node.node_kind,
        semconv.SEQ: node.seq,
        semconv.READS_FROM: _items(node.reads_from_json) or None,
        semconv.BRANCH: node.branch,
        semconv.MAP_INDEX: node.map_index,
        semconv.ATTEMPTS: node.attempts if node.attempts != 1 else None,
        semconv.EDGE: node.edge,
        semconv.PROVIDER: node.provider,
        semconv.MODEL: node.model,
        semconv.MODELS: _items(node.models_json),
        semconv.CONTENT_INPUTS: node.inputs_json,
        semconv.CONTENT_OUTPUTS: node.outputs_json,
        **_outcome(node),
        **_totals(node),
    }


def _of_other(span: SpanRecord, rest: Mapping[str, Any]) -> dict[str, Any]:
    # A span of ours says how long it took; of a foreign one we have computed it.
    told = span.run_id is not None or span.duration_seconds != wall_seconds(_times(span))
    models = {semconv.GEN_AI_RESPONSE_MODEL, semconv.GEN_AI_REQUEST_MODEL} & set(rest)
    return {
        semconv.RUN_ID: span.run_id,
        semconv.DURATION_SECONDS: span.duration_seconds if told else None,
        semconv.COST_USD: span.cost_usd,
        # Where they are not among the attributes, the record was made by hand.
        **{key: getattr(span, name) for name, key in _FIGURES.items() if key not in rest},
        **({} if models else {semconv.GEN_AI_RESPONSE_MODEL: span.model}),
    }


def _times(span: SpanRecord) -> ReadableSpan:
    return ReadableSpan(
        "", start_time=span.start_time_unix_nano, end_time=span.end_time_unix_nano, resource=_NO_RESOURCE
    )


_NO_RESOURCE: Final = Resource({})


def _outcome(record: WorkflowRunRecord | ExecutionStateRecord) -> dict[str, Any]:
    return {
        semconv.STATUS: None if record.status == Status.RUNNING else str(record.status),
        semconv.DURATION_SECONDS: record.duration_seconds,
        semconv.ERROR_TYPE: record.error_type,
        semconv.ERROR_MESSAGE: record.error_message,
    }


def _totals(record: WorkflowRunRecord | ExecutionStateRecord) -> dict[str, Any]:
    return {key: getattr(record, name) for name, key in _TOTALS.items()} if record.model_calls else {}


# --- the rest of a span --------------------------------------------------------------------------------------------------


def _context(record: Record) -> SpanContext:
    flags = TraceFlags(record.trace_flags & _W3C_FLAGS)
    state = _trace_state(record.trace_state)
    return SpanContext(int(record.trace_id, 16), int(record.span_id, 16), False, flags, state)


def _parent(record: Record, context: SpanContext) -> SpanContext | None:
    if record.parent_span_id is None:
        return None
    is_remote = bool(record.trace_flags & PARENT_IS_REMOTE)
    parent = int(record.parent_span_id, 16)
    return SpanContext(context.trace_id, parent, is_remote, context.trace_flags, context.trace_state)


def _trace_state(header: Any) -> TraceState | None:
    return TraceState.from_header([header]) if isinstance(header, str) and header else None


def _status(record: Record) -> SpanStatus:
    code = StatusCode[record.status_code]
    # The SDK refuses a text beside any other code.
    return SpanStatus(code, record.status_message if code is StatusCode.ERROR else None)


def _scope(text: str | None) -> InstrumentationScope | None:
    scope = _object(text)
    name, version, schema_url = (scope.get(key) for key in ("name", "version", "schema_url"))
    if not isinstance(name, str) or not isinstance(version, str | None) or not isinstance(schema_url, str | None):
        return None
    attributes = {key: _value(value) for key, value in _dict(scope.get("attributes")).items()}
    return InstrumentationScope(name, version, schema_url, attributes)


def _events(text: str | None) -> tuple[Event, ...]:
    return tuple(
        Event(event["name"], {key: _value(value) for key, value in _dict(event.get("attributes")).items()}, at)
        for event in _list(text)
        if isinstance(event.get("name"), str) and isinstance(at := event.get("time_unix_nano"), int)
    )


def _links(text: str | None) -> tuple[Link, ...]:
    return tuple(_link(link) for link in _list(text) if _is_hex(link.get("trace_id")) and _is_hex(link.get("span_id")))


def _link(link: Mapping[str, Any]) -> Link:
    flags = link["flags"] if isinstance(link.get("flags"), int) else 0
    context = SpanContext(
        int(link["trace_id"], 16),
        int(link["span_id"], 16),
        bool(flags & PARENT_IS_REMOTE),
        TraceFlags(flags & _W3C_FLAGS),
        _trace_state(link.get("trace_state")),
    )
    return Link(context, {key: _value(value) for key, value in _dict(link.get("attributes")).items()})


def _is_hex(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and set(value) <= set("0123456789abcdef")


# --- values --------------------------------------------------------------------------------------------------------------


def _value(value: Any) -> Any:
    """Give an attribute's value of what `records` made JSON of."""
    if isinstance(value, list):
        return tuple(_value(item) for item in value)
    if isinstance(value, dict):
        ((kind, text),) = value.items() if len(value) == 1 else (("", None),)
        if kind in _SPECIAL and isinstance(text, str):
            with contextlib.suppress(ValueError):  # then it is a foreign span's own, by chance of the same name
                return _SPECIAL[kind](text)
        return {key: _value(item) for key, item in value.items()}
    return value


_SPECIAL: Final[Mapping[str, Any]] = {"$bytes": base64.b64decode, "$double": float, "$int": int}
"""What JSON cannot say (see `records`)."""


def _items(text: str | None) -> tuple[Any, ...] | None:
    value = _loaded(text)
    return tuple(value) if isinstance(value, list) else None


def _object(text: str | None) -> dict[str, Any]:
    return _dict(_loaded(text))


def _loaded(text: str | None) -> Any:
    """Read JSON; of a record that was made by hand it may be none."""
    try:
        return orjson.loads(text) if text else None
    except orjson.JSONDecodeError:
        return None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(text: str | None) -> Iterator[dict[str, Any]]:
    value = _loaded(text)
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())
