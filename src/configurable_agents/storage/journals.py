"""The journals of one process for one store: the one that is written, and those before it that take no more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Final

from configurable_agents.storage.codec import OpenSpan, encode_record, join
from configurable_agents.storage.journal import Journal, JournalError, Position

NOWHERE: Final = Position(0, 0, 0)
"""Of what no journal took."""
_NOTES: Final = 128
"""Of what goes on, in one write: a thousand runs at once would take 8 MB for a moment."""

Place = tuple[Journal, int, int]
"""A journal, the number of a segment, and an offset in it."""


class Journals:
    """Appends to the first journal that can be written, and to the next one where that takes no more.

    Args:
        directories: Where the journal may be.
        power: Sync each payload.
    """

    def __init__(self, directories: Sequence[Path], *, power: bool) -> None:
        self._directories = tuple(directories)
        self._power = power
        self._left = list(directories)
        """Beginning with the one that is written; the others before it took nothing, or no more."""
        self.current: Journal | None = None
        """The one that is written; None if there is none, so that records wait in memory alone."""
        self._full: list[Journal] = []
        """Those that took no more; what stands in them is still needed until it is committed."""
        self._segment = 0
        """The segment in which all that goes on has been noted; 0 for none, as in a journal that has just begun."""
        self.refusal: JournalError | None = None
        """Why the last one that was tried took nothing."""

    @property
    def directory(self) -> Path | None:
        """Where the one is that is written; None if there is none."""
        return None if self.current is None else self.current.directory

    @property
    def quarantine_directory(self) -> Path | None:
        """Where records that the database refuses are kept; None if no journal was asked for."""
        return self.directory or next(iter(self._directories), None)

    def append(self, payload: bytes, notes: Callable[[], Iterator[OpenSpan]]) -> Position:
        """Append to the journal, to the next one if need be; in the end there is none.

        Args:
            notes: Gives what goes on: each segment says it, so that its end by death is seen there too.
        """
        while journal := self.current or self._next():
            try:
                position = journal.append(payload)
                if self._segment != journal.segment:
                    self._segment = journal.segment
                    noted = notes()
                    while some := list(islice(noted, _NOTES)):
                        journal.append(join(map(encode_record, some)))
                return position
            except JournalError as error:
                self.refusal = error
                self._full.append(journal)
                self.current, self._segment = None, 0
                self._left.pop(0)
        return NOWHERE

    def _next(self) -> Journal | None:
        """Begin a journal in the first directory that is left and can be written."""
        while self._left:
            journal = Journal(self._left[0], power=self._power)
            try:
                journal.begin()
            except JournalError as error:
                self.refusal = error
                self._left.pop(0)
            else:
                self.current = journal
                return journal
        return None

    def forget_all(self) -> None:
        """Say that the database has everything, and nothing goes on."""
        if self.current is not None:
            self.current.forget_all()
        self._remove_before(self.current)

    def forget_before(self, places: Sequence[Place]) -> None:
        """Say that the database has all that stands before the first of some places.

        Args:
            places: Of what still waits in the journals.
        """
        journals = self._all()
        if not journals:
            return
        newest = journals[-1]
        first = min(places, key=lambda place: (journals.index(place[0]), *place[1:]), default=(newest, *newest.end))
        journal, segment, offset = first
        journal.forget_before(segment, offset)
        self._remove_before(journal)

    def _remove_before(self, needed: Journal | None) -> None:
        while self._full and self._full[0] is not needed:
            # What is still running has been noted in the journal after it.
            with contextlib.suppress(OSError):  # a part that stays is taken up later, and changes nothing
                self._full.pop(0).close(remove=True)

    def unforget(self) -> None:
        """Say that the database has none of what is still here: another one stands at its place."""
        for journal in self._all():
            journal.unforget()

    def payloads(self) -> Iterator[bytes]:
        """Give every payload that is still there, committed ones too, the oldest first."""
        return chain.from_iterable(journal.payloads() for journal in self._all())

    def close(self, *, remove: bool) -> None:
        """Let go of all; remove them if all of them is in the database."""
        for journal in self._all():
            journal.close(remove=remove)

    def rest(self) -> None:
        """Remove all, and begin again where the first one may be: a store that is used no more leaves nothing behind."""
        self.close(remove=True)
        self.current, self._segment = None, 0
        self._full.clear()
        self._left = list(self._directories)

    def after_fork_in_child(self) -> None:
        """Let go of the parent's files, without a word in them."""
        for journal in self._all():
            journal.after_fork_in_child()

    def _all(self) -> list[Journal]:
        return [*self._full, *([self.current] if self.current is not None else [])]
