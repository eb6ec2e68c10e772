"""`run`: run a workflow file, show what it gave and its tree."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from configurable_agents.cli.options import DebugOption, FunctionsOption, JsonOption, StoreOption, screen_of
from configurable_agents.cli.screen import Screen
from configurable_agents.errors import InputError

if TYPE_CHECKING:
    from configurable_agents.runtime.workflow import Workflow


def run(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The workflow file (YAML or JSON).")],
    input_: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="KEY=VALUE",
            help="A value for a state field: text for a field of type str, JSON for any other; KEY=@FILE reads a file.",
        ),
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option(metavar="FILE|-", help="Inputs from a JSON or YAML mapping in a file, or (-) from stdin."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="PROVIDER:MODEL", help="The model that answers, in place of those that the file names."),
    ] = None,
    store: StoreOption = None,
    no_store: Annotated[bool, typer.Option("--no-store", help="Keep nothing of the run.")] = False,
    functions: FunctionsOption = None,
    otlp: Annotated[
        str | None,
        typer.Option(
            "--otlp",
            metavar="ENDPOINT",
            help="Ship the trace to an OTLP endpoint, as http://127.0.0.1:4318 (HTTP) or http://127.0.0.1:4317 (gRPC); "
            "'none' ships nothing. Without it the environment (OTEL_EXPORTER_OTLP_ENDPOINT) or the file decides.",
        ),
    ] = None,
    traceparent: Annotated[
        str | None,
        typer.Option(
            "--traceparent",
            metavar="TRACEPARENT",
            help="Run as part of this trace (W3C Trace Context). Without it the environment's TRACEPARENT decides.",
        ),
    ] = None,
    untrusted: Annotated[
        bool,
        typer.Option("--untrusted", help="Refuse every host, variable and path that only the file names."),
    ] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Run a workflow once; print what it gave and its tree."""
    # The command line starts fast: each command loads what it needs when it is called.
    from configurable_agents.cli.functions import load_functions
    from configurable_agents.cli.inputs import gather_inputs
    from configurable_agents.cli.log import log_to
    from configurable_agents.cli.running import Request, run_and_show
    from configurable_agents.runtime.workflow import load_workflow

    if store is not None and no_store:
        raise typer.BadParameter("--store and --no-store exclude each other")
    screen = screen_of(context)
    log_to(screen)
    workflow = load_workflow(file)
    _prepare_log(screen, workflow)
    registered = load_functions(functions) if functions is not None else {}
    _check_functions(workflow, registered)
    request = Request(
        workflow=workflow,
        inputs=gather_inputs(input_ or [], inputs, workflow.config.state.fields),
        functions=registered,
        model=model,
        store=store,
        keep=not no_store,
        trust=not untrusted,
        as_json=as_json,
        otlp=otlp,
        traceparent=traceparent,
    )
    return run_and_show(screen, request)


def _check_functions(workflow: Workflow, registered: Collection[str]) -> None:
    missing = sorted(workflow.function_names - set(registered))
    if missing:
        offered = f"; it offers {', '.join(sorted(registered))}" if registered else ""
        remedy = f"Name a module that offers it with --functions{offered}."
        raise InputError([f"function {name!r} is not registered" for name in missing] + [remedy])


def _prepare_log(screen: Screen, workflow: Workflow) -> None:
    from configurable_agents.cli.log import log_to

    logging = workflow.config.config.observability.logging
    if logging is not None:
        log_to(screen, logging.level)
    for problem in workflow.loaded.warnings:
        screen.complain(str(problem), kind="warning")
