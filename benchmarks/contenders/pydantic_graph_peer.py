"""pydantic-graph, which keeps nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
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


@dataclass
class _State:
    document: str = DOCUMENT


def take_part(variant: str, folder: Path) -> Ready:
    """Build the graphs once."""

    def work(graph: Any, expected: int, *, state: bool = False) -> Callable[[], object]:
        return lambda: check(graph.run_sync(inputs=0, state=_State() if state else None), expected)

    return Ready(
        works={
            CHAIN: work(_chain(_add), CHAIN_NODES),
            DOCUMENT_CHAIN: work(_chain(_add, state_type=_State), CHAIN_NODES, state=True),
            FAN_OUT: work(_fan_out(), BRANCHES),
            LOOP: work(_loop(), ROUNDS),
        },
        asleep=_asleep,
    )


async def _add(context: Any) -> int:
    return int(context.inputs) + 1


async def _sleep_and_add(context: Any) -> int:
    await asyncio.sleep(SLEEP_SECONDS)
    return int(context.inputs) + 1


async def _one(context: Any) -> int:
    return 1


async def _last(context: Any) -> int:
    return int(context.inputs)


def _builder(**types: Any) -> Any:
    return import_module("pydantic_graph").GraphBuilder(name="benchmark", input_type=int, output_type=int, **types)


def _chain(add: Callable[[Any], Awaitable[int]], **types: Any) -> Any:
    builder = _builder(**types)
    before = builder.start_node
    for number in range(CHAIN_NODES):
        node = builder.step(add, node_id=f"f{number}")
        builder.add(builder.edge_from(before).to(node))
        before = node
    builder.add(builder.edge_from(before).to(builder.end_node))
    return builder.build()


def _fan_out() -> Any:
    builder = _builder()
    branches = [builder.step(_one, node_id=f"branch_{number}") for number in range(BRANCHES)]
    join = builder.join(import_module("pydantic_graph").reduce_sum, initial=0)
    last = builder.step(_last, node_id="last")
    builder.add(
        builder.edge_from(builder.start_node).to(*branches),
        builder.edge_from(*branches).to(join),
        builder.edge_from(join).to(last),
        builder.edge_from(last).to(builder.end_node),
    )
    return builder.build()


def _loop() -> Any:
    builder = _builder()
    add = builder.step(_add, node_id="add")
    enough = builder.match(int, matches=lambda x: x >= ROUNDS).to(builder.end_node)
    again = builder.match(int).to(add)
    builder.add(
        builder.edge_from(builder.start_node).to(add),
        builder.edge_from(add).to(builder.decision().branch(enough).branch(again)),
    )
    return builder.build()


@contextlib.asynccontextmanager
async def _asleep() -> AsyncIterator[One]:
    graph = _chain(_sleep_and_add)

    async def one() -> None:
        check(await graph.run(inputs=0), CHAIN_NODES)

    yield one
