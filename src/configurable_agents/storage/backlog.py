"""What waits for the database: records in the order in which they came, all in the journal, the first of them in memory too.

Nothing here locks: the writer does, around each call that is not about entries taken before.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Final

from configurable_agents.semconv import Status
from configurable_agents.storage.base import (
    AnyRecord,
    DeliveryRecord,
    ExecutionStateRecord,
    Record,
    SpanKey,
    SpanRecord,
    WorkflowRunRecord,
)
from configurable_agents.storage.codec import OpenSpan, decode_record, encode_record
from configurable_agents.storage.journal import Journal, JournalError, Position

logger = logging.getLogger(__name__)

MEMORY_BYTES: Final = 8 * 1024 * 1024
"""Records that wait are kept in memory up to here, and read back from the journal beyond."""
MEMORY_BYTES_WITHOUT_JOURNAL: Final = 64 * 1024 * 1024
"""Where there is no journal, what waits beyond is lost, and counted."""

_NOWHERE: Final = Position(0, 0, 0)
_OPEN_KINDS: Final[dict[type, str]] = {WorkflowRunRecord: "run", ExecutionStateRecord: "node"}
"""Whose starts are noted, so that their end by death is known."""


@dataclass(slots=True)
class Entry:
    """A record on its way."""

    record: AnyRecord | None
    """None where only its bytes are kept."""
    payload: bytes | None
    """The bytes of a node's start; None where only the journal has them."""
    journal: Journal | None
    """None where only the memory has it."""
    position: Position
    """Where it stands in the journal."""
    size: int
    run_id: str | None
    """The run that lacks something without it; None for a mark, which is no part of its run."""
    key: str
    """A later record with the same key says everything that this one does."""


