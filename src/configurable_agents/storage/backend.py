"""A store over SQLAlchemy: its repositories together, in one transaction, and what they need around them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from configurable_agents.errors import StorageError
from configurable_agents.logs import logger_of
from configurable_agents.semconv import Status
from configurable_agents.storage import interruptions, leases, statements, usage
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.database import Database
from configurable_agents.storage.engines import sync_log
from configurable_agents.storage.records import (
    AnyRecord,
    ExecutionStateRecord,
    Record,
    SpanKey,
    WorkflowRunRecord,
    by_kind,
)
from configurable_agents.storage.recovery import recover
from configurable_agents.storage.repositories import (
    SqlAlchemyExecutionStateRepository,
    SqlAlchemyWorkflowRunRepository,
    with_hash,
)

logger = logger_of(__name__)

_Read = TypeVar("_Read")


class SqlAlchemyStorageBackend(StorageBackend):
    """A store in SQLite or PostgreSQL that is open."""

    runs: SqlAlchemyWorkflowRunRepository
    execution_states: SqlAlchemyExecutionStateRepository

    def __init__(
        self,
        database: Database,
        *,
        file: Path | None = None,
        journals: Sequence[Path] = (),
        has_leases: bool = False,
        power: bool = False,
    ) -> None:
        self._database = database
        self._is_quick = file is not None and not power  # no server to wait for, and no disk
        self._has_leases = has_leases
        self.renew_seconds = leases.RENEW_SECONDS if has_leases else None
        self._file = file
        self._path = str(file) if file is not None else None
        self._identity = _identity_of(self._path) if self._path is not None else None
        self.location = database.location
        self.journals = tuple(journals)
        self.runs = SqlAlchemyWorkflowRunRepository(database, before_listing=self._recover_quietly)
        self.execution_states = SqlAlchemyExecutionStateRepository(database)

    @property
    def database(self) -> Database:
        """The database itself, for its upkeep."""
        return self._database

    @property
    def file(self) -> Path | None:
        """The file of a SQLite store."""
        return self._file

    def write(self, records: Sequence[AnyRecord]) -> None:
        """Write records of any kind in one transaction, through the repositories."""
        if records:
            self._database.run(self._writing(records), write=True)

    def write_at_once(self, records: Sequence[AnyRecord]) -> bool:
        """Write records into a file, if nobody else is writing it (see the base class)."""
        return self._is_quick and self._database.at_once(lambda: self.write(records))

    def _writing(self, records: Sequence[AnyRecord]) -> Callable[[sa.Connection], None]:
        runs, states, others, marks = by_kind(records)
        # Not within the transaction: a database has one writer at a time, and others wait for this one to end.
        made = [*self.runs.writing(runs), *self.execution_states.writing(states)]

        def work(connection: sa.Connection) -> None:
            statements.execute(connection, made)
            if self._has_leases:
                leases.take(connection, [_key(run) for run in runs if run.status == Status.RUNNING])
                leases.give_up(connection, [_key(run) for run in runs if run.status != Status.RUNNING])
            if others:
                self.execution_states.upsert_spans(others)
            if marks:
                self.runs.mark_delivered(marks)

        return work

    def prepare_tending(self) -> None:
        """Bring SQLite's log onto the disk, which `tend` would have to wait for; most of its time is this."""
        if self._file is not None:
            sync_log(self._file)

    def tend(self) -> None:
        """Bring what SQLite's log holds into the file: not in a commit, since it waits for the disk."""
        self._database.checkpoint()

    def together(self, read: Callable[[], _Read]) -> _Read:
        """Do several reads in one transaction, on one connection."""
        return self._database.run(lambda _connection: read())

    def take_in(self, batches: Iterable[Sequence[Record]]) -> int:
        """Write records of another store in one transaction (see the base class)."""

        def work(connection: sa.Connection) -> int:
            tally = usage.Tally()
            written = sum(_take_in(connection, batch, tally) for batch in batches)
            tally.write(connection)
            return written

        return self._database.run(work, write=True)

    def mark_interrupted(self, runs: Sequence[SpanKey], nodes: Sequence[SpanKey]) -> None:
        """Say of what is still running that its process has died (see the base class)."""
        self._database.run(lambda connection: interruptions.mark(connection, runs, nodes), write=True)

    def hold(self, runs: Sequence[SpanKey]) -> None:
        """Renew the leases of runs that go on."""

        def work(connection: sa.Connection) -> None:
            leases.revive(connection, runs)
            leases.take(connection, runs)
            leases.forget_old(connection)

        if runs and self._has_leases:
            self._database.run(work, write=True)

    def _end_lapsed(self) -> None:
        """Mark the runs of processes that have renewed no lease for so long that they must have died."""
        runs, nodes = self._database.run(leases.lapsed)
        if runs:
            self.mark_interrupted(runs, nodes)
            self._database.run(lambda connection: leases.give_up(connection, runs), write=True)

    def _recover_quietly(self) -> None:
        try:
            self.recover()
        except (StorageError, OSError):  # who reads shall see what is there, also where nothing can be written
            logger.warning("journals of processes that have died could not be taken up", exc_info=True)

    def recover(self) -> None:
        """Take up the journals of processes that have died (see the base class)."""
        for directory in self.journals:
            recover(directory, self)
        if self._has_leases:
            self._end_lapsed()

    def is_current(self) -> bool:
        """Say whether the open file is still the one at the store's path."""
        return self._path is None or _identity_of(self._path) == self._identity

    def close(self) -> None:
        """Give the database's connections back."""
        self._database.close()


def _identity_of(path: str) -> tuple[int, int] | None:
    """Give device and inode of the file at a path; None if there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a `Path` costs as much again, at each commit
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _take_in(connection: sa.Connection, records: Sequence[Record], tally: usage.Tally) -> int:
    runs, states, others, _ = by_kind(records)
    hashed = [*map(with_hash, runs)]
    # A text is nobody's but its hash's, which the file's reader has compared.
    dialect = connection.dialect.name
    statements.execute(connection, statements.of_configs(dialect, hashed))
    written = statements.insert_spans(connection, others, tally)
    # What did not end there may well go on here, so such a record gives way to whatever is here.
    for ends in (True, False):
        where: statements.Where = "earlier" if ends else "absent"
        some_runs = [run for run in hashed if _has_ended(run) is ends]
        some_states = [state for state in states if _has_ended(state) is ends]
        written += statements.execute(connection, statements.of_runs(dialect, some_runs, where=where))
        written += statements.execute(connection, statements.of_states(dialect, some_states, where=where))
    return written


def _has_ended(record: WorkflowRunRecord | ExecutionStateRecord) -> bool:
    return record.status not in interruptions.UNFINISHED


def _key(record: WorkflowRunRecord) -> SpanKey:
    return SpanKey(record.run_id, record.span_id, record.trace_id)
