"""`store`: what the store of runs holds, whether it is sound, and its upkeep."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from configurable_agents.cli import figures
from configurable_agents.cli.options import DebugOption, JsonOption, StoreOption, screen_of
from configurable_agents.cli.runs_commands import parse_since
from configurable_agents.cli.text import clean

if TYPE_CHECKING:
    from configurable_agents.storage.base import StorageBackend
    from configurable_agents.storage.upkeep import JournalInfo, StoreInfo

store = typer.Typer(
    name="store", help="Look after the store of runs: its size, its health, copies of it.", no_args_is_help=True
)

SOUND: Final = 0
UNSOUND: Final = 1

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)[bB]?")
_POWERS: Final = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


@store.command()
def info(
    context: typer.Context, store: StoreOption = None, as_json: JsonOption = False, debug: DebugOption = False
) -> int:
    """Show what the store holds: runs, node executions, spans, its size, its journals."""
    from configurable_agents.storage.targets import journal_directories, locate
    from configurable_agents.storage.upkeep import read_info

    screen = screen_of(context)
    journals = journal_directories(locate(_target(store)), os.environ)
    with _opened(store, read_only=True) as backend:
        found = read_info(backend, journals)
    if as_json:
        screen.write_json(info_object(found))
    else:
        for name, value in _info_lines(found):
            screen.write(clean(screen.signs.spell(f"{name:<16} {value}")))
    return 0


@store.command()
def doctor(
    context: typer.Context, store: StoreOption = None, as_json: JsonOption = False, debug: DebugOption = False
) -> int:
    """Check the store: integrity, schema, totals, journals, refused records, and the database's version."""
    from configurable_agents.storage.doctor import examine

    screen = screen_of(context)
    checks = examine(_target(store), os.environ)
    for check in checks:
        if as_json:
            screen.write_json({"check": check.name, "verdict": check.verdict, "detail": check.detail})
        else:
            screen.write(clean(f"{check.verdict:<8} {check.name}: {check.detail}"))
    return UNSOUND if any(check.verdict == "problem" for check in checks) else SOUND


@store.command()
def prune(
    context: typer.Context,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Runs started longer ago go: 30d, 12h, or before a time as 2026-01-31."),
    ] = None,
    keep_last: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="The newest N runs stay; alone: all others go.")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The oldest runs go until the store is no larger: 500MB, 2GiB.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Delete old runs, and give their space back. A running one is never deleted."""
    from configurable_agents.storage.pruning import Rules
    from configurable_agents.storage.pruning import prune as prune_store

    if older_than is None and keep_last is None and max_size is None:
        raise typer.BadParameter("say which runs go: --older-than, --keep-last or --max-size")
    rules = Rules(
        started_before_unix_nano=parse_since(older_than, now=datetime.now(UTC), option="--older-than")
        if older_than
        else None,
        keep_last=keep_last,
        max_bytes=parse_size(max_size) if max_size else None,
    )
    screen = screen_of(context)
    with _opened(store, read_only=dry_run) as backend:
        pruned = prune_store(backend, rules, dry_run=dry_run)
    if as_json:
        screen.write_json(
            {
                "runs": len(pruned.run_ids),
                "run_ids": list(pruned.run_ids),
                "bytes_before": pruned.bytes_before,
                "bytes_after": pruned.bytes_after,
                "dry_run": dry_run,
            }
        )
    else:
        what = "would be deleted" if dry_run else "deleted"
        about = "about " if dry_run else ""
        runs = figures.count(len(pruned.run_ids), "run")
        screen.write(f"{runs} {what}; {size(pruned.bytes_before)}, then {about}{size(pruned.bytes_after)}")
    if rules.max_bytes is not None and pruned.bytes_after > rules.max_bytes and not dry_run:
        screen.complain(
            f"the store is still larger than {size(rules.max_bytes)}: what is left must stay", kind="warning"
        )
    return 0


@store.command()
def rebuild(
    context: typer.Context, store: StoreOption = None, as_json: JsonOption = False, debug: DebugOption = False
) -> int:
    """Compute totals of runs, and costs by model and day, anew from their parts, and give free space back."""
    from configurable_agents.storage.space import size_of
    from configurable_agents.storage.upkeep import rebuild as rebuild_store
    from configurable_agents.storage.upkeep import rebuild_usage, sql_store

    screen = screen_of(context)
    with _opened(store, read_only=False) as backend:
        before = size_of(sql_store(backend))
        costs = rebuild_usage(backend)
        changed = rebuild_store(backend)
        after = size_of(sql_store(backend))
    if as_json:
        screen.write_json(
            {"runs_changed": changed, "costs_changed": costs, "bytes_before": before, "bytes_after": after}
        )
    else:
        runs = figures.count(changed, "run")
        screen.write(f"{runs} had other totals than their node executions")
        screen.write(f"{figures.count(costs, 'model and day', 'models and days')} had other figures than their calls")
        screen.write(f"{size(before)}, then {size(after)}")
    return 0


@store.command()
def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The copy; it must not be there yet.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Copy a SQLite store into one file, whole and of one moment, also while it is written."""
    from configurable_agents.storage.upkeep import back_up

    screen = screen_of(context)
    with _opened(store, read_only=True) as backend:
        copied = back_up(backend, file)
    if as_json:
        screen.write_json({"file": str(file), "size_bytes": copied})
    else:
        screen.tell(f"{size(copied)} copied to {file}")
    return 0


