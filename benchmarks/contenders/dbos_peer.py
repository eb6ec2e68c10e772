"""DBOS Transact on SQLite: a durable workflow whose nodes are durable steps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path

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
    """Launch DBOS for this process."""
    dbos = import_module("dbos").DBOS
    dbos(
        config={
            "name": "benchmark",
            "system_database_url": f"sqlite:///{folder / 'dbos.sqlite'}",
            "log_level": "ERROR",
            "run_admin_server": False,
        }
    )

    @dbos.step()
    def add(x: int) -> int:
        return x + 1

    @dbos.step()
    async def one() -> int:
        return 1

    @dbos.step()
    async def sleep_and_add(x: int) -> int:
        await asyncio.sleep(SLEEP_SECONDS)
        return x + 1

    @dbos.step()
    def add_to_document(x: int, document: str) -> tuple[int, str]:
        # A step has no state but what is passed: what the next one shall have, this one gives.
        return x + 1, document

    @dbos.workflow()
    def chain(times: int) -> int:
        x = 0
        for _ in range(times):
            x = add(x)
        return x

    @dbos.workflow()
    def document_chain(document: str) -> int:
        x = 0
        for _ in range(CHAIN_NODES):
            x, document = add_to_document(x, document)
        return x

    @dbos.workflow()
    async def fan_out() -> int:
        found = await asyncio.gather(*(one() for _ in range(BRANCHES)))
        total = 0
        for number in found:
            total += number
        return await asyncio.to_thread(add, total - 1)

    @dbos.workflow()
    async def asleep() -> int:
        x = 0
        for _ in range(CHAIN_NODES):
            x = await sleep_and_add(x)
        return x

    dbos.launch()
    loop = asyncio.new_event_loop()

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[One]:
        async def run() -> None:
            check(await asleep(), CHAIN_NODES)

        yield run

    return Ready(
        works={
            CHAIN: lambda: check(chain(CHAIN_NODES), CHAIN_NODES),
            DOCUMENT_CHAIN: lambda: check(document_chain(DOCUMENT), CHAIN_NODES),
            FAN_OUT: lambda: check(loop.run_until_complete(fan_out()), BRANCHES),
            LOOP: lambda: check(chain(ROUNDS), ROUNDS),
        },
        asleep=opened,
    )
