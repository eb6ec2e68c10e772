"""OTLP messages as plain values, for tests to compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


@dataclass(frozen=True)
class ReceivedEvent:
    """An event of a span."""

    name: str
    time_unix_nano: int
    attributes: dict[str, Any]


@dataclass(frozen=True)
class ReceivedLink:
    """A link of a span; ids are lower-case hex."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it was on the wire; ids are lower-case hex, arrays are tuples."""

    name: str
    kind: str
    """As `INTERNAL` or `CLIENT`."""
    trace_id: str
    span_id: str
    parent_span_id: str | None
    start_time_unix_nano: int
    end_time_unix_nano: int
    attributes: dict[str, Any]
    status: str
    """`UNSET`, `OK` or `ERROR`."""
    status_message: str
    events: tuple[ReceivedEvent, ...]
    links: tuple[ReceivedLink, ...]
    flags: int
    trace_state: str
    scope: str
    scope_version: str
    resource: dict[str, Any]


@dataclass(frozen=True)
class ReceivedPoint:
    """A data point; what its kind has not is empty."""

    attributes: dict[str, Any]
    value: int | float | None = None
    count: int = 0
    sum: float = 0
    bounds: tuple[float, ...] = ()
    buckets: tuple[int, ...] = ()


@dataclass(frozen=True)
class ReceivedMetric:
    """A metric of one request."""

    name: str
    description: str
    unit: str
    kind: str
    """`histogram`, `sum`, `gauge`, or what else OTLP calls it."""
    points: tuple[ReceivedPoint, ...]
    temporality: str | None
    """`DELTA`, `CUMULATIVE`, or None where the kind has none."""
    monotonic: bool
    scope: str
    resource: dict[str, Any]


def spans_of(request: ExportTraceServiceRequest) -> Iterator[ReceivedSpan]:
    """Give the spans of a request."""
    for of_resource in request.resource_spans:
        resource = attributes_of(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield _span(span, of_scope.scope.name, of_scope.scope.version, resource)


def metrics_of(request: ExportMetricsServiceRequest) -> Iterator[ReceivedMetric]:
    """Give the metrics of a request."""
    for of_resource in request.resource_metrics:
        resource = attributes_of(of_resource.resource.attributes)
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                yield _metric(metric, of_scope.scope.name, resource)


def attributes_of(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """Give attributes as a dict; a key that stands twice is an error of the sender."""
    found: dict[str, Any] = {}
    for pair in pairs:
        assert pair.key not in found, f"{pair.key} stands twice"
        found[pair.key] = value_of(pair.value)
    return found


def value_of(value: AnyValue) -> Any:
    """Give a value with the type that it had on the wire."""
    which = value.WhichOneof("value")
    if which == "array_value":
        return tuple(value_of(one) for one in value.array_value.values)
    if which == "kvlist_value":
        return attributes_of(value.kvlist_value.values)
    return None if which is None else getattr(value, which)


def _span(span: Span, scope: str, version: str, resource: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex() or None,
        start_time_unix_nano=span.start_time_unix_nano,
        end_time_unix_nano=span.end_time_unix_nano,
        attributes=attributes_of(span.attributes),
        status=Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        status_message=span.status.message,
        events=tuple(ReceivedEvent(e.name, e.time_unix_nano, attributes_of(e.attributes)) for e in span.events),
        links=tuple(ReceivedLink(k.trace_id.hex(), k.span_id.hex(), attributes_of(k.attributes)) for k in span.links),
        flags=span.flags,
        trace_state=span.trace_state,
        scope=scope,
        scope_version=version,
        resource=resource,
    )


def _metric(metric: Metric, scope: str, resource: dict[str, Any]) -> ReceivedMetric:
    kind = metric.WhichOneof("data") or ""
    data: Any = getattr(metric, kind)
    temporality = getattr(data, "aggregation_temporality", None)
    return ReceivedMetric(
        name=metric.name,
        description=metric.description,
        unit=metric.unit,
        kind=kind,
        points=tuple(_point(point) for point in data.data_points),
        temporality=None
        if temporality is None
        else AggregationTemporality.Name(temporality).removeprefix("AGGREGATION_TEMPORALITY_"),
        monotonic=bool(getattr(data, "is_monotonic", False)),
        scope=scope,
        resource=resource,
    )


def _point(point: Any) -> ReceivedPoint:
    attributes = attributes_of(point.attributes)
    if hasattr(point, "bucket_counts"):
        bounds, buckets = tuple(point.explicit_bounds), tuple(point.bucket_counts)
        return ReceivedPoint(attributes, count=point.count, sum=point.sum, bounds=bounds, buckets=buckets)
    which = point.WhichOneof("value")
    return ReceivedPoint(attributes, value=getattr(point, which) if which else None)
