"""Marks of where runs have been delivered to: the store is the outbox of what an endpoint missed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from configurable_agents.semconv import Status
from configurable_agents.storage.models import run_deliveries, workflow_runs
from configurable_agents.storage.records import DeliveryRecord, RunId

_SAMPLED: Final = 1


def mark(connection: sa.Connection, marks: Sequence[DeliveryRecord]) -> None:
    """Note where runs have been delivered to; a run that is not there (it was deleted meanwhile) gets no mark."""
    # In the order of keys, so that writers never deadlock.
    for record in sorted(marks, key=lambda record: (record.run_id, record.destination)):
        values = (record.run_id, record.destination, record.delivered_at_unix_nano, record.run_id)
        connection.exec_driver_sql(_TEXT[connection.dialect.name], values)


def _text(place: str) -> str:
    table, runs = run_deliveries.name, workflow_runs.name
    return (
        f"INSERT INTO {table} (run_id, destination, delivered_at_unix_nano)"  # noqa: S608 - names are our own
        f" SELECT {place}, {place}, CAST({place} AS BIGINT) WHERE EXISTS (SELECT 1 FROM {runs} WHERE run_id = {place})"
        " ON CONFLICT (run_id, destination) DO UPDATE SET delivered_at_unix_nano = excluded.delivered_at_unix_nano"
        f" WHERE excluded.delivered_at_unix_nano > {table}.delivered_at_unix_nano"
    )


_TEXT: Final = {"sqlite": _text("?"), "postgresql": _text("%s")}


def undelivered_to(destination: str) -> tuple[sa.ColumnElement[bool], ...]:
    """Give the conditions on runs that have ended, were sampled, and have not been delivered since they ended."""
    run, mark = workflow_runs.c, run_deliveries.c
    # A run that was taken for dead may have been delivered as interrupted, and have ended after that.
    since_its_end = mark.delivered_at_unix_nano >= sa.func.coalesce(run.end_time_unix_nano, 0)
    delivered = sa.exists().where(mark.run_id == run.run_id, mark.destination == destination, since_its_end)
    return (run.status != Status.RUNNING.value, run.trace_flags.bitwise_and(_SAMPLED) == _SAMPLED, ~delivered)


def of_run(connection: sa.Connection, run_id: str) -> list[DeliveryRecord]:
    """List a run's marks by destination."""
    query = sa.select(run_deliveries).where(run_deliveries.c.run_id == run_id).order_by(run_deliveries.c.destination)
    return [
        DeliveryRecord(run_id=RunId(row.run_id), destination=row.destination, delivered_at_unix_nano=at)
        for row in connection.execute(query)
        for at in (row.delivered_at_unix_nano,)
    ]
