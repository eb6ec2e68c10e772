"""How the engine writes spans: start with what is known, set the rest at once before the end, always with a status."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind
from opentelemetry.util.types import AttributeValue

from configurable_agents import semconv
from configurable_agents.errors import ExecutionLimitError, MapError, NodeTimeoutError, RunTimeoutError
from configurable_agents.semconv import Status
from configurable_agents.spans import RecordedSpan

MAX_ERROR_CHARACTERS = 10_000
"""An exception's text may hold a whole response; beyond this it is cut."""
MAX_FRAMES = 30
"""The innermost frames tell where it happened."""
WITHHELD: Final = "the error's text is not kept: capture_content is false"
_WITHOUT_CONTENT: Final = (ExecutionLimitError, MapError, NodeTimeoutError, RunTimeoutError)
"""Errors whose texts are our own, and hold no value of the run's."""

_SPAN_KEY: Final = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, Context())))
"""Under which a context has its span: the API does not name it."""


@dataclass(slots=True)  # nobody changes one; making a frozen one takes three times as long, and each run makes one
class Recorder:
    """Makes the spans below one of a run's spans."""

    parent: RecordedSpan
    context: Context
    """Where the run was called, with the parent as the current span."""
    run_id: str
    """An attribute of every span."""
    mask: Callable[[str], str]
    """Hides the known secrets in a text."""
    content: Callable[[Any], str]
    """Gives a value as JSON text, with the known secrets hidden."""

    def start(self, name: str, attributes: Mapping[str, AttributeValue], *, kind: SpanKind) -> RecordedSpan:
        """Start a span below the parent, with the run's id among its attributes."""
        return self.parent.begin_child(name, {semconv.RUN_ID: self.run_id, **attributes}, kind=kind)

    def below(self, span: RecordedSpan) -> Recorder:
        """Make the recorder of a span's children."""
        return replace(self, parent=span, context=with_span(span, self.context))


def with_span(span: Span, context: Context) -> Context:
    """Give a context with a span as the current one.

    As `trace.set_span_in_context`, which calls three functions for it; each node needs one.
    """
    values = context.copy()
    values[_SPAN_KEY] = span
    return Context(values)


def status_of(error: BaseException) -> Status:
    """Say what an exception makes of a node or run (docs/workflow-language.md, "Failure")."""
    return Status.CANCELLED if isinstance(error, asyncio.CancelledError | KeyboardInterrupt) else Status.FAILED


def describe(error: BaseException) -> str:
    """Give an exception's text, whatever its `__str__` does."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a foreign __str__ may raise anything
        text = ""
    text = text or type(error).__name__
    clean = text.encode("utf-8", "backslashreplace").decode()
    return clean if len(clean) <= MAX_ERROR_CHARACTERS else clean[:MAX_ERROR_CHARACTERS] + "…"


def error_type(error: BaseException) -> str:
    """Give the value of `error.type`: the exception's class, with its module unless it is built in."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def record_failure(
    span: Span, error: BaseException, *, mask: Callable[[str], str], capture: bool = True
) -> dict[str, AttributeValue]:
    """Note an exception on a span as an event, and give the attributes that its end needs.

    Args:
        capture: Whether content is kept: the texts of errors repeat values, so without it only their types are.
    """
    status = status_of(error)
    message = mask(describe(error)) if capture or _holds_no_value(error) else WITHHELD
    if status is Status.FAILED:
        # Not `record_exception`: it formats the exception itself, which may raise and may hold secrets.
        trace_text = mask("".join(traceback.format_tb(error.__traceback__, limit=-MAX_FRAMES)))
        event = {
            semconv.EXCEPTION_TYPE: error_type(error),
            semconv.EXCEPTION_MESSAGE: message,
            semconv.EXCEPTION_STACKTRACE: f"{trace_text}{error_type(error)}: {message}",
        }
        span.add_event("exception", event)
    return {
        semconv.STATUS: status.value,
        semconv.ERROR_TYPE: error_type(error),
        semconv.ERROR_MESSAGE: message,
    }


def _holds_no_value(error: BaseException) -> bool:
    # A plain cancellation has no text; one that has got it from whoever cancelled.
    return isinstance(error, _WITHOUT_CONTENT) or (type(error) is asyncio.CancelledError and not error.args)
