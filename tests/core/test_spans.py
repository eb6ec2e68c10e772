"""What a node's code finds around it."""

from __future__ import annotations

from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext

from configurable_agents.core.spans import with_span


def test_a_context_with_a_span_is_the_one_that_the_api_makes() -> None:
    span = NonRecordingSpan(SpanContext(1, 2, is_remote=False))
    before = baggage.set_baggage("who", "we", trace.set_span_in_context(trace.INVALID_SPAN, Context()))
    made = with_span(span, before)
    assert made == trace.set_span_in_context(span, before)
    assert trace.get_current_span(made) is span
    assert baggage.get_baggage("who", made) == "we"
