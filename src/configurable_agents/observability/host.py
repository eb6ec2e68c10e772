"""Hands our spans to the host's own tracing, where the host has any, as if its provider had made them.

The host's provider is asked for nothing but its resource, its limits and its processors: nothing is added to it, and it
makes none of our spans. Each of our sampled spans gets a twin: a span of the SDK's own class with the same ids, parent,
kind and times, the attributes that may leave, and what is the host's.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Final, NamedTuple

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.trace import Link, NonRecordingSpan, NoOpTracer
from opentelemetry.util.types import AttributeValue

from configurable_agents.logs import logger_of
from configurable_agents.observability.content import ShippedSpan, ShipRules, shippable, shippable_attributes
from configurable_agents.observability.kept import kept_scope
from configurable_agents.observability.spans import SpanRoute
from configurable_agents.semconv import SCOPE_NAME

logger = logger_of(__name__)

_MISSING: Final = (
    "this OpenTelemetry SDK does not tell %s: spans of runs do not reach the program's own exporters; "
    "name an OTLP endpoint for them (OTEL_EXPORTER_OTLP_ENDPOINT, or otlp=)"
)


def host_route(provider: TracerProvider, rules: ShipRules, *, kept: bool) -> SpanRoute | None:
    """Give the route into the host's processors for a run that starts in the current context; None if they cannot be had.

    Args:
        provider: The global tracer provider, which is the SDK's. Another one (a vendor's own, the API's no-op) has no
            processors that take a span which it did not make: with such a host, spans leave through an endpoint of ours.
        rules: What may leave; the host's exporters are as far away as ours.
        kept: Whether a store of ours holds the spans whole: one in the host then leaves out their copies.
    """
    try:
        host = _host(provider)
    except Exception:
        logger.warning("this program's tracer provider failed; spans of runs do not reach its exporters", exc_info=True)
        return None
    return None if host is None else _HostRoute(host, rules, kept=kept)


class _Host:
    """What our spans need of the host's provider."""

    def __init__(self, provider: TracerProvider, processor: SpanProcessor, limits: SpanLimits) -> None:
        self._provider = provider
        self.processor = processor
        self.limits = limits
        self._warned = False

    @property
    def resource(self) -> Resource:
        """The provider's resource as it is now: a forked child gets another process id."""
        return self._provider.resource

    def failed(self, error: Exception) -> None:
        """Note that a processor of the host raised; said once, since it would be said with each span."""
        if not self._warned:
            self._warned = True
            logger.warning("a span processor of this program failed with a span of a run", exc_info=error)


# One is enough, and it is kept: getting a tracer changes the warning filters of the whole process each time.
@functools.lru_cache(maxsize=1)
def _host(provider: TracerProvider) -> _Host | None:
    tracer = provider.get_tracer(SCOPE_NAME)
    if isinstance(tracer, NoOpTracer):
        return None  # OTEL_SDK_DISABLED: the host makes no spans
    # A subclass may give tracers of another class, which do not tell; the provider's own name for it is private.
    processor = getattr(tracer, "span_processor", None) or getattr(provider, "_active_span_processor", None)
    if processor is None:
        logger.warning(_MISSING, "its span processors")
        return None
    limits = getattr(provider, "_span_limits", None)
    if not isinstance(limits, SpanLimits):
        logger.warning("this OpenTelemetry SDK does not tell its span limits: those of the environment apply to runs")
        limits = SpanLimits()
    return _Host(provider, processor, limits)


class _Twin(Span):
    """A span of ours as the host's processors see it; the SDK lets its class be made through a subclass only."""


class _Open(NamedTuple):
    twin: _Twin
    attributes: Mapping[str, AttributeValue]
    """What it was started with."""


class _HostRoute:
    """Shows the host's processors the sampled spans of one run, at their start and at their end."""

    def __init__(self, host: _Host, rules: ShipRules, *, kept: bool) -> None:
        self._host = host
        self._rules = rules
        self._kept = kept
        self._context = otel_context.get_current()
        """Where the run was called: processors read baggage from it."""
        self._open: dict[int, _Open] = {}

    def on_start(self, span: ReadableSpan) -> None:
        """Start the twin; what a processor sets on it stays on it."""
        context = span.get_span_context()
        if context is None or not context.trace_flags.sampled:
            return
        attributes = shippable_attributes(span.attributes, self._rules)
        twin = self._twin(span, attributes)
        self._open[context.span_id] = _Open(twin, attributes)
        try:
            twin.start(start_time=span.start_time, parent_context=self._parent_context(span))
        except Exception as error:  # noqa: BLE001 - a run does not fail because of a foreign processor
            self._host.failed(error)

    def on_end(self, span: ReadableSpan) -> None:
        """End the twin as the span has ended."""
        context = span.get_span_context()
        opened = self._open.pop(context.span_id, None) if context else None
        if opened is None:
            return
        try:
            _finish(opened, shippable(span, self._rules, self._host.resource, kept=self._kept))
        except Exception as error:  # noqa: BLE001 - as above
            self._host.failed(error)

    def _twin(self, span: ReadableSpan, attributes: Mapping[str, AttributeValue]) -> _Twin:
        scope = span.instrumentation_scope
        return _Twin(
            name=span.name,
            context=span.get_span_context(),  # type: ignore[arg-type]  # the caller has looked
            parent=span.parent,
            resource=self._host.resource,
            attributes=attributes,
            # Copies: a span gives the links that it is made with attributes cut to its limits.
            links=[Link(link.context, link.attributes) for link in span.links],
            kind=span.kind,
            span_processor=self._host.processor,
            limits=self._host.limits,
            instrumentation_scope=kept_scope(scope) if self._kept else scope,
        )

    def _parent_context(self, span: ReadableSpan) -> Context:
        """Give the context that the host's own provider would have started the span in."""
        parent = span.parent
        if parent is None or trace.get_current_span(self._context).get_span_context() == parent:
            return self._context
        opened = self._open.get(parent.span_id)
        return trace.set_span_in_context(opened.twin if opened else NonRecordingSpan(parent), self._context)


def _finish(opened: _Open, shipped: ShippedSpan) -> None:
    twin, before = opened.twin, opened.attributes
    # Setting an attribute costs more than comparing it: the SDK checks and cuts each value.
    twin.set_attributes({key: value for key, value in (shipped.attributes or {}).items() if before.get(key) != value})
    for event in shipped.events:
        twin.add_event(event.name, event.attributes, event.timestamp)
    for link in shipped.links[len(twin.links) :]:
        twin.add_link(link.context, link.attributes)
    if twin.name != shipped.name:
        twin.update_name(shipped.name)
    twin.set_status(shipped.status)
    twin.end(end_time=shipped.end_time)
