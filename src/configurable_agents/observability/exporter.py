"""The span exporter that keeps spans: finished ones as records, running ones as rows that a reader can see."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from configurable_agents.logs import logger_of
from configurable_agents.observability.kept import is_kept
from configurable_agents.observability.records import to_record
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.factory import locate, open_writer, store_target
from configurable_agents.storage.records import DeliveryRecord, NodeStart, Record, RunId
from configurable_agents.storage.writer import Writer

logger = logger_of(__name__)


class StoreSpanExporter(SpanExporter):
    """Writes spans into a store through its repositories.

    Without arguments it opens the store that the environment names (`CONFIGURABLE_AGENTS_STORE`, else
    `./workflows.db`) at the first span; so it works behind `OTEL_TRACES_EXPORTER=configurable_agents` in any program.

    Args:
        backend: An open store, the pair of repositories; it stays the caller's to close. It has no journal.
        writer: The way into a store, with its journal.
    """

    named: str | None = None
    """What `--store` takes for this store; None where a command finds it without."""

    def __init__(self, backend: StorageBackend | None = None, *, writer: Writer | None = None) -> None:
        self._writer = Writer(None, journals=backend.journals, backend=backend) if backend is not None else writer

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Keep finished spans: when this returns, each is in the journal and survives the process.

        Never raises. FAILURE says that spans were lost, and how many stands in the log.
        """
        try:
            writer = self._open()
            lost_before = writer.dropped_records
            # A filtered copy, which a host's provider hands on, would take the place of what the run itself has kept.
            writer.write([to_record(span) for span in spans if not is_kept(span)])
        except Exception:  # the SDK drops the batch and ignores the result: this line is the only witness
            logger.exception("could not store %d spans", len(spans))
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS if writer.dropped_records == lost_before else SpanExportResult.FAILURE

    def record(self, records: Sequence[Record | NodeStart]) -> None:
        """Keep what spans of a run have left, in one write. Never raises."""
        try:
            (self._writer or self._open()).write(records)
        except Exception:  # telemetry never breaks a run: this line is the only witness
            logger.warning("could not store %d spans at once", len(records), exc_info=True)
            self._record_again(records)

    def _record_again(self, records: Sequence[Record | NodeStart]) -> None:
        """Write once more: it may have been a signal's handler that raised. What is written twice is kept once."""
        try:
            self._open().write(records)
        except Exception:
            logger.exception("could not store %d spans", len(records))

    def mark_delivered(self, run_id: RunId, destination: str) -> None:
        """Note that every span of a run has been delivered, so that nobody delivers it there again.

        Never raises, and may be called from any thread; without the mark the run is delivered twice, which is harmless.
        """
        mark = DeliveryRecord(run_id=run_id, destination=destination, delivered_at_unix_nano=time.time_ns())
        try:
            self._open().write([mark])
        except Exception:  # whoever delivers spans has nobody to tell
            logger.exception("could not note that run %s was delivered to %s", run_id, destination)

    def commit(self, run_id: str, seconds: float) -> None:
        """Have a run's records committed at once and wait for it, on this thread; for so long at most."""
        if self._writer is not None:
            self._writer.commit(run_id, seconds)

    def commit_here(self) -> bool:
        """Commit some of what waits, if that can be done at once, without waiting for others; say whether it was."""
        return self._writer is not None and self._writer.commit_here()

    @property
    def expects_company(self) -> bool:
        """Whether little waits to be committed, and other runs go on, of which some may end in a moment."""
        return self._writer is not None and self._writer.expects_company

    def waits_for(self, run_id: str) -> bool:
        """Say whether a record of this run is not committed yet, and will be."""
        return self._writer is not None and self._writer.waits_for(run_id)

    def when_tried(self, run_id: str, call: Callable[[], object]) -> bool:
        """Have what waits committed at once and be told when that was tried; True if there is nothing to wait for."""
        return self._writer is None or self._writer.when_tried(run_id, call)

    @property
    def is_open(self) -> bool:
        """Whether the store has been opened; a first run waits for that a little longer than for a commit."""
        return self._writer is not None and self._writer.is_open

    def stop_waiting(self) -> None:
        """Have nobody wait for the store until a commit succeeds."""
        if self._writer is not None:
            self._writer.stop_waiting()

    @property
    def is_away(self) -> bool:
        """Whether the store missed the last try to write into it."""
        return self._writer is not None and self._writer.is_away

    def lacks(self, run_id: str) -> bool:
        """Say whether the database lacks a record of this run."""
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
            self._writer = open_writer(locate(store_target(None, os.environ, None)))
        return self._writer
