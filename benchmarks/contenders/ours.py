"""Our own package: with everything on (spans, journal, database, default settings), or with nothing kept."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.contenders import One, Ready
from benchmarks.work import (
    BRANCHES,
    CHAIN,
    CHAIN_NODES,
    DOCUMENT,
    DOCUMENT_CHAIN,
    FAN_OUT,
    LOOP,
    ROUNDS,
    SLEEP_SECONDS,
    check,
)
from configurable_agents import RunResult, Workflow, arun_workflow, run_workflow
from configurable_agents.runtime.stores import StoreChoice, open_store
from configurable_agents.runtime.workflow import workflow_from_config


def take_part(variant: str, folder: Path) -> Ready:
    """Compile the workflows once, as a program does."""
    store: Path | bool = folder / "runs.db" if variant != "off" else False
    run = _blocking if variant in {"on", "off"} else _on_a_loop(asyncio.new_event_loop())
    add, one, last = (_async_add, _async_one, _async_last) if variant == "async" else (_add, _one, _last)
    names = [f"f{number}" for number in range(CHAIN_NODES)]
    adds, branches = dict.fromkeys(names, add), {**dict.fromkeys(_branches(), one), "last": last}

    def work(workflow: Workflow, functions: Mapping[str, Callable[..., Any]], expected: int, **inputs: Any) -> Any:
        return lambda: check(
            run(workflow, inputs, functions=functions, store=store, observers=()).outputs["x"], expected
        )

    return Ready(
        works={
            CHAIN: work(chain(names), adds, CHAIN_NODES),
            DOCUMENT_CHAIN: work(chain(names, document=True), adds, CHAIN_NODES, document=DOCUMENT),
            FAN_OUT: work(fan_out(), branches, BRANCHES),
            LOOP: work(loop(), {"add": add}, ROUNDS),
        },
        asleep=lambda: _asleep(names, store),
        settle=lambda: wait_for_commits(store),
    )


def wait_for_commits(store: StoreChoice) -> None:
    """Wait until the database has every record of this process."""
    opened = open_store(store, None, {})
    assert opened is None or opened.exporter.force_flush()


def chain(names: list[str], *, document: bool = False) -> Workflow:
    """Give a workflow whose nodes each add one to `x`."""
    fields: dict[str, Any] = {"x": {"type": "int", "default": 0}}
    if document:
        fields["document"] = {"type": "str", "required": True}
    return _workflow(
        "chain",
        fields,
        [_node(name) for name in names],
        [{"from": here, "to": there} for here, there in itertools.pairwise(["START", *names, "END"])],
    )


def fan_out() -> Workflow:
    """Give a workflow whose branches each give one, and whose last node writes their sum."""
    nodes = [{"id": name, "function": name, "outputs": ["total"]} for name in _branches()]
    last = {"id": "last", "function": "last", "inputs": {"total": "{total}"}, "outputs": ["x"]}
    edges = [{"from": "START", "to": _branches()}, *({"from": name, "to": "last"} for name in _branches())]
    fields = {"total": {"type": "int", "default": 0, "reduce": "sum"}, "x": {"type": "int", "default": 0}}
    return _workflow("fan-out", fields, [*nodes, last], [*edges, {"from": "last", "to": "END"}])


def loop() -> Workflow:
    """Give a workflow whose one node adds one to `x` until that is enough."""
    way = {"condition": f"state.x >= {ROUNDS}", "max_iterations": ROUNDS, "exit_to": "END"}
    edges: list[dict[str, Any]] = [{"from": "START", "to": "add"}, {"from": "add", "loop": way}]
    return _workflow("loop", {"x": {"type": "int", "default": 0}}, [_node("add")], edges)


def _workflow(name: str, fields: Any, nodes: list[Any], edges: list[Any]) -> Workflow:
    return workflow_from_config(
        {"schema_version": "1.0", "flow": {"name": name}, "state": {"fields": fields}, "nodes": nodes, "edges": edges}
    )


def _node(name: str) -> dict[str, Any]:
    return {"id": name, "function": name, "inputs": {"x": "{x}"}, "outputs": ["x"]}


def _branches() -> list[str]:
    return [f"branch_{number}" for number in range(BRANCHES)]


def _add(x: int) -> int:
    return x + 1


def _one() -> int:
    return 1


def _last(total: int) -> int:
    return total


async def _async_add(x: int) -> int:
    return x + 1


async def _async_one() -> int:
    return 1


async def _async_last(total: int) -> int:
    return total


async def _sleep_and_add(x: int) -> int:
    await asyncio.sleep(SLEEP_SECONDS)
    return x + 1


def _blocking(*arguments: Any, **options: Any) -> RunResult:
    return run_workflow(*arguments, **options)


def _on_a_loop(event_loop: asyncio.AbstractEventLoop) -> Callable[..., RunResult]:
    def run(*arguments: Any, **options: Any) -> RunResult:
        return event_loop.run_until_complete(arun_workflow(*arguments, **options))

    return run


@contextlib.asynccontextmanager
async def _asleep(names: list[str], store: Path | bool) -> AsyncIterator[One]:
    workflow, functions = chain(names), dict.fromkeys(names, _sleep_and_add)

    async def one() -> None:
        check((await arun_workflow(workflow, functions=functions, store=store)).outputs["x"], CHAIN_NODES)

    yield one
