"""Our own tracer provider: it records every span, is never the global one, and sends each span where its run says."""

from __future__ import annotations

import functools
import logging
import os
from typing import Protocol

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.trace import NoOpTracer, Tracer

from configurable_agents._version import __version__
from configurable_agents.observability.ids import TimeOrderedIdGenerator
from configurable_agents.observability.sampling import ShipSampler, sdk_disabled
from configurable_agents.semconv import SCOPE_NAME

logger = logging.getLogger(__name__)

_ROUTE_KEY = otel_context.create_key("configurable-agents-route")


class SpanRoute(Protocol):
    """Where the spans of one run go."""

    def on_start(self, span: ReadableSpan) -> None:
        """Take a span that has started."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended."""


def routed(route: SpanRoute, context: Context | None = None) -> Context:
    """Give a context whose spans, and theirs below, go to the route."""
    return otel_context.set_value(_ROUTE_KEY, route, context)


class RoutingProcessor(SpanProcessor):
    """Hands each span to the route in its context, at its start and its end.

    One provider serves all runs of the process (a provider a run would cost 40 µs and leave a fork handler behind);
    the route tells the runs apart.
    """

    def __init__(self) -> None:
        self._routes: dict[int, SpanRoute] = {}

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Remember the route until the span's end, which has no context."""
        route = otel_context.get_value(_ROUTE_KEY, parent_context)
        context = span.get_span_context()
        if route is None or context is None:
            return
        self._routes[context.span_id] = route  # type: ignore[assignment]  # what the key holds is ours
        self._guarded("start", self._routes[context.span_id].on_start, span)

    def on_end(self, span: ReadableSpan) -> None:
        """Hand the finished span on."""
        context = span.get_span_context()
        route = self._routes.pop(context.span_id, None) if context else None
        if route is not None:
            self._guarded("end", route.on_end, span)

    @staticmethod
    def _guarded(what: str, call: object, span: ReadableSpan) -> None:
        try:
            call(span)  # type: ignore[operator]  # a bound method of the route
        except Exception:  # telemetry never breaks a run, and its failure is never silent
            logger.exception("could not handle the %s of the span %r", what, span.name)


def get_tracer() -> Tracer:
    """Give the tracer of our private provider, made as the environment says now."""
    environment = tuple(os.environ.get(name) for name in ("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"))
    return _tracer(sdk_disabled(), environment)


@functools.lru_cache(maxsize=8)
def _tracer(disabled: bool, _environment: tuple[str | None, ...]) -> Tracer:
    unset = SpanLimits.UNSET
    provider = TracerProvider(
        sampler=ShipSampler(disabled=disabled),
        shutdown_on_exit=False,
        id_generator=TimeOrderedIdGenerator(),
        # A limit would cut what the store keeps; what is shipped has caps of its own.
        span_limits=SpanLimits(
            max_span_attributes=unset,
            max_span_attribute_length=unset,
            max_attribute_length=unset,
            max_events=unset,
            max_links=unset,
            max_attributes=unset,
            max_event_attributes=unset,
            max_link_attributes=unset,
        ),
    )
    if disabled:
        # The SDK would hand out no-op tracers, and the store would stay empty.
        if hasattr(provider, "_disabled"):
            provider._disabled = False  # noqa: SLF001 - there is no public way; a test on the SDKs we support guards it
        else:
            logger.warning(
                "OTEL_SDK_DISABLED is set and this OpenTelemetry SDK cannot be told otherwise: runs leave no trace"
            )
    provider.add_span_processor(RoutingProcessor())
    return provider.get_tracer(SCOPE_NAME, __version__)


def is_recording(tracer: Tracer) -> bool:
    """Say whether spans of the tracer are recorded at all."""
    return not isinstance(tracer, NoOpTracer)