class Backlog:
    """The records of one process that the database has not got yet.

    Args:
        journals: Where the journal may be; the first that can be written is taken.
        power: Sync each record.
    """

    def __init__(self, journals: Sequence[Path], *, power: bool) -> None:
        self._journals = tuple(journals)
        self._power = power
        self._journals_left = list(journals)
        self._journal: Journal | None = None
        self._full_journals: list[Journal] = []
        """Journals that took no more; what stands in them is still needed until it is committed."""
        self._segment: tuple[Journal | None, int] = (None, 0)
        self._queue: deque[Entry] = deque()
        self._bytes = 0
        self._of_run: dict[str, int] = {}
        self._dropped_runs: set[str] = set()
        self._open_spans: dict[str, OpenSpan] = {}
        self.runs_that_go_on = 0
        """How many have begun and not ended."""
        self.dropped_records = 0
        """Records that the store never gets: it refused them, or was away and there was no journal."""
        self.no_journal: JournalError | None = None
        """Why the last journal that was tried took nothing."""

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def directory(self) -> Path | None:
        """Where the journal is; None if there is none, so that records wait in memory alone."""
        return None if self._journal is None else self._journal.directory

    @property
    def quarantine_directory(self) -> Path | None:
        """Where records that the database refuses are kept; None if no journal was asked for."""
        return self.directory or next(iter(self._journals), None)

    @property
    def open_runs(self) -> list[SpanKey]:
        """The runs that go on."""
        return [SpanKey(span.span_id, span.trace_id) for span in self._open_spans.values() if span.kind == "run"]

    @property
    def is_whole(self) -> bool:
        """Whether the database has everything, and nothing goes on."""
        return not self._queue and not self._open_spans

    def waits_for(self, run_id: str) -> bool:
        """Say whether a record of this run waits."""
        return run_id in self._of_run

    def lacks(self, run_id: str) -> bool:
        """Say whether the database lacks a record of this run, for now or for ever."""
        return run_id in self._of_run or run_id in self._dropped_runs

    # --- records come --------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[AnyRecord], payloads: Sequence[bytes]) -> None:
        """Take records, and with them their bytes for the journal."""
        journal, positions = self._journaled(payloads)
        limit = MEMORY_BYTES_WITHOUT_JOURNAL if journal is None else MEMORY_BYTES
        for record, payload, position in zip(records, payloads, positions, strict=True):
            self._note_open(record)
            run_id, size = run_of(record), len(payload)
            # A node that starts mostly ends before its start is committed, and then nobody needs the record of it.
            keep = self._bytes + size <= limit
            if journal is None and not keep:
                self.lose([run_id])
                continue
            is_start = journal is not None and _is_start_of_node(record)
            self._queue.append(
                Entry(
                    record if keep and not is_start else None,
                    payload if keep and is_start else None,
                    *(journal, position, size, run_id, _key_of(record)),
                )
            )
            self._bytes += size if keep else 0
            if run_id is not None:
                self._of_run[run_id] = self._of_run.get(run_id, 0) + 1

    def _journaled(self, payloads: Sequence[bytes]) -> tuple[Journal | None, Sequence[Position]]:
        while journal := self._journal or self._next_journal():
            self._journal = journal
            try:
                positions = journal.append(*payloads)
                if self._segment != (journal, journal.segment):
                    self._segment = (journal, journal.segment)
                    # So that their end by death is seen in this segment too.
                    journal.append(*map(encode_record, self._open_spans.values()))
            except JournalError as error:
                self.no_journal = error
                self._full_journals.append(journal)
                self._journal = None
            else:
                return journal, positions
        return None, [_NOWHERE] * len(payloads)

    def _next_journal(self) -> Journal | None:
        """Begin a journal in the first directory that is left and can be written."""
        while self._journals_left:
            journal = Journal(self._journals_left.pop(0), power=self._power)
            try:
                journal.begin()
            except JournalError as error:
                self.no_journal = error
            else:
                return journal
        return None

    def _note_open(self, record: AnyRecord) -> None:
        if isinstance(record, (DeliveryRecord, SpanRecord)):
            return
        kind = _OPEN_KINDS[type(record)]
        if record.status == Status.RUNNING:
            self.runs_that_go_on += kind == "run" and record.span_id not in self._open_spans
            self._open_spans[record.span_id] = OpenSpan(kind, record.span_id, record.trace_id)
        elif self._open_spans.pop(record.span_id, None) is not None:
            self.runs_that_go_on -= kind == "run"

    # --- records go ----------------------------------------------------------------------------------------------------

    def head(self, count: int, size: int) -> list[Entry]:
        """Give the first entries, so many and so many bytes at most, but one; they stay until they are taken out."""
        entries: list[Entry] = []
        for entry in islice(self._queue, count):
            size -= entry.size
            if size < 0 and entries:
                break
            entries.append(entry)
        return entries

    def read(self, entries: Sequence[Entry]) -> tuple[list[AnyRecord], list[str | None]]:
        """Give the records of entries, each span's last, and the runs of those that cannot be read back."""
        records: list[AnyRecord] = []
        lost: list[str | None] = []
        for entry in _without_starts_that_ended(entries):
            # Its end stands behind this group, and says everything.
            if entry.payload is not None and entry.key not in self._open_spans:
                continue
            try:
                records.append(_record_of(entry))
            except (OSError, ValueError, KeyError):
                logger.exception("a record that waited in the journal cannot be read back")
                lost.append(entry.run_id)
        return records, lost

    def take_out(self, entries: Sequence[Entry]) -> list[str]:
        """Forget the first entries, which the database has; give the runs that lack nothing any more."""
        complete: list[str] = []
        for entry in entries:
            self._queue.popleft()
            if entry.record is not None or entry.payload is not None:
                self._bytes -= entry.size
            if entry.run_id is not None:
                self._of_run[entry.run_id] -= 1
                if self._of_run[entry.run_id] <= 0:
                    del self._of_run[entry.run_id]
                    complete.append(entry.run_id)
        return complete

    def forget(self, last: Entry) -> None:
        """Remove the parts of journals that a commit has made superfluous: records are committed in their order."""
        if last.journal is None:
            return
        with contextlib.suppress(OSError):  # a part that stays is taken up later, and changes nothing
            last.journal.forget(last.position)
            while self._full_journals and self._full_journals[0] is not last.journal:
                # What is still running has been noted in the journal after it.
                self._full_journals.pop(0).close(remove=True)

    def lose(self, run_ids: Sequence[str | None]) -> None:
        """Count records that the database never gets, by their runs."""
        self.dropped_records += len(run_ids)
        self._dropped_runs.update(run_id for run_id in run_ids if run_id is not None)

    # --- journals ------------------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """Hold no file while there is nothing to keep: a store that is used no more leaves nothing behind."""
        if self.is_whole:
            self.close()
            self._journal = None
            self._full_journals.clear()
            self._journals_left = list(self._journals)

    def close(self) -> None:
        """Let go of the journals; what still waits stays in them."""
        for journal in self._all_journals():
            journal.close(remove=self.is_whole)

    def unforget(self) -> None:
        """Say that the database has none of what the journals still have: another one stands at its place."""
        for journal in self._all_journals():
            journal.unforget()

    def of_runs_that_go_on(self) -> Iterator[Record]:
        """Give what the journals still have of runs that go on or wait, also what was committed."""
        run_ids, trace_ids = set(self._of_run), {span.trace_id for span in self._open_spans.values()}
        payloads = chain.from_iterable(journal.records() for journal in self._all_journals())
        return (
            record
            for record in map(decode_record, payloads)
            if not isinstance(record, OpenSpan | DeliveryRecord)
            and (record.run_id in run_ids or record.trace_id in trace_ids)
        )

    def _all_journals(self) -> list[Journal]:
        return [*self._full_journals, *([self._journal] if self._journal is not None else [])]


def _is_start_of_node(record: AnyRecord) -> bool:
    return type(record) is ExecutionStateRecord and record.status == Status.RUNNING


def run_of(record: AnyRecord) -> str | None:
    """Give the run that lacks something without a record."""
    return None if isinstance(record, DeliveryRecord) else record.run_id


def _record_of(entry: Entry) -> AnyRecord:
    if entry.record is not None:
        return entry.record
    payload = entry.payload
    if payload is None and entry.journal is not None:
        payload = entry.journal.read(entry.position)
    record = None if payload is None else decode_record(payload)
    if record is None or isinstance(record, OpenSpan):
        raise ValueError("the journal gave another record than was asked for")
    return record


def _key_of(record: AnyRecord) -> str:
    return f"{record.run_id} {record.destination}" if isinstance(record, DeliveryRecord) else record.span_id


def _without_starts_that_ended(entries: Sequence[Entry]) -> list[Entry]:
    """Leave out starts whose end is in the same group: the end says everything."""
    last = {entry.key: index for index, entry in enumerate(entries)}
    return [entry for index, entry in enumerate(entries) if last[entry.key] == index]
