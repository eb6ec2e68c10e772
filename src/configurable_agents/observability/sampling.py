"""Decides what would be shipped. What is kept is another decision: everything."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, Sampler
from opentelemetry.sdk.trace.sampling import _get_from_env_or_default as sampler_from_environment
from opentelemetry.trace import SpanContext, SpanKind, TraceState
from opentelemetry.util.types import AttributeValue

from configurable_agents.environ import environment

logger = logging.getLogger(__name__)


class Sampling(NamedTuple):
    """What was decided of a run."""

    sampled: bool
    """Whether its spans are shipped."""
    state: TraceState | None
    attributes: Mapping[str, AttributeValue]
    """Those of its own span, with what a sampler adds."""


def sample(
    context: Context,
    parent: SpanContext | None,
    trace_id: int,
    name: str,
    attributes: Mapping[str, AttributeValue],
) -> Sampling:
    """Decide of a run whether it is shipped.

    Asked are, in this order: the parent's flag, the host's sampler if the host has an SDK provider, and
    `OTEL_TRACES_SAMPLER`. Of a run that is not, the sampled flag is unset, so that a host's sampling is not switched on
    through our spans.

    Args:
        parent: The span in the context, if it is valid.
    """
    environ = environment()
    if parent is not None:
        return Sampling(parent.trace_flags.sampled and not sdk_disabled(environ), parent.trace_state, attributes)
    if sdk_disabled(environ):
        return Sampling(False, None, attributes)
    host = trace.get_tracer_provider()
    try:
        sampler = host.sampler if isinstance(host, TracerProvider) else _own_sampler(*_choice(environ))
        result = sampler.should_sample(context, trace_id, name, SpanKind.INTERNAL, attributes)
        sampled, state = result.decision is Decision.RECORD_AND_SAMPLE, result.trace_state
        # It may add how much a sampled span stands for; of one that it drops it gives no attributes at all.
        added = dict(attributes) | dict(result.attributes or {}) if sampled else attributes
    except Exception:
        logger.warning("the host's sampler raised; this run is kept but not shipped", exc_info=True)
        return Sampling(False, None, attributes)
    return Sampling(sampled, state, added)


def _choice(environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    return environ.get("OTEL_TRACES_SAMPLER"), environ.get("OTEL_TRACES_SAMPLER_ARG")


@functools.lru_cache(maxsize=8)
def _own_sampler(_name: str | None, _argument: str | None) -> Sampler:
    return sampler_from_environment()


def sdk_disabled(environ: Mapping[str, str]) -> bool:
    """Say whether `OTEL_SDK_DISABLED` is true: then nothing is shipped, and the store is complete all the same."""
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
