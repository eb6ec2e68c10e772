"""Decides what would be shipped. What is kept is another decision: everything."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Final, NamedTuple

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Decision, Sampler
from opentelemetry.sdk.trace.sampling import _get_from_env_or_default as sampler_from_environment
from opentelemetry.trace import SpanContext, SpanKind, TraceState
from opentelemetry.util.types import AttributeValue

from configurable_agents.logs import logger_of
from configurable_agents.observability.spans import plain

logger = logger_of(__name__)


class Sampling(NamedTuple):
    """What was decided of a run."""

    sampled: bool
    """Whether its spans are shipped."""
    state: TraceState | None
    attributes: dict[str, AttributeValue]
    """Those of its own span, with what a sampler adds."""


def sampler_of(host: TracerProvider | None, environ: Mapping[str, str]) -> Sampler | None:
    """Give what decides of runs that have no parent: the host's sampler, else what `OTEL_TRACES_SAMPLER` names.

    None where `OTEL_SDK_DISABLED` is true: nothing is shipped then, and the store is complete all the same.

    Args:
        host: The SDK's provider that the program has set up.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    try:
        return host.sampler if host is not None else _own_sampler(*map(environ.get, _VARIABLES))
    except Exception:
        logger.warning(_FAILED, exc_info=True)
        return ALWAYS_OFF


def sample(
    sampler: Sampler | None,
    context: Context,
    parent: SpanContext | None,
    trace_id: int,
    name: str,
    attributes: dict[str, AttributeValue],
) -> Sampling:
    """Decide of a run whether it is shipped: by the parent's flag, else by the sampler.

    Of a run that is not, the sampled flag is unset, so that a host's sampling is not switched on through our spans.

    Args:
        sampler: What `sampler_of` gave.
        parent: The span in the context, if it is valid.
    """
    if parent is not None:
        return Sampling(parent.trace_flags.sampled and sampler is not None, parent.trace_state, attributes)
    if sampler is None or sampler is ALWAYS_ON:  # as mostly
        return Sampling(sampler is not None, None, attributes)
    try:
        # It gets a copy: it may be foreign code.
        result = sampler.should_sample(context, trace_id, name, SpanKind.INTERNAL, attributes.copy())
        sampled, state, given = result.decision is Decision.RECORD_AND_SAMPLE, result.trace_state, result.attributes
        # It may add how much a sampled span stands for; of one that it drops it gives no attributes at all.
        added = {**attributes, **plain(given)} if sampled and given and given != attributes else attributes
    except Exception:
        logger.warning(_FAILED, exc_info=True)
        return Sampling(False, None, attributes)
    return Sampling(sampled, state, added)


_VARIABLES: Final = ("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG")
_FAILED: Final = "the host's sampler raised; this run is kept but not shipped"


@functools.lru_cache(maxsize=8)
def _own_sampler(name: str | None, _argument: str | None) -> Sampler:
    # The default, `parentbased_always_on`, comes to this: it is asked only where there is no parent.
    return ALWAYS_ON if name is None else sampler_from_environment()
