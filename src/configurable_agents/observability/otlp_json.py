"""Spans as OTLP JSON, both ways: camelCase names, ids in hex, 64-bit integers as text, enumerations as numbers. Pure.

See: opentelemetry-proto, "JSON Protobuf Encoding" in the OTLP specification.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode

from configurable_agents.storage.attributes import json_text

_KINDS: Final = {
    SpanKind.INTERNAL: 1,
    SpanKind.SERVER: 2,
    SpanKind.CLIENT: 3,
    SpanKind.PRODUCER: 4,
    SpanKind.CONSUMER: 5,
}
_CODES: Final = {StatusCode.UNSET: 0, StatusCode.OK: 1, StatusCode.ERROR: 2}
HAS_IS_REMOTE: Final = 0x100
IS_REMOTE: Final = 0x200
"""Bits of OTLP's span flags; the lowest eight are the W3C trace flags."""
_MAX_DEPTH: Final = 48
"""Of values in values: each is up to four of the 254 levels that orjson writes. What is deeper stands as its JSON text."""


def encode(spans: Sequence[ReadableSpan]) -> bytes:
    """Give one ExportTraceServiceRequest, in one line without its end."""
    return orjson.dumps({"resourceSpans": list(_resource_spans(spans))})


def _resource_spans(spans: Sequence[ReadableSpan]) -> Iterator[dict[str, Any]]:
    # By identity: the spans of a run share the object, and its hash is its JSON text.
    resources: dict[int, tuple[Resource, list[ReadableSpan]]] = {}
    for span in spans:
        resources.setdefault(id(span.resource), (span.resource, []))[1].append(span)
    for resource, members in resources.values():
        yield _without_empty(
            {
                "resource": {"attributes": _attributes(resource.attributes)},
                "scopeSpans": list(_scope_spans(members)),
                "schemaUrl": resource.schema_url,
            }
        )


def _scope_spans(spans: Sequence[ReadableSpan]) -> Iterator[dict[str, Any]]:
    scopes: dict[InstrumentationScope | None, list[ReadableSpan]] = {}
    for span in spans:
        scopes.setdefault(span.instrumentation_scope, []).append(span)
    for scope, members in scopes.items():
        yield _without_empty(
            {
                "scope": {} if scope is None else _scope(scope),
                "spans": [_span(span) for span in members],
                "schemaUrl": None if scope is None else scope.schema_url,
            }
        )


def _scope(scope: InstrumentationScope) -> dict[str, Any]:
    return _without_empty(
        {"name": scope.name, "version": scope.version, "attributes": _attributes(scope.attributes or {})}
    )


def _span(span: ReadableSpan) -> dict[str, Any]:
    context, parent = span.context, span.parent
    return {
        **_ids(context),
        **({} if parent is None else {"parentSpanId": f"{parent.span_id:016x}"}),
        "flags": _flags(context, is_remote=parent is not None and parent.is_remote),
        "name": _text(span.name),
        "kind": _KINDS[span.kind],
        "startTimeUnixNano": str(span.start_time or 0),
        "endTimeUnixNano": str(span.end_time or 0),
        **_without_empty(
            {
                "attributes": _attributes(span.attributes or {}),
                "events": [_event(event) for event in span.events],
                "links": [_link(link) for link in span.links],
            }
        ),
        "status": _status(span),
    }


def _ids(context: SpanContext) -> dict[str, Any]:
    ids = {"traceId": f"{context.trace_id:032x}", "spanId": f"{context.span_id:016x}"}
    return {**ids, "traceState": context.trace_state.to_header()} if context.trace_state else ids


def _flags(context: SpanContext, *, is_remote: bool) -> int:
    return int(context.trace_flags) | HAS_IS_REMOTE | (IS_REMOTE if is_remote else 0)


def _event(event: Event) -> dict[str, Any]:
    return {
        "timeUnixNano": str(event.timestamp),
        "name": _text(event.name),
        "attributes": _attributes(event.attributes or {}),
    }


def _link(link: Link) -> dict[str, Any]:
    return {
        **_ids(link.context),
        "attributes": _attributes(link.attributes or {}),
        "flags": _flags(link.context, is_remote=link.context.is_remote),
    }


def _status(span: ReadableSpan) -> dict[str, Any]:
    text = span.status.description
    return {"code": _CODES[span.status.status_code], **({} if text is None else {"message": _text(text)})}


def _attributes(attributes: Mapping[str, Any], depth: int = _MAX_DEPTH) -> list[dict[str, Any]]:
    return [{"key": _text(key), "value": _value(value, depth)} for key, value in attributes.items()]


def _value(value: Any, depth: int) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, str):
        return {"stringValue": _text(value)}
    if isinstance(value, int):
        # OTLP has none beyond 64 bits.
        return {"intValue": str(value)} if -(2**63) <= value < 2**63 else {"stringValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value if math.isfinite(value) else _SPELLED[str(value)]}
    if isinstance(value, bytes):
        return {"bytesValue": base64.b64encode(value).decode()}
    if isinstance(value, Mapping | Sequence) and not depth:
        return {"stringValue": json_text(value)}
    if isinstance(value, Mapping):
        return {"kvlistValue": {"values": _attributes(value, depth - 1)}}
    if isinstance(value, Sequence):
        return {"arrayValue": {"values": [_value(item, depth - 1) for item in value]}}
    return {"stringValue": _text(str(value))}


_SPELLED: Final = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _text(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value}
