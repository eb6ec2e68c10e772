"""What kept runs take on the disk: ours, and LangGraph's SqliteSaver with the same runs."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import uuid
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from benchmarks.contenders import CONTENDERS, LANGGRAPH_SQLITE
from benchmarks.contenders.ours import chain, wait_for_commits
from benchmarks.processes import in_a_process
from benchmarks.work import CHAIN_NODES, DOCUMENT
from configurable_agents import arun_workflow

RUNS: Final = 1_000
FULL_RUNS: Final = 10_000
_AT_ONCE: Final = 32
_FEW: Final = 2
"""Nodes of the short chain that tells what a run costs apart from its nodes."""


def measure(folder: Path, *, runs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Give the bytes of a run with a document in its state that no node changes, and with one that every node writes."""
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"runs": runs, "nodes": CHAIN_NODES, "state_bytes": len(DOCUMENT)}
    for name, rewritten in (("carried", False), ("rewritten", True)):
        say(f"{runs} runs with a document that is {name}: configurable-agents")
        bytes_of = {
            nodes: in_a_process(keep, folder / f"{name}-{nodes}.db", runs, nodes, rewritten)() / runs
            for nodes in (CHAIN_NODES, _FEW)
        }
        a_node = (bytes_of[CHAIN_NODES] - bytes_of[_FEW]) / (CHAIN_NODES - _FEW)
        figure = {
            "bytes_per_run": bytes_of[CHAIN_NODES],
            "bytes_per_node": a_node,
            "bytes_per_run_without_nodes": bytes_of[CHAIN_NODES] - CHAIN_NODES * a_node,
        }
        if CONTENDERS[LANGGRAPH_SQLITE].absent() is None:
            say(f"{runs} runs with a document that is {name}: LangGraph + SqliteSaver")
            theirs = in_a_process(keep_as_langgraph, folder / f"{name}-langgraph.db", runs, rewritten)() / runs
            figure |= {"langgraph_bytes_per_run": theirs, "ratio_to_langgraph": bytes_of[CHAIN_NODES] / theirs}
        figures[name] = figure
    return figures


def keep(path: Path, runs: int, nodes: int, rewritten: bool) -> int:
    """Run chains with the document in their state, and give the size of the store."""
    names = [f"f{number}" for number in range(nodes)]
    workflow = _rewriting_chain(names) if rewritten else chain(names, document=True)
    functions: dict[str, Any] = dict.fromkeys(names, _new_document if rewritten else _add)

    async def one() -> None:
        await arun_workflow(workflow, {"document": DOCUMENT}, functions=functions, store=path)

    asyncio.run(_all(one, runs))
    wait_for_commits(path)
    return size(path)


async def _add(x: int) -> int:
    return x + 1


async def _new_document(x: int) -> dict[str, Any]:
    return {"x": x + 1, "document": f"{x + 1:04d}{DOCUMENT[4:]}"}


def _rewriting_chain(names: list[str]) -> Any:
    from configurable_agents.runtime.workflow import workflow_from_config

    config = chain(names, document=True).config.model_dump(by_alias=True, exclude_unset=True)
    nodes = [{**node, "outputs": ["x", "document"]} for node in config["nodes"]]
    return workflow_from_config({**config, "nodes": nodes})


async def _all(one: Callable[[], Any], runs: int) -> None:
    left = iter(range(runs))

    async def some() -> None:
        for _ in left:
            await one()

    await asyncio.gather(*(some() for _ in range(_AT_ONCE)))


def keep_as_langgraph(path: Path, runs: int, rewritten: bool) -> int:
    """Run the same chains with LangGraph's SqliteSaver, and give the size of its file."""
    from benchmarks.contenders import langgraph_peer

    def new_document(state: Any) -> dict[str, Any]:
        return {"x": state["x"] + 1, "document": f"{state['x'] + 1:04d}{DOCUMENT[4:]}"}

    add = new_document if rewritten else langgraph_peer.add
    with import_module("langgraph.checkpoint.sqlite").SqliteSaver.from_conn_string(str(path)) as saver:
        graph = langgraph_peer.chain(langgraph_peer.Document, add).compile(checkpointer=saver)
        for _ in range(runs):
            graph.invoke({"x": 0, "document": DOCUMENT}, {"configurable": {"thread_id": str(uuid.uuid4())}})
    return size(path)


def size(path: Path) -> int:
    """Give the bytes of a database with everything in its file."""
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size
