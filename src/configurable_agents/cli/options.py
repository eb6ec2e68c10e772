"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from configurable_agents.cli.screen import Screen
from configurable_agents.semconv import Status


def _set_debug(context: typer.Context, value: bool) -> bool:
    screen = context.find_object(Screen)
    if value and screen is not None:
        screen.debug = True
    return value


DebugOption = Annotated[
    bool,
    typer.Option("--debug", help="Show tracebacks and debug messages.", callback=_set_debug, is_eager=True),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs: one object a line.")]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL|PATH",
        help="Where runs are kept: a SQLite file or a database URL. Without it: CONFIGURABLE_AGENTS_STORE, "
        "then (for `run`) the file's own, then ./workflows.db.",
    ),
]
FunctionsOption = Annotated[
    str | None,
    typer.Option(
        "--functions",
        metavar="MODULE",
        help="A Python module (a dotted name or a .py file) whose __all__ names the functions that nodes may call.",
    ),
]
WorkflowOption = Annotated[str | None, typer.Option("--workflow", metavar="NAME", help="Only runs of this workflow.")]
StatusOption = Annotated[
    Status | None,
    typer.Option("--status", metavar="STATUS", help=f"Only runs with this status: {', '.join(Status)}."),
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id, the beginning of it if that is unique, or `last`.")
]


def screen_of(context: typer.Context) -> Screen:
    """Give the screen that `main` made."""
    screen = context.find_object(Screen)
    if screen is None:
        raise RuntimeError("commands are started by configurable_agents.cli.main.main")
    return screen
