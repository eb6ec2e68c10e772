"""Watches a run and keeps its records, so that its tree can be shown whether or not a store holds it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from configurable_agents.cli.tree import RunView
from configurable_agents.storage.records import ExecutionStateRecord, Record, SpanRecord, WorkflowRunRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


class Collector:
    """Keeps the record of each span, as a `RunObserver`; an ended span replaces the started one."""

    def __init__(self) -> None:
        self._spans: dict[int, ReadableSpan] = {}
        self._lock = threading.Lock()

    def on_start(self, span: ReadableSpan) -> None:
        """Take a span that has started."""
        self._keep(span)

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended."""
        self._keep(span)

    def _keep(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        if context is not None:
            with self._lock:
                self._spans[context.span_id] = span

    def view(self) -> RunView | None:
        """Give what was seen of the run; None if it did not begin."""
        from configurable_agents.observability.records import to_record

        with self._lock:
            records: list[Record] = [to_record(span) for span in self._spans.values()]
        run = next((record for record in records if isinstance(record, WorkflowRunRecord)), None)
        if run is None:
            return None
        nodes = [record for record in records if isinstance(record, ExecutionStateRecord)]
        return RunView(
            run,
            sorted(nodes, key=lambda node: node.seq),
            sorted((r for r in records if isinstance(r, SpanRecord)), key=lambda span: span.start_time_unix_nano),
            time.time_ns(),
        )
