"""The repositories over SQLAlchemy: one code for SQLite and PostgreSQL."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import date
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from configurable_agents.errors import RunNotFoundError, StorageError
from configurable_agents.semconv import Status
from configurable_agents.storage import deliveries, leases, statements, usage
from configurable_agents.storage.base import (
    AbstractExecutionStateRepository,
    AbstractWorkflowRunRepository,
    ModelUsage,
    StorageBackend,
)
from configurable_agents.storage.database import Database
from configurable_agents.storage.engines import sync_log
from configurable_agents.storage.models import execution_states, run_deliveries, spans, workflow_configs, workflow_runs
from configurable_agents.storage.records import (
    AnyRecord,
    DeliveryRecord,
    ExecutionStateRecord,
    Record,
    SpanKey,
    SpanRecord,
    WorkflowRunRecord,
    by_kind,
)
from configurable_agents.storage.recovery import recover

logger = logging.getLogger(__name__)

_Read = TypeVar("_Read")

LAST: Final = "last"
_NEWEST_FIRST: Final = workflow_runs.c.run_id.desc()  # UUIDv7: the order of time
_WITH_TEXT: Final = sa.select(*workflow_runs.c, workflow_configs.c.text.label("config_text")).select_from(
    workflow_runs.outerjoin(workflow_configs, workflow_configs.c.sha256 == workflow_runs.c.config_sha256)
)


class SqlAlchemyWorkflowRunRepository(AbstractWorkflowRunRepository):
    """Keeps runs in `workflow_runs`, and the texts of their workflow files in `workflow_configs`."""

    def __init__(self, database: Database, *, before_listing: Callable[[], None] | None = None) -> None:
        self._database = database
        self._before_listing = before_listing

    def upsert_many(self, records: Sequence[WorkflowRunRecord]) -> None:
        """Write all records in one transaction (see the base class)."""
        if records:
            made = self.writing(records)
            self._database.run(lambda connection: statements.execute(connection, made), write=True)

    def writing(self, records: Sequence[WorkflowRunRecord]) -> list[statements.Statement]:
        """Make ready what `upsert_many` writes."""
        hashed, dialect = [*map(_with_hash, records)], self._database.dialect
        # Texts first: `delete` keeps writers of new texts waiting until it knows which ones are in use.
        return [*statements.of_configs(dialect, hashed), *statements.of_runs(dialect, hashed)]

    def get(self, run_id: str) -> WorkflowRunRecord:
        """Read one run by its id, the unique beginning of it, or `last`."""
        self._take_up()
        return self._database.run(lambda connection: _get(connection, statements.storable(run_id)))

    def list_runs(
        self,
        *,
        workflow_name: str | None = None,
        status: str | None = None,
        since_unix_nano: int | None = None,
        before_run_id: str | None = None,
        undelivered_to: str | None = None,
        limit: int = 20,
    ) -> list[WorkflowRunRecord]:
        """List runs, the newest first (see the base class)."""
        self._take_up()
        query = sa.select(workflow_runs).order_by(_NEWEST_FIRST).limit(limit)
        if workflow_name is not None:
            query = query.where(workflow_runs.c.workflow_name == statements.storable(workflow_name))
        if status is not None:
            query = query.where(workflow_runs.c.status == str(status))
            if status != Status.COMPLETED:
                # Word for word the index's own condition: a planner cannot conclude it from a bound value.
                query = query.where(sa.text("status <> 'completed'"))
        if since_unix_nano is not None:
            query = query.where(workflow_runs.c.start_time_unix_nano >= since_unix_nano)
        if before_run_id is not None:
            query = query.where(workflow_runs.c.run_id < before_run_id)
        if undelivered_to is not None:
            query = query.where(*deliveries.undelivered_to(statements.storable(undelivered_to)))
        return self._database.run(lambda connection: _records(WorkflowRunRecord, connection.execute(query)))

    def _take_up(self) -> None:
        """Bring back what processes that died have left: a dead run is never shown as running."""
        if self._before_listing is not None:
            self._before_listing()

    def mark_delivered(self, marks: Sequence[DeliveryRecord]) -> None:
        """Note where runs have been delivered to; a mark of a run that is not there is none."""
        if marks:
            self._database.run(lambda connection: deliveries.mark(connection, marks), write=True)

    def list_deliveries(self, run_id: str) -> list[DeliveryRecord]:
        """List where a run has been delivered to, by destination."""
        return self._database.run(lambda connection: deliveries.of_run(connection, statements.storable(run_id)))

    def usage_by_model(self, *, since: date | None = None, until: date | None = None) -> list[ModelUsage]:
        """Say what each model was used for and cost on each day, the newest day first (see the base class)."""
        self._take_up()
        return self._database.run(lambda connection: usage.read(connection, since=since, until=until))

    def delete(self, run_id: str) -> None:
        """Delete a run with its node executions, spans and marks, and its workflow text if no other run has it."""
        self._database.run(lambda connection: _delete(connection, statements.storable(run_id)), write=True)


class SqlAlchemyExecutionStateRepository(AbstractExecutionStateRepository):
    """Keeps node executions in `execution_states` and the spans below them in `spans`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def upsert_many(self, records: Sequence[ExecutionStateRecord]) -> None:
        """Write all records in one transaction (see the base class)."""
        if records:
            made = self.writing(records)
            self._database.run(lambda connection: statements.execute(connection, made), write=True)

    def writing(self, records: Sequence[ExecutionStateRecord]) -> list[statements.Statement]:
        """Make ready what `upsert_many` writes."""
        return statements.of_states(self._database.dialect, records)

    def upsert_spans(self, records: Sequence[SpanRecord]) -> None:
        """Write other spans in one transaction; the same span again changes nothing."""

        def work(connection: sa.Connection) -> None:
            tally = usage.Tally()
            statements.insert_spans(connection, records, tally)
            tally.write(connection)

        if records:
            self._database.run(work, write=True)

    def get_state_history(self, run_id: str) -> list[ExecutionStateRecord]:
        """List a run's node executions in the order of `seq`."""
        query = _of_run(execution_states, run_id).order_by(execution_states.c.seq)
        return self._read(ExecutionStateRecord, query)

    def list_spans(self, run_id: str) -> list[SpanRecord]:
        """List the other spans of a run by their start."""
        query = _of_run(spans, run_id).order_by(spans.c.start_time_unix_nano, spans.c.span_id)
        return self._read(SpanRecord, query)

    def get_latest_state(self, run_id: str) -> ExecutionStateRecord | None:
        """Read the node execution with the highest `seq`."""
        query = _of_run(execution_states, run_id).order_by(execution_states.c.seq.desc()).limit(1)
        return next(iter(self._read(ExecutionStateRecord, query)), None)

    def get_run(self, run_id: str) -> WorkflowRunRecord:
        """Read the run itself, by its whole id."""
        found = self._database.run(lambda connection: _exactly(connection, statements.storable(run_id)))
        if found is None:
            raise RunNotFoundError(run_id)
        return found

    def _read(self, kind: Callable[..., _Read], query: sa.Select[Any]) -> list[_Read]:
        return self._database.run(lambda connection: _records(kind, connection.execute(query)))


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

        def work(connection: sa.Connection) -> None:
            for run_id, span_ids in _by_run(_with_runs(connection, execution_states, nodes)):
                connection.execute(_interrupted(execution_states, run_id, span_ids))
            for key in _with_runs(connection, workflow_runs, runs):
                # Also a run that was marked before: the rest of its node executions may have stood in another journal.
                if connection.execute(_interrupted(workflow_runs, key.run_id, [key.span_id])).rowcount:
                    connection.execute(summed_up(key))

        self._database.run(work, write=True)

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
    hashed = [_with_hash(run) for run in runs]
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
    return record.status not in _UNFINISHED


