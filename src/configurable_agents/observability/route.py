"""Where the spans of one run go: to the store's exporter, and to whoever watches the run."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan

from configurable_agents import semconv
from configurable_agents.observability.exporter import StoreSpanExporter
from configurable_agents.observability.tracing import SpanRoute
from configurable_agents.semconv import Operation

logger = logging.getLogger(__name__)

_ROWS_OF_THEIR_OWN = frozenset({Operation.INVOKE_WORKFLOW, Operation.EXECUTE_NODE})


class RunRoute:
    """Keeps a run's spans and shows them to its observers."""

    def __init__(self, exporter: StoreSpanExporter | None, observers: Sequence[SpanRoute] = ()) -> None:
        self._exporter = exporter
        self._observers = observers
        self._held: list[ReadableSpan] = []
        """Finished model calls: they are written with their node, in one commit."""

    def on_start(self, span: ReadableSpan) -> None:
        """Keep the start of a run or node."""
        if self._exporter is not None and _operation(span) in _ROWS_OF_THEIR_OWN:
            self._exporter.record_start(span)
        self._tell("on_start", span)

    def on_end(self, span: ReadableSpan) -> None:
        """Keep the finished span; that of a node or run with the model calls before it."""
        if self._exporter is not None:
            self._held.append(span)
            if _operation(span) in _ROWS_OF_THEIR_OWN:
                spans, self._held = self._held, []
                self._exporter.export(spans)
        self._tell("on_end", span)

    def _tell(self, what: str, span: ReadableSpan) -> None:
        for observer in self._observers:
            try:
                getattr(observer, what)(span)
            except Exception:  # who watches a run does not change it
                logger.exception("an observer of the run failed")


def _operation(span: ReadableSpan) -> object:
    return (span.attributes or {}).get(semconv.GEN_AI_OPERATION_NAME)
