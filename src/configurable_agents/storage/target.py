"""The store that a writer writes into: opened when it is first needed, and anew when another file stands at its place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from configurable_agents.errors import StorageError
from configurable_agents.logs import logger_of
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.records import AnyRecord, Record, SpanKey
from configurable_agents.storage.recovery import quarantine, write_or_isolate

logger = logger_of(__name__)

TEND_BYTES: Final = 16 * 1024 * 1024
"""When SQLite's log has grown by about so much, the store is tended. Runs that end just then wait: some 10 ms for so much, a
disk that is slow apart. A tenth of it is new pages, the rest are the same ones again."""
_COMMIT_BYTES: Final = 40_000
"""By which any commit makes the log grow. Its records stand in there about twice, with what shares their pages."""
_BATCH: Final = 256
"""Records in one transaction, of those that are written again."""


class Target:
    """A store, as one writer has it. Only who commits just now calls what writes.

    Args:
        open_backend: Opens the store; called again after a failure, and when another file stands at its place. None for
            an open `backend` that is the caller's.
    """

    def __init__(self, open_backend: Callable[[], StorageBackend] | None, backend: StorageBackend | None) -> None:
        self._open_backend = open_backend
        self.backend = backend
        """None until it has been opened."""
        self.begin()

    def begin(self) -> None:
        """Know nothing of what was written so far, as in a child that was forked."""
        self.is_replaced = False
        """Whether another store stands at its place, which lacks what goes on."""
        self.untended = 0
        """By how much its log has grown since it was tended, in bytes."""
        self._hold_at = 0.0

    @property
    def renew_seconds(self) -> float | None:
        """How often its leases are renewed; None where it has none, or is not open."""
        return None if self.backend is None else self.backend.renew_seconds

    def opened(self, forget: Callable[[], object], again: Callable[[], Iterator[Record]]) -> StorageBackend:
        """Give the store that is at its place now, open.

        Args:
            forget: Called when the one before has gone: the database has nothing of what the journal has.
            again: Gives what the one before had of runs that go on.

        Raises:
            StorageError: It cannot be opened, or does not take what is written again.
        """
        backend = self.backend
        if backend is None or (self._open_backend is not None and not backend.is_current()):
            backend = self.backend = self._reopened(backend, forget)
        if self.is_replaced:
            records = again()
            while batch := list(islice(records, _BATCH)):
                write_or_isolate(backend, batch)  # what is refused was so before, and is counted
            self.is_replaced = False
        return backend

    def _reopened(self, old: StorageBackend | None, forget: Callable[[], object]) -> StorageBackend:
        if self._open_backend is None:
            raise StorageError("the store is closed")
        if old is not None:
            logger.warning("the store %s was deleted or replaced; it is opened anew", old.location)
            self.backend = None
            self.is_replaced = True
            forget()  # should this process die before it can write again
            old.close()
        opened = self._open_backend()
        try:
            opened.recover()
        except (StorageError, OSError) as error:  # whoever lists runs will try again
            logger.info("journals of processes that have died could not be taken up: %s", error)
        return opened

    def write_at_once(self, records: Sequence[AnyRecord]) -> bool:
        """Write records if nothing has to be waited for; say whether they were written."""
        backend = self.backend
        return backend is not None and backend.is_current() and backend.write_at_once(records)

    def note_growth(self, record_bytes: int) -> None:
        """Note that a commit of so many bytes of records has made the log grow."""
        self.untended += _COMMIT_BYTES + 2 * record_bytes

    def prepare_tending(self) -> None:
        """Do of the tending what runs that end meanwhile need not wait for."""
        self.untended = 0
        try:
            if self.backend is not None:
                self.backend.prepare_tending()
        except Exception:
            logger.debug("it could not be prepared that the store is tended", exc_info=True)

    def tend(self) -> None:
        """Have the store tidy up."""
        try:
            if self.backend is not None:
                self.backend.tend()
        except Exception:
            logger.debug("the store could not be tended", exc_info=True)

    def is_lease_due(self) -> bool:
        """Say whether those on other hosts are to be told that this process lives."""
        return self.renew_seconds is not None and time.monotonic() >= self._hold_at

    def hold(self, runs: Sequence[SpanKey]) -> None:
        """Tell those on other hosts that this process lives, and has these runs."""
        backend = self.backend
        if backend is None or backend.renew_seconds is None:
            return
        self._hold_at = time.monotonic() + backend.renew_seconds
        try:
            backend.hold(runs)
        except Exception:  # it is tried again, and what is committed says it too
            logger.debug("the leases of %d runs could not be renewed", len(runs), exc_info=True)


def write_or_quarantine(
    backend: StorageBackend, records: Sequence[AnyRecord], directory: Path | None
) -> list[AnyRecord]:
    """Write records; those that the database refuses for good are put aside, and given back.

    Raises:
        StorageError: The database is away; what had to be written may be written again.
    """
    refused = write_or_isolate(backend, records)
    if refused and directory is not None:
        quarantine(directory, refused)
    return refused
