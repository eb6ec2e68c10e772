"""Leases of running runs, for stores on a server: no file lock tells another host whether their process still lives.

A process renews the leases of its runs; whoever lists runs takes those whose lease is over for dead. Only the database's
clock counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Final

import sqlalchemy as sa

from configurable_agents.semconv import Status
from configurable_agents.storage.models import execution_states, run_leases, workflow_runs
from configurable_agents.storage.records import SpanKey

LEASE_SECONDS: Final = 60
RENEW_SECONDS: Final = 15.0
"""Three renewals may fail before a run that goes on is taken for dead; its next renewal, or its end, puts that right."""

_NOW: Final = "extract(epoch FROM clock_timestamp())"


def take(connection: sa.Connection, runs: Sequence[SpanKey]) -> None:
    """Lease runs, or renew their leases."""
    keys = sorted({_key(run) for run in runs})
    if not keys:
        return
    row = f"(%s, %s, {_NOW} + {LEASE_SECONDS})"
    text = (
        f"INSERT INTO {run_leases.name} (span_id, trace_id, lease_until_unix) VALUES {', '.join([row] * len(keys))}"  # noqa: S608 - names are our own
        " ON CONFLICT (span_id, trace_id) DO UPDATE SET lease_until_unix = excluded.lease_until_unix"
    )
    connection.exec_driver_sql(text, tuple(chain.from_iterable(keys)))


def give_up(connection: sa.Connection, runs: Sequence[SpanKey]) -> None:
    """End the leases of runs that have ended."""
    if runs:
        keys = sa.tuple_(run_leases.c.span_id, run_leases.c.trace_id)
        connection.execute(run_leases.delete().where(keys.in_([_key(run) for run in runs])))


def forget_old(connection: sa.Connection) -> None:
    """Remove what is left of runs that nobody asks for any more, as of one that ended before its start was written."""
    a_day = sa.text(f"{_NOW} - 86400")
    connection.execute(run_leases.delete().where(run_leases.c.lease_until_unix < a_day))


def revive(connection: sa.Connection, runs: Sequence[SpanKey]) -> None:
    """Say of runs that go on that they do, should their leases have been over for a while."""
    run = workflow_runs.c
    keys = sa.tuple_(run.run_id, run.span_id).in_([(key.run_id, key.span_id) for key in sorted(runs)])
    interrupted = run.status == Status.INTERRUPTED.value
    connection.execute(sa.update(workflow_runs).where(keys, interrupted).values(status=Status.RUNNING.value))


def lapsed(connection: sa.Connection) -> tuple[list[SpanKey], list[SpanKey]]:
    """Give the running runs whose leases are over, and their running node executions."""
    run, node, lease = workflow_runs.c, execution_states.c, run_leases.c
    over = sa.select(run.run_id, run.span_id, run.trace_id).where(
        run.status == Status.RUNNING.value,
        sa.text("status <> 'completed'"),  # word for word the index's own condition
        run.span_id == lease.span_id,
        run.trace_id == lease.trace_id,
        lease.lease_until_unix < sa.text(_NOW),
    )
    runs = sorted(SpanKey(*row) for row in connection.execute(over))
    if not runs:
        return [], []
    open_nodes = sa.select(node.run_id, node.span_id, node.trace_id).where(
        node.run_id.in_([key.run_id for key in runs]), node.status == Status.RUNNING.value
    )
    return runs, sorted(SpanKey(*row) for row in connection.execute(open_nodes))


def _key(run: SpanKey) -> tuple[str, str]:
    return run.span_id, run.trace_id
