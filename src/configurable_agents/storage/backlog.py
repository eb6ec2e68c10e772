"""What waits for the database: records in the order in which they came, all in the journal, the first of them in memory too.

The start of a run or node execution waits apart: mostly its end comes soon, says everything, and makes it superfluous.

Nothing here locks: the writer does, around each call that is not about a group taken before.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import Any, Final

from configurable_agents.semconv import Status
from configurable_agents.storage.attributes import started_node
from configurable_agents.storage.codec import OpenSpan, decode_record, encode_record
from configurable_agents.storage.journal import Journal, JournalError, Position
from configurable_agents.storage.records import (
    AnyRecord,
    DeliveryRecord,
    ExecutionStateRecord,
    NodeStart,
    Record,
    SpanKey,
    WorkflowRunRecord,
)

logger = logging.getLogger(__name__)

MEMORY_BYTES: Final = 8 * 1024 * 1024
"""Records that wait are kept in memory up to here, and read back from the journal beyond."""
MEMORY_BYTES_WITHOUT_JOURNAL: Final = 64 * 1024 * 1024
"""Where there is no journal, what waits beyond is lost, and counted."""
START_SECONDS: Final = 0.5
"""What goes on for so long gets a row that says so, for who looks on. The journal has it from the start."""
_NOTES: Final = 128
"""Of what goes on, in one write: a thousand runs at once would take 8 MB for a moment."""

_NOWHERE: Final = Position(0, 0, 0)
_RUNNING: Final = Status.RUNNING.value
_RUN, _NODE = "run", "node"
_OPEN_KINDS: Final[dict[type, str]] = {WorkflowRunRecord: _RUN, ExecutionStateRecord: _NODE}
"""Whose starts are noted, so that their end by death is known."""


@dataclass(slots=True)
class Entry:
    """A record on its way."""

    record: AnyRecord | None
    """None where only the journal has it."""
    journal: Journal | None
    """None where only the memory has it."""
    position: Position
    """Where it stands in the journal."""
    size: int
    run_id: str | None
    """The run that lacks something without it; None for a mark, which is no part of its run."""


@dataclass(slots=True)
class Start:
    """A run or node execution that goes on."""

    kind: str
    span_id: str
    trace_id: str
    run_id: str | None
    journal: Journal | None
    position: Position
    """Where its start stands in the journal."""
    since: float
    """On the monotonic clock."""


@dataclass(slots=True)
class Group:
    """What is committed together."""

    entries: list[Entry]
    starts: list[Start]

    def __bool__(self) -> bool:
        return bool(self.entries or self.starts)


Needed = tuple[Journal, int, int] | None
"""A journal, a segment in it and an offset in that; None where nothing is in a journal."""


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
        self.journal: Journal | None = None
        """The one that is written; None if there is none, so that records wait in memory alone."""
        self._full_journals: list[Journal] = []
        """Journals that took no more; what stands in them is still needed until it is committed."""
        self._segment = 0
        """The segment of the journal in which all that goes on has been noted; 0 for none, as in a journal that has just begun."""
        self._queue: deque[Entry] = deque()
        self._bytes = 0
        self._of_run: dict[str, int] = {}
        self._dropped_runs: set[str] = set()
        self._open: dict[str, Start] = {}
        """What goes on, by span id."""
        self._unsaid: dict[str, Start] = {}
        """That of it which the database has no row of, and only the journal knows; the oldest first."""
        self._unsaid_runs: dict[str | None, Start] = {}
        """The runs among them, by run id."""
        self.runs_that_go_on = 0
        """How many have begun and not ended."""
        self.gone = 0
        """How many records have been taken out."""
        self.dropped_records = 0
        """Records that the store never gets: it refused them, or was away and there was no journal."""
        self.no_journal: JournalError | None = None
        """Why the last journal that was tried took nothing."""

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def directory(self) -> Path | None:
        """Where the journal is; None if there is none."""
        return None if self.journal is None else self.journal.directory

    @property
    def quarantine_directory(self) -> Path | None:
        """Where records that the database refuses are kept; None if no journal was asked for."""
        return self.directory or next(iter(self._journals), None)

    @property
    def open_runs(self) -> list[SpanKey]:
        """The runs that go on."""
        return [SpanKey(start.span_id, start.trace_id) for start in self._open.values() if start.kind == _RUN]

    @property
    def is_whole(self) -> bool:
        """Whether the database has everything, and nothing goes on."""
        return not self._queue and not self._open

    @property
    def is_said(self) -> bool:
        """Whether the database has everything, also that what goes on does so."""
        return not self._queue and not self._unsaid

    @property
    def has_due_starts(self) -> bool:
        """Whether something has gone on for so long that the database is to say so."""
        return next(self._due(), None) is not None

    def _due(self) -> Iterator[Start]:
        due_since = time.monotonic() - START_SECONDS
        return takewhile(lambda start: start.since <= due_since, self._unsaid.values())

    def waits_for(self, run_id: str) -> bool:
        """Say whether a record of this run waits."""
        return run_id in self._of_run or run_id in self._unsaid_runs

    def lacks(self, run_id: str) -> bool:
        """Say whether the database lacks a record of this run, for now or for ever."""
        return self.waits_for(run_id) or run_id in self._dropped_runs

    # --- records come --------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[AnyRecord | NodeStart], payloads: Sequence[bytes]) -> None:
        """Take records, and with them their bytes for the journal."""
        positions = self._journaled(payloads)
        journal = self.journal
        limit = MEMORY_BYTES_WITHOUT_JOURNAL if journal is None else MEMORY_BYTES
        for given, payload, position in zip(records, payloads, positions):  # noqa: B905 - `strict` takes longer than the zip
            if isinstance(given, NodeStart):
                if journal is not None:
                    span = given.span
                    self._begin(_NODE, span["span_id"], span["trace_id"], given.run_id, journal, position)
                    continue
                record: AnyRecord = started_node(*given)
            else:
                record = given
            kind = _OPEN_KINDS.get(type(record))
            if kind is not None:
                if record.status == _RUNNING:  # type: ignore[union-attr]  # a run or node has a status
                    self._begin(kind, record.span_id, record.trace_id, record.run_id, journal, position)  # type: ignore[union-attr]
                    if journal is not None:
                        continue
                else:
                    self._end(kind, record)
            run_id, size = record.run_id if kind is not None else run_of(record), len(payload)
            keep = self._bytes + size <= limit
            if keep:
                self._bytes += size
            elif journal is None:
                self.lose([run_id])
                continue
            self._queue.append(Entry(record if keep else None, journal, position, size, run_id))
            if run_id is not None:
                self._of_run[run_id] = self._of_run.get(run_id, 0) + 1

    def _begin(
        self, kind: str, span_id: str, trace_id: str, run_id: str | None, journal: Journal | None, position: Position
    ) -> None:
        start = Start(kind, span_id, trace_id, run_id, journal, position, time.monotonic())
        if kind is _RUN:
            self.runs_that_go_on += span_id not in self._open
        self._open[span_id] = start
        if journal is not None:
            self._unsaid[span_id] = start
            if kind is _RUN:
                self._unsaid_runs[run_id] = start

    def _end(self, kind: str, record: Any) -> None:
        span_id = record.span_id
        if self._open.pop(span_id, None) is None:
            return
        self._unsaid.pop(span_id, None)
        if kind is _RUN:
            self.runs_that_go_on -= 1
            self._unsaid_runs.pop(record.run_id, None)

    def _journaled(self, payloads: Sequence[bytes]) -> Sequence[Position]:
        """Append to the journal, to the next one if need be; in the end there is none."""
        while journal := self.journal or self._next_journal():
            self.journal = journal
            try:
                positions = journal.append(*payloads)
                if self._segment != journal.segment:
                    self._segment = journal.segment
                    # So that their end by death is seen in this segment too.
                    left = iter(self._open.values())
                    while some := [encode_record(_noted(start)) for start in islice(left, _NOTES)]:
                        journal.append(*some)
            except JournalError as error:
                self.no_journal = error
                self._full_journals.append(journal)
                self.journal, self._segment = None, 0
            else:
                return positions
        return [_NOWHERE] * len(payloads)

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

    # --- records go ----------------------------------------------------------------------------------------------------

    def group(self, count: int, size: int, *, hurried: Collection[str] = (), whole: bool = False) -> Group:
        """Give the first entries, so many and so many bytes at most, but one; they stay until they are taken out.

        Args:
            hurried: Runs that somebody waits for, of which a row is wanted at once.
            whole: Have a row made of everything that goes on.
        """
        entries: list[Entry] = []
        for entry in islice(self._queue, count):
            size -= entry.size
            if size < 0 and entries:
                break
            entries.append(entry)
        # Where more waits than one group holds, what has ended goes first: its start is superfluous soon.
        is_all = len(entries) == len(self._queue)
        return Group(
            entries, self._starts(entries, hurried, whole=whole and is_all, due=is_all) if self._unsaid else []
        )

    def _starts(self, entries: Sequence[Entry], hurried: Collection[str], *, whole: bool, due: bool) -> list[Start]:
        if whole:
            return list(self._unsaid.values())
        found = {start.span_id: start for start in self._due()} if due else {}
        # A run's row comes with the first rows of its nodes.
        for run_id in {*hurried, *(entry.run_id for entry in entries)} & self._unsaid_runs.keys():
            start = self._unsaid_runs[run_id]
            found[start.span_id] = start
        return list(found.values())

    def read(self, group: Group) -> tuple[list[AnyRecord], list[str | None]]:
        """Give the records of a group, and the runs of those that cannot be read back."""
        records: list[AnyRecord] = []
        lost: list[str | None] = []
        waited: list[Entry | Start] = [*group.starts, *group.entries]
        for one in waited:
            record = one.record if type(one) is Entry else None
            if record is None:
                try:
                    record = _read_back(one)
                except (OSError, ValueError, KeyError):
                    logger.exception("a record that waited in the journal cannot be read back")
                    lost.append(one.run_id)
                    continue
            records.append(record)
        return records, lost

    def needed_after(self, group: Group) -> Needed:
        """Say from where on the journals are needed when the database has a group."""
        journals = self._all_journals()
        if len(self._queue) == len(group.entries) and not self._unsaid:  # as after a run that was alone
            return (journals[-1], *journals[-1].end) if journals else None
        rest = islice(self._queue, len(group.entries), len(group.entries) + 1)
        written = {start.span_id for start in group.starts}
        unsaid = (start for start in self._unsaid.values() if start.span_id not in written)
        places = [
            (journals.index(one.journal), one.position)
            for one in (next(rest, None), next(unsaid, None))
            if one is not None and one.journal is not None
        ]
        if places:
            index, position = min(places)
            return journals[index], position.segment, position.offset
        return (journals[-1], *journals[-1].end) if journals else None

    def take_out(self, group: Group) -> None:
        """Forget a group, which the database has."""
        self.gone += len(group.entries)
        for start in group.starts:
            self._unsaid.pop(start.span_id, None)
            if start.kind is _RUN:
                self._unsaid_runs.pop(start.run_id, None)
        for entry in group.entries:
            if not self._queue or self._queue[0] is not entry:
                continue  # somebody else has been faster, at the end of a process
            self._queue.popleft()
            if entry.record is not None:
                self._bytes -= entry.size
        counts: dict[str | None, int] = {}  # not a `Counter`, which takes as long as all the rest here
        for entry in group.entries:
            counts[entry.run_id] = counts.get(entry.run_id, 0) + 1
        for run_id, count in counts.items():
            if run_id is not None:
                left = self._of_run.pop(run_id, 0) - count
                if left > 0:
                    self._of_run[run_id] = left

    def forget(self, needed: Needed) -> None:
        """Remove the parts of journals that a commit has made superfluous: records are committed in their order."""
        if needed is None:
            return
        journal, segment, offset = needed
        with contextlib.suppress(OSError):  # a part that stays is taken up later, and changes nothing
            journal.forget_before(segment, offset)
            while self._full_journals and self._full_journals[0] is not journal:
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
            self.journal, self._segment = None, 0
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
        run_ids, trace_ids = set(self._of_run), {start.trace_id for start in self._open.values()}
        payloads = chain.from_iterable(journal.records() for journal in self._all_journals())
        return (
            record
            for record in map(decode_record, payloads)
            if not isinstance(record, OpenSpan | DeliveryRecord)
            and (record.run_id in run_ids or record.trace_id in trace_ids)
        )

    def _all_journals(self) -> list[Journal]:
        return [*self._full_journals, *([self.journal] if self.journal is not None else [])]


def run_of(record: AnyRecord) -> str | None:
    """Give the run that lacks something without a record."""
    return None if isinstance(record, DeliveryRecord) else record.run_id


def _read_back(entry: Entry | Start) -> AnyRecord:
    if entry.journal is None:
        raise ValueError("the record is in no journal")
    record = decode_record(entry.journal.read(entry.position))
    if isinstance(record, OpenSpan):
        raise ValueError("the journal gave another record than was asked for")
    return record


def _noted(start: Start) -> OpenSpan:
    return OpenSpan(start.kind, start.span_id, start.trace_id)
