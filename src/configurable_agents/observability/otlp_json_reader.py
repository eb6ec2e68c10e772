"""Reads spans from OTLP JSON, whoever wrote it; what is wrong is said with its place. Pure."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NoReturn

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState
from opentelemetry.trace import Status as SpanStatus

from configurable_agents.errors import TraceFileError
from configurable_agents.observability.otlp_json import IS_REMOTE

_KINDS: Final = (
    *((0, "SPAN_KIND_UNSPECIFIED", SpanKind.INTERNAL), (1, "SPAN_KIND_INTERNAL", SpanKind.INTERNAL)),
    *((2, "SPAN_KIND_SERVER", SpanKind.SERVER), (3, "SPAN_KIND_CLIENT", SpanKind.CLIENT)),
    *((4, "SPAN_KIND_PRODUCER", SpanKind.PRODUCER), (5, "SPAN_KIND_CONSUMER", SpanKind.CONSUMER)),
)
_CODES: Final = (
    (0, "STATUS_CODE_UNSET", StatusCode.UNSET),
    (1, "STATUS_CODE_OK", StatusCode.OK),
    (2, "STATUS_CODE_ERROR", StatusCode.ERROR),
)
_OTHER_SIGNALS: Final = ("resourceLogs", "resourceMetrics")
_W3C_FLAGS: Final = 0xFF
_MAX_DEPTH: Final = 64
"""Of values in values; beyond is no telemetry."""
_MAX: Final = 2**63 - 1


def decode(document: Any) -> Iterator[ReadableSpan]:
    """Give the spans of one request; none if it holds logs or metrics, which the Collector writes in the same way.

    Args:
        document: An ExportTraceServiceRequest as JSON was read; the answer of Jaeger's query API, which wraps one, too.

    Raises:
        TraceFileError: It is none; the message begins with the place in it.
    """
    if isinstance(document, dict) and isinstance(document.get("result"), dict):
        document = document["result"]
    if not isinstance(document, dict) or "resourceSpans" not in document:
        if isinstance(document, dict) and any(name in document for name in _OTHER_SIGNALS):
            return
        _fail("", "this is no OTLP JSON: it has no resourceSpans")
    for path, spans_of_resource in _items(document, "resourceSpans", ""):
        resource = _resource(spans_of_resource, path)
        for scope_path, spans_of_scope in _items(spans_of_resource, "scopeSpans", path):
            scope = _scope(spans_of_scope, scope_path)
            for span_path, span in _items(spans_of_scope, "spans", scope_path):
                yield _span(span, resource, scope, span_path)


def _resource(found: Mapping[str, Any], path: str) -> Resource:
    values = _object(found, "resource", path)
    return Resource(_attributes(values, f"{path}.resource"), _text(found, "schemaUrl", path) or None)


def _scope(found: Mapping[str, Any], path: str) -> InstrumentationScope:
    values = _object(found, "scope", path)
    return InstrumentationScope(
        _text(values, "name", f"{path}.scope"),
        _text(values, "version", f"{path}.scope") or None,
        _text(found, "schemaUrl", path) or None,
        _attributes(values, f"{path}.scope"),
    )


def _span(span: Mapping[str, Any], resource: Resource, scope: InstrumentationScope, path: str) -> ReadableSpan:
    flags = _int(span, "flags", path)
    context = _context(span, path, flags)
    parent_id = _parent_id(span, path)
    parent = (
        None
        if parent_id is None
        else SpanContext(context.trace_id, parent_id, bool(flags & IS_REMOTE), context.trace_flags, context.trace_state)
    )
    return ReadableSpan(
        name=_text(span, "name", path),
        context=context,
        parent=parent,
        resource=resource,
        attributes=_attributes(span, path),
        events=tuple(_event(event, event_path) for event_path, event in _items(span, "events", path)),
        links=tuple(_link(link, link_path) for link_path, link in _items(span, "links", path)),
        kind=_one_of(_KINDS, span, "kind", path),
        status=_status(span, path),
        start_time=_int(span, "startTimeUnixNano", path),
        end_time=_int(span, "endTimeUnixNano", path) or None,
        instrumentation_scope=scope,
    )


def _context(
    found: Mapping[str, Any], path: str, flags: int, *, is_remote: bool = False, may_be_none: bool = False
) -> SpanContext:
    header = _text(found, "traceState", path)
    # A link that leads nowhere is kept for what it says (OpenTelemetry trace API, "Link"); a span has its ids.
    return SpanContext(
        _id(found, "traceId", path, 16, may_be_zero=may_be_none),
        _id(found, "spanId", path, 8, may_be_zero=may_be_none),
        is_remote,
        TraceFlags(flags & _W3C_FLAGS),
        TraceState.from_header([header]) if header else None,
    )


def _parent_id(span: Mapping[str, Any], path: str) -> int | None:
    text = _text(span, "parentSpanId", path)
    return _id(span, "parentSpanId", path, 8) if text.strip("0") else None


def _event(event: Mapping[str, Any], path: str) -> Event:
    return Event(_text(event, "name", path), _attributes(event, path), _int(event, "timeUnixNano", path))


def _link(link: Mapping[str, Any], path: str) -> Link:
    flags = _int(link, "flags", path)
    context = _context(link, path, flags, is_remote=bool(flags & IS_REMOTE), may_be_none=True)
    return Link(context, _attributes(link, path))


def _status(span: Mapping[str, Any], path: str) -> SpanStatus:
    found = _object(span, "status", path)
    code: StatusCode = _one_of(_CODES, found, "code", f"{path}.status")
    text = _text(found, "message", f"{path}.status") if "message" in found else None
    # The SDK refuses a text beside any other code.
    return SpanStatus(code, text if code is StatusCode.ERROR else None)


# --- values --------------------------------------------------------------------------------------------------------------


def _attributes(found: Mapping[str, Any], path: str, name: str = "attributes", depth: int = 0) -> dict[str, Any]:
    return {
        _text(pair, "key", pair_path): _value(_object(pair, "value", pair_path), f"{pair_path}.value", depth)
        for pair_path, pair in _items(found, name, path)
    }


def _value(value: Mapping[str, Any], path: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        _fail(path, "values in values, too deep")
    for kind, read in _READERS.items():
        if kind in value:
            return read(value, kind, path)
    if "arrayValue" in value:
        items = _items(_object(value, "arrayValue", path), "values", f"{path}.arrayValue")
        return tuple(_value(item, item_path, depth + 1) for item_path, item in items)
    if "kvlistValue" in value:
        return _attributes(_object(value, "kvlistValue", path), f"{path}.kvlistValue", "values", depth + 1)
    return None


def _bool(found: Mapping[str, Any], name: str, path: str) -> bool:
    value = found[name]
    return value if isinstance(value, bool) else _fail(f"{path}.{name}", "neither true nor false")


def _float(found: Mapping[str, Any], name: str, path: str) -> float:
    try:
        return float(found[name])  # text for what JSON has no number for: "NaN", "Infinity", "-Infinity"
    except (TypeError, ValueError, OverflowError):
        return _fail(f"{path}.{name}", "no number")


def _bytes(found: Mapping[str, Any], name: str, path: str) -> bytes:
    try:
        return base64.b64decode(found[name], validate=True)
    except (TypeError, ValueError):
        return _fail(f"{path}.{name}", "no base64")


def _text(found: Mapping[str, Any], name: str, path: str) -> str:
    value = found.get(name, "")
    return value if isinstance(value, str) else _fail(f"{path}.{name}", "no text")


def _int(found: Mapping[str, Any], name: str, path: str) -> int:
    value = found.get(name, 0)
    try:
        # 64-bit integers are text; numbers are taken, too.
        number = int(value) if isinstance(value, int | str) and not isinstance(value, bool) else None
    except ValueError:
        number = None
    if number is None or not -_MAX - 1 <= number <= _MAX:
        _fail(f"{path}.{name}", "no integer of 64 bits")
    return number


_READERS: Final[Mapping[str, Callable[[Mapping[str, Any], str, str], Any]]] = {
    "stringValue": _text,
    "intValue": _int,
    "doubleValue": _float,
    "boolValue": _bool,
    "bytesValue": _bytes,
}


def _id(found: Mapping[str, Any], name: str, path: str, size: int, *, may_be_zero: bool = False) -> int:
    text = _text(found, name, path)
    try:
        # Hex, as OTLP has it; base64 is what a plain protobuf writer makes of it.
        data = bytes.fromhex(text) if len(text) == 2 * size else base64.b64decode(text, validate=True)
    except ValueError:
        data = b""
    number = int.from_bytes(data, "big")
    if len(data) != size or not (number or may_be_zero):
        _fail(f"{path}.{name}", f"no id of {2 * size} hex digits")
    return number


def _one_of(choices: Any, found: Mapping[str, Any], name: str, path: str) -> Any:
    value = found.get(name, 0)
    for number, spelled, choice in choices:
        if value == spelled or (value == number and isinstance(value, int)):
            return choice
    return _fail(f"{path}.{name}", f"no {name} of OTLP")


def _object(found: Mapping[str, Any], name: str, path: str) -> Mapping[str, Any]:
    value = found.get(name)
    if value is None:
        return {}
    return value if isinstance(value, dict) else _fail(f"{path}.{name}", "no object")


def _items(found: Mapping[str, Any], name: str, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give the objects of a list with their paths."""
    where = f"{path}.{name}" if path else name
    values = found.get(name)
    if not isinstance(values, list | None):
        _fail(where, "no list")
    for number, value in enumerate(values or ()):
        yield f"{where}[{number}]", value if isinstance(value, dict) else _fail(f"{where}[{number}]", "no object")


def _fail(path: str, what: str) -> NoReturn:
    raise TraceFileError(f"{path}: {what}" if path else what)