def _key(record: WorkflowRunRecord) -> SpanKey:
    return SpanKey(record.run_id, record.span_id, record.trace_id)


_UNFINISHED: Final = (Status.RUNNING.value, Status.INTERRUPTED.value)
_SPANS_AT_ONCE: Final = 500


def _with_runs(connection: sa.Connection, table: sa.Table, keys: Sequence[SpanKey]) -> list[SpanKey]:
    """Give keys with their run ids; what an older version noted without one is searched for in the whole table."""
    known = [key for key in keys if key.run_id]
    lacking = [(key.span_id, key.trace_id) for key in keys if not key.run_id]
    if lacking:
        row = table.c
        query = sa.select(row.run_id, row.span_id, row.trace_id).where(
            row.status.in_(_UNFINISHED), sa.tuple_(row.span_id, row.trace_id).in_(lacking)
        )
        known += [SpanKey(*found) for found in connection.execute(query)]
    return sorted(known)


def _by_run(keys: Sequence[SpanKey]) -> Iterator[tuple[str, Sequence[str]]]:
    """Give span ids by run, not too many for a statement: each one looks through the keys of the run's whole history."""
    for run_id, of_run in groupby(keys, attrgetter("run_id")):
        span_ids = [key.span_id for key in of_run]
        for start in range(0, len(span_ids), _SPANS_AT_ONCE):
            yield run_id, span_ids[start : start + _SPANS_AT_ONCE]


def _interrupted(table: sa.Table, run_id: str, span_ids: Sequence[str]) -> sa.Update:
    return (
        sa.update(table)
        .where(table.c.run_id == run_id, table.c.span_id.in_(span_ids), table.c.status.in_(_UNFINISHED))
        .values(status=Status.INTERRUPTED.value)
    )


