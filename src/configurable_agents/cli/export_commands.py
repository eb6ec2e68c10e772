"""`runs export` and `runs import`: stored runs leave the store, over OTLP or as files, and come into another one."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from configurable_agents.cli.options import (
    DebugOption,
    JsonOption,
    StatusOption,
    StoreOption,
    WorkflowOption,
    screen_of,
)
from configurable_agents.cli.runs_commands import parse_since

if TYPE_CHECKING:
    from configurable_agents.cli.selecting import Selection
    from configurable_agents.observability.destinations import Destination


class Format(StrEnum):
    """What a file of runs is written as."""

    OTLP_JSON = "otlp-json"


class Protocol(StrEnum):
    """How OTLP is spoken."""

    GRPC = "grpc"
    HTTP = "http/protobuf"


def export(
    context: typer.Context,
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]…", help="Runs by id, by the beginning of an id if that is unique, or `last`."),
    ] = None,
    otlp: Annotated[
        str | None,
        typer.Option(
            metavar="ENDPOINT",
            help="Ship them there: http://127.0.0.1:4318. Without it and --format: where the environment says "
            "(OTEL_EXPORTER_OTLP_ENDPOINT and its like).",
        ),
    ] = None,
    protocol: Annotated[
        Protocol | None,
        typer.Option(help="For --otlp; without it port 4317 is gRPC, any other HTTP."),
    ] = None,
    format_: Annotated[
        Format | None, typer.Option("--format", help="Write them as a file: OTLP as JSON, one request a line.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The new file to write; without it stdout.")
    ] = None,
    pending: Annotated[
        bool,
        typer.Option("--pending", help="Only sampled runs that have ended and were not delivered there before."),
    ] = False,
    workflow: WorkflowOption = None,
    status: StatusOption = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="Only runs started since then, as in `runs list`."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All runs.")] = False,
    content: Annotated[
        bool | None,
        typer.Option(
            "--content/--no-content",
            help="With or without inputs, outputs, messages and texts of errors. Without either: a file has them, and "
            "over OTLP the environment decides, as for a run.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the runs.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Ship stored runs over OTLP, or write them as a file of OTLP JSON; with the ids and times that they have."""
    from configurable_agents.cli.exporting import Export, list_selected, ship, write
    from configurable_agents.cli.selecting import Selection

    if pending and (format_ or output):
        raise typer.BadParameter("--pending is about what an endpoint misses: give --otlp, and no --format or --output")
    selection = Selection(
        runs=tuple(runs or ()),
        workflow=workflow,
        status=status,
        since_unix_nano=parse_since(since, now=datetime.now(UTC)) if since else None,
    )
    _check_selection(selection, pending=pending, all_=all_)
    places = _destinations(otlp, protocol, to_file=bool(format_ or output))
    asked = Export(screen_of(context), store, selection, pending=pending, content=content, as_json=as_json)
    if dry_run:
        return list_selected(asked, places)
    return ship(asked, places) if places else write(asked, output)


def _check_selection(selection: Selection, *, pending: bool, all_: bool) -> None:
    described = pending or all_ or selection.workflow or selection.status or selection.since_unix_nano
    if selection.runs and described:
        raise typer.BadParameter("name runs, or describe them with options, not both")
    if not (selection.runs or described):
        raise typer.BadParameter("say which runs: RUN…, --pending, --workflow, --status, --since or --all")


def _destinations(otlp: str | None, protocol: Protocol | None, *, to_file: bool) -> tuple[Destination, ...]:
    from configurable_agents.observability.destinations import destinations

    if to_file:
        if otlp is not None or protocol is not None:
            raise typer.BadParameter("--otlp and --format exclude each other")
        return ()
    if protocol is not None and otlp is None:
        raise typer.BadParameter("--protocol needs --otlp")
    places = destinations(otlp, None, os.environ, protocol=None if protocol is None else protocol.value)
    if not places:
        raise typer.BadParameter("say where to: --otlp ENDPOINT, or --format otlp-json for a file")
    return places


def import_(
    context: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE…", help="Files of OTLP JSON, ours or the Collector's; `-` reads stdin."),
    ],
    store: StoreOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Take runs and other spans from files into the store: each file whole or not at all; what is there stays."""
    from configurable_agents.cli.importing import take_in

    return take_in(screen_of(context), files, store, as_json=as_json)
