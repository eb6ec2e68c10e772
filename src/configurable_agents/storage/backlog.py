"""What waits for the database: records in the order in which they came, all in the journal, the first of them in memory too.

Nothing here locks: the writer does, around each call that is not about a group taken before.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Final

from configurable_agents.logs import logger_of
from configurable_agents.semconv import Status
from configurable_agents.storage.attributes import started_node
from configurable_agents.storage.codec import LINE_BREAK, OpenSpan, decode_record, join, offset_of, split
from configurable_agents.storage.journal import FRAME_BYTES, Journal, Position
from configurable_agents.storage.journals import Journals
from configurable_agents.storage.records import (
    AnyRecord,
    DeliveryRecord,
    ExecutionStateRecord,
    NodeStart,
    Record,
    WorkflowRunRecord,
)
from configurable_agents.storage.starts import NODE, RUN, Start, Starts

logger = logger_of(__name__)

MEMORY_BYTES: Final = 8 * 1024 * 1024
"""Records that wait are kept in memory up to here, and read back from the journal beyond."""
MEMORY_BYTES_WITHOUT_JOURNAL: Final = 64 * 1024 * 1024
"""Where there is no journal, what waits beyond is lost, and counted."""
_TOGETHER: Final = 64
"""So many records that came in a row wait as one: each alone would take half as much again of the memory."""
_UNSORTED: Final = 64
"""Writes that are sorted in together, at most, when nobody has asked before."""
_BIG_BYTES: Final = 16 * 1024
"""A write that is so big is sorted in at once, so that what it takes of the memory counts."""

_RUNNING: Final = Status.RUNNING.value
_KINDS: Final[dict[type, str]] = {WorkflowRunRecord: RUN, ExecutionStateRecord: NODE}
"""What begins and ends."""


@dataclass(slots=True)
class Entry:
    """Records on their way, which came one after the other."""

    journal: Journal | None
    """None where only the memory has them."""
    positions: list[Position]
    """Of each write that they came with; of the first one alone where the memory has them, and nothing is read back."""
    offset: int
    """Of the first of them in the first of these: what was written before it need not be kept for it."""
    records: list[AnyRecord] = field(default_factory=list)
    """Without the starts of what goes on; empty where only the journal has them."""
    runs: dict[str | None, int] = field(default_factory=dict)
    """How many there are of each run that lacks something without them; None stands for that of marks, which are no part
    of their run, and of foreign spans."""
    size: int = 0
    """Bytes of the records."""
    count: int = 0
    """How many they are."""

    @property
    def position(self) -> Position:
        """Of the first of them."""
        return self.positions[0]


@dataclass(slots=True)
class Group:
    """What is committed together."""

    entries: list[Entry]
    starts: list[Start]
    count: int = 0
    """Records in the entries."""
    size: int = 0

    def __bool__(self) -> bool:
        return bool(self.entries or self.starts)


_Written = tuple[Sequence[AnyRecord | NodeStart], Sequence[bytes], Journal | None, Position]
"""Records that were written at once, as bytes too, and where they stand."""


class Backlog:
    """The records of one process that the database has not got yet.

    Args:
        journals: Take what is written before it waits here.
    """

    def __init__(self, journals: Journals) -> None:
        self._journals = journals
        self._come: list[_Written] = []
        """What was written since somebody asked for anything here: a run does not wait until that is sorted in."""
        self._is_sorting = False
        self._appending = 0
        """How many writes are on their way: one, or more where a signal's handler writes amid another."""
        self._queue: deque[Entry] = deque()
        self._count = 0
        self._bytes = 0
        self._of_run: dict[str | None, int] = {}
        """How many records of each run wait."""
        self._dropped_runs: set[str] = set()
        self._starts = Starts()
        self.gone = 0
        """How many records have been taken out."""
        self.dropped_records = 0
        """Records that the store never gets: it refused them, or was away and there was no journal."""

    def __len__(self) -> int:
        """Give how many records wait."""
        self._sort_in()
        return self._count

    @property
    def starts(self) -> Starts:
        """What goes on."""
        self._sort_in()
        return self._starts

    @property
    def is_whole(self) -> bool:
        """Whether the database has everything, and nothing goes on."""
        return not (self or self._starts)

    @property
    def is_said(self) -> bool:
        """Whether the database has everything, also that what goes on does so."""
        return not self and self._starts.is_said

    def waits_for(self, run_id: str) -> bool:
        """Say whether a record of this run waits."""
        self._sort_in()
        return run_id in self._of_run or self._starts.is_unsaid_run(run_id)

    def lacks(self, run_id: str) -> bool:
        """Say whether the database lacks a record of this run, for now or for ever."""
        return self.waits_for(run_id) or run_id in self._dropped_runs

    # --- records come --------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[AnyRecord | NodeStart], lines: Sequence[bytes]) -> bool:
        """Take what is written at once: records, and each as bytes for the journal.

        Returns:
            Whether it is worth a look how much waits.
        """
        self._appending += 1
        try:
            payload = join(lines)
            position = self._journals.append(payload, self._notes)
            journal = self._journals.current
            if journal is None:
                records = [started_node(one) if isinstance(one, NodeStart) else one for one in records]
            self._come.append((records, lines, journal, position))
        finally:
            self._appending -= 1
        if len(payload) < _BIG_BYTES and len(self._come) < _UNSORTED:
            return False
        self._sort_in()
        return True

    def _sort_in(self) -> None:
        """See what has come: what has begun, what has ended, what is to be committed."""
        if not self._come or self._is_sorting:  # the latter in a signal's handler, amid this
            return
        self._is_sorting = True
        try:
            come = self._come[:]
            try:
                entries, ended, begun = _sorted(come)
            except Exception:  # noqa: BLE001 - a record that is none: one by one, so that it takes no other with it
                entries, ended, begun = self._sorted_one_by_one(come)
            for span_id in ended:
                self._starts.end(span_id)
            for start in begun:
                self._starts.begin(start)
            for entry in entries:
                if self._is_taken(entry):
                    self._queue.append(entry)
                    self._count_in(entry)
            # Where a signal's handler raises before this it is done again: what waits twice is written twice, as the same row.
            del self._come[: len(come)]
        except BaseException:
            self._count_anew()
            raise
        finally:
            self._is_sorting = False

    def _sorted_one_by_one(self, come: Sequence[_Written]) -> _Sorted:
        entries, ended, begun = list[Entry](), list[str](), list[Start]()
        for written in come:
            try:
                found = _sorted([written])
            except Exception:
                logger.exception("%d records cannot be kept", len(written[0]))
                self.lose([None] * len(written[0]))
            else:
                entries += found[0]
                ended += found[1]
                begun += found[2]
        return entries, ended, begun

    def _count_anew(self) -> None:
        """Count what waits, where counting along was torn."""
        self._bytes = sum(entry.size for entry in self._queue if entry.records)
        self._count, self._of_run = 0, {}
        for entry in self._queue:
            self._count_in(entry)

    def _count_in(self, entry: Entry) -> None:
        self._count += entry.count
        for run_id, count in entry.runs.items():
            self._of_run[run_id] = self._of_run.get(run_id, 0) + count

    def _is_taken(self, entry: Entry) -> bool:
        """Say whether an entry may wait, in memory or only in the journal."""
        if self._bytes + entry.size > (MEMORY_BYTES if entry.journal is not None else MEMORY_BYTES_WITHOUT_JOURNAL):
            if entry.journal is None:
                self.lose([*Counter(entry.runs).elements()])
                return False
            entry.records = []
        else:
            self._bytes += entry.size
            del entry.positions[1:]
        return True

    def _notes(self) -> Iterator[OpenSpan]:
        return self.starts.notes()

    # --- records go ----------------------------------------------------------------------------------------------------

    def group(self, count: int, size: int, *, hurried: Collection[str] = (), whole: bool = False) -> Group:
        """Give the first entries, so many records and so many bytes at most, but one; they stay until they are taken out.

        Args:
            hurried: Runs that somebody waits for, of which a row is wanted at once.
            whole: Have a row made of everything that goes on.
        """
        self._sort_in()
        group = Group([], [])
        for entry in self._queue:
            if group.entries and (group.count + entry.count > count or group.size + entry.size > size):
                break
            group.entries.append(entry)
            group.count += entry.count
            group.size += entry.size
        # Where more waits than one group holds, what has ended goes first: its start is superfluous soon.
        is_all = group.count == self._count
        if whole and is_all:
            group.starts = [*self._starts.unsaid]
        elif not self._starts.is_said:
            # A run's row comes with the first rows of its nodes.
            runs = self._starts.unsaid_runs({*hurried, *chain.from_iterable(entry.runs for entry in group.entries)})
            due = self._starts.due() if is_all else ()
            group.starts = list({start.span_id: start for start in (*due, *runs)}.values())
        return group

    def read(self, group: Group) -> tuple[list[AnyRecord], list[str | None]]:
        """Give the records of a group, and the runs of those that cannot be read back."""
        records: list[AnyRecord] = []
        lost: list[str | None] = []
        places = _Places()
        for start in group.starts:
            found = places.start(start)
            records += found
            if not found:
                lost.append(start.run_id)
        for entry in group.entries:
            found = entry.records or places.entry(entry)
            records += found
            if len(found) < entry.count:
                lost += (Counter(entry.runs) - Counter(map(run_of, found))).elements()
        if places.fault is not None:
            logger.error("%d records that waited in the journal cannot be read back", len(lost), exc_info=places.fault)
        return records, lost

    def take_out(self, group: Group) -> None:
        """Forget a group, which the database has, and what the journals need not keep for others."""
        self._sort_in()
        self.gone += group.count
        self._starts.say(group.starts)
        try:
            for entry in group.entries:
                if not self._queue or self._queue[0] is not entry:
                    continue  # somebody else has been faster, at the end of a process
                self._queue.popleft()
                self._count -= entry.count
                if entry.records:
                    self._bytes -= entry.size
                for run_id, count in entry.runs.items():
                    left = self._of_run.pop(run_id) - count
                    if left:
                        self._of_run[run_id] = left
        except BaseException:  # of a signal's handler
            self._count_anew()
            raise
        if not (self._come or self._appending):  # else in a signal's handler, amid that
            self._forget()

    def _forget(self) -> None:
        """Say from where on the journals are needed: records are committed in their order."""
        if not (self._queue or self._starts):
            self._journals.forget_all()
            return
        first: Iterable[Entry | Start] = (*islice(self._queue, 1), *islice(self._starts.unsaid, 1))
        self._journals.forget_before(
            [(one.journal, one.position.segment, one.offset) for one in first if one.journal is not None]
        )

    def lose(self, run_ids: Sequence[str | None]) -> None:
        """Count records that the database never gets, by their runs."""
        self.dropped_records += len(run_ids)
        self._dropped_runs.update(run_id for run_id in run_ids if run_id is not None)

    def rest(self) -> None:
        """Hold no file while there is nothing to keep."""
        if self.is_whole:
            self._journals.rest()

    def close(self) -> None:
        """Let go of the journals; what still waits stays in them."""
        self._journals.close(remove=self.is_whole)

    def of_runs_that_go_on(self) -> Iterator[Record]:
        """Give what the journals still have of runs that go on or wait, also what was committed."""
        trace_ids, run_ids = self.starts.trace_ids, self._of_run.keys() - {None}
        return (
            record
            for record in map(decode_record, chain.from_iterable(map(split, self._journals.payloads())))
            if not isinstance(record, OpenSpan | DeliveryRecord)
            and (record.run_id in run_ids or record.trace_id in trace_ids)
        )


