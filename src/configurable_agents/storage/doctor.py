"""Looks a store over and says what is wrong with it. Nothing is changed: neither the store nor its journals."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import sqlalchemy as sa

from configurable_agents.errors import StorageError
from configurable_agents.storage import usage
from configurable_agents.storage.backend import SqlAlchemyStorageBackend
from configurable_agents.storage.factory import create_storage_backend, locate
from configurable_agents.storage.models import SCHEMA_REVISION
from configurable_agents.storage.targets import Target, journal_directories
from configurable_agents.storage.upkeep import (
    JournalInfo,
    compare_figures,
    database_version,
    look_at_journal,
    sql_store,
)

Verdict = Literal["ok", "warning", "problem"]

# https://sqlite.org/wal.html#walresetbug: in 3.7.0 to 3.51.2; fixed in 3.51.3, and in 3.50.7 and 3.44.6 of their branches.
_FIXED: Final = (3, 51, 3)
_FIXED_IN_BRANCH: Final[Mapping[tuple[int, int], tuple[int, int, int]]] = {(3, 50): (3, 50, 7), (3, 44): (3, 44, 6)}
_EXAMPLES: Final = 3


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    detail: str


def examine(target: Target, environ: Mapping[str, str]) -> list[Check]:
    """Look a store over.

    Raises:
        StorageError: The target names no store at all.
    """
    place = locate(target)
    journals = _journals([look_at_journal(path) for path in journal_directories(place, environ) if path.is_dir()])
    try:
        with contextlib.closing(sql_store(create_storage_backend(place, environ=environ, read_only=True))) as store:
            return [Check("opens", "ok", store.location), *_database(store), *journals]
    except StorageError as error:
        if isinstance(place, Path) and not place.exists():
            raise
        return [Check("opens", "problem", str(error)), *journals]


def _database(store: SqlAlchemyStorageBackend) -> Iterator[Check]:
    for check in (_schema, _integrity, _totals, _costs, _version):
        try:
            yield store.database.run(check)
        except StorageError as error:
            yield Check(check.__name__.strip("_"), "problem", str(error))


def _schema(_connection: sa.Connection) -> Check:
    return Check("schema", "ok", f"revision {SCHEMA_REVISION}")  # else it would not have opened


def _integrity(connection: sa.Connection) -> Check:
    if connection.dialect.name != "sqlite":
        sums = connection.exec_driver_sql("SHOW data_checksums").scalar_one()
        return Check("integrity", "ok", f"the server's own concern (data checksums: {sums})")
    found = [str(row[0]) for row in connection.exec_driver_sql(f"PRAGMA integrity_check({_EXAMPLES})")]
    if found == ["ok"]:
        return Check("integrity", "ok", "every page and every index entry is sound")
    remedy = "move the file away, or restore it from a backup; `sqlite3 FILE .recover` saves what can be read"
    return Check("integrity", "problem", f"{'; '.join(found)}. Remedy: {remedy}")


def _totals(connection: sa.Connection) -> Check:
    figures = list(compare_figures(connection))
    lacking = [run for run in figures if run.missing]
    wrong = [run for run in figures if not (run.agree or run.missing)]
    if lacking:
        number = sum(run.missing for run in lacking)
        runs = _some([run.key.run_id for run in lacking])
        detail = f"{number} node executions are missing, in {len(lacking)} runs ({runs})"
        return Check(
            "totals", "problem", f"{detail}: they were never written, or are in a journal of this or another host"
        )
    if wrong:
        runs = _some([run.key.run_id for run in wrong])
        detail = f"{len(wrong)} runs have other totals than their node executions ({runs})"
        return Check("totals", "problem", f"{detail}. Remedy: `store rebuild`")
    return Check("totals", "ok", f"the totals of {len(figures)} runs are the sums of their node executions")


def _costs(connection: sa.Connection) -> Check:
    wrong = usage.compare(connection)
    if not wrong:
        return Check("costs", "ok", "tokens and cost by model and day are the sums of the model calls")
    days = sorted({usage.day_of(key).isoformat() for key in wrong})
    detail = f"{len(wrong)} figures by model and day are not the sums of their model calls ({_some(days)})"
    return Check("costs", "problem", f"{detail}. Remedy: `store rebuild`")


def _version(connection: sa.Connection) -> Check:
    version = database_version(connection)
    if connection.dialect.name != "sqlite":
        return Check("version", "ok", f"PostgreSQL {version}")
    if has_wal_reset_fix(version):
        return Check("version", "ok", f"SQLite {version}")
    return Check(
        "version",
        "warning",
        f"SQLite {version}: versions before 3.51.3 (but for 3.50.7 and 3.44.6) have a rare race by which a file can be"
        " damaged when two connections write, or write and checkpoint, at the same instant (https://sqlite.org/wal.html#walresetbug)."
        " One process with one store hardly meets it. Where several write one file: a newer SQLite, or PostgreSQL. A"
        " distribution may have put the fix into an older version; its changelog says so",
    )


def has_wal_reset_fix(version: str) -> bool:
    """Tell whether a version of SQLite has the fix of the WAL-reset bug, as far as its number tells."""
    numbers = tuple(int(part) for part in version.split(".")[:3])
    least = _FIXED_IN_BRANCH.get((numbers[0], numbers[1]), _FIXED)
    return numbers >= least or numbers < (3, 7, 0)


def _journals(journals: list[JournalInfo]) -> Iterator[Check]:
    dead = sum(journal.dead_segments for journal in journals)
    if dead:
        where = ", ".join(str(journal.directory) for journal in journals if journal.dead_segments)
        detail = f"{dead} segments of processes that have died wait in {where}. Remedy: `runs list` takes them up"
        yield Check("journals", "warning", detail)
    else:
        live = sum(journal.segments for journal in journals)
        yield Check("journals", "ok", f"{live} segments, all of processes that live" if live else "none waits")
    refused = [journal for journal in journals if journal.quarantined_records]
    if refused:
        number = sum(journal.quarantined_records for journal in refused)
        where = ", ".join(str(journal.directory) for journal in refused)
        yield Check(
            "quarantine", "problem", f"the database refused {number} records; they are in {where}/quarantine.jsonl"
        )
    else:
        yield Check("quarantine", "ok", "no record was refused")


def _some(run_ids: list[str]) -> str:
    more = len(run_ids) - _EXAMPLES
    return ", ".join(run_ids[:_EXAMPLES]) + (f" and {more} more" if more > 0 else "")
