"""Runs a plan: moves tokens, executes the nodes they stand on, and ends with the state where the last token went.

All decisions are `core.graph`'s; here is only their effect, and the waiting for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from configurable_agents.config.schema import END, START, Parallel
from configurable_agents.core.graph import (
    Arrival,
    Fork,
    Plan,
    Token,
    common_fork,
    common_path,
    decide,
    merge_order,
    move,
    next_nodes,
)
from configurable_agents.core.node_executor import NodeExecutor, Visit
from configurable_agents.core.nodes import CompiledNode, Item
from configurable_agents.core.waiting import Interruption, cancel_all, in_a_loop
from configurable_agents.deltas import Delta, fold_state
from configurable_agents.errors import ExecutionLimitError
from configurable_agents.once import Once

CANCEL_SECONDS = 0.25
"""How long cancelled nodes may clean up; a little more than a node's own time-out gives its body."""


@dataclass(slots=True)
class Final:
    """How a run ended well."""

    state: Mapping[str, Any]
    heads: tuple[int, ...]
    """Seqs of the node executions whose states together are the result."""


class RunError(Exception):
    """Carries what ended a run to the caller of the engine; never seen outside."""

    def __init__(self, error: BaseException, visit: Visit | None = None) -> None:
        self.error = error
        self.visit = visit
        """The node execution that failed; None if it was none's fault."""
        super().__init__()  # no text of the error's: its `__str__` may raise


