"""Haystack pipelines, which keep nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
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


def take_part(variant: str, folder: Path) -> Ready:
    """Build the pipelines once."""
    os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # it sends nothing from here
    kinds = _components()
    last = f"f{CHAIN_NODES - 1}"
    chain = _chain(kinds["add"])
    documents = _chain(kinds["add_to_document"], document=True)
    fan_out, loop = _fan_out(kinds), _loop(kinds)
    branches: dict[str, Any] = {f"branch_{number}": {"x": 0} for number in range(BRANCHES)}
    given = {"f0": {"x": 0, "document": DOCUMENT}}
    return Ready(
        works={
            CHAIN: lambda: check(chain.run({"f0": {"x": 0}})[last]["x"], CHAIN_NODES),
            DOCUMENT_CHAIN: lambda: check(documents.run(given)[last]["x"], CHAIN_NODES),
            FAN_OUT: lambda: check(fan_out.run(branches)["last"]["x"], BRANCHES),
            LOOP: lambda: check(loop.run({"count": {"x": 0}})["gate"]["done"], ROUNDS),
        },
        asleep=lambda: _asleep(kinds["sleep_and_add"]),
    )


def _components() -> dict[str, type]:
    component = import_module("haystack").component
    variadic = import_module("haystack.core.component.types")

    @component
    class Add:
        @component.output_types(x=int)
        def run(self, x: int) -> dict[str, int]:
            return {"x": x + 1}

    @component
    class AddToDocument:
        # A pipeline has no state but what is connected: the document goes from one to the next.
        @component.output_types(x=int, document=str)
        def run(self, x: int, document: str) -> dict[str, Any]:
            return {"x": x + 1, "document": document}

    @component
    class SleepAndAdd:
        @component.output_types(x=int)
        def run(self, x: int) -> dict[str, int]:
            return {"x": x + 1}

        @component.output_types(x=int)
        async def run_async(self, x: int) -> dict[str, int]:
            await asyncio.sleep(SLEEP_SECONDS)
            return {"x": x + 1}

    @component
    class One:
        @component.output_types(one=int)
        def run(self, x: int) -> dict[str, int]:
            return {"one": 1}

    class Last:
        @component.output_types(x=int)
        def run(self, ones: Any) -> dict[str, int]:
            return {"x": sum(ones)}

    class Count:
        @component.output_types(x=int)
        def run(self, x: Any) -> dict[str, int]:
            return {"x": x[0] + 1}

    @component
    class Gate:
        # No component may be connected to itself, so a loop takes two.
        @component.output_types(done=int, again=int)
        def run(self, x: int) -> dict[str, int]:
            return {"done": x} if x >= ROUNDS else {"again": x}

    # Their inputs are read from the annotations, which must be objects that exist here.
    Last.run.__annotations__["ones"] = variadic.Variadic[int]
    Count.run.__annotations__["x"] = variadic.GreedyVariadic[int]
    return {
        "add": Add,
        "add_to_document": AddToDocument,
        "sleep_and_add": SleepAndAdd,
        "one": One,
        "last": component(Last),
        "count": component(Count),
        "gate": Gate,
    }


def _pipeline() -> Any:
    return import_module("haystack").Pipeline(max_runs_per_component=2 * ROUNDS)


def _chain(kind: type, *, document: bool = False) -> Any:
    pipeline = _pipeline()
    for number in range(CHAIN_NODES):
        pipeline.add_component(f"f{number}", kind())
    for number in range(CHAIN_NODES - 1):
        for value in ("x", "document") if document else ("x",):
            pipeline.connect(f"f{number}.{value}", f"f{number + 1}.{value}")
    return pipeline


def _fan_out(kinds: dict[str, type]) -> Any:
    pipeline = _pipeline()
    pipeline.add_component("last", kinds["last"]())
    for number in range(BRANCHES):
        pipeline.add_component(f"branch_{number}", kinds["one"]())
        pipeline.connect(f"branch_{number}.one", "last.ones")
    return pipeline


def _loop(kinds: dict[str, type]) -> Any:
    pipeline = _pipeline()
    for name in ("count", "gate"):
        pipeline.add_component(name, kinds[name]())
    pipeline.connect("count.x", "gate.x")
    pipeline.connect("gate.again", "count.x")
    return pipeline


@contextlib.asynccontextmanager
async def _asleep(kind: type) -> AsyncIterator[One]:
    pipeline, last = _chain(kind), f"f{CHAIN_NODES - 1}"

    async def one() -> None:
        check((await pipeline.run_async({"f0": {"x": 0}}))[last]["x"], CHAIN_NODES)

    yield one
