"""Parts of small workflows, ways to run them, and ways to look into the store afterwards.

The programs that tests start import this: what only tests need (pytest, Hypothesis) stands in modules of its own, since
each start would pay for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from configurable_agents import (
    RunNotFoundError,
    RunResult,
    StorageError,
    arun_workflow,
    create_storage_backend,
)
from configurable_agents.storage.records import ExecutionStateRecord, SpanRecord, WorkflowRunRecord

Run = Callable[..., RunResult]
TESTS = Path(__file__).parent
PATIENCE_SECONDS = 30
"""How long what must come is waited for, where how soon is not the point: a machine with much to do may take its time."""


def run_async(*args: Any, **options: Any) -> RunResult:
    """Run a workflow through `arun_workflow` on a loop of its own."""
    return asyncio.run(arun_workflow(*args, **options))


def field(kind: str, default: Any = None, **more: Any) -> dict[str, Any]:
    """Give a state field; without a default it starts as null."""
    return {"type": kind, **({} if default is None else {"default": default}), **more}


def calls(node_id: str, *outputs: str, **inputs: Any) -> dict[str, Any]:
    """Give a function node that calls the function of its own name."""
    return {"id": node_id, "function": node_id, "inputs": inputs, "outputs": list(outputs)}


def asks(node_id: str, *outputs: str, **more: Any) -> dict[str, Any]:
    """Give a model node that is asked by its own name."""
    return {"id": node_id, "prompt": node_id, "outputs": list(outputs), **more}


def chain(nodes: str) -> list[dict[str, Any]]:
    """Give plain edges through nodes: `START a b END`."""
    return [{"from": here, "to": there} for here, there in pairwise(nodes.split())]


def scripted(*replies: Any, price: Mapping[str, Any] | None = None, **execution: Any) -> dict[str, Any]:
    """Give a `config` block with a scripted model and no pauses to speak of."""
    llm: dict[str, Any] = {"provider": "scripted", "params": {"replies": list(replies)}}
    if price is not None:
        llm["price"] = dict(price)
    return {"llm": llm, "execution": execution}


@dataclass(frozen=True)
class Kept:
    """What a store holds of one run."""

    run: WorkflowRunRecord
    nodes: list[ExecutionStateRecord]
    spans: list[SpanRecord]

    def node(self, node_id: str) -> ExecutionStateRecord:
        """Give the only execution of a node."""
        (found,) = [record for record in self.nodes if record.node_id == node_id]
        return found

    def said(self) -> list[tuple[str, str]]:
        """Give node ids and statuses in the order of seq."""
        return [(record.node_id, str(record.status)) for record in self.nodes]


def kept(store: Path, run_id: str = "last") -> Kept:
    """Read a run that has ended back through the repositories.

    A run's end waits a fifth of a second for its commit, which on a machine with much to do may come later.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with contextlib.suppress(RunNotFoundError, StorageError):
            found = _kept(store, run_id)
            if found.run.status != "running" or time.monotonic() > deadline:
                return found
        if time.monotonic() > deadline:
            return _kept(store, run_id)
        time.sleep(0.02)


def _kept(store: Path, run_id: str) -> Kept:
    backend = create_storage_backend(store, read_only=True)
    try:
        run = backend.runs.get(run_id)
        states = backend.execution_states
        return Kept(run, states.get_state_history(run.run_id), states.list_spans(run.run_id))
    finally:
        backend.close()


def state_at(store: Path, run_id: str, seq: int | None = None) -> dict[str, Any]:
    """Read the state after an execution."""
    backend = create_storage_backend(store, read_only=True)
    try:
        return backend.execution_states.get_state_at(run_id, seq)
    finally:
        backend.close()


def rows(store: Path, query: str, *values: Any) -> list[Any]:
    """Ask a SQLite file what anybody could ask it."""
    with closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(query, values).fetchall()


def eventually(value: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS) -> Any:
    """Wait until something comes about, and give it."""
    deadline = time.monotonic() + seconds
    while True:
        found = None
        with contextlib.suppress(RunNotFoundError, StorageError):
            found = value()
        if found:
            return found
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)


def start_program(text: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start a Python program that can import the tests' helpers."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**variables, "PYTHONPATH": path, **environment},
    )


def run_program(text: str, *arguments: object, **environment: str) -> tuple[int, str, str]:
    """Run a program to its end, within a minute: exit code, stdout, stderr."""
    with start_program(text, *arguments, **environment) as process:
        try:
            out, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, out, err


def besides_waiting(err: str) -> list[str]:
    """Give what programs said, but for what they say of having waited in vain for another one, or for the store at their end.

    None of them has to: but where the machine stalls one that is just writing, others find the file locked.
    """
    waited = ("is locked by another process", "records are not in the store yet; they are kept in")
    return [line for line in err.splitlines() if not any(text in line for text in waited)]


_AT_ONCE = """
import os, sys
import configurable_agents.storage.backend, configurable_agents.storage.schema
gate, held = os.pipe()
children = []
for number in range(PROCESSES):
    children.append(os.fork())
    if not children[-1]:
        os.close(held)
        os.read(gate, 1)  # until the parent lets go of its end
        break
else:
    os.close(held)
    sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def run_at_once(imports: str, body: str, *arguments: object, processes: int) -> tuple[int, str, str]:
    """Run a program in several processes that begin in the same moment: exit code (0 if all had it), stdout, stderr.

    One process imports, once, and forks before any store is open. The body knows its `number`, from 0; what it prints
    at once with `os.write` stays together.
    """
    return run_program(f"PROCESSES = {processes}\n{imports}{_AT_ONCE}{body}", *arguments)
