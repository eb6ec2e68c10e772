"""Runs workflows whose functions see the whole state, and checks what any run must leave behind, whatever its shape."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _runs import Kept, Run, field, kept, state_at
from _workflows import make
from configurable_agents import RunResult, Workflow, create_storage_backend
from configurable_agents.deltas import fold_state

Bodies = Mapping[str, Any]
"""By node id: a callable that takes the state it sees, and gives what the node writes, awaitable or not."""


def graph(
    fields: Mapping[str, Any],
    nodes: Mapping[str, str],
    edges: Sequence[Any],
    config: Mapping[str, Any] | None = None,
    *,
    items: Sequence[str] = (),
) -> Workflow:
    """Put a workflow of function nodes together.

    Args:
        fields: State fields; a text is a type.
        nodes: Node ids, and the outputs of each, as one text.
        items: The nodes that are targets of a map; they see `item` and `index` too.
    """
    full = {name: field(spec) if isinstance(spec, str) else spec for name, spec in fields.items()}
    made = [
        {
            "id": name,
            "function": name,
            "outputs": outputs.split(),
            "inputs": {field: f"{{state.{field}}}" for field in full}
            | ({"item": "{item}", "index": "{index}"} if name in items else {}),
        }
        for name, outputs in nodes.items()
    ]
    return make(made, edges, full, config)


@dataclass(frozen=True)
class Played:
    """A run that completed, and what is kept of it."""

    result: RunResult
    kept: Kept
    seen: list[tuple[str, dict[str, Any]]]
    """Node ids and the states that they saw, in the order of the calls."""

    @property
    def order(self) -> list[str]:
        """Node ids in the order of seq."""
        return [record.node_id for record in self.kept.nodes]

    @property
    def counts(self) -> Counter[str]:
        """How often each node ran."""
        return Counter(self.order)


def functions_of(workflow: Workflow, bodies: Bodies, seen: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Give each node a function that notes what it sees and calls its body with it."""

    def function(name: str) -> Callable[..., Any]:
        async def call(**state: Any) -> Any:
            seen.append((name, state))
            value = bodies[name](state) if name in bodies else {}
            return await value if inspect.isawaitable(value) else value

        return call

    return {node.id: function(node.id) for node in workflow.config.nodes}


def play(run: Run, workflow: Workflow, bodies: Bodies, store: Path, inputs: Mapping[str, Any] | None = None) -> Played:
    """Run a workflow and check the records against what the functions saw."""
    seen: list[tuple[str, dict[str, Any]]] = []
    result = run(workflow, inputs or {}, functions=functions_of(workflow, bodies, seen), store=store)
    played = Played(result, kept(store, result.run_id), seen)
    check_records(played, store)
    return played


def check_records(played: Played, store: Path) -> None:
    """Each execution has one row and seq; the rows alone give the state that each saw, and the result."""
    result, stored = played.result, played.kept
    assert [record.seq for record in stored.nodes] == list(range(1, len(stored.nodes) + 1))
    assert len(stored.nodes) == result.node_executions == stored.run.node_executions == len(played.seen)
    assert {record.parent_span_id for record in stored.nodes} <= {stored.run.span_id}
    deltas = [record.delta for record in stored.nodes]
    for record in stored.nodes:
        before = fold_state(stored.run.initial_state, stored.run.reducers, deltas, record.reads_from)
        assert {**record.inputs, **before} == record.inputs, f"what {record.node_id} ({record.seq}) saw"
        earlier = [stored.nodes[seq - 1] for seq in record.reads_from]
        if len(earlier) == 1 and earlier[0].map_index is None:
            assert state_at(store, result.run_id, record.reads_from[0]) == before
    assert state_at(store, result.run_id) == result.outputs
    backend = create_storage_backend(store, read_only=True)
    latest = backend.execution_states.get_latest_state(result.run_id)
    backend.close()
    assert latest is None or latest.seq == len(stored.nodes)
