"""A run from the command line: watched while it runs, then shown, with its errors and its place."""

from __future__ import annotations

import os
import shlex
import traceback
from asyncio import CancelledError
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from configurable_agents.cli.as_json import result_object, unfinished_object
from configurable_agents.cli.collector import Collector
from configurable_agents.cli.jaeger import trace_url
from configurable_agents.cli.progress import LiveProgress
from configurable_agents.cli.results import show_outputs, show_view
from configurable_agents.cli.screen import Screen
from configurable_agents.cli.tree import RunView
from configurable_agents.errors import ConfigurableAgentsError, NodeExecutionError, WorkflowExecutionError
from configurable_agents.runtime.executor import run_workflow
from configurable_agents.runtime.result import RunResult
from configurable_agents.runtime.workflow import Workflow
from configurable_agents.storage.factory import create_storage_backend, store_target


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    workflow: Workflow
    inputs: Mapping[str, Any]
    functions: Mapping[str, Callable[..., Any]]
    model: str | None
    store: str | None
    keep: bool
    trust: bool
    as_json: bool
    otlp: str | None = None
    traceparent: str | None = None


def run_and_show(screen: Screen, asked: Request) -> int:
    """Run a workflow and show what became of it; gives the exit code.

    Raises:
        KeyboardInterrupt: It was cancelled, which has been said.
        ConfigurableAgentsError: It did not begin.
    """
    collector = Collector()
    try:
        result = _execute(screen, asked, collector)
    except KeyboardInterrupt:
        _report_cancelled(screen, asked, collector.view())
        raise
    # A node's own `sys.exit(0)` must not look like success.
    except (WorkflowExecutionError, SystemExit, CancelledError) as error:
        _report_failed(screen, asked, collector.view(), error)
        return 1
    _report_done(screen, asked, collector.view(), result)
    return 0


def _execute(screen: Screen, asked: Request, collector: Collector) -> RunResult:
    with LiveProgress(screen.err, asked.workflow.config.flow.name) as progress:
        return run_workflow(
            asked.workflow,
            asked.inputs,
            functions=asked.functions,
            models={"default": asked.model} if asked.model else None,
            store=asked.store if asked.keep else False,
            trust=asked.trust,
            observers=(collector, progress),
            otlp=asked.otlp,
            traceparent=asked.traceparent,
        )


def _report_done(screen: Screen, asked: Request, view: RunView | None, result: RunResult) -> None:
    # A store that takes nothing has a place all the same.
    store = _find_store(asked, view) if result.degraded else result.store
    if asked.as_json:
        screen.write_json({**result_object(result), "store": store})
        return
    show_outputs(screen, asked.workflow.config, result.outputs)
    _show(screen, view)
    _say_where(screen, asked, result.run_id, store)
    _say_where_the_trace_is(screen, view)


def _report_failed(screen: Screen, asked: Request, view: RunView | None, error: BaseException) -> None:
    store = _find_store(asked, view)
    if asked.as_json:
        _write_unfinished(screen, asked, view, store, error)
    else:
        _show(screen, view)
    if screen.debug:
        traceback.print_exception(error)
    screen.complain(str(error) if isinstance(error, WorkflowExecutionError) else f"{type(error).__name__}: {error}")
    if view is not None:
        _say_where(screen, asked, view.run.run_id, store)
        _say_where_the_trace_is(screen, view)


def _report_cancelled(screen: Screen, asked: Request, view: RunView | None) -> None:
    store = _find_store(asked, view)
    if asked.as_json:
        _write_unfinished(screen, asked, view, store)
    screen.complain("cancelled", kind="error")
    if view is not None:
        _say_where(screen, asked, view.run.run_id, store)


def _write_unfinished(
    screen: Screen, asked: Request, view: RunView | None, store: str | None, error: BaseException | None = None
) -> None:
    if view is None:
        return
    node_id, seq = (error.node_id, error.seq) if isinstance(error, NodeExecutionError) else (None, None)
    degraded = store is None and _wants_store(asked)
    screen.write_json(unfinished_object(view.run, store=store, degraded=degraded, node_id=node_id, seq=seq))


def _show(screen: Screen, view: RunView | None) -> None:
    if view is not None:
        show_view(screen, view, with_inputs=False)


def _find_store(asked: Request, view: RunView | None) -> str | None:
    """Look whether the store holds a run that did not complete: its error does not say so."""
    if view is None or not _wants_store(asked):
        return None
    storage = asked.workflow.config.config.storage
    try:
        backend = create_storage_backend(store_target(asked.store, os.environ, storage), read_only=True)
        try:
            backend.runs.get(view.run.run_id)
            return backend.location
        finally:
            backend.close()
    except ConfigurableAgentsError:
        return None


def _wants_store(asked: Request) -> bool:
    storage = asked.workflow.config.config.storage
    return asked.keep and (asked.store is not None or storage is None or storage.enabled)


def _say_where(screen: Screen, asked: Request, run_id: str, store: str | None) -> None:
    if store is None:
        screen.tell("not kept" + ("" if asked.keep else " (--no-store)"), style="dim")
        return
    # `runs show` looks at --store, the environment and the default place, but not into the workflow file.
    elsewhere = asked.store is not None or (
        "CONFIGURABLE_AGENTS_STORE" not in os.environ and asked.workflow.config.config.storage is not None
    )
    option = f" --store {shlex.quote(store)}" if elsewhere else ""
    screen.tell(f"kept in {store}", style="dim")
    screen.tell(f"show again: configurable-agents runs show {run_id[:18]}{option}", style="dim")


def _say_where_the_trace_is(screen: Screen, view: RunView | None) -> None:
    link = trace_url(view.run.trace_id, os.environ) if view is not None else None
    if link is not None:
        screen.tell(f"its trace: {link}", style="dim")
