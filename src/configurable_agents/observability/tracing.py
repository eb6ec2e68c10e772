"""Starts the trace of a run: every span of it is recorded, and goes where its run says.

It is not the SDK's provider, which could not do what a run needs: be cheap enough that every node has a durable span,
record whatever `OTEL_SDK_DISABLED` and the host's sampler say, and keep the spans of two runs apart. What it makes are
readable spans as the SDK's exporters and processors take them.
"""

from __future__ import annotations

import time
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import SpanContext, TraceFlags
from opentelemetry.util.types import AttributeValue

from configurable_agents.observability.ids import IDS
from configurable_agents.observability.records import scope_text
from configurable_agents.observability.sampling import sample
from configurable_agents.observability.spans import PARENT_IS_REMOTE, SCOPE, RunSpan, RunTrace, SpanKeeper

_RANDOM: Final = 0x02
"""W3C Trace Context level 2: the trace id is random."""
_SCOPE_TEXT: Final = scope_text(SCOPE)


def start_run(
    keeper: SpanKeeper,
    name: str,
    context: Context,
    attributes: dict[str, AttributeValue],
    sampler: Sampler | None = None,
) -> RunSpan:
    """Start the span of a run, as a root or below the span in the context.

    Args:
        keeper: Told of each span of the run as it starts and ends.
        attributes: Plain ones; the span takes the dict over.
        sampler: Decides of a root whether it is shipped (`sampling.sampler_of`); without one nothing is.
    """
    parent: SpanContext | None = trace.get_current_span(context).get_span_context()
    parent = parent if parent is not None and parent.is_valid else None
    trace_id = IDS.generate_trace_id() if parent is None else parent.trace_id
    random = _RANDOM if parent is None else parent.trace_flags & _RANDOM
    sampled, state, more = sample(sampler, context, parent, trace_id, name, attributes)
    flags = (TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT) | random
    now = time.time_ns()
    run = RunTrace(keeper, f"{trace_id:032x}", flags, state, state.to_header() if state else None)
    fields = {
        "trace_id": run.trace_id,
        "span_id": IDS.generate_span_id(now),
        "parent_span_id": None if parent is None else f"{parent.span_id:016x}",
        "name": name,
        "start_time_unix_nano": now,
        "trace_flags": flags | (PARENT_IS_REMOTE if parent is not None and parent.is_remote else 0),
        "scope_json": _SCOPE_TEXT,
    }
    if run.header is not None:
        fields["trace_state"] = run.header
    span = RunSpan(run, parent, more, fields)
    keeper.on_start(span)
    return span
