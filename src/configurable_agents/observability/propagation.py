"""Where a run's trace comes from and where it goes on to: W3C Trace Context in variables and texts.

Names and meaning of the variables follow the OpenTelemetry specification, "Environment Variables as Context Propagation
Carriers": `TRACEPARENT` and `TRACESTATE` hold what the HTTP headers `traceparent` and `tracestate` would.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from configurable_agents.errors import InputError
from configurable_agents.logs import logger_of

logger = logger_of(__name__)

TRACEPARENT: Final = "TRACEPARENT"
TRACESTATE: Final = "TRACESTATE"
_SHAPE: Final = "'00-' and 32 hex digits, '-', 16 hex digits, '-', 2 hex digits (W3C Trace Context)"

# Not the program's global propagator: it may be set to another format, and baggage is not ours to pass on.
_W3C: Final = TraceContextTextMapPropagator()


def parent_context(traceparent: str | None, environ: Mapping[str, str]) -> Context:
    """Give the context that a run starts in: the current one, with the span that the run belongs below.

    That is the span that `traceparent` names; else the current span; else the one that the environment's `TRACEPARENT`
    (with `TRACESTATE`) names; else none.

    Args:
        traceparent: In the form of the W3C header.
        environ: A malformed value in it is ignored with one warning, as the specification asks.

    Raises:
        InputError: `traceparent` is malformed.
    """
    context = otel_context.get_current()
    if traceparent is not None:
        named = _remote_span(traceparent.strip(), None)
        if named is None:
            raise InputError([f"traceparent {_shown(traceparent)} is malformed: it must be {_SHAPE}"])
        return trace.set_span_in_context(named, context)
    inheritance = environ.get(TRACEPARENT, "").strip()
    if not inheritance or trace.get_current_span(context).get_span_context().is_valid:
        return context
    inherited = _inherited(inheritance, environ.get(TRACESTATE))
    return context if inherited is None else trace.set_span_in_context(inherited, context)


def child_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give the environment for a sub-process whose spans shall belong below the current span.

    For `subprocess.run(..., env=child_environment())` in a node's function: a workflow that the child runs, or any
    program that reads `TRACEPARENT`, then continues this trace. Without a current span nothing of a trace is passed on.

    Args:
        environ: What to begin with; None takes the environment of this process.
    """
    child = {
        name: value
        for name, value in (os.environ if environ is None else environ).items()
        if name not in {TRACEPARENT, TRACESTATE}
    }
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return child | {name.upper(): value for name, value in carrier.items()}


@functools.lru_cache(maxsize=8)
def _inherited(traceparent: str, tracestate: str | None) -> Span | None:
    """Read the environment's value; cached, so that a malformed one is reported once and not with every run."""
    span = _remote_span(traceparent, tracestate)
    if span is None:
        logger.warning(
            "the environment variable TRACEPARENT is ignored: %s is malformed, it must be %s",
            _shown(traceparent),
            _SHAPE,
        )
    return span


def _remote_span(traceparent: str, tracestate: str | None) -> Span | None:
    carrier = {"traceparent": traceparent} | ({"tracestate": tracestate} if tracestate else {})
    span = trace.get_current_span(_W3C.extract(carrier, Context()))
    return span if span.get_span_context().is_valid else None


def _shown(value: str) -> str:
    return repr(value if len(value) <= 80 else value[:80] + "…")
