"""Our own tracer, one for each run: it records every span and sends each where its run says.

It is not the SDK's provider, which could not do what a run needs: be cheap enough that every node has a durable span,
record whatever `OTEL_SDK_DISABLED` and the host's sampler say, and keep the spans of two runs apart. What it makes are
readable spans as the SDK's exporters and processors take them.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, Tracer
from opentelemetry.util.types import Attributes

from configurable_agents.environ import environment
from configurable_agents.observability.ids import TimeOrderedIdGenerator
from configurable_agents.observability.sampling import ShipSampler, sdk_disabled
from configurable_agents.observability.spans import PARENT_IS_REMOTE, RunSpan

logger = logging.getLogger(__name__)

_RANDOM: Final = 0x02
"""W3C Trace Context level 2: the trace id is random."""
_IDS: Final = TimeOrderedIdGenerator()


class SpanRoute(Protocol):
    """Where the spans of one run go."""

    def on_start(self, span: ReadableSpan) -> None:
        """Take a span that has started."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended."""


class Route(Protocol):
    """Where the spans of one run go first."""

    def on_start(self, span: RunSpan) -> None:
        """Take a span that has started."""

    def on_end(self, span: RunSpan) -> None:
        """Take a span that has ended."""


class RunTracer(Tracer):
    """Makes the spans of one run.

    Args:
        route: Told of every span as it starts and ends; what it raises is logged and goes no further.
    """

    def __init__(self, route: Route) -> None:
        self._route = route

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> RunSpan:
        """Start a span below the one in the context, or as a root."""
        above = trace.get_current_span(context)
        parent: SpanContext | None = above.get_span_context()
        start = time.time_ns() if start_time is None else start_time
        if isinstance(above, RunSpan) and parent is not None:
            # What is shipped of a run is decided once, at its own span, and told in the flags.
            trace_id, _, _, trace_flags, state, _ = parent
            span_id, known = _IDS.generate_span_id(), above.fields
            own = SpanContext(trace_id, span_id, False, trace_flags, state)
            fields = _fields(name, known["trace_id"], span_id, known["span_id"], int(trace_flags), start)
        else:
            parent = parent if parent is not None and parent.is_valid else None
            own, attributes = _first(context, parent, name, kind, attributes)
            above_id = None if parent is None else f"{parent.span_id:016x}"
            flags = own.trace_flags | (PARENT_IS_REMOTE if parent is not None and parent.is_remote else 0)
            fields = _fields(name, f"{own.trace_id:032x}", own.span_id, above_id, flags, start)
        span = RunSpan(name, own, parent, kind, attributes, start, self._ended, fields)
        for link in links or ():
            span.add_link(link.context, link.attributes)
        try:
            self._route.on_start(span)
        except Exception:  # telemetry never breaks a run, and its failure is never silent
            logger.exception("could not handle the start of the span %r", name)
        return span

    @contextmanager
    def start_as_current_span(  # type: ignore[override]  # the API's own kind of context manager is private
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> Iterator[RunSpan]:
        """Start a span, and make it the current one for a `with` block."""
        span = self.start_span(name, context, kind, attributes, links, start_time)
        with trace.use_span(span, end_on_exit, record_exception, set_status_on_exception):
            yield span

    def _ended(self, span: RunSpan) -> None:
        try:
            self._route.on_end(span)
        except Exception:
            logger.exception("could not handle the end of the span %r", span.name)


def _fields(
    name: str, trace_hex: str, span_id: int, parent_hex: str | None, flags: int, start: int
) -> dict[str, str | int | None]:
    return {
        "trace_id": trace_hex,
        "span_id": f"{span_id:016x}",
        "parent_span_id": parent_hex,
        "name": name,
        "start_time_unix_nano": start,
        "trace_flags": flags,
    }


def _first(
    context: Context | None, parent: SpanContext | None, name: str, kind: SpanKind, attributes: Attributes
) -> tuple[SpanContext, Attributes]:
    """Make the identity of a run's own span, with whether it is shipped, and the attributes that a sampler adds."""
    trace_id = _IDS.generate_trace_id() if parent is None else parent.trace_id
    result = _sampler(*_sampling()).should_sample(context, trace_id, name, kind, attributes)
    sampled = TraceFlags.SAMPLED if result.decision is Decision.RECORD_AND_SAMPLE else TraceFlags.DEFAULT
    random = _RANDOM if parent is None else parent.trace_flags & _RANDOM
    flags, state = TraceFlags(sampled | random), result.trace_state
    return SpanContext(trace_id, _IDS.generate_span_id(), False, flags, state), result.attributes


def _sampling() -> tuple[bool, tuple[str | None, ...]]:
    environ = environment()
    return sdk_disabled(), (environ.get("OTEL_TRACES_SAMPLER"), environ.get("OTEL_TRACES_SAMPLER_ARG"))


@functools.lru_cache(maxsize=8)
def _sampler(disabled: bool, _environment: tuple[str | None, ...]) -> ShipSampler:
    return ShipSampler(disabled=disabled)
