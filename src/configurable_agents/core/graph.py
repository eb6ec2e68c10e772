"""The compiled plan of a workflow, and the pure decisions of running it: which nodes go now, and where a token goes next.

A run holds tokens on nodes (docs/workflow-language.md, "Joins"). Nothing here waits, calls or reads a clock.

Nobody changes a token, an arrival or a decision. They are not frozen because each node execution makes several, and
making a frozen one takes three times as long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from configurable_agents.config.conditions import ParsedCondition, parse_condition
from configurable_agents.config.schema import START, Edge, NodeConfig, Parallel, WorkflowConfig
from configurable_agents.config.topology import Topology
from configurable_agents.core.conditions import evaluate
from configurable_agents.errors import MapError


@dataclass(frozen=True, slots=True)
class Target:
    """Where a token goes, and by which edge."""

    node: str
    """A node id or END."""
    edge: int
    """Index of the edge in the file: the order in which branches merge."""


@dataclass(slots=True)
class Decision:
    """Where a token goes after a node."""

    targets: tuple[Target, ...]
    loops: Mapping[int, int]
    items: Parallel | None = None
    exhausted: bool = False
    """A loop was left because `max_iterations` was reached."""
    emptied: Mapping[str, Any] = field(default_factory=dict)
    """The collect fields that were set to `[]`, of the maps that it went past because their lists are empty."""
    label: str = field(init=False)
    """The targets as text."""

    def __post_init__(self) -> None:
        self.label = ", ".join([target.node for target in self.targets])


@dataclass(frozen=True, slots=True)
class Go:
    """Plain edges: one token a target."""

    targets: tuple[Target, ...]
    outside_of_loops: Decision
    """Where a token goes that is in no loop: always the same."""


@dataclass(frozen=True, slots=True)
class Choose:
    """Routes: the first condition that holds."""

    routes: tuple[tuple[ParsedCondition, Target], ...]
    default: Target


@dataclass(frozen=True, slots=True)
class Repeat:
    """A loop: leave when the condition holds or the executions are used up, else go back."""

    condition: ParsedCondition
    max_iterations: int
    leave: Target
    restart: Target
    edge: int


@dataclass(frozen=True, slots=True)
class Map:
    """A map: its target runs once for each item."""

    parallel: Parallel
    target: Target


Exit = Go | Choose | Repeat | Map


@dataclass(frozen=True)
class Plan:
    """A workflow, compiled once: every question that its shape alone answers is answered here."""

    config: WorkflowConfig
    nodes: Mapping[str, NodeConfig] = field(repr=False)
    exits: Mapping[str, Exit] = field(repr=False)
    """For START and each node: how a token goes on."""
    topology: Topology = field(repr=False)
    order: Mapping[str, int] = field(repr=False)
    """Each node's place in the file."""
    loop_bodies: Mapping[int, frozenset[str]] = field(repr=False)
    """For each loop, by the index of its edge: the nodes inside it."""
    reducers: Mapping[str, str] = field(repr=False)
    """The state fields whose `reduce` is not `replace`."""


@dataclass(frozen=True, slots=True, eq=False)
class Fork:
    """Where branches began: the state that they all start from."""

    parent: Fork | None
    state: Mapping[str, Any]
    heads: tuple[int, ...]


@dataclass(slots=True, eq=False)
class Token:
    """A place in the graph that the run has reached, with the state as seen there. A change makes a new token."""

    at: str
    edge: int
    """The edge it came by."""
    state: dict[str, Any]
    loops: Mapping[int, int]
    """For each loop it is in, by the index of its edge: executions of the loop's source so far."""
    heads: tuple[int, ...] = ()
    """Seqs of the node executions whose states together are this one."""
    fork: Fork | None = None
    path: tuple[int, ...] = ()
    """Which branch of each fork it is in: an order among tokens that no clock decides."""
    items: Parallel | None = None
    """Set where the token came by a map's edge: the node runs once for each item."""


@dataclass(slots=True)
class Arrival:
    """A node that runs now, and the tokens that it takes, in the order in which their states merge."""

    node: str
    tokens: tuple[Token, ...]


def compile_plan(config: WorkflowConfig) -> Plan:
    """Compile a workflow that the validator has passed."""
    nodes = {node.id: node for node in config.nodes}
    topology = Topology.of(tuple(nodes), config.edges)
    exits = {source: _exit(source, config.edges) for source in (START, *nodes)}
    bodies = {
        index: topology.loop_body(edge.loop.restart_at or edge.from_, edge.from_)
        for index, edge in enumerate(config.edges)
        if edge.loop is not None
    }
    reducers = {name: spec.reduce for name, spec in config.state.fields.items() if spec.reduce != "replace"}
    order = {node: index for index, node in enumerate(nodes)}
    return Plan(config, nodes, exits, topology, order, bodies, reducers)


def _exit(source: str, edges: Sequence[Edge]) -> Exit:
    own = [(index, edge) for index, edge in enumerate(edges) if edge.from_ == source]
    index, edge = own[0]
    if edge.routes is not None:
        routes = [(route.condition, Target(route.to, index)) for route in edge.routes]
        conditions = tuple((parse_condition(c.logic), target) for c, target in routes if not c.is_default)
        return Choose(conditions, next(target for c, target in routes if c.is_default))
    if edge.loop is not None:
        loop = edge.loop
        logic = loop.condition.logic if loop.condition else f"state.{loop.condition_field}"
        restart = Target(loop.restart_at or source, index)
        return Repeat(parse_condition(logic), loop.max_iterations, Target(loop.exit_to, index), restart, index)
    if edge.parallel is not None:
        return Map(edge.parallel, Target(edge.parallel.target_node, index))
    targets = tuple(
        Target(name, index)
        for index, edge in own
        for name in ([edge.to] if isinstance(edge.to, str) else edge.to or ())
    )
    return Go(targets, Decision(targets, {}))