def run_of(record: AnyRecord) -> str | None:
    """Give the run that lacks something without a record."""
    return None if isinstance(record, DeliveryRecord) else record.run_id


_Sorted = tuple[list[Entry], list[str], list[Start]]
"""What is to be committed, the span ids of what has ended, and what has begun."""


def _sorted(come: Iterable[_Written]) -> _Sorted:
    entries: list[Entry] = []
    ended: list[str] = []
    begun: dict[str, tuple[int, _Written]] = {}
    entry: Entry | None = None
    for written in come:
        records, lines, journal, position = written
        is_first = True
        record: Any
        for number, record in enumerate(records):
            kind = type(record)
            if kind is NodeStart:
                begun[record.span["span_id"]] = number, written
                continue
            if kind in _KINDS:
                if record.status == _RUNNING:
                    begun[record.span_id] = number, written
                    if journal is not None:
                        continue
                elif begun.pop(record.span_id, None) is None:  # else nobody ever asked for it
                    ended.append(record.span_id)
                run_id = record.run_id
            else:
                run_id = run_of(record)
            # Without a journal each write is taken or lost by itself, as far as the memory goes.
            if entry is None or (
                is_first and (journal is None or journal is not entry.journal or len(entry.records) >= _TOGETHER)
            ):
                entry = Entry(journal, [position], _offset(number, written))
                entries.append(entry)
            elif is_first:
                entry.positions.append(position)
            is_first = False
            entry.runs[run_id] = entry.runs.get(run_id, 0) + 1
            entry.records.append(record)
            entry.size += len(lines[number])
    for entry in entries:
        entry.count = len(entry.records)
    now = time.monotonic()
    return entries, ended, [_start(number, written, now) for number, written in begun.values()]


