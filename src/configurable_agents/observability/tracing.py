"""Our own tracer, one for each run: it records every span and sends each where its run says.

It is not the SDK's provider, which could not do what a run needs: be cheap enough that every node has a durable span,
record whatever `OTEL_SDK_DISABLED` and the host's sampler say, and keep the spans of two runs apart. What it makes are
readable spans as the SDK's exporters and processors take them.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.util.types import AttributeValue

from configurable_agents.environ import environment
from configurable_agents.observability.ids import TimeOrderedIdGenerator
from configurable_agents.observability.sampling import ShipSampler, sdk_disabled
from configurable_agents.observability.spans import PARENT_IS_REMOTE, RunSpan

if TYPE_CHECKING:
    from configurable_agents.observability.route import RunRoute

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


class RunTracer:
    """Makes the spans of one run.

    Args:
        route: Told of every span as it starts and ends; what it raises is logged and goes no further.
    """

    trace_id: str
    """32 lower-case hex digits; known when the run's own span has started."""

    def __init__(self, route: RunRoute) -> None:
        self._route = route

    def start_run(self, name: str, context: Context, attributes: Mapping[str, AttributeValue]) -> RunSpan:
        """Start the run's own span, as a root or below the span in the context."""
        parent: SpanContext | None = trace.get_current_span(context).get_span_context()
        parent = parent if parent is not None and parent.is_valid else None
        self._root, more = _first(context, parent, name, attributes)
        # What is shipped of a run is decided once, at its own span, and told in the flags.
        self._flags = int(self._root.trace_flags)
        self._has_state = bool(self._root.trace_state)
        self.trace_id = f"{self._root.trace_id:032x}"
        fields = {
            "trace_id": self.trace_id,
            "span_id": f"{self._root.span_id:016x}",
            "parent_span_id": None if parent is None else f"{parent.span_id:016x}",
            "name": name,
            "start_time_unix_nano": time.time_ns(),
            "trace_flags": self._flags | (PARENT_IS_REMOTE if parent is not None and parent.is_remote else 0),
        }
        span = RunSpan(self, parent, dict(more), fields, SpanKind.INTERNAL, trusted=False)
        self._begin(span)
        return span

    def start_below(
        self, above: RunSpan, name: str, attributes: dict[str, AttributeValue], kind: SpanKind, *, trusted: bool
    ) -> RunSpan:
        """Start a span below another one of the run (see `RecordedSpan.begin_child`)."""
        fields = {
            "trace_id": self.trace_id,
            "span_id": f"{_IDS.generate_span_id():016x}",
            "parent_span_id": above.fields["span_id"],
            "name": name,
            "start_time_unix_nano": time.time_ns(),
            "trace_flags": self._flags,
        }
        span = RunSpan(self, above, attributes, fields, kind, trusted=trusted)
        self._begin(span)
        return span

    def context_of(self, span_id: str) -> SpanContext:
        """Give what identifies a span of the run, by its 16 hex digits."""
        root = self._root
        return SpanContext(root.trace_id, int(span_id, 16), False, root.trace_flags, root.trace_state)

    def _begin(self, span: RunSpan) -> None:
        if self._has_state:
            span.is_plain = False
        try:
            self._route.on_start(span)
        except Exception:  # telemetry never breaks a run, and its failure is never silent
            logger.exception("could not handle the start of the span %r", span.name)

    def ended(self, span: RunSpan) -> None:
        """Hand a span on that has ended."""
        try:
            self._route.on_end(span)
        except Exception:
            logger.exception("could not handle the end of the span %r", span.name)


def _first(
    context: Context, parent: SpanContext | None, name: str, attributes: Mapping[str, AttributeValue]
) -> tuple[SpanContext, Mapping[str, AttributeValue]]:
    """Make the identity of a run's own span, with whether it is shipped, and the attributes that a sampler adds."""
    trace_id = _IDS.generate_trace_id() if parent is None else parent.trace_id
    result = _sampler(*_sampling()).should_sample(context, trace_id, name, SpanKind.INTERNAL, attributes)
    sampled = TraceFlags.SAMPLED if result.decision is Decision.RECORD_AND_SAMPLE else TraceFlags.DEFAULT
    random = _RANDOM if parent is None else parent.trace_flags & _RANDOM
    flags, state = TraceFlags(sampled | random), result.trace_state
    return SpanContext(trace_id, _IDS.generate_span_id(), False, flags, state), result.attributes or {}


def _sampling() -> tuple[bool, tuple[str | None, ...]]:
    environ = environment()
    return sdk_disabled(environ), (environ.get("OTEL_TRACES_SAMPLER"), environ.get("OTEL_TRACES_SAMPLER_ARG"))


@functools.lru_cache(maxsize=8)
def _sampler(disabled: bool, _environment: tuple[str | None, ...]) -> ShipSampler:
    return ShipSampler(disabled=disabled)