class Engine:
    """One run of a plan.

    Args:
        inline: Given where this thread is the run's alone, so that a plain function may block it when no other node is live.
            Looked at before each node.
    """

    def __init__(
        self, plan: Plan, nodes: Mapping[str, CompiledNode], executor: NodeExecutor, *, inline: Interruption | None
    ) -> None:
        self._plan = plan
        self._nodes = nodes
        self._executor = executor
        self._inline = inline
        self._limits = plan.config.config.execution
        self._most_visits = self._limits.max_node_executions
        self._seq = 0
        self._waiting: list[Token] = []
        self._running: dict[asyncio.Task[list[Token]], Arrival] = {}
        self._ended: list[Token] = []
        self._deltas: dict[int, Delta] = {}
        """What was written since the outermost fork that is open; empty while the run is one token."""

    @Once
    def _slots(self) -> asyncio.Semaphore:
        return asyncio.Semaphore(self._limits.max_concurrency)  # made when something runs beside something else

    async def run(self, state: dict[str, Any]) -> Final:
        """Run to the end.

        Raises:
            RunError: A node failed, or the run reached a limit; everything that was running has ended.
        """
        try:
            self._enter(state)
            del state  # the first node has it
            waiting, running, inline = self._waiting, self._running, self._inline
            alone = inline is not None
            while waiting or running:
                if inline is not None and inline.is_wanted:
                    raise asyncio.CancelledError
                token = await self._step() if running or len(waiting) > 1 else waiting.pop()
                if token is None:
                    continue
                if token.items is not None:
                    self._arrive(await self._map(token, token.items))
                else:
                    # One token and nothing else live: it waits for nobody, and needs no task, no slot and no carrying of
                    # errors. Nor a coroutine of its own, of which a thousand runs at once have a thousand.
                    visit = self._visit(token, None, alone)
                    await self._executor.execute(visit)
                    self._arrive(self._moved(visit))
                    del visit  # with the state that it saw
                del token
        except RunError:
            await self._cancel()
            raise
        except BaseException as error:
            await self._cancel()
            raise RunError(error) from error
        return self._result()

    def _enter(self, state: dict[str, Any]) -> None:
        decision = decide(self._plan, START, state, {})
        start = {**state, **decision.emptied} if decision.emptied else state
        self._arrive(move(self._plan, Token(START, -1, start, {}), decision, start, ()))

    def _arrive(self, tokens: Sequence[Token]) -> None:
        for token in tokens:
            (self._ended if token.at == END else self._waiting).append(token)

    async def _step(self) -> Token | None:
        """Begin what can begin now, and wait until something has ended; give the token of a node that runs alone."""
        arrivals = next_nodes(self._plan, self._waiting, [arrival.node for arrival in self._running.values()])
        taken = {id(token) for arrival in arrivals for token in arrival.tokens}
        self._waiting[:] = [token for token in self._waiting if id(token) not in taken]
        if len(arrivals) == 1 and not self._running:
            return self._merged(arrivals[0])
        await in_a_loop()
        for arrival in arrivals:
            self._running[asyncio.create_task(self._met(arrival))] = arrival
        await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        # In the order of their start, not of the set that `wait` gives: which failure is the first one must not vary.
        for task in [task for task in self._running if task.done()]:
            del self._running[task]
            self._arrive(task.result())
        return None

    async def _met(self, arrival: Arrival) -> list[Token]:
        """Execute a node beside others, and move its token on."""
        token = self._merged(arrival)
        if token.items is not None:
            return await self._map(token, token.items)
        visit = self._visit(token, None, False)
        await self._in_turn(visit)
        return self._moved(visit)

    def _moved(self, visit: Visit) -> list[Token]:
        """Move the token of an execution on to where that leads."""
        if visit.decision is None:
            raise _failure(visit)
        if self._running or self._waiting or self._ended:
            self._note(visit)
        return move(self._plan, visit.token, visit.decision, visit.after, (visit.seq,))

    async def _in_turn(self, visit: Visit) -> None:
        """Execute a visit when there is a slot for it; its latency begins then."""
        try:
            await self._slots.acquire()
        except asyncio.CancelledError:
            self._executor.cancelled(visit)
            return
        try:
            await self._executor.execute(visit)
        finally:
            self._slots.release()

    def _visit(self, token: Token, item: Item | None, alone: bool) -> Visit:
        seq = self._seq + 1
        if seq > self._most_visits:
            raise RunError(
                ExecutionLimitError(
                    f"the run was stopped before node {token.at!r}: it reached max_node_executions ({self._most_visits});"
                    " a route that goes back may never leave, or the limit in config.execution is too low"
                )
            )
        self._seq = seq
        return Visit(self._nodes[token.at], seq, token, item, alone)

    def _note(self, visit: Visit) -> None:
        index = None if visit.item is None else visit.item.index
        self._deltas[visit.seq] = Delta(visit.seq, visit.token.heads, visit.writes, index)

    async def _map(self, token: Token, parallel: Parallel) -> list[Token]:
        """Run a map's target once for each item, then go on along the target's own edge with the collected list."""
        await in_a_loop()
        items = token.state[parallel.items_field]
        visits = [self._visit(token, Item(index, value, parallel), False) for index, value in enumerate(items)]
        await self._all_items(visits, parallel.max_concurrency or self._limits.max_concurrency)
        if self._running or self._waiting or self._ended:
            for visit in visits:
                self._note(visit)
        state = token.state.copy()
        state[parallel.collect_field] = [visit.writes[parallel.collect_field] for visit in visits]
        try:
            decision = decide(self._plan, token.at, state, token.loops)
        except Exception as error:
            raise RunError(error) from error
        heads = tuple(visit.seq for visit in visits)
        return move(self._plan, token, decision, {**state, **decision.emptied}, heads)

    async def _all_items(self, visits: Sequence[Visit], width: int) -> None:
        """Execute visits, `width` at once; after the first failure the rest is recorded as cancelled."""
        ended: set[int] = set()
        left = deque(visits)

        async def work() -> Visit | None:
            while left:
                visit = left.popleft()
                await self._in_turn(visit)
                ended.add(visit.seq)
                if visit.error is not None:
                    return visit
            return None

        workers = [asyncio.create_task(work()) for _ in range(min(width, len(visits)))]
        pending: set[asyncio.Task[Visit | None]] = set(workers)
        failed: Visit | None = None
        try:
            while pending and failed is None:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                failed = next((task.result() for task in workers if task in done and task.result()), None)
        finally:
            left.clear()  # a worker whose node does not let itself be cancelled must not begin another
            await cancel_all(pending, seconds=CANCEL_SECONDS)
            for visit in visits:
                if visit.seq not in ended:
                    self._executor.cancelled(visit)
        if failed is not None and failed.error is not None:
            raise RunError(failed.error, failed)

    async def _cancel(self) -> None:
        """Cancel what is running, and record as cancelled what does not let itself be cancelled."""
        for task in self._running:
            task.add_done_callback(_look_at)
        await cancel_all(list(self._running), seconds=CANCEL_SECONDS)
        self._executor.abandon()

    def _merged(self, arrival: Arrival) -> Token:
        """Make one token of those that meet on a node: their states merge in the order of the edges, field by field."""
        first = arrival.tokens[0]
        if len(arrival.tokens) == 1:
            return first
        state, heads = self._fold(arrival.tokens)
        fork = self._still_open(common_fork(arrival.tokens), arrival.tokens)
        if not self._others(arrival.tokens):
            self._deltas.clear()
        return replace(
            first,
            state=state,
            heads=heads,
            fork=fork,
            path=common_path(arrival.tokens),
            loops=_most_of_each([token.loops for token in arrival.tokens]),
        )

    def _fold(self, tokens: Sequence[Token]) -> tuple[dict[str, Any], tuple[int, ...]]:
        heads = tuple(dict.fromkeys(seq for token in tokens for seq in token.heads))
        fork = common_fork(tokens)
        if fork is None:
            return tokens[0].state, heads
        # Up to the fork all have the same past, which is in its state: the fold begins there.
        deltas = [delta for seq, delta in self._deltas.items() if seq not in fork.heads]
        return fold_state(fork.state, self._plan.reducers, deltas, heads), heads

    def _others(self, tokens: Sequence[Token]) -> list[Token]:
        mine = {id(token) for token in tokens}
        running = [token for arrival in self._running.values() for token in arrival.tokens]
        return [token for token in (*self._waiting, *self._ended, *running) if id(token) not in mine]

    def _still_open(self, fork: Fork | None, tokens: Sequence[Token]) -> Fork | None:
        """Give the innermost fork that another token still is in: the others are over, and need not be kept."""
        others = [token.fork for token in self._others(tokens)]
        while fork is not None and not any(_is_in(other, fork) for other in others):
            fork = fork.parent
        return fork

    def _result(self) -> Final:
        if len(self._ended) == 1:
            return Final(self._ended[0].state, self._ended[0].heads)
        return Final(*self._fold(merge_order(self._ended)))


def _failure(visit: Visit) -> RunError:
    """Say what ends the run after a visit without a decision."""
    if visit.error is not None:
        return RunError(visit.error, visit)
    return RunError(visit.edge_error or LookupError(f"node {visit.node.id!r} has no way on"))


def _look_at(task: asyncio.Task[Any]) -> None:
    """Look at what became of a task, whenever it ends, so that asyncio does not report it."""
    if not task.cancelled():
        task.exception()


def _is_in(fork: Fork | None, outer: Fork) -> bool:
    while fork is not None and fork is not outer:
        fork = fork.parent
    return fork is outer


def _most_of_each(counts: Sequence[Mapping[int, int]]) -> Mapping[int, int]:
    most: dict[int, int] = {}
    for loops in counts:
        for edge, count in loops.items():
            most[edge] = max(count, most.get(edge, 0))
    return most
