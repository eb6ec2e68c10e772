"""The shape of a workflow's graph: who can follow whom, where tokens wait for each other, and what may run at once.

Pure graph theory over `nodes` and `edges`; no state, no conditions: every route is taken to be possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from configurable_agents.config.schema import END, START, Edge


@dataclass(frozen=True, slots=True)
class Way:
    """One possible move of a token."""

    source: str
    target: str
    edge: int
    """Index of the edge in the file."""


def ways_of(edge: Edge, index: int) -> list[Way]:
    """List the moves that one edge makes possible."""
    if edge.to is not None:
        targets: Iterable[str] = [edge.to] if isinstance(edge.to, str) else edge.to
    elif edge.routes is not None:
        targets = [route.to for route in edge.routes]
    elif edge.loop is not None:
        targets = [edge.loop.exit_to, edge.loop.restart_at or edge.from_]
    else:
        targets = [edge.parallel.target_node] if edge.parallel else []
    return [Way(edge.from_, target, index) for target in targets]


def forks(edges: Sequence[Edge]) -> list[tuple[str, ...]]:
    """List the targets of every fan-out: those of all plain edges of one source, if there are several."""
    targets: dict[str, list[str]] = {}
    for edge in edges:
        if edge.to is not None:
            targets.setdefault(edge.from_, []).extend([edge.to] if isinstance(edge.to, str) else edge.to)
    return [tuple(names) for names in targets.values() if len(names) > 1]


@dataclass(frozen=True)
class Topology:
    """A graph, with what can be derived from it once."""

    order: tuple[str, ...]
    """The nodes in file order."""
    ways: tuple[Way, ...]
    reach: Mapping[str, frozenset[str]] = field(repr=False)
    """For START and each node: the nodes that lie one or more moves ahead."""
    joins: frozenset[str] = field(repr=False)
    """The nodes with several ways in, where tokens wait for each other."""

    @classmethod
    def of(cls, nodes: Sequence[str], edges: Sequence[Edge]) -> Topology:
        """Derive the shape; moves from or to unknown nodes are left out, so that a broken file can be looked at too."""
        known = set(nodes)
        ways = tuple(
            way
            for index, edge in enumerate(edges)
            for way in ways_of(edge, index)
            if (way.source in known or way.source == START) and (way.target in known or way.target == END)
        )
        ways_in: dict[str, set[tuple[str, int]]] = {}
        for way in ways:
            ways_in.setdefault(way.target, set()).add((way.source, way.edge))
        joins = frozenset(node for node in nodes if len(ways_in.get(node, ())) > 1)
        return cls(tuple(nodes), ways, _reach(nodes, ways), joins)

    def successors(self, node: str) -> list[str]:
        """List where a token can go from a node (END included), each once, in file order of the edges."""
        return list(dict.fromkeys(way.target for way in self.ways if way.source == node))

    def loop_body(self, restart: str, source: str) -> frozenset[str]:
        """List the nodes on some way from `restart` to `source` that does not pass `source` before its end."""
        forward = _closure({restart}, self._moves(without=source))
        backward = _closure({source}, self._moves(without=source, reverse=True))
        return frozenset((forward & backward) | {source}) if source in forward else frozenset()

    def _moves(self, *, without: str, reverse: bool = False) -> dict[str, set[str]]:
        moves: dict[str, set[str]] = {}
        for way in self.ways:
            if way.source != without:
                here, there = (way.target, way.source) if reverse else (way.source, way.target)
                moves.setdefault(here, set()).add(there)
        return moves


def _closure(start: set[str], moves: Mapping[str, set[str]]) -> set[str]:
    seen, stack = set(start), list(start)
    while stack:
        fresh = moves.get(stack.pop(), set()) - seen
        seen |= fresh
        stack.extend(fresh)
    return seen


def _reach(nodes: Sequence[str], ways: Sequence[Way]) -> dict[str, frozenset[str]]:
    moves: dict[str, set[str]] = {}
    for way in ways:
        moves.setdefault(way.source, set()).add(way.target)
    return {node: frozenset(_closure(set(moves.get(node, ())), moves) - {END, START}) for node in (START, *nodes)}


def concurrent_nodes(nodes: Sequence[str], edges: Sequence[Edge]) -> set[frozenset[str]]:
    """Say which nodes may run at once: pairs of node ids, or one id for a node that may overlap itself.

    Sound, and nearly exact: two tokens are followed through all their moves at once (Kovalyov's concurrency relation,
    with our rule for joins in place of a Petri net's). The items of one map are not counted as overlapping.
    """
    topology = Topology.of(nodes, edges)
    position = {node: index for index, node in enumerate(nodes)}
    # A token is either running on node i (position 2i) or waiting there (2i + 1); a set of positions is an int's bits.
    arrive = {node: 2 * index + (node in topology.joins) for node, index in position.items()}
    partners = [0] * (2 * len(nodes))
    changed: set[int] = set()

    def meet(here: int, there: int) -> None:
        """Note that two tokens may stand here and there at once; two that wait on one node are one."""
        new = there & ~partners[here]
        if here & 1:
            new &= ~(1 << here)
        if new:
            partners[here] |= new
            changed.add(here)
            for other in _bits(new):
                if not partners[other] >> here & 1:
                    partners[other] |= 1 << here
                    changed.add(other)

    for targets in forks(edges):
        stands = [arrive[target] for target in targets if target in arrive]
        left = sum(1 << stand for stand in set(stands))
        for here in stands:
            left &= ~(1 << here)
            meet(here, left)
    moves = {position[node]: [arrive[t] for t in topology.successors(node) if t in arrive] for node in nodes}
    released = {index: _lets_go(node, topology, position) for node, index in position.items() if node in topology.joins}
    while changed:
        here = changed.pop()
        index, waiting = here >> 1, here & 1
        if waiting:
            meet(here - 1, partners[here] & released[index])
        else:
            for there in moves[index]:
                meet(there, partners[here])
    return {
        frozenset({nodes[here >> 1], nodes[there >> 1]})
        for here in range(0, len(partners), 2)
        for there in _bits(partners[here] >> here << here)  # each pair once
        if not there & 1
    }


def _lets_go(node: str, topology: Topology, position: Mapping[str, int]) -> int:
    """Give the positions of another token that do not keep a token waiting at `node` (as in `core.graph.next_nodes`)."""
    allowed = 0
    for other, index in position.items():
        ahead = node in topology.reach[other]
        if not ahead:
            allowed |= 1 << (2 * index)
        if not ahead or (other in topology.reach[node] and position[node] < index):
            allowed |= 1 << (2 * index + 1)
    return allowed


def _bits(mask: int) -> Iterable[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
