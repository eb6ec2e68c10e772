"""The repositories over SQLAlchemy: one code for SQLite and PostgreSQL."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from configurable_agents.errors import RunNotFoundError
from configurable_agents.semconv import Status
from configurable_agents.storage import deliveries, statements, usage
from configurable_agents.storage.base import (
    AbstractExecutionStateRepository,
    AbstractWorkflowRunRepository,
    ModelUsage,
)
from configurable_agents.storage.database import Database
from configurable_agents.storage.models import (
    execution_states,
    plain_names,
    run_deliveries,
    spans,
    workflow_configs,
    workflow_runs,
)
from configurable_agents.storage.records import (
    DeliveryRecord,
    ExecutionStateRecord,
    SpanRecord,
    WorkflowRunRecord,
)

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
        hashed, dialect = [*map(with_hash, records)], self._database.dialect
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


def with_hash(record: WorkflowRunRecord) -> WorkflowRunRecord:
    """Give a run with the hash of its workflow file's text, by which that is kept."""
    if record.config_text is None or record.config_sha256 is not None:
        return record
    digest = hashlib.sha256(record.config_text.encode("utf-8", "surrogatepass")).hexdigest()
    return replace(record, config_sha256=digest)


def _of_run(table: sa.Table, run_id: str) -> sa.Select[Any]:
    return sa.select(table).where(table.c.run_id == statements.storable(run_id))


def _records(kind: Callable[..., _Read], result: sa.CursorResult[Any]) -> list[_Read]:
    names = plain_names(result.keys())
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
