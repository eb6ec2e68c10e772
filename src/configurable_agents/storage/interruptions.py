"""What becomes of the runs and node executions of a process that has died: they are interrupted, and the runs are summed up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa

from configurable_agents.semconv import Status
from configurable_agents.storage.models import execution_states, workflow_runs
from configurable_agents.storage.records import SpanKey

UNFINISHED: Final = (Status.RUNNING.value, Status.INTERRUPTED.value)
"""What has not told its end."""
SUMS: Final = (
    *("model_calls", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"),
    *("reasoning_tokens", "priced_cost_usd", "unpriced_calls"),
)
"""The totals of a run that are plain sums over its node executions."""
_SPANS_AT_ONCE: Final = 500


def mark(connection: sa.Connection, runs: Sequence[SpanKey], nodes: Sequence[SpanKey]) -> None:
    """Say of what is still running that its process has died."""
    for run_id, span_ids in _by_run(_with_runs(connection, execution_states, nodes)):
        connection.execute(_interrupted(execution_states, run_id, span_ids))
    for key in _with_runs(connection, workflow_runs, runs):
        # Also a run that was marked before: the rest of its node executions may have stood in another journal.
        if connection.execute(_interrupted(workflow_runs, key.run_id, [key.span_id])).rowcount:
            connection.execute(summed_up(key))


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


def _with_runs(connection: sa.Connection, table: sa.Table, keys: Sequence[SpanKey]) -> list[SpanKey]:
    """Give keys with their run ids; what an older version noted without one is searched for in the whole table."""
    known = [key for key in keys if key.run_id]
    lacking = [(key.span_id, key.trace_id) for key in keys if not key.run_id]
    if lacking:
        row = table.c
        query = sa.select(row.run_id, row.span_id, row.trace_id).where(
            row.status.in_(UNFINISHED), sa.tuple_(row.span_id, row.trace_id).in_(lacking)
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
        .where(table.c.run_id == run_id, table.c.span_id.in_(span_ids), table.c.status.in_(UNFINISHED))
        .values(status=Status.INTERRUPTED.value)
    )
