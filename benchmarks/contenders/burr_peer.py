"""Burr: bare, and with its SQLite persister, which keeps the whole state after each action."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import AsyncIterator, Callable
from importlib import import_module
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

_LAST = f"f{CHAIN_NODES - 1}"


def take_part(variant: str, folder: Path) -> Ready:
    """Build the graphs once; every run is an application of its own."""
    persister = None
    if variant == "sqlite":
        kind = import_module("burr.core.persistence").SQLitePersister
        # The branches run in threads.
        persister = kind(db_path=str(folder / "burr.db"), connect_kwargs={"check_same_thread": False})
        persister.initialize()
    chain, fan_out, loop = _chain(_add()), _fan_out(), _loop()

    def work(graph: Any, first: str, last: str, expected: int, **state: Any) -> Callable[[], object]:
        def run() -> None:
            builder = _application(graph, first, persister).with_state(x=0, **state)
            check(builder.build().run(halt_after=[last])[2]["x"], expected)

        return run

    return Ready(
        works={
            CHAIN: work(chain, "f0", _LAST, CHAIN_NODES),
            DOCUMENT_CHAIN: work(chain, "f0", _LAST, CHAIN_NODES, document=DOCUMENT),
            FAN_OUT: work(fan_out, "branches", "last", BRANCHES),
            LOOP: work(loop, "add", "done", ROUNDS),
        },
        asleep=lambda: _asleep(folder / "async.db" if variant == "sqlite" else None),
    )


def _application(graph: Any, first: str, persister: Any) -> Any:
    builder = import_module("burr.core").ApplicationBuilder().with_graph(graph).with_entrypoint(first)
    builder = builder.with_identifiers(app_id=str(uuid.uuid4()))
    return builder if persister is None else builder.with_state_persister(persister)


def _add() -> Any:
    @import_module("burr.core").action(reads=["x"], writes=["x"])
    def add(state: Any) -> Any:
        return state.update(x=state["x"] + 1)

    return add


def _sleep_and_add() -> Any:
    @import_module("burr.core").action(reads=["x"], writes=["x"])
    async def sleep_and_add(state: Any) -> Any:
        await asyncio.sleep(SLEEP_SECONDS)
        return state.update(x=state["x"] + 1)

    return sleep_and_add


def _chain(add: Any) -> Any:
    names = [f"f{number}" for number in range(CHAIN_NODES)]
    builder = import_module("burr.core.graph").GraphBuilder().with_actions(**dict.fromkeys(names, add))
    return builder.with_transitions(*itertools.pairwise(names)).build()


def _loop() -> Any:
    core = import_module("burr.core")

    @core.action(reads=["x"], writes=[])
    def done(state: Any) -> Any:
        return state

    builder = import_module("burr.core.graph").GraphBuilder().with_actions(add=_add(), done=done)
    return builder.with_transitions(("add", "add", core.expr(f"x < {ROUNDS}")), ("add", "done", core.default)).build()


def _fan_out() -> Any:
    core = import_module("burr.core")
    several: Any = import_module("burr.core.parallelism").MapActions

    @core.action(reads=["x"], writes=["one"])
    def one(state: Any) -> Any:
        return state.update(one=1)

    class Branches(several):
        def actions(self, state: Any, context: Any, inputs: Any) -> Any:
            yield from [one] * BRANCHES

        def reduce(self, state: Any, states: Any) -> Any:
            return state.update(total=sum(found["one"] for found in states))

        @property
        def reads(self) -> list[str]:
            return ["x"]

        @property
        def writes(self) -> list[str]:
            return ["total"]

    @core.action(reads=["total"], writes=["x"])
    def last(state: Any) -> Any:
        return state.update(x=state["total"])

    builder = import_module("burr.core.graph").GraphBuilder().with_actions(branches=Branches(), last=last)
    return builder.with_transitions(("branches", "last")).build()


@contextlib.asynccontextmanager
async def _asleep(path: Path | None) -> AsyncIterator[One]:
    async with contextlib.AsyncExitStack() as stack:
        persister = None
        if path is not None:
            kind = import_module("burr.integrations.persisters.b_aiosqlite").AsyncSQLitePersister
            persister = await stack.enter_async_context(kind.from_values(db_path=str(path)))
            await persister.initialize()
        graph = _chain(_sleep_and_add())

        async def one() -> None:
            application = await _application(graph, "f0", persister).with_state(x=0).abuild()
            check((await application.arun(halt_after=[_LAST]))[2]["x"], CHAIN_NODES)

        yield one
