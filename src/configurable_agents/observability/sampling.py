"""Decides what would be shipped. What is kept is another decision: everything."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.sdk.trace.sampling import _get_from_env_or_default as sampler_from_environment
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

logger = logging.getLogger(__name__)


class ShipSampler(Sampler):
    """Records every span, and sets the sampled flag where the span would be shipped.

    Asked are, in this order: the parent's flag, the host's sampler if the host has an SDK provider, and
    `OTEL_TRACES_SAMPLER`. A DROP becomes RECORD_ONLY with the start attributes kept and the flag unset, so that
    a host's sampling is not switched on through our spans.
    """

    def __init__(self, *, disabled: bool) -> None:
        self._disabled = disabled
        self._own = sampler_from_environment()

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Give RECORD_AND_SAMPLE or RECORD_ONLY, never DROP."""
        parent = trace.get_current_span(parent_context).get_span_context()
        state = parent.trace_state if parent.is_valid else None
        if self._disabled:
            sampled = False
        elif parent.is_valid:
            sampled = parent.trace_flags.sampled
        else:
            sampled, state, attributes = self._root(parent_context, trace_id, name, kind, attributes, links)
        decision = Decision.RECORD_AND_SAMPLE if sampled else Decision.RECORD_ONLY
        return SamplingResult(decision, attributes, state)

    def _root(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None,
        attributes: Attributes,
        links: Sequence[Link] | None,
    ) -> tuple[bool, TraceState | None, Attributes]:
        host = trace.get_tracer_provider()
        try:
            sampler = host.sampler if isinstance(host, TracerProvider) else self._own
            result = sampler.should_sample(parent_context, trace_id, name, kind, attributes, links)
            sampled = result.decision is Decision.RECORD_AND_SAMPLE
            # A sampler may add how much a sampled span stands for; of one that it drops it gives no attributes at all.
            added = dict(attributes or {}) | dict(result.attributes or {}) if sampled else attributes
            state = result.trace_state
        except Exception:
            logger.warning("the host's sampler raised; this run is kept but not shipped", exc_info=True)
            return False, None, attributes
        return sampled, state, added

    def get_description(self) -> str:
        """Name the sampler."""
        return f"ShipSampler(own={self._own.get_description()}, disabled={self._disabled})"


def sdk_disabled(environ: Mapping[str, str]) -> bool:
    """Say whether `OTEL_SDK_DISABLED` is true: then nothing is shipped, and the store is complete all the same."""
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
