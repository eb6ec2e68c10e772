"""The upkeep of a store: what is in it, whether its figures agree, a copy of it."""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from configurable_agents.errors import StorageError
from configurable_agents.semconv import Status
from configurable_agents.storage import usage
from configurable_agents.storage.backend import SqlAlchemyStorageBackend
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.interruptions import SUMS, summed_up
from configurable_agents.storage.locks import LockedError, lock_exclusively
from configurable_agents.storage.models import execution_states, spans, workflow_runs
from configurable_agents.storage.records import SpanKey
from configurable_agents.storage.recovery import QUARANTINE, segments
from configurable_agents.storage.schema import read_revision
from configurable_agents.storage.space import free_bytes_of, give_back, plain_connection, size_of

_FIGURES: Final = ("node_executions", *SUMS, "cost_usd")
_READ_AT_ONCE: Final = 1000


@dataclass(frozen=True, kw_only=True)
class JournalInfo:
    """What stands in a journal directory."""

    directory: Path
    segments: int
    size_bytes: int
    dead_segments: int
    """Segments whose process has died: whoever lists runs next takes them up."""
    quarantined_records: int
    """Records that the database refused, in `quarantine.jsonl`."""


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What a store holds."""

    location: str
    database: str
    """`sqlite` or `postgresql`."""
    database_version: str
    schema_revision: str
    size_bytes: int
    free_bytes: int
    """The part of the size that `store rebuild` gives back."""
    runs: dict[str, int]
    """How many there are of each status."""
    node_executions: int
    spans: int
    model_calls: int
    unpriced_calls: int
    oldest_unix_nano: int | None
    newest_unix_nano: int | None
    missing_node_executions: int
    """Node executions that ended runs count, and that have no row."""
    journals: tuple[JournalInfo, ...]

    @property
    def quarantined_records(self) -> int:
        """Records that the database refused."""
        return sum(journal.quarantined_records for journal in self.journals)

    @property
    def degraded(self) -> bool:
        """Whether anything that happened is not in the database, and will not come by itself."""
        return bool(self.missing_node_executions or self.quarantined_records)


def sql_store(backend: StorageBackend) -> SqlAlchemyStorageBackend:
    """Give a store as one whose database can be looked after.

    Raises:
        StorageError: It is of another kind.
    """
    if not isinstance(backend, SqlAlchemyStorageBackend):
        raise StorageError(f"the store at {backend.location} has an upkeep of its own")
    return backend


def read_info(backend: StorageBackend, journals: Sequence[Path]) -> StoreInfo:
    """Say what a store holds; nothing is changed.

    Args:
        backend: The open store.
        journals: The directories with journals of its writers.

    Raises:
        StorageError: It cannot be read.
    """
    store = sql_store(backend)
    return StoreInfo(
        location=store.location,
        database=store.database.engine.dialect.name,
        size_bytes=size_of(store),
        free_bytes=free_bytes_of(store),
        journals=tuple(look_at_journal(directory) for directory in journals if directory.is_dir()),
        **store.database.run(_read_figures),
    )


def _read_figures(connection: sa.Connection) -> dict[str, Any]:
    run = workflow_runs.c
    by_status = sa.select(run.status, sa.func.count()).group_by(run.status)
    totals = sa.select(
        sa.func.coalesce(sa.func.sum(run.model_calls), 0),
        sa.func.coalesce(sa.func.sum(run.unpriced_calls), 0),
        sa.func.min(run.start_time_unix_nano),
        sa.func.max(run.start_time_unix_nano),
    )
    model_calls, unpriced_calls, oldest, newest = connection.execute(totals).one()
    return {
        "database_version": database_version(connection),
        "schema_revision": read_revision(connection),
        "runs": {row[0]: row[1] for row in connection.execute(by_status)},
        "node_executions": _count(connection, execution_states),
        "spans": _count(connection, spans),
        "model_calls": int(model_calls),
        "unpriced_calls": int(unpriced_calls),
        "oldest_unix_nano": oldest,
        "newest_unix_nano": newest,
        "missing_node_executions": sum(figures.missing for figures in compare_figures(connection)),
    }


def _count(connection: sa.Connection, table: sa.Table) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def database_version(connection: sa.Connection) -> str:
    """Give the version of the database itself."""
    if connection.dialect.name == "sqlite":
        return sqlite3.sqlite_version
    return str(connection.exec_driver_sql("SHOW server_version").scalar_one())


def look_at_journal(directory: Path) -> JournalInfo:
    """Say what stands in a journal directory, and what of it nobody owns any more."""
    paths = segments(directory)
    sizes: list[int] = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # its owner has just finished with it
            sizes.append(path.stat().st_size)
    return JournalInfo(
        directory=directory,
        segments=len(sizes),
        size_bytes=sum(sizes),
        dead_segments=sum(_is_dead(path) for path in paths),
        quarantined_records=_lines_of(directory / QUARANTINE),
    )


def _is_dead(segment: Path) -> bool:
    try:
        descriptor = os.open(segment, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return False
    try:
        lock_exclusively(descriptor)
    except LockedError:
        return False
    finally:
        os.close(descriptor)
    return True


def _lines_of(file: Path) -> int:
    try:
        with file.open("rb") as lines:
            return sum(1 for _ in lines)
    except OSError:
        return 0


# --- totals ---------------------------------------------------------------------------------------------------------------


class Figures(NamedTuple):
    """An ended run's own totals beside the sums over its node executions."""

    key: SpanKey
    missing: int
    """Node executions that it counts and that have no row. Its own totals are then the truer ones."""
    agree: bool