def decide(plan: Plan, source: str, state: Mapping[str, Any], loops: Mapping[int, int]) -> Decision:
    """Say where a token goes after `source` has run (or, for START, when the run begins).

    It goes on past every map whose list is empty: its result is `[]`, and its target's own edge comes next.

    Raises:
        ConditionError: A condition cannot be computed on this state.
        MapError: The items are no list.
    """
    decision = _chosen(plan.exits[source], state, loops)
    while (map_ := decision.items) is not None:
        items = state.get(map_.items_field)
        if not isinstance(items, list):
            found = "null" if items is None else f"a value of type {type(items).__name__!r}"
            raise MapError(f"the map over {map_.items_field!r} needs a list; it holds {found}")
        if items:
            break
        emptied = {**decision.emptied, map_.collect_field: []}
        state = {**state, **emptied}
        decision = replace(_chosen(plan.exits[map_.target_node], state, decision.loops), emptied=emptied)
    return decision


def _chosen(way: Exit, state: Mapping[str, Any], loops: Mapping[int, int]) -> Decision:
    if isinstance(way, Go):
        return Decision(way.targets, loops) if loops else way.outside_of_loops
    if isinstance(way, Choose):
        taken = next((target for condition, target in way.routes if evaluate(condition, state)), way.default)
        return Decision((taken,), loops)
    if isinstance(way, Map):
        return Decision((way.target,), loops, items=way.parallel)
    count = loops.get(way.edge, 0) + 1
    done = bool(evaluate(way.condition, state))
    if done or count >= way.max_iterations:
        rest = {edge: n for edge, n in loops.items() if edge != way.edge}
        return Decision((way.leave,), rest, exhausted=not done)
    return Decision((way.restart,), {**loops, way.edge: count})


def move(plan: Plan, token: Token, decision: Decision, state: dict[str, Any], heads: tuple[int, ...]) -> list[Token]:
    """Move a token on with the state that it has now: one new token for each target."""
    targets, loops = decision.targets, decision.loops
    if len(targets) == 1:
        to = targets[0]
        loops = loops and _inside(plan, to.node, loops)
        return [Token(to.node, to.edge, state, loops, heads, token.fork, token.path, decision.items)]
    fork = Fork(token.fork, state, heads)
    return [
        Token(
            at=target.node,
            edge=target.edge,
            state=state,
            heads=heads,
            fork=fork,
            path=(*token.path, number),
            loops=_inside(plan, target.node, loops),
            items=decision.items,
        )
        for number, target in enumerate(targets)
    ]


def _inside(plan: Plan, node: str, loops: Mapping[int, int]) -> Mapping[int, int]:
    """Forget the loops that do not contain `node`: whoever comes back enters them anew."""
    return {edge: count for edge, count in loops.items() if node in plan.loop_bodies[edge]}


def next_nodes(plan: Plan, waiting: Sequence[Token], running: Sequence[str]) -> tuple[Arrival, ...]:
    """Say which nodes run now: those a token stands on that waits for no other.

    A token waits at a join while another token that does not itself wait could still reach that join. Among joins that
    wait only for each other the first in file order goes; this is decided as soon as nothing else can reach them, which
    gives the same result as deciding it when nothing runs.

    Args:
        waiting: Tokens that stand on nodes and have not begun.
        running: The nodes that are running, once for each token.
    """
    joins, reach = plan.topology.joins, plan.topology.reach
    if len(waiting) == 1 and not running:
        return (Arrival(waiting[0].at, (waiting[0],)),)
    free = [Arrival(token.at, (token,)) for token in waiting if token.at not in joins]
    active = {*running, *(arrival.node for arrival in free)}
    held: dict[str, list[Token]] = {}
    for token in waiting:
        if token.at in joins:
            held.setdefault(token.at, []).append(token)
    open_joins = [node for node in held if not any(node in reach[other] for other in active)]
    free += [
        Arrival(node, merge_order(held[node]))
        for node in open_joins
        if not any(_goes_before(plan, other, node) for other in open_joins if other != node)
    ]
    return tuple(sorted(free, key=lambda arrival: (plan.order[arrival.node], arrival.tokens[0].path)))


def _goes_before(plan: Plan, other: str, node: str) -> bool:
    reach = plan.topology.reach
    if node not in reach[other]:
        return False
    return other not in reach[node] or plan.order[other] < plan.order[node]


def merge_order(tokens: Sequence[Token]) -> tuple[Token, ...]:
    """Sort tokens that meet: by the edge they came by, then by their branch."""
    return tuple(sorted(tokens, key=lambda token: (token.edge, token.path)))


def common_fork(tokens: Sequence[Token]) -> Fork | None:
    """Find the innermost fork that all tokens began in."""
    chains = [_chain(token.fork) for token in tokens]
    fork = tokens[0].fork
    while fork is not None and not all(fork in chain for chain in chains):
        fork = fork.parent
    return fork


def _chain(fork: Fork | None) -> list[Fork]:
    chain = []
    while fork is not None:
        chain.append(fork)
        fork = fork.parent
    return chain


def common_path(tokens: Sequence[Token]) -> tuple[int, ...]:
    """Give the path that all tokens share."""
    shared: list[int] = []
    for numbers in zip(*(token.path for token in tokens), strict=False):
        if len(set(numbers)) > 1:
            break
        shared.append(numbers[0])
    return tuple(shared)
