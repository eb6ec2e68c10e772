"""The span exporter that keeps spans: finished ones as records, running ones as rows that a reader can see."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from configurable_agents import semconv
from configurable_agents.observability.records import to_record
from configurable_agents.observability.writer import Writer
from configurable_agents.semconv import Operation
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.factory import create_storage_backend

logger = logging.getLogger(__name__)


class StoreSpanExporter(SpanExporter):
    """Writes spans into a store through its repositories.

    Without arguments it opens the store that the environment names (`CONFIGURABLE_AGENTS_STORE`, else
    `./workflows.db`) at the first span; so it works behind `OTEL_TRACES_EXPORTER=configurable_agents` in any program.

    Args:
        backend: An open store, the pair of repositories; it stays the caller's to close.
    """

    def __init__(self, backend: StorageBackend | None = None) -> None:
        self._writer = Writer(backend) if backend is not None else None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Keep finished spans: each is committed when this returns, or kept for a store that is away.

        Never raises. FAILURE says that spans were lost, and how many stands in the log.
        """
        try:
            writer = self._open()
            lost_before = writer.dropped_records
            writer.write([to_record(span) for span in spans])
        except Exception:  # the SDK drops the batch and ignores the result: this line is the only witness
            logger.exception("could not store %d spans", len(spans))
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS if writer.dropped_records == lost_before else SpanExportResult.FAILURE

    def record_start(self, span: ReadableSpan) -> None:
        """Keep the start of a run at once, and that of a node if it is still running a moment later."""
        context = span.get_span_context()
        if context is None:
            return
        if (span.attributes or {}).get(semconv.GEN_AI_OPERATION_NAME) == Operation.INVOKE_WORKFLOW:
            self._open().write([to_record(span)])
        else:
            self._open().write_later(f"{context.span_id:016x}", lambda: to_record(span))

    def lacks(self, run_id: str) -> bool:
        """Say whether the store lacks a record of this run."""
        return self._writer is None or self._writer.lacks(run_id)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Try to write what waits for a store that was away; say whether nothing waits any more."""
        return self._writer is None or self._writer.flush(timeout_millis / 1000)

    def shutdown(self) -> None:
        """Write what waits, for a bounded time."""
        if self._writer is not None:
            self._writer.close()

    def _open(self) -> Writer:
        if self._writer is None:
            self._writer = Writer(create_storage_backend())
        return self._writer