def compare_figures(connection: sa.Connection) -> Iterator[Figures]:
    """Compare the totals of every ended run with the sums over its node executions."""
    run, node = workflow_runs.c, execution_states.c
    unpriced = sa.func.sum(sa.case((node.cost_usd.is_(None), 1), else_=0))
    sums = (
        sa.select(
            node.run_id,
            sa.func.count().label("node_executions"),
            *(sa.func.sum(node[name]).label(name) for name in SUMS),
            sa.case((unpriced == 0, sa.func.sum(node.cost_usd)), else_=None).label("cost_usd"),
        )
        .group_by(node.run_id)
        .subquery()
    )
    query = (
        sa.select(
            run.run_id,
            run.span_id,
            run.trace_id,
            *(run[name] for name in _FIGURES),
            *(sums.c[name] for name in _FIGURES),
        )
        .select_from(workflow_runs.outerjoin(sums, sums.c.run_id == run.run_id))
        .where(run.status != Status.RUNNING.value)
    )
    for run_id, span_id, trace_id, *figures in connection.execute(query).yield_per(_READ_AT_ONCE):
        own, summed = figures[: len(_FIGURES)], figures[len(_FIGURES) :]
        missing = max(0, own[0] - (summed[0] or 0))
        agree = summed[0] is None or all(map(_same, own, summed))
        yield Figures(SpanKey(run_id, span_id, trace_id), missing, agree)


def _same(own: float | None, summed: Any) -> bool:
    if own is None or summed is None:
        return own is None and summed is None
    return math.isclose(own, float(summed), rel_tol=1e-9, abs_tol=1e-12)  # money was summed in another order


def rebuild(backend: StorageBackend) -> int:
    """Compute the totals of runs anew from their node executions, and give free space back.

    A run that misses node executions keeps its own totals, and a running one is its process's business.

    Returns:
        How many runs had other totals before.

    Raises:
        StorageError: The database did not do it.
    """
    store = sql_store(backend)

    def work(connection: sa.Connection) -> int:
        wrong = [figures.key for figures in compare_figures(connection) if not (figures.agree or figures.missing)]
        for key in wrong:
            connection.execute(summed_up(key))
        return len(wrong)

    changed = store.database.run(work, write=True)
    give_back(store)
    return changed


def rebuild_usage(backend: StorageBackend) -> int:
    """Compute tokens and cost by model and day anew from the model calls.

    Returns:
        How many models and days had other figures before.

    Raises:
        StorageError: The database did not do it.
    """
    return sql_store(backend).database.run(usage.make_anew, write=True)


# --- copies ---------------------------------------------------------------------------------------------------------------


def back_up(backend: StorageBackend, file: Path) -> int:
    """Copy a SQLite store into a new file that only its owner can read, whole and of one moment, while it is written.

    Returns:
        The copy's size in bytes.

    Raises:
        StorageError: There is such a file, it cannot be written, or the store is on a server, which has tools for that.
    """
    store = sql_store(backend)
    if store.file is None:
        raise StorageError(
            "a PostgreSQL store is backed up with PostgreSQL's own tools, for example:"
            f" pg_dump --format=custom --file={file} '{store.location}'"
        )
    if file.exists() or file.is_symlink():
        raise StorageError(f"{str(file)!r} is there already; choose another name")
    part = file.with_name(f"{file.name}.part")
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise StorageError(f"the copy cannot be written to {str(part)!r}: {error.strerror}") from error
    try:
        _copy(store.file, part, store.location)
        part.rename(file)
    finally:
        part.unlink(missing_ok=True)
    return file.stat().st_size


def _copy(source: Path, target: Path, location: str) -> None:
    with plain_connection(source, location) as reading, plain_connection(target, str(target)) as writing:
        # In one step: a copy in several begins anew whenever another process writes in between.
        reading.backup(writing, pages=-1)
        # The copy says of itself that it has a write-ahead log; it is one file, also on a medium that cannot be written.
        writing.execute("PRAGMA journal_mode = DELETE").fetchone()
