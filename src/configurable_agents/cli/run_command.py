"""`run`: run a workflow file, show what it gave and its tree."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from configurable_agents.cli.collector import Collector
from configurable_agents.cli.inputs import gather_inputs
from configurable_agents.cli.log import log_to
from configurable_agents.cli.options import DebugOption, FunctionsOption, JsonOption, StoreOption, screen_of
from configurable_agents.cli.screen import Screen
from configurable_agents.errors import ConfigurableAgentsError, WorkflowExecutionError

if TYPE_CHECKING:
    from configurable_agents.cli.tree import RunView
    from configurable_agents.runtime.result import RunResult
    from configurable_agents.runtime.workflow import Workflow


@dataclass(frozen=True)
class _Asked:
    """What the command line asked for."""

    workflow: Workflow
    inputs: Mapping[str, Any]
    functions: Mapping[str, Callable[..., Any]] | None
    model: str | None
    store: str | None
    keep: bool
    trust: bool
    as_json: bool


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
    untrusted: Annotated[
        bool,
        typer.Option("--untrusted", help="Refuse every host, variable and path that only the file names."),
    ] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Run a workflow once; print what it gave and its tree."""
    from configurable_agents.cli.functions import load_functions
    from configurable_agents.runtime.workflow import load_workflow

    if store is not None and no_store:
        raise typer.BadParameter("--store and --no-store exclude each other")
    screen = screen_of(context)
    log_to(screen)
    workflow = load_workflow(file)
    _prepare_log(screen, workflow)
    asked = _Asked(
        workflow=workflow,
        inputs=gather_inputs(input_ or [], inputs, workflow.config.state.fields),
        functions=load_functions(functions) if functions is not None else None,
        model=model,
        store=store,
        keep=not no_store,
        trust=not untrusted,
        as_json=as_json,
    )
    return _run(screen, asked)


def _prepare_log(screen: Screen, workflow: Workflow) -> None:
    logging = workflow.config.config.observability.logging
    if logging is not None:
        log_to(screen, logging.level)
    for problem in workflow.loaded.warnings:
        screen.complain(str(problem), kind="warning")


def _run(screen: Screen, asked: _Asked) -> int:
    collector = Collector()
    try:
        result = _execute(screen, asked, collector)
    except KeyboardInterrupt:
        _report_cancelled(screen, asked, collector.view())
        raise
    # A node's own `sys.exit(0)` must not look like success.
    except (WorkflowExecutionError, SystemExit, asyncio.CancelledError) as error:
        _report_failed(screen, asked, collector.view(), error)
        return 1
    _report_done(screen, asked, collector.view(), result)
    return 0


def _execute(screen: Screen, asked: _Asked, collector: Collector) -> RunResult:
    from configurable_agents.cli.progress import LiveProgress
    from configurable_agents.runtime.executor import run_workflow

    with LiveProgress(screen.err, asked.workflow.config.flow.name) as progress:
        return run_workflow(
            asked.workflow,
            asked.inputs,
            functions=asked.functions,
            models={"default": asked.model} if asked.model else None,
            store=asked.store if asked.keep else False,
            trust=asked.trust,
            observers=(collector, progress),
        )


def _report_done(screen: Screen, asked: _Asked, view: RunView | None, result: RunResult) -> None:
    if asked.as_json:
        from configurable_agents.cli.as_json import result_object

        screen.write_json(result_object(result))
        return
    from configurable_agents.cli.results import show_outputs

    show_outputs(screen, asked.workflow.config, result.outputs)
    _show(screen, view)
    _say_where(screen, asked, result.run_id, result.store)


def _report_failed(screen: Screen, asked: _Asked, view: RunView | None, error: BaseException) -> None:
    store = _find_store(asked, view)
    if asked.as_json:
        _write_unfinished(screen, view, store)
    else:
        _show(screen, view)
    if screen.debug:
        import traceback

        traceback.print_exception(error)
    screen.complain(str(error) if isinstance(error, WorkflowExecutionError) else f"{type(error).__name__}: {error}")
    if view is not None:
        _say_where(screen, asked, view.run.run_id, store)


def _report_cancelled(screen: Screen, asked: _Asked, view: RunView | None) -> None:
    store = _find_store(asked, view)
    if asked.as_json:
        _write_unfinished(screen, view, store)
    screen.complain("cancelled", kind="error")
    if view is not None:
        _say_where(screen, asked, view.run.run_id, store)


def _write_unfinished(screen: Screen, view: RunView | None, store: str | None) -> None:
    from configurable_agents.cli.as_json import unfinished_object

    if view is not None:
        screen.write_json(unfinished_object(view.run, store=store))


def _show(screen: Screen, view: RunView | None) -> None:
    from configurable_agents.cli.results import show_view

    if view is not None:
        show_view(screen, view, with_inputs=False)


def _find_store(asked: _Asked, view: RunView | None) -> str | None:
    """Look whether the store holds a run that did not complete: its error does not say so."""
    from configurable_agents.storage.factory import create_storage_backend, store_target

    storage = asked.workflow.config.config.storage
    if view is None or not asked.keep or (asked.store is None and storage is not None and not storage.enabled):
        return None
    try:
        backend = create_storage_backend(store_target(asked.store, os.environ, storage), read_only=True)
        try:
            backend.runs.get(view.run.run_id)
            return backend.location
        finally:
            backend.close()
    except ConfigurableAgentsError:
        return None


def _say_where(screen: Screen, asked: _Asked, run_id: str, store: str | None) -> None:
    if store is None:
        screen.tell("not kept" + ("" if asked.keep else " (--no-store)"), style="dim")
        return
    # `runs show` looks at --store, the environment and the default place, but not into the workflow file.
    elsewhere = asked.store is not None or (
        "CONFIGURABLE_AGENTS_STORE" not in os.environ and asked.workflow.config.config.storage is not None
    )
    option = f" --store {_quoted(asked.store or store)}" if elsewhere else ""
    screen.tell(f"kept in {store}", style="dim")
    screen.tell(f"show again: configurable-agents runs show {run_id[:18]}{option}", style="dim")


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)
