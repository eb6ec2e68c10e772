"""Turns a span into its record: typed fields for what people query, the rest kept as it is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from configurable_agents import semconv
from configurable_agents.observability.resource import resource_text
from configurable_agents.observability.spans import PARENT_IS_REMOTE, RunSpan
from configurable_agents.storage.attributes import json_text, typed_record
from configurable_agents.storage.records import Record, RunId, SpanRecord

_RUN: Final = semconv.Operation.INVOKE_WORKFLOW.value


def to_record(span: ReadableSpan) -> Record:
    """Make the record of a span: of a running one what is known so far."""
    if isinstance(span, RunSpan):
        return run_record(span)
    values = _fields(span)
    return typed_record(values, span.attributes or {}) or _other(span, values)


def run_record(span: RunSpan) -> Record:
    """Make the record of a span that a run of ours has made."""
    values = span.fields.copy()
    if not span.is_plain:
        values |= _events_and_links(span)
    return typed_record(values, span.known_attributes) or _other(span, values)


def _other(span: ReadableSpan, values: dict[str, Any]) -> SpanRecord:
    rest: dict[str, Any] = dict(span.attributes or {})
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
        resource_json=resource_text(span.resource) if run_id is None else None,
        attributes_json=json_text(rest) if rest else "{}",
        **values,
    )


_KIND_NAMES: Final = {kind: kind.name for kind in SpanKind}
_CODE_NAMES: Final = {code: code.name for code in StatusCode}


def _fields(span: ReadableSpan) -> dict[str, Any]:
    """Give what a `RunSpan` has in its `fields`, and its events and links."""
    context, parent, status = span.get_span_context(), span.parent, span.status
    if context is None or span.start_time is None:
        raise ValueError(f"the span {span.name!r} has not been started")
    values: dict[str, Any] = {
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "name": span.name,
        "start_time_unix_nano": span.start_time,
        "trace_flags": int(context.trace_flags),
    }
    if parent is not None:
        values["parent_span_id"] = f"{parent.span_id:016x}"
        if parent.is_remote:
            values["trace_flags"] |= PARENT_IS_REMOTE
    if span.end_time is not None:
        values["end_time_unix_nano"] = span.end_time
    if status.status_code is not StatusCode.UNSET:
        values["status_code"] = _CODE_NAMES[status.status_code]
        values["status_message"] = status.description
    if span.kind is not SpanKind.INTERNAL:
        values["kind"] = _KIND_NAMES[span.kind]
    if context.trace_state:
        values["trace_state"] = context.trace_state.to_header()
    scope = span.instrumentation_scope
    if scope is not None and (scope.name != semconv.SCOPE_NAME or _is_run(span.attributes or {})):
        # Of a run, the version that ran it, which is not the one that may ship it later.
        values["scope_json"] = scope_text(scope)
    return values | _events_and_links(span)


def _is_run(attributes: Mapping[str, Any]) -> bool:
    return attributes.get(semconv.GEN_AI_OPERATION_NAME) == _RUN and semconv.RUN_ID in attributes


def scope_text(scope: InstrumentationScope) -> str:
    """Give a scope as a JSON object of what it has."""
    more = {"schema_url": scope.schema_url, "attributes": dict(scope.attributes or {})}
    return json_text(
        {"name": scope.name, "version": scope.version, **{key: value for key, value in more.items() if value}}
    )


def _events_and_links(span: ReadableSpan) -> dict[str, str]:
    found, events, links = dict[str, str](), span.events, span.links
    if events:
        found["events_json"] = json_text(
            [{"name": e.name, "time_unix_nano": e.timestamp, "attributes": dict(e.attributes or {})} for e in events]
        )
    if links:
        found["links_json"] = json_text(
            [{**_ids(link.context), "attributes": dict(link.attributes or {}), **_more(link.context)} for link in links]
        )
    return found


def _ids(context: SpanContext) -> dict[str, str]:
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def _more(context: SpanContext) -> dict[str, Any]:
    flags = context.trace_flags | (PARENT_IS_REMOTE if context.is_remote else 0)
    more = {"flags": flags, "trace_state": context.trace_state.to_header() if context.trace_state else None}
    return {key: value for key, value in more.items() if value}


def wall_seconds(span: ReadableSpan) -> float | None:
    """Give how long a span lasted by the wall clock, which is all that a foreign one says; None while it goes on."""
    if span.end_time is None or span.start_time is None:
        return None
    return (span.end_time - span.start_time) / 1e9


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) else None
