"""Brings records into the store at once where it can, and keeps them for later where it can't. It never raises.

This is the seam for the journal: what stands behind `Writer.write` decides how durable a record is when it returns.
Today that is a commit, bounded in time; records that a store could not take wait in memory and are tried again by a
thread that lives only while there is something to do.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from configurable_agents.errors import StorageError
from configurable_agents.storage.base import Record, SpanRecord, StorageBackend

logger = logging.getLogger(__name__)

COMMIT_WAIT_SECONDS: Final = 0.25
"""How long a record waits for another thread's commit before it is left to that thread."""
START_DELAY_SECONDS: Final = 0.1
"""A node that runs longer than this gets a row that shows it running; most end before."""
RETRY_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses between tries while the store is away; the last one repeats."""
EXIT_SECONDS: Final = 0.5
"""How long the end of the process waits for a store that is away."""
MAX_PENDING_BYTES: Final = 64 * 1024 * 1024
"""What may wait in memory for a store that is away."""


@dataclass(frozen=True, slots=True)
class _Start:
    """A span that runs, and when its row is due."""

    due: float
    record: Callable[[], Record]


class Writer:
    """The way of all records of one process into one store."""

    def __init__(self, backend: StorageBackend) -> None:
        self._backend = backend
        self._pending: deque[Record] = deque()
        self._pending_bytes = 0
        self._dropped_runs: set[str] = set()
        self.dropped_records = 0
        """Records that the store never got: it was away for too long, or refused them."""
        self._away = False
        self._starts: dict[str, _Start] = {}
        self._state_lock = threading.Lock()
        self._commit_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._pid = os.getpid()
        _drain_at_exit(self)

    def write(self, records: Sequence[Record]) -> None:
        """Commit records, or keep them if the store is away: after one miss nothing waits until a commit succeeds."""
        self._after_fork()
        with self._state_lock:
            for record in records:
                self._starts.pop(record.span_id, None)
                self._keep(record)
            away = self._away
        if away:
            self._start_thread()
        else:
            self._commit(COMMIT_WAIT_SECONDS)

    def write_later(self, span_id: str, record: Callable[[], Record]) -> None:
        """Show a running span in the store, if it is still running when that is worth a commit."""
        self._after_fork()
        with self._state_lock:
            self._starts[span_id] = _Start(time.monotonic() + START_DELAY_SECONDS, record)
            first = len(self._starts) == 1
        if first:
            self._start_thread()

    def flush(self, seconds: float) -> bool:
        """Try to bring everything into the store within `seconds`; say whether nothing waits any more."""
        deadline = time.monotonic() + seconds
        while self._pending:
            if not self._commit(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                return False
            if self._pending:
                time.sleep(min(0.02, max(0.0, deadline - time.monotonic())))
        return True

    def lacks(self, run_id: str) -> bool:
        """Say whether the store lacks a record of this run."""
        with self._state_lock:
            return run_id in self._dropped_runs or any(record.run_id == run_id for record in self._pending)

    def close(self) -> None:
        """Write what waits, for at most half a second, and say what was lost."""
        if self._closed or self._pid != os.getpid():
            return
        self._closed = True
        if not self.flush(EXIT_SECONDS):
            logger.warning(
                "%d records could not be stored in %s: it was away until the end", len(self._pending), self._location
            )

    @property
    def _location(self) -> str:
        return self._backend.location

    def _keep(self, record: Record) -> None:
        self._pending.append(record)
        self._pending_bytes += _size(record)
        while self._pending_bytes > MAX_PENDING_BYTES and len(self._pending) > 1:
            self._drop(self._pending.popleft())

    def _drop(self, record: Record) -> None:
        self._pending_bytes -= _size(record)
        self.dropped_records += 1
        if record.run_id is not None:
            self._dropped_runs.add(record.run_id)

    def _commit(self, seconds: float) -> bool:
        """Write everything that waits in one transaction; whoever comes first takes along what others left."""
        if not self._commit_lock.acquire(timeout=seconds):
            self._start_thread()  # so that what is left to the other thread's next commit does not depend on there being one
            return False
        try:
            with self._state_lock:
                batch = list(self._pending)
            if not batch:
                return True
            written = self._write_batch(batch)
            with self._state_lock:
                for _ in range(written):
                    self._pending_bytes -= _size(self._pending.popleft())
            return written == len(batch)
        finally:
            self._commit_lock.release()

    def _write_batch(self, batch: list[Record]) -> int:
        """Write a batch and give how many records of it are done with: written, or refused for good."""
        try:
            self._backend.write(batch)
        except Exception as error:  # noqa: BLE001 - no fault of a store changes a run
            return self._after_failure(batch, error)
        self._came_back()
        return len(batch)

    def _after_failure(self, batch: list[Record], error: Exception) -> int:
        if isinstance(error, StorageError) and not error.refused:
            self._went_away(error)
            return 0
        if len(batch) == 1:
            logger.error("the store refused a record of the span %r; it is lost", batch[0].name, exc_info=error)
            self.dropped_records += 1
            if batch[0].run_id is not None:
                self._dropped_runs.add(batch[0].run_id)
            return 1
        done = 0
        for record in batch:  # one by one, so that one record that is refused does not take the others with it
            if not self._write_batch([record]):
                break
            done += 1
        return done

    def _went_away(self, error: Exception) -> None:
        if not self._away:
            logger.warning("the trace store is away; runs go on and their records wait in memory: %s", error)
        self._away = True
        self._start_thread()

    def _came_back(self) -> None:
        if self._away:
            logger.info("the trace store %s is back", self._location)
        self._away = False

    def _start_thread(self) -> None:
        with self._state_lock:
            if self._thread is None and not self._closed:
                name = "configurable-agents-store"
                self._thread = threading.Thread(target=_maintain, args=(weakref.ref(self),), name=name, daemon=True)
                self._thread.start()

    def _work(self, failures: int) -> tuple[bool, int, float]:
        """Do what is due; give whether anything is left to do, the failures in a row, and when to look again."""
        now = time.monotonic()
        due, wait = self._due_starts(now)
        if due:
            with self._state_lock:
                for record in due:
                    self._keep(record)
        if self._pending:
            failures = 0 if self._commit(COMMIT_WAIT_SECONDS) else failures + 1
            if failures:
                wait = min(wait, RETRY_SECONDS[min(failures, len(RETRY_SECONDS)) - 1])
        with self._state_lock:
            busy = bool(self._pending or self._starts) and not self._closed
            if not busy:
                self._thread = None
        return busy, failures, wait

    def _due_starts(self, now: float) -> tuple[list[Record], float]:
        with self._state_lock:
            due = [span_id for span_id, start in self._starts.items() if start.due <= now]
            records = [self._starts.pop(span_id).record() for span_id in due]
            wait = min((start.due - now for start in self._starts.values()), default=RETRY_SECONDS[-1])
        return records, wait

    def _after_fork(self) -> None:
        """Begin anew in a forked child: what waited, and the locks, belong to the parent."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._pending.clear()
        self._pending_bytes = 0
        self._starts.clear()
        self._thread = None
        self._state_lock, self._commit_lock = threading.Lock(), threading.Lock()


def _maintain(writer_ref: weakref.ref[Writer]) -> None:
    """Try again and show running spans, until nothing is left to do. Holds no writer while it waits."""
    failures = 0
    while True:
        writer = writer_ref()
        if writer is None:
            return
        busy, failures, wait = writer._work(failures)  # noqa: SLF001 - the thread is the writer's own
        del writer
        if not busy:
            return
        time.sleep(max(0.001, min(wait, START_DELAY_SECONDS)))


def _size(record: Record) -> int:
    size = 500 + len(record.attributes_json) + len(record.events_json or "")
    if not isinstance(record, SpanRecord):
        size += len(record.inputs_json or "") + len(getattr(record, "outputs_json", None) or "")
    return size


def _drain_at_exit(writer: Writer) -> None:
    reference = weakref.ref(writer)

    def drain() -> None:
        alive = reference()
        if alive is not None:
            alive.close()

    atexit.register(drain)
    weakref.finalize(writer, atexit.unregister, drain)
