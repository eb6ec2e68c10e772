"""A workflow as far as it could be read: what the rules between its parts are checked on.

A part that is wrong by itself is None; its name still counts, so that one mistake is told once and the mistakes around
it are told too.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from configurable_agents.config.positions import Path
from configurable_agents.config.schema import (
    END,
    START,
    Edge,
    Node,
    NodeConfig,
    RuntimeConfig,
    StateField,
    WorkflowConfig,
)
from configurable_agents.once import Once

_HARMLESS: Final = frozenset(
    {"description", "timeout", "retry", "capture_content", "llm", "tools", "max_tool_rounds", "fallbacks"}
)
"""Keys of a node that no rule between parts looks at, or that are looked at alone."""


@dataclass(frozen=True)
class Draft:
    """The parts of a workflow."""

    fields: Mapping[str, StateField | None]
    nodes: Sequence[tuple[str, Node | None]]
    """Ids and nodes, in file order; an id that could not be read is empty."""
    edges: Sequence[Edge | None]
    config: RuntimeConfig = field(default_factory=RuntimeConfig)
    fields_known: bool = True
    """False if there may be state fields that are not listed."""
    nodes_known: bool = True
    """False if there may be nodes that are not listed."""

    @Once
    def ids(self) -> tuple[str, ...]:
        """The ids of all nodes, in file order, each once."""
        return tuple(dict.fromkeys(name for name, _ in self.nodes if name))

    @Once
    def targets(self) -> tuple[str, ...]:
        """What an edge may lead to, and from: the ids, START and END."""
        return (*self.ids, START, END)

    @Once
    def known(self) -> frozenset[str]:
        """The same, to look names up."""
        return frozenset(self.targets)

    @Once
    def field_names(self) -> tuple[str, ...]:
        """The names of the state fields."""
        return tuple(self.fields)

    @Once
    def map_edges(self) -> Mapping[str, tuple[int, Edge]]:
        """The first `parallel` edge onto each node that is a map's target, with its index."""
        found: dict[str, tuple[int, Edge]] = {}
        for index, edge in enumerate(self.edges):
            if edge is not None and edge.parallel is not None:
                found.setdefault(edge.parallel.target_node, (index, edge))
        return found

    @property
    def edges_known(self) -> bool:
        """Whether every edge could be read."""
        return None not in self.edges


def draft_of(config: WorkflowConfig) -> Draft:
    """Take a whole workflow as a draft."""
    return Draft(config.state.fields, [(node.id, node) for node in config.nodes], config.edges, config.config)


def salvage(document: Mapping[str, Any], wrong: Iterable[Path]) -> Draft:
    """Read what can be read of a document that is wrong at the given paths."""
    below = _by_part(wrong)
    fields, fields_known = _section(document.get("state"), "fields", dict)
    nodes, nodes_known = _section(document, "nodes", list)
    edges, edges_known = _section(document, "edges", list)
    ids = [_id_of(node) for node in nodes]
    return Draft(
        {name: _field(value, below[("state", "fields", name)]) for name, value in fields.items()},
        [(ids[index], _node(node, below[("nodes", index)])) for index, node in enumerate(nodes)],
        [_edge(edge, below[("edges", index)]) for index, edge in enumerate(edges)] if edges_known else [None],
        _runtime(document.get("config"), below),
        fields_known and ("state", "fields") not in below,
        nodes_known and all(ids),
    )


def _by_part(wrong: Iterable[Path]) -> defaultdict[Path, list[Path]]:
    below: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in set(wrong):
        size = 3 if path[:1] == ("state",) else 2
        below[path[:size]].append(path[size:])
    return below


def _section(holder: Any, key: str, kind: type) -> tuple[Any, bool]:
    value = holder.get(key) if isinstance(holder, dict) else None
    return (value, True) if isinstance(value, kind) else (kind(), False)


def _id_of(node: Any) -> str:
    value = node.get("id") if isinstance(node, dict) else None
    return value if isinstance(value, str) else ""


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _read(kind: Any, value: Any) -> Any:
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError:
        return None


def _field(value: Any, wrong: Sequence[Path]) -> StateField | None:
    made: StateField | None = None if wrong else _read(StateField, value)
    return made


def _node(value: Any, wrong: Sequence[Path]) -> Node | None:
    keys = {str(path[0]) if path else "" for path in wrong}
    if not isinstance(value, dict) or not keys <= _HARMLESS:
        return None
    rest = copy.copy(value)
    for key in keys:
        rest.pop(key, None)
    made: Node | None = _read(NodeConfig, rest)
    return made


def _edge(value: Any, wrong: Sequence[Path]) -> Edge | None:
    made: Edge | None = None if wrong else _read(Edge, value)
    return made


def _runtime(value: Any, below: Mapping[Path, Sequence[Path]]) -> RuntimeConfig:
    """Read what is right of the sections of `config`."""
    kept: dict[str, Any] = {}
    for name, section in value.items() if isinstance(value, dict) else ():
        wrong = {path[0] if path else None for path in below.get(("config", name), ())}
        rest = {k: v for k, v in section.items() if k not in wrong} if isinstance(section, dict) else section
        if None not in wrong and _read(RuntimeConfig, {name: rest}) is not None:
            kept[name] = rest
    return _read(RuntimeConfig, kept) or RuntimeConfig()
