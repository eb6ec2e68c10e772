"""What waits for the database: records in the order in which they came, all in the journal, the first of them in memory too.

What has been written at once stays together: it stands in one place of the journal, and is committed by one group.

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
from typing import Any, Final, NamedTuple

from configurable_agents.semconv import Status
from configurable_agents.storage.attributes import started_node
from configurable_agents.storage.codec import OpenSpan, decode_record, encode_records, split
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


@dataclass(slots=True)
class Entry:
    """What was written at once, and is on its way."""

    records: list[AnyRecord] | None
    """Those that are to be committed, the starts of what went on left out; None where only the journal has them."""
    run_ids: list[str | None]
    """Of each, the run that lacks something without it; None for a mark, which is no part of its run."""
    journal: Journal | None
    """None where only the memory has them."""
    position: Position
    """Where they stand in the journal."""
    size: int
    since: float
    """When they came, on the monotonic clock."""


class Open(NamedTuple):
    """A run or node execution that goes on."""

    kind: str
    trace_id: str
    run_id: str | None


@dataclass(slots=True)
class Start:
    """Its start, in the group that writes its row."""

    span_id: str
    open: Open
    entry: Entry
    """With which it came."""

    @property
    def run_ids(self) -> list[str | None]:
        """The run that lacks something without it."""
        return [self.open.run_id]


@dataclass(slots=True)
class Group:
    """What is committed together."""

    entries: list[Entry]
    starts: list[Start]
    count: int = 0
    """Records in the entries."""

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
        self._count = 0
        self._bytes = 0
        self._of_run: dict[str | None, int] = {}
        """How many records of each run wait."""
        self._dropped_runs: set[str] = set()
        self._open: dict[str, Open] = {}
        """What goes on, by span id."""
        self._unsaid: dict[str, Entry] = {}
        """That of it which the database has no row of, and only the journal knows, with what it came; the oldest first."""
        self._unsaid_runs: dict[str | None, str] = {}
        """The runs among them: run id to span id."""
        self.runs_that_go_on = 0
        """How many have begun and not ended."""
        self.gone = 0
        """How many records have been taken out."""
        self.dropped_records = 0
        """Records that the store never gets: it refused them, or was away and there was no journal."""
        self.no_journal: JournalError | None = None
        """Why the last journal that was tried took nothing."""

    def __len__(self) -> int:
        """Give how many records wait."""
        return self._count

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
        return [SpanKey(span_id, one.trace_id) for span_id, one in self._open.items() if one.kind is _RUN]

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

    def _due(self) -> Iterator[str]:
        due_since = time.monotonic() - START_SECONDS
        return (span_id for span_id, _ in takewhile(lambda item: item[1].since <= due_since, self._unsaid.items()))

    def waits_for(self, run_id: str) -> bool:
        """Say whether a record of this run waits."""
        return run_id in self._of_run or run_id in self._unsaid_runs

    def lacks(self, run_id: str) -> bool:
        """Say whether the database lacks a record of this run, for now or for ever."""
        return self.waits_for(run_id) or run_id in self._dropped_runs

    # --- records come --------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[AnyRecord | NodeStart], payload: bytes) -> None:
        """Take what is written at once: records, and the bytes of all of them for the journal."""
        position = self._journaled(payload)
        journal = self.journal
        kept: list[AnyRecord] = []
        run_ids: list[str | None] = []
        entry = Entry(kept, run_ids, journal, position, len(payload), time.monotonic())
        for given in records:
            kind = type(given)
            if kind is NodeStart:
                if journal is not None:
                    span = given.span  # type: ignore[union-attr]  # that is its type
                    self._begin(span["span_id"], Open(_NODE, span["trace_id"], given.run_id), entry)
                    continue
                record: Any = started_node(*given)  # type: ignore[misc]
                kind = ExecutionStateRecord
            else:
                record = given
            if kind is ExecutionStateRecord or kind is WorkflowRunRecord:
                if record.status == _RUNNING:
                    opened = Open(_NODE if kind is ExecutionStateRecord else _RUN, record.trace_id, record.run_id)
                    self._begin(record.span_id, opened, entry)
                    if journal is not None:
                        continue
                elif record.span_id in self._open:
                    self._end(record.span_id)
            kept.append(record)
            run_ids.append(run_of(record))
        if kept:
            self._enqueue(entry)

    def _begin(self, span_id: str, opened: Open, entry: Entry) -> None:
        if opened.kind is _RUN:
            self.runs_that_go_on += span_id not in self._open
        self._open[span_id] = opened
        if entry.journal is not None:
            self._unsaid[span_id] = entry
            if opened.kind is _RUN:
                self._unsaid_runs[opened.run_id] = span_id

    def _end(self, span_id: str) -> None:
        opened = self._open.pop(span_id)
        self._unsaid.pop(span_id, None)
        if opened.kind is _RUN:
            self.runs_that_go_on -= 1
            self._unsaid_runs.pop(opened.run_id, None)

    def _enqueue(self, entry: Entry) -> None:
        size = entry.size
        if self._bytes + size <= (MEMORY_BYTES if entry.journal is not None else MEMORY_BYTES_WITHOUT_JOURNAL):
            self._bytes += size
        elif entry.journal is None:
            self.lose(entry.run_ids)
            return
        else:
            entry.records = None
        self._queue.append(entry)
        of_run = self._of_run
        for run_id in entry.run_ids:
            self._count += 1
            of_run[run_id] = of_run.get(run_id, 0) + 1

    def _journaled(self, payload: bytes) -> Position:
        """Append to the journal, to the next one if need be; in the end there is none."""
        while journal := self.journal or self._next_journal():
            self.journal = journal
            try:
                position = journal.append(payload)
                if self._segment != journal.segment:
                    self._segment = journal.segment
                    # So that their end by death is seen in this segment too.
                    left = iter(self._open.items())
                    while some := [OpenSpan(one.kind, span_id, one.trace_id) for span_id, one in islice(left, _NOTES)]:
                        journal.append(encode_records(some))
            except JournalError as error:
                self.no_journal = error
                self._full_journals.append(journal)
                self.journal, self._segment = None, 0
            else:
                return position
        return _NOWHERE

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
        """Give the first entries, so many records and so many bytes at most, but one; they stay until they are taken out.

        Args:
            hurried: Runs that somebody waits for, of which a row is wanted at once.
            whole: Have a row made of everything that goes on.
        """
        group = Group([], [])
        for entry in self._queue:
            size -= entry.size
            if group.entries and (size < 0 or group.count + len(entry.run_ids) > count):
                break
            group.entries.append(entry)
            group.count += len(entry.run_ids)
        # Where more waits than one group holds, what has ended goes first: its start is superfluous soon.
        is_all = group.count == self._count
        if self._unsaid:
            group.starts = self._starts(group.entries, hurried, whole=whole and is_all, due=is_all)
        return group

    def _starts(self, entries: Sequence[Entry], hurried: Collection[str], *, whole: bool, due: bool) -> list[Start]:
        if whole:
            wanted = list(self._unsaid)
        else:
            wanted = list(self._due()) if due else []
            # A run's row comes with the first rows of its nodes.
            runs = {*hurried, *chain.from_iterable(entry.run_ids for entry in entries)} & self._unsaid_runs.keys()
            wanted += [self._unsaid_runs[run_id] for run_id in runs]
        return [Start(span_id, self._open[span_id], self._unsaid[span_id]) for span_id in dict.fromkeys(wanted)]

    def read(self, group: Group) -> tuple[list[AnyRecord], list[str | None]]:
        """Give the records of a group, and the runs of those that cannot be read back."""
        records: list[AnyRecord] = []
        lost: list[str | None] = []
        waited: list[Start | Entry] = [*group.starts, *group.entries]
        for one in waited:
            kept = one.records if type(one) is Entry else None
            if kept is None:
                try:
                    kept = _read_back(one)
                except (OSError, ValueError, KeyError):
                    logger.exception("what waited in the journal cannot be read back")
                    lost += one.run_ids
                    continue
            records += kept
        return records, lost

    def needed_after(self, group: Group) -> Needed:
        """Say from where on the journals are needed when the database has a group."""
        journals = self._all_journals()
        if group.count == self._count and not self._unsaid:  # as after a run that was alone
            return (journals[-1], *journals[-1].end) if journals else None
        rest = islice(self._queue, len(group.entries), len(group.entries) + 1)
        written = {start.span_id for start in group.starts}
        unsaid = (entry for span_id, entry in self._unsaid.items() if span_id not in written)
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
        self.gone += group.count
        for start in group.starts:
            self._unsaid.pop(start.span_id, None)
            if start.open.kind is _RUN:
                self._unsaid_runs.pop(start.open.run_id, None)
        of_run, queue = self._of_run, self._queue
        for entry in group.entries:
            if not queue or queue[0] is not entry:
                continue  # somebody else has been faster, at the end of a process
            queue.popleft()
            self._count -= len(entry.run_ids)
            if entry.records is not None:
                self._bytes -= entry.size
            for run_id in entry.run_ids:
                if left := of_run[run_id] - 1:
                    of_run[run_id] = left
                else:
                    del of_run[run_id]

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
        run_ids, trace_ids = self._of_run.keys() - {None}, {one.trace_id for one in self._open.values()}
        payloads = chain.from_iterable(journal.payloads() for journal in self._all_journals())
        return (
            record
            for record in map(decode_record, chain.from_iterable(map(split, payloads)))
            if not isinstance(record, OpenSpan | DeliveryRecord)
            and (record.run_id in run_ids or record.trace_id in trace_ids)
        )

    def _all_journals(self) -> list[Journal]:
        return [*self._full_journals, *([self.journal] if self.journal is not None else [])]


def run_of(record: AnyRecord) -> str | None:
    """Give the run that lacks something without a record."""
    return None if isinstance(record, DeliveryRecord) else record.run_id


def _read_back(one: Start | Entry) -> list[AnyRecord]:
    entry = one.entry if isinstance(one, Start) else one
    if entry.journal is None:
        raise ValueError("it is in no journal")
    found = [decode_record(line) for line in split(entry.journal.read(entry.position))]
    records = [record for record in found if not isinstance(record, OpenSpan)]
    if isinstance(one, Start):
        return [
            record for record in records if not isinstance(record, DeliveryRecord) and record.span_id == one.span_id
        ]
    # What went on waits apart.
    return [record for record in records if getattr(record, "status", None) != _RUNNING]
