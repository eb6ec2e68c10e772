"""Runs workflows: checks everything that can be checked before, then runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configurable_agents.config.environment import fill_environment
from configurable_agents.config.reach import host_of, refuse_untrusted
from configurable_agents.config.schema import WorkflowConfig
from configurable_agents.core.secrets import masker
from configurable_agents.environ import environment
from configurable_agents.errors import ConfigError, InputError
from configurable_agents.observability.destinations import destinations
from configurable_agents.observability.propagation import parent_context
from configurable_agents.runtime.driver import drive
from configurable_agents.runtime.models import key_values, open_models
from configurable_agents.runtime.result import RunObserver, RunResult
from configurable_agents.runtime.run import Ready, run
from configurable_agents.runtime.stores import StoreChoice
from configurable_agents.runtime.workflow import Workflow, load_workflow, workflow_from_config

if TYPE_CHECKING:
    from configurable_agents.runtime.models import ModelChoice


def run_workflow(
    workflow: Workflow | str | Path,
    inputs: Mapping[str, Any] | None = None,
    *,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    models: Mapping[str, ModelChoice] | None = None,
    store: StoreChoice = None,
    timeout_seconds: float | None = None,
    trust: bool = True,
    observers: Sequence[RunObserver] = (),
    otlp: str | None = None,
    ship_to_host: bool = True,
    traceparent: str | None = None,
) -> RunResult:
    """Run a workflow once and return its result; `arun_workflow` for code that blocks.

    Works where an event loop already runs, too (notebooks): the run then has a thread of its own. Not for the handler of a
    signal, which may have come amid a write of this thread: let that tell a thread or an event loop to run it.
    """
    ready = _prepare(
        workflow,
        inputs,
        functions,
        models,
        store,
        timeout_seconds,
        trust=trust,
        observers=observers,
        otlp=otlp,
        ship_to_host=ship_to_host,
        traceparent=traceparent,
    )
    return drive(lambda inline: run(ready, inline=inline))


async def arun_workflow(
    workflow: Workflow | str | Path,
    inputs: Mapping[str, Any] | None = None,
    *,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    models: Mapping[str, ModelChoice] | None = None,
    store: StoreChoice = None,
    timeout_seconds: float | None = None,
    trust: bool = True,
    observers: Sequence[RunObserver] = (),
    otlp: str | None = None,
    ship_to_host: bool = True,
    traceparent: str | None = None,
) -> RunResult:
    """Run a workflow once and return its result.

    One run is one trace: a root span `invoke_workflow {name}` with a child span for each node execution. It is kept in
    the store: the run before its first node starts, each node before the next one starts.

    Cancelling the task cancels the run. The loop is the caller's, and so is what wakes it: of a Ctrl-C that comes just as it
    falls asleep, `asyncio.run` hears when a timer wakes it, or at once where the loop has a signal handler of its own.

    Args:
        workflow: A workflow, or the path of its file.
        inputs: One value for each required field under `state:`, and for any other that shall not have its default.
        functions: The callables that function nodes name.
        models: By node id or `default`: a langchain-core chat model, or `provider:model`; over what the file says.
        store: A path, a database URL or an open store; False keeps nothing; None takes `CONFIGURABLE_AGENTS_STORE`, the
            file's `config.storage`, or `./workflows.db`.
        timeout_seconds: For the whole run; None takes the file's, which is none by default.
        trust: False refuses every host, variable and path that the file names in `config`.
        observers: Told of every span as it starts and ends.
        otlp: Ship the run's sampled spans to this OTLP endpoint, as `http://127.0.0.1:4318`; `none` ships nothing; None
            takes the environment (`OTEL_EXPORTER_OTLP_ENDPOINT` and its like) or the file's `config.observability.otlp`.
        ship_to_host: Where no endpoint is named, hand them to the OpenTelemetry providers that this program has set up.
        traceparent: Run as part of this trace (W3C Trace Context); None takes the current span, or the environment's
            `TRACEPARENT`.

    Raises:
        ConfigError: The file is wrong; nothing ran.
        InputError: Inputs, functions or other arguments do not fit; nothing ran.
        ModelSetupError: A model cannot be made; nothing ran.
        NodeExecutionError: A node failed, with its exception as the cause. The run is kept as failed, with what finished.
        WorkflowExecutionError: The run failed by no node's fault: its time-out, its limit, a condition.

    See: OpenTelemetry GenAI conventions, "Invoke workflow span".
    """
    ready = _prepare(
        workflow,
        inputs,
        functions,
        models,
        store,
        timeout_seconds,
        trust=trust,
        observers=observers,
        otlp=otlp,
        ship_to_host=ship_to_host,
        traceparent=traceparent,
    )
    return await run(ready, inline=None)


def run_workflow_from_config(
    config: WorkflowConfig | Mapping[str, Any], inputs: Mapping[str, Any] | None = None, **options: Any
) -> RunResult:
    """Run a workflow that a program has put together; `options` are those of `run_workflow`."""
    return run_workflow(workflow_from_config(config), inputs, **options)


async def arun_workflow_from_config(
    config: WorkflowConfig | Mapping[str, Any], inputs: Mapping[str, Any] | None = None, **options: Any
) -> RunResult:
    """Run a workflow that a program has put together; `options` are those of `arun_workflow`."""
    return await arun_workflow(workflow_from_config(config), inputs, **options)


def _prepare(
    workflow: Workflow | str | Path,
    inputs: Mapping[str, Any] | None,
    functions: Mapping[str, Callable[..., Any]] | None,
    models: Mapping[str, ModelChoice] | None,
    store: StoreChoice,
    timeout_seconds: float | None,
    *,
    trust: bool,
    observers: Sequence[RunObserver],
    otlp: str | None,
    ship_to_host: bool,
    traceparent: str | None,
) -> Ready:
    environ = environment()
    ready = workflow if isinstance(workflow, Workflow) else load_workflow(workflow)
    try:
        if not trust:
            hosts = [] if otlp is None else [host_of(otlp)]
            refuse_untrusted(ready.config, hosts=hosts, paths=[str(store)] if isinstance(store, str | Path) else [])
        filled = ready.filled or fill_environment(ready.config.config, environ)
        shipped_to = destinations(otlp, filled.config.observability.otlp, environ)
    except ConfigError as error:
        raise ready.loaded.place(error) from None
    given, defaults = ready.inputs.split(inputs or {})
    return Ready(
        workflow=ready,
        config=filled.config,
        given=given,
        defaults=defaults,
        functions=_functions(ready, functions or {}),
        models=open_models(ready, filled.config, models or {}, environ=environ, trust=trust),
        mask=masker(
            filled.secrets.union(
                key_values(ready, filled.config, environ), *(destination.secrets for destination in shipped_to)
            )
        ),
        store=store,
        timeout_seconds=timeout_seconds if timeout_seconds is not None else filled.config.execution.timeout,
        observers=observers,
        destinations=shipped_to,
        ship_to_host=ship_to_host,
        environ=environ,
        parent=parent_context(traceparent, environ),
    )


def _functions(workflow: Workflow, offered: Mapping[str, Callable[..., Any]]) -> Mapping[str, Callable[..., Any]]:
    missing = workflow.function_names - offered.keys()
    if missing:
        have = ", ".join(map(repr, sorted(offered))) or "none"
        raise InputError([f"function {name!r} is not registered; functions= has {have}" for name in sorted(missing)])
    return dict(offered)
