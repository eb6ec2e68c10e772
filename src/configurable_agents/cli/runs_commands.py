"""`runs list`, `runs show` and `runs delete`: the runs that a store keeps."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from configurable_agents.cli import figures
from configurable_agents.cli.jaeger import trace_url
from configurable_agents.cli.options import (
    DebugOption,
    JsonOption,
    RunArgument,
    StatusOption,
    StoreOption,
    WorkflowOption,
    screen_of,
)
from configurable_agents.cli.screen import Screen
from configurable_agents.cli.text import one_line

if TYPE_CHECKING:
    from configurable_agents.cli.tree import RunView
    from configurable_agents.storage.base import StorageBackend
    from configurable_agents.storage.records import WorkflowRunRecord

_AGO: Final = re.compile(r"(\d+)\s*(s|m|min|h|d|w)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def list_(
    context: typer.Context,
    workflow: WorkflowOption = None,
    status: StatusOption = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN", help="Only runs started since then: ISO 8601 (UTC), or a time ago as 30m, 12h, 7d."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many runs.")] = 20,
    store: StoreOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """List runs, the newest first."""
    screen = screen_of(context)
    after = parse_since(since, now=datetime.now(UTC)) if since else None
    with _opened(store, read_only=True) as backend:
        found = backend.runs.list_runs(
            workflow_name=workflow, status=status.value if status else None, since_unix_nano=after, limit=limit
        )
        place = backend.location
    if as_json:
        from configurable_agents.cli.as_json import run_object

        for run in found:
            screen.write_json(run_object(run))
    elif found:
        from configurable_agents.cli.listing import listing

        for line in listing(found, now_unix_nano=time.time_ns(), width=screen.out.width, signs=screen.signs):
            screen.show(line)
    else:
        asked = " such" if workflow or status or since else ""
        screen.tell(f"{place} holds no{asked} run")
    return 0


def show(
    context: typer.Context,
    run: RunArgument,
    store: StoreOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Show a run: its header, its inputs, and its tree with latency, tokens, cost and what each node wrote."""
    screen = screen_of(context)
    with _opened(store, read_only=True) as backend:
        view = _read(backend, run)
        outputs = backend.execution_states.get_state_at(view.run.run_id) if as_json else None
        deliveries = backend.runs.list_deliveries(view.run.run_id)
    link = trace_url(view.run.trace_id, os.environ)
    if as_json:
        from configurable_agents.cli.as_json import view_object

        screen.write_json(view_object(view, outputs, deliveries=deliveries, trace_url=link))
    else:
        from configurable_agents.cli.results import show_view

        show_view(screen, view, link=link)
    return 0


def delete(
    context: typer.Context,
    run: RunArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    store: StoreOption = None,
    debug: DebugOption = False,
) -> int:
    """Delete a run with all that is kept of it."""
    screen = screen_of(context)
    with _opened(store, read_only=True) as backend:
        record = backend.runs.get(run)
    if not yes and not _confirmed(screen, record):
        return 2
    with _opened(store, read_only=False) as backend:
        backend.runs.delete(record.run_id)
    screen.tell(f"deleted {record.run_id}")
    return 0


def _confirmed(screen: Screen, run: WorkflowRunRecord) -> bool:
    what = f"{run.run_id} ({one_line(run.workflow_name)}, {run.status}, {figures.instant(run.start_time_unix_nano)})"
    if not sys.stdin.isatty():
        screen.complain(f"not deleted: {what}\nAdd --yes to delete without being asked.")
        return False
    if not typer.confirm(f"Delete {what}?", err=True):
        screen.tell("not deleted")
        return False
    return True


@contextmanager
def _opened(store: str | None, *, read_only: bool) -> Iterator[StorageBackend]:
    from configurable_agents.storage.factory import create_storage_backend, open_for_reading

    backend = open_for_reading(store) if read_only else create_storage_backend(store)
    try:
        yield backend
    finally:
        backend.close()


def _read(backend: StorageBackend, run: str) -> RunView:
    from configurable_agents.cli.tree import RunView

    record = backend.runs.get(run)
    nodes = backend.execution_states.get_state_history(record.run_id)
    spans = backend.execution_states.list_spans(record.run_id)
    return RunView(record, nodes, spans, time.time_ns())


def parse_since(text: str, *, now: datetime, option: str = "--since") -> int:
    """Read `--since`, or another option of its kind: a time (UTC if it names no zone), a date, or how long ago; gives Unix nanoseconds.

    Raises:
        typer.BadParameter: It is none of these.
    """
    ago = _AGO.fullmatch(text.strip())
    try:
        at = now - timedelta(**{_UNITS[ago[2]]: int(ago[1])}) if ago else datetime.fromisoformat(text.strip())
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return round(at.timestamp()) * 1_000_000_000
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f"{option} {text!r}: give a time as 2026-01-31T12:00:00Z, or how long ago as 12h"
        ) from error