SUMS: Final = (
    *("model_calls", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"),
    *("reasoning_tokens", "priced_cost_usd", "unpriced_calls"),
)
"""The totals of a run that are plain sums over its node executions."""


def summed_up(key: SpanKey) -> sa.Update:
    """Give a run the totals of its node executions."""
    run, node = workflow_runs.c, execution_states.c

    def total(expression: sa.ColumnElement[Any]) -> sa.ScalarSelect[Any]:
        return sa.select(sa.func.coalesce(expression, 0)).where(node.run_id == run.run_id).scalar_subquery()

    values: dict[str, Any] = {name: total(sa.func.sum(node[name])) for name in SUMS}
    values["node_executions"] = total(sa.func.count())
    # Unknown if any part is.
    unknown = sa.select(sa.func.count()).where(node.run_id == run.run_id, node.cost_usd.is_(None)).scalar_subquery()
    values["cost_usd"] = sa.case((unknown == 0, total(sa.func.sum(node.cost_usd))), else_=None)
    return sa.update(workflow_runs).where(run.run_id == key.run_id, run.span_id == key.span_id).values(values)


def _with_hash(record: WorkflowRunRecord) -> WorkflowRunRecord:
    if record.config_text is None or record.config_sha256 is not None:
        return record
    digest = hashlib.sha256(record.config_text.encode("utf-8", "surrogatepass")).hexdigest()
    return replace(record, config_sha256=digest)


def _of_run(table: sa.Table, run_id: str) -> sa.Select[Any]:
    return sa.select(table).where(table.c.run_id == statements.storable(run_id))


def _records(kind: Callable[..., _Read], result: sa.CursorResult[Any]) -> list[_Read]:
    names = tuple(result.keys())
    return [kind(**dict(zip(names, row, strict=True))) for row in result.all()]


def _exactly(connection: sa.Connection, run_id: str) -> WorkflowRunRecord | None:
    query = (
        _WITH_TEXT.where(workflow_runs.c.run_id == run_id)
        .order_by(workflow_runs.c.start_time_unix_nano.desc())
        .limit(1)
    )
    return next(iter(_records(WorkflowRunRecord, connection.execute(query))), None)


def _get(connection: sa.Connection, run_id: str) -> WorkflowRunRecord:
    if run_id == LAST:
        newest = connection.execute(sa.select(workflow_runs.c.run_id).order_by(_NEWEST_FIRST).limit(1)).scalar()
        candidates = [] if newest is None else [newest]
    else:
        candidates = _ids_beginning_with(connection, run_id)
    found = _exactly(connection, run_id if run_id in candidates else candidates[0]) if candidates else None
    if found is None or (len(candidates) > 1 and run_id not in candidates):
        raise RunNotFoundError(run_id, candidates=candidates)
    return found


def _ids_beginning_with(connection: sa.Connection, prefix: str) -> list[str]:
    if not prefix:
        return []
    # A range and not LIKE: it uses the index on every database, and no character in it has a meaning.
    column = workflow_runs.c.run_id
    query = sa.select(column).distinct().where(column >= prefix, column < prefix + "\U0010ffff").order_by(column.desc())
    return list(connection.execute(query).scalars())


def _delete(connection: sa.Connection, run_id: str) -> None:
    runs = workflow_runs
    if connection.dialect.name == "postgresql":
        # Another writer must not begin to use a text between the look and its deletion.
        connection.exec_driver_sql(f"LOCK TABLE {workflow_configs.name} IN SHARE ROW EXCLUSIVE MODE")
    texts = connection.execute(
        sa.select(runs.c.workflow_name, runs.c.config_sha256).where(runs.c.run_id == run_id)
    ).all()
    if not texts:
        raise RunNotFoundError(run_id)
    for table in (runs, execution_states):
        connection.execute(table.delete().where(table.c.run_id == run_id))
    usage.delete_spans(connection, spans.c.run_id == run_id)
    connection.execute(run_deliveries.delete().where(run_deliveries.c.run_id == run_id))
    for workflow_name, sha256 in texts:
        if sha256 is not None and not _is_in_use(connection, sha256, workflow_name, run_id):
            connection.execute(workflow_configs.delete().where(workflow_configs.c.sha256 == sha256))


def _is_in_use(connection: sa.Connection, sha256: str, workflow_name: str, run_id: str) -> bool:
    """Say whether a run has the text of a run that was deleted: mostly the one before or after it has.

    Where none has, each entry of the index of workflows is looked at: a text names its workflow, but a record that was
    written by hand or came in a file may name another one.
    """
    run = workflow_runs.c
    anywhere = sa.select(run.run_id).where(run.config_sha256 == sha256).limit(1)
    of_workflow = anywhere.where(run.workflow_name == workflow_name)
    before = of_workflow.where(run.run_id < run_id).order_by(run.run_id.desc())
    after = of_workflow.where(run.run_id > run_id).order_by(run.run_id)
    return any(connection.execute(query).first() for query in (before, after, anywhere))