def _start(number: int, written: _Written, since: float) -> Start:
    given: Any = written[0][number]
    _, _, journal, position = written
    offset = _offset(number, written)
    if type(given) is NodeStart:
        span = given.span
        return Start(NODE, span["span_id"], span["trace_id"], given.run_id, journal, position, offset, since)
    kind = _KINDS[type(given)]
    return Start(kind, given.span_id, given.trace_id, given.run_id, journal, position, offset, since)


def _offset(number: int, written: _Written) -> int:
    """Say where in its segment a record begins."""
    _, lines, _, position = written
    return position.offset + (FRAME_BYTES + offset_of(number, lines) if number else 0)


class _Places:
    """What stands in places of journals, as far as it can be read back: each is read once, whatever came with it."""

    def __init__(self) -> None:
        self._payloads: dict[tuple[Journal | None, Position], bytes] = {}
        self.fault: Exception | None = None
        """Why the last of what cannot be read back cannot."""

    def start(self, start: Start) -> list[AnyRecord]:
        """Give the record of a start; what came with it is not looked at."""
        begin = max(0, start.offset - start.position.offset - FRAME_BYTES)
        return self._records(start.journal, start.position, lambda payload: [_line(payload, begin)])

    def entry(self, entry: Entry) -> list[AnyRecord]:
        """Give the records of an entry."""
        there = chain.from_iterable(self._records(entry.journal, position, split) for position in entry.positions)
        return [record for record in there if getattr(record, "status", "") != _RUNNING]  # what went on waits apart

    def _records(
        self, journal: Journal | None, position: Position, lines: Callable[[bytes], list[bytes]]
    ) -> list[AnyRecord]:
        try:
            found = [*map(decode_record, lines(self._at(journal, position)))]
        except (OSError, ValueError, KeyError) as error:
            self.fault = error
            return []
        return [record for record in found if not isinstance(record, OpenSpan)]

    def _at(self, journal: Journal | None, position: Position) -> bytes:
        if journal is None:
            raise ValueError("it is in no journal")
        payload = self._payloads.get((journal, position))
        if payload is None:
            payload = self._payloads[journal, position] = journal.read(position)
        return payload


def _line(payload: bytes, begin: int) -> bytes:
    end = payload.find(LINE_BREAK, begin)
    return payload[begin : end if end >= 0 else None]
