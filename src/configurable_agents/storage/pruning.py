"""Taking the oldest runs out of a store, so that it does not grow for ever."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import sqlalchemy as sa

from configurable_agents.errors import StorageError
from configurable_agents.semconv import Status
from configurable_agents.storage.backend import SqlAlchemyStorageBackend
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.models import execution_states, run_deliveries, spans, workflow_configs, workflow_runs
from configurable_agents.storage.space import give_back, size_of, used_bytes_of
from configurable_agents.storage.upkeep import sql_store
from configurable_agents.storage.usage import delete_spans

_BATCH_RUNS: Final = 100
"""Runs deleted in one transaction: those who write have their turn in between."""
_ROUNDS: Final = 8
"""How often at most the size is looked at again; the first estimate is nearly always right."""
_TABLES: Final = (workflow_runs, execution_states, spans, run_deliveries)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which runs go. A running one never does."""

    started_before_unix_nano: int | None = None
    keep_last: int | None = None
    """So many of the newest runs stay, whatever else is said; alone: all others go."""
    max_bytes: int | None = None
    """After the rest, the oldest runs go until the store is no larger."""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What was deleted, or would be."""

    run_ids: tuple[str, ...]
    """The oldest first."""
    bytes_before: int
    bytes_after: int
    """Estimated in a dry run."""


@dataclass(frozen=True)
class _Run:
    run_id: str
    started: int
    size: float


def prune(backend: StorageBackend, rules: Rules, *, dry_run: bool = False) -> Pruned:
    """Delete runs with all that is kept of them, and give their space back to the file system.

    Args:
        backend: The open store.
        rules: Which runs go.
        dry_run: Change nothing.

    Raises:
        StorageError: The database did not do it; what was deleted so far stays deleted.
    """
    store = sql_store(backend)
    before, used = size_of(store), used_bytes_of(store)
    candidates = store.database.run(lambda connection: _candidates(connection, rules, used))
    doomed = _doomed(candidates, rules, used)
    if dry_run:
        estimate = used - round(sum(run.size for run in doomed))
        return Pruned(run_ids=_ids(doomed), bytes_before=before, bytes_after=max(0, estimate))
    gone, after = list[_Run](), before
    for _ in range(_ROUNDS):
        _delete(store, doomed, rules)
        gone += doomed
        candidates = _without(candidates, doomed)
        _give_back(store, gone)
        after = size_of(store)
        if rules.max_bytes is None or after <= rules.max_bytes or not candidates:
            break
        doomed = _until_it_fits(candidates, after - rules.max_bytes)
    return Pruned(run_ids=_ids(gone), bytes_before=before, bytes_after=after)


def _ids(runs: Sequence[_Run]) -> tuple[str, ...]:
    return tuple(run.run_id for run in runs)


def _without(runs: Sequence[_Run], others: Sequence[_Run]) -> list[_Run]:
    gone = set(_ids(others))
    return [run for run in runs if run.run_id not in gone]


def _candidates(connection: sa.Connection, rules: Rules, size: int) -> list[_Run]:
    """List the runs that may go, the oldest first."""
    run = workflow_runs.c
    newest_first = sa.select(run.run_id, run.status, run.start_time_unix_nano).order_by(run.run_id.desc())
    rows = connection.execute(newest_first).all()[rules.keep_last or 0 :]
    sizes = _sizes(connection, size)
    return [
        _Run(run_id, started, sizes.get(run_id, 0.0))
        for run_id, status, started in reversed(rows)
        if status != Status.RUNNING
    ]


def _sizes(connection: sa.Connection, size: int) -> Mapping[str, float]:
    """Estimate how much of the store each run takes: its share of all text."""
    weights: dict[str, float] = {}
    total = 0.0
    for table in _TABLES:
        text = [sa.func.coalesce(sa.func.length(column), 0) for column in table.c if isinstance(column.type, sa.Text)]
        weight = sa.func.sum(sum(text[1:], text[0]) + 8 * len(table.c))
        for run_id, found in connection.execute(sa.select(table.c.run_id, weight).group_by(table.c.run_id)):
            total += float(found)
            if run_id is not None:
                weights[run_id] = weights.get(run_id, 0.0) + float(found)
    return {run_id: weight * size / total for run_id, weight in weights.items()}


def _doomed(candidates: Sequence[_Run], rules: Rules, size: int) -> list[_Run]:
    cutoff, most = rules.started_before_unix_nano, rules.max_bytes
    if cutoff is not None:
        doomed = [run for run in candidates if run.started < cutoff]
    else:
        doomed = [] if most is not None else list(candidates)
    if most is None:
        return doomed
    rest = _without(candidates, doomed)
    return doomed + _until_it_fits(rest, size - sum(run.size for run in doomed) - most)


def _until_it_fits(candidates: Sequence[_Run], excess: float) -> list[_Run]:
    """Take the oldest runs until `excess` bytes are gone."""
    taken: list[_Run] = []
    for run in candidates:
        if excess <= 0:
            break
        taken.append(run)
        excess -= run.size
    return taken


def _delete(store: SqlAlchemyStorageBackend, runs: Sequence[_Run], rules: Rules) -> None:
    for batch in _batches(_ids(runs)):
        store.database.run(lambda connection, batch=batch: _delete_batch(connection, batch), write=True)  # type: ignore[misc]
    store.database.run(lambda connection: _delete_rest(connection, rules.started_before_unix_nano), write=True)


def _batches(run_ids: Sequence[str]) -> Iterator[list[str]]:
    remaining = iter(run_ids)
    while batch := list(islice(remaining, _BATCH_RUNS)):
        yield batch


def _delete_batch(connection: sa.Connection, run_ids: Sequence[str]) -> None:
    for table in (workflow_runs, execution_states):
        connection.execute(table.delete().where(table.c.run_id.in_(run_ids)))
    delete_spans(connection, spans.c.run_id.in_(run_ids))
    connection.execute(run_deliveries.delete().where(run_deliveries.c.run_id.in_(run_ids)))


def _delete_rest(connection: sa.Connection, cutoff: int | None) -> None:
    """Delete what belongs to no run: texts of workflow files, marks, and old spans of other programs."""
    if connection.dialect.name == "postgresql":
        # Another writer must not begin to use a text between the look and its deletion.
        connection.exec_driver_sql(f"LOCK TABLE {workflow_configs.name} IN SHARE ROW EXCLUSIVE MODE")
    # One look through an index of the runs, however many texts there are.
    unused = sa.except_(sa.select(workflow_configs.c.sha256), sa.select(workflow_runs.c.config_sha256))
    connection.execute(workflow_configs.delete().where(workflow_configs.c.sha256.in_(unused)))
    # One may have been made while its run was being deleted.
    marked = sa.exists().where(workflow_runs.c.run_id == run_deliveries.c.run_id)
    connection.execute(run_deliveries.delete().where(~marked))
    if cutoff is not None:
        node, span, run_id = execution_states.c, spans.c, workflow_runs.c.run_id
        alone = ~sa.exists().where(run_id == node.run_id)
        connection.execute(execution_states.delete().where(node.start_time_unix_nano < cutoff, alone))
        alone = ~sa.exists().where(run_id == span.run_id)
        delete_spans(connection, sa.and_(span.start_time_unix_nano < cutoff, alone))


def _give_back(store: SqlAlchemyStorageBackend, gone: Sequence[_Run]) -> None:
    try:
        give_back(store)
    except StorageError as error:
        raise StorageError(f"{len(gone)} runs were deleted, but their space is not given back yet: {error}") from error