def info_object(found: StoreInfo) -> dict[str, Any]:
    """Give what `store info --json` prints."""
    return {
        "store": found.location,
        "database": found.database,
        "database_version": found.database_version,
        "schema_revision": found.schema_revision,
        "size_bytes": found.size_bytes,
        "free_bytes": found.free_bytes,
        "runs": sum(found.runs.values()),
        "runs_by_status": dict(sorted(found.runs.items())),
        "oldest_run_at": _instant(found.oldest_unix_nano),
        "newest_run_at": _instant(found.newest_unix_nano),
        "node_executions": found.node_executions,
        "spans": found.spans,
        "model_calls": found.model_calls,
        "unpriced_calls": found.unpriced_calls,
        "degraded": found.degraded,
        "missing_node_executions": found.missing_node_executions,
        "quarantined_records": found.quarantined_records,
        "journals": [_journal_object(journal) for journal in found.journals],
    }


def _journal_object(journal: JournalInfo) -> dict[str, Any]:
    return {
        "directory": str(journal.directory),
        "segments": journal.segments,
        "size_bytes": journal.size_bytes,
        "dead_segments": journal.dead_segments,
        "quarantined_records": journal.quarantined_records,
    }


def _info_lines(found: StoreInfo) -> Iterator[tuple[str, str]]:
    name = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}.get(found.database, found.database)
    yield "store", found.location
    yield "database", f"{name} {found.database_version}, schema {found.schema_revision}"
    yield "size", size(found.size_bytes) + (f" ({size(found.free_bytes)} free)" if found.free_bytes else "")
    yield "runs", _runs_line(found.runs)
    if found.oldest_unix_nano is not None and found.newest_unix_nano is not None:
        yield "started", f"{figures.instant(found.oldest_unix_nano)} to {figures.instant(found.newest_unix_nano)}"
    yield "node executions", f"{found.node_executions:,}"
    yield "spans", f"{found.spans:,}"
    yield "model calls", f"{found.model_calls:,} ({found.unpriced_calls:,} unpriced)"
    yield "missing", figures.count(found.missing_node_executions, "node execution")
    yield "refused", figures.count(found.quarantined_records, "record")
    yield "degraded", "yes" if found.degraded else "no"
    for journal in found.journals:
        segments = figures.count(journal.segments, "segment")
        dead = f", {journal.dead_segments} of processes that have died" if journal.dead_segments else ""
        yield "journal", f"{journal.directory}: {segments}, {size(journal.size_bytes)}{dead}"


def _runs_line(runs: Mapping[str, int]) -> str:
    parts = ", ".join(f"{number:,} {status}" for status, number in sorted(runs.items()))
    return f"{sum(runs.values()):,}" + (f" ({parts})" if parts else "")


def _instant(unix_nano: int | None) -> str | None:
    return None if unix_nano is None else figures.precise_instant(unix_nano)


def size(number: int) -> str:
    """Say a number of bytes: `12 kB`, `3.4 MB`."""
    value = float(number)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} GB"


def parse_size(text: str) -> int:
    """Read a size: `500MB` (1000 to the next unit), `2GiB` (1024), or bytes.

    Raises:
        typer.BadParameter: It is none.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or (found[3] and not found[2]):
        raise typer.BadParameter(f"--max-size {text!r}: give a size as 500MB or 2GiB")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** _POWERS[found[2].upper()])


def _target(store: str | None) -> Any:
    from configurable_agents.storage.targets import store_target

    return store_target(store, os.environ, None)


@contextmanager
def _opened(store: str | None, *, read_only: bool) -> Iterator[StorageBackend]:
    from configurable_agents.storage.factory import create_storage_backend

    # Patient with those who write: nobody but a person waits for this.
    backend = create_storage_backend(store, read_only=read_only, busy_timeout_seconds=30)
    try:
        yield backend
    finally:
        backend.close()
