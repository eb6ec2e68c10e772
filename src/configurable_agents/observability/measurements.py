"""Our metrics, and what a finished span adds to them. Pure, and cheap to import: it knows no SDK."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import NonRecordingSpan, SpanContext, set_span_in_context
from opentelemetry.util.types import AttributeValue

from configurable_agents import semconv
from configurable_agents.semconv import Operation, TokenType


@dataclass(frozen=True, slots=True)
class Instrument:
    """One of our metrics, before any SDK."""

    name: str
    kind: Literal["histogram", "counter"]
    unit: str
    """In UCUM, as OpenTelemetry wants it."""
    description: str
    boundaries: tuple[float, ...] = ()
    """Of a histogram: upper bounds of its buckets, as the conventions give them."""


OPERATION_DURATION: Final = Instrument(
    semconv.METRIC_OPERATION_DURATION,
    "histogram",
    "s",
    "How long one model call took, its retries included.",
    (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
)
TOKEN_USAGE: Final = Instrument(
    semconv.METRIC_TOKEN_USAGE,
    "histogram",
    "{token}",
    "Tokens that one model call used.",
    tuple(float(4**power) for power in range(14)),
)
WORKFLOW_DURATION: Final = Instrument(
    semconv.METRIC_WORKFLOW_DURATION,
    "histogram",
    "s",
    "How long one run of a workflow took.",
    (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200),
)
RUNS: Final = Instrument(semconv.METRIC_RUNS, "counter", "{run}", "Runs that ended, by what became of them.")
COST: Final = Instrument(
    semconv.METRIC_COST, "counter", "USD", "What model calls cost, as far as their price is known."
)
UNPRICED_CALLS: Final = Instrument(
    semconv.METRIC_UNPRICED_CALLS,
    "counter",
    "{call}",
    "Model calls whose price is not known: they are not in the cost.",
)
INSTRUMENTS: Final = (OPERATION_DURATION, TOKEN_USAGE, WORKFLOW_DURATION, RUNS, COST, UNPRICED_CALLS)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One value for one instrument."""

    instrument: Instrument
    value: int | float
    attributes: Mapping[str, AttributeValue]
    span: SpanContext | None = None
    """Whose value it is: an exemplar leads from a histogram's bucket to such a span, where that is sampled."""

    @property
    def context(self) -> Context | None:
        """The context that an SDK takes an exemplar from."""
        return None if self.span is None else set_span_in_context(NonRecordingSpan(self.span), Context())


# --- what a span says: pure ----------------------------------------------------------------------------------------------

_OF_A_CALL: Final = (
    semconv.GEN_AI_OPERATION_NAME,
    semconv.GEN_AI_PROVIDER_NAME,
    semconv.GEN_AI_REQUEST_MODEL,
    semconv.GEN_AI_RESPONSE_MODEL,
    semconv.SERVER_ADDRESS,
    semconv.SERVER_PORT,
)
"""Attributes of a model call that its metrics share: all of few values, and no id among them."""
_TOKENS: Final = {
    semconv.GEN_AI_USAGE_INPUT_TOKENS: TokenType.INPUT.value,
    semconv.GEN_AI_USAGE_OUTPUT_TOKENS: TokenType.OUTPUT.value,
}


def measurements(span: ReadableSpan, workflow: str | None) -> Iterator[Measurement]:
    """Say what a finished span adds: that of a model call or a run; a node has no metric of its own.

    Args:
        workflow: The name of the workflow that the span's run is one of.
    """
    operation = (span.attributes or {}).get(semconv.GEN_AI_OPERATION_NAME)
    if operation == Operation.CHAT:
        yield from _call(span, workflow)
    elif operation == Operation.INVOKE_WORKFLOW:
        yield from _run(span, workflow)


def _call(span: ReadableSpan, workflow: str | None) -> Iterator[Measurement]:
    said = span.attributes or {}
    shared = {key: said[key] for key in _OF_A_CALL if key in said} | _workflow(workflow)
    context = span.get_span_context()
    yield Measurement(OPERATION_DURATION, _seconds(span), shared | _error(span), context)
    for key, kind in _TOKENS.items():
        tokens = said.get(key)
        if isinstance(tokens, int):
            yield Measurement(TOKEN_USAGE, tokens, {**shared, semconv.GEN_AI_TOKEN_TYPE: kind}, context)
    cost, unpriced = said.get(semconv.COST_USD), said.get(semconv.UNPRICED_CALLS)
    if isinstance(cost, float):
        yield Measurement(COST, cost, shared)
    elif isinstance(unpriced, int):
        yield Measurement(UNPRICED_CALLS, unpriced, shared)


def _run(span: ReadableSpan, workflow: str | None) -> Iterator[Measurement]:
    status = (span.attributes or {}).get(semconv.STATUS)
    yield Measurement(WORKFLOW_DURATION, _seconds(span), _workflow(workflow) | _error(span), span.get_span_context())
    if status is not None:
        yield Measurement(RUNS, 1, {**_workflow(workflow), semconv.STATUS: status})


def _workflow(name: str | None) -> dict[str, AttributeValue]:
    return {} if name is None else {semconv.GEN_AI_WORKFLOW_NAME: name}


def _error(span: ReadableSpan) -> dict[str, AttributeValue]:
    kind = (span.attributes or {}).get(semconv.ERROR_TYPE)
    return {} if kind is None else {semconv.ERROR_TYPE: kind}


def _seconds(span: ReadableSpan) -> float:
    """Give the duration on the monotonic clock; the span's times are on a clock that somebody may set."""
    measured = (span.attributes or {}).get(semconv.DURATION_SECONDS)
    if isinstance(measured, float):
        return measured
    return max(0, (span.end_time or 0) - (span.start_time or 0)) / 1e9
