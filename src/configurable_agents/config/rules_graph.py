"""Rules of the graph as a whole: ways on, reachability, what may lead where, and writes that could collide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from configurable_agents.config.draft import Draft
from configurable_agents.config.findings import Findings, quoted
from configurable_agents.config.positions import Path
from configurable_agents.config.schema import END, START, Edge, Node
from configurable_agents.config.topology import Way, concurrent_nodes, ways_of
from configurable_agents.once import Once


@dataclass(frozen=True)
class Graph:
    """The nodes and edges of a workflow whose parts are right."""

    draft: Draft
    findings: Findings

    @Once
    def edges(self) -> list[tuple[int, Edge]]:
        """All edges that could be read, with their indexes."""
        return [(index, edge) for index, edge in enumerate(self.draft.edges) if edge is not None]

    @Once
    def ways(self) -> list[Way]:
        """All moves that the edges make possible."""
        return [way for index, edge in self.edges for way in ways_of(edge, index)]

    @Once
    def sources(self) -> frozenset[str]:
        """Where edges leave from."""
        return frozenset(edge.from_ for _, edge in self.edges)


def check_graph(draft: Draft, findings: Findings, *, sound: bool) -> None:
    """Check the graph.

    Args:
        sound: Whether every edge could be read and names nodes that there are; what depends on all edges is only looked
            at then.
    """
    graph = Graph(draft, findings)
    _check_ways_on(graph)
    if draft.edges_known:
        _check_dead_ends(graph)
    if sound and draft.nodes_known:
        whole = [_check_reachable(graph), _check_ends(graph), _check_loops(graph), _check_map_targets(graph)]
        if all(whole) and START in graph.sources:
            _check_writes(graph)


def _kind(edge: Edge) -> str:
    return next(key for key in ("to", "routes", "loop", "parallel") if getattr(edge, key) is not None)


def _check_ways_on(graph: Graph) -> None:
    """A node goes on by plain edges, or by exactly one other edge."""
    first: dict[str, tuple[int, str]] = {}
    plain: set[tuple[str, str]] = set()
    for index, edge in graph.edges:
        path: Path = ("edges", index)
        kind = _kind(edge)
        begun, before = first.setdefault(edge.from_, (index, kind))
        if begun != index and not kind == before == "to":
            message = f"{quoted(edge.from_)} goes on already, by edges[{begun}]"
            remedy = "A node has plain 'to' edges, or exactly one edge with 'routes', 'loop' or 'parallel'."
            graph.findings.add((*path, "from"), message, remedy)
        for target in (edge.to,) if isinstance(edge.to, str) else ():
            if (edge.from_, target) in plain:
                message = f"there is an edge from {quoted(edge.from_)} to {quoted(target)} already"
                graph.findings.add((*path, "to"), message, "A fan-out runs each node once.")
        plain |= {(edge.from_, target) for target in ([edge.to] if isinstance(edge.to, str) else edge.to or ())}


def _check_dead_ends(graph: Graph) -> None:
    if not graph.sources <= graph.draft.known:
        return  # whose way on a misspelt 'from' was meant to be, nobody knows
    if START not in graph.sources:
        remedy = "Add '- {from: START, to: first_node}'."
        graph.findings.add(("edges",), "no edge leaves START, where a run begins", remedy)
    for index, (name, _) in enumerate(graph.draft.nodes):
        if name not in {"", START, END} and name not in graph.sources:
            remedy = f"Add an edge from it; 'to: {END}' finishes the run."
            graph.findings.add(("nodes", index, "id"), f"node {quoted(name)} has no way on", remedy)


def _closure(start: Iterable[str], moves: Mapping[str, Sequence[str]]) -> set[str]:
    seen, stack = set(start), list(start)
    while stack:
        fresh = [name for name in moves.get(stack.pop(), ()) if name not in seen]
        seen.update(fresh)
        stack += fresh
    return seen


def _moves(ways: Iterable[Way], *, reverse: bool = False) -> dict[str, list[str]]:
    moves: dict[str, list[str]] = {}
    for way in ways:
        here, there = (way.target, way.source) if reverse else (way.source, way.target)
        moves.setdefault(here, []).append(there)
    return moves


def _check_reachable(graph: Graph) -> bool:
    if START not in graph.sources:
        return False
    reached = _closure([START], _moves(graph.ways))
    return _tell_all(graph, reached, "node {} cannot be reached from START", "Lead an edge to it, or remove it.")


def _check_ends(graph: Graph) -> bool:
    # A node without any way on has been told; what leads to it is not a second mistake.
    ends = [END, *(name for name in graph.draft.ids if name not in graph.sources)]
    reaching = _closure(ends, _moves(graph.ways, reverse=True))
    remedy = f"Lead one of the edges after it out of the circle, at last to {END}."
    return _tell_all(graph, reaching, f"no way leads from node {{}} to {END}", remedy) and len(ends) == 1


def _tell_all(graph: Graph, right: set[str], message: str, remedy: str) -> bool:
    wrong = [(index, name) for index, (name, _) in enumerate(graph.draft.nodes) if name and name not in right]
    for index, name in wrong:
        graph.findings.add(("nodes", index, "id"), message.format(quoted(name)), remedy)
    return not wrong


def _check_loops(graph: Graph) -> bool:
    sound = True
    for index, edge in graph.edges:
        restart = edge.loop.restart_at if edge.loop is not None else None
        if restart is not None and edge.from_ not in _closure([restart], _moves(graph.ways)):
            message = f"no way leads from {quoted(restart)} back to {quoted(edge.from_)}"
            remedy = "A loop restarts at a node before its own, so that it comes round."
            graph.findings.add(("edges", index, "loop", "restart_at"), message, remedy)
            sound = False
    return sound


def _check_map_targets(graph: Graph) -> bool:
    sound = True
    for target, (index, _) in graph.draft.map_edges.items():
        others = [way.edge for way in graph.ways if way.target == target and way.edge != index]
        if others:
            message = f"{quoted(target)} is a map's target and has another way in: edges[{others[0]}]"
            remedy = "A map's target runs for items alone; make a second node for the other way."
            graph.findings.add(("edges", index, "parallel", "target_node"), message, remedy)
            sound = False
    return sound


# --- writes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Write:
    field: str
    node: str
    path: Path
    collects: bool
    """Whether a map sets the field, whatever its `reduce` says."""


def _writes_of(graph: Graph, index: int, node: Node) -> list[_Write]:
    mapped = graph.draft.map_edges.get(node.id)
    if mapped is not None and mapped[1].parallel is not None:
        path: Path = ("edges", mapped[0], "parallel", "collect_field")
        return [_Write(mapped[1].parallel.collect_field, node.id, path, collects=True)]
    return [
        _Write(name, node.id, ("nodes", index, "outputs", number), collects=False)
        for number, name in enumerate(node.outputs)
    ]


def _check_writes(graph: Graph) -> None:
    """Branches that may run at once and write one field need a rule that combines what they write."""
    pairs = concurrent_nodes(graph.draft.ids, [edge for _, edge in graph.edges])
    writers: dict[str, list[_Write]] = {}
    for index, (_, node) in enumerate(graph.draft.nodes):
        for write in _writes_of(graph, index, node) if node is not None else ():
            writers.setdefault(write.field, []).append(write)
    for writes in writers.values():
        for number, second in enumerate(writes):
            # The first that collides is enough: of ten branches that write one field, nine are told.
            for first in writes[: number + 1]:
                if frozenset({first.node, second.node}) in pairs and _collide(graph, first, second):
                    _tell_collision(graph, first, second)
                    break


def _collide(graph: Graph, first: _Write, second: _Write) -> bool:
    field = graph.draft.fields.get(first.field)
    return field is not None and (first.collects or second.collects or field.reduce == "replace")


def _tell_collision(graph: Graph, first: _Write, second: _Write) -> None:
    if first.node == second.node:
        message = f"{quoted(first.node)} may run in several branches at once, and each writes {quoted(first.field)}"
    else:
        message = (
            f"{quoted(first.node)} and {quoted(second.node)} may run at once, and both write {quoted(first.field)}"
        )
    remedy = "Let them write different fields"
    if not (first.collects or second.collects):
        remedy += ", or say in the field how writes combine: 'reduce: append' (or merge, sum, min, max)"
    graph.findings.add(second.path, message, f"{remedy}.")
