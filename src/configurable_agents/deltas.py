"""How what node executions wrote folds into the state: one function for the engine's joins and for readers of the store.

A node execution has a number (`seq`), the numbers it read from (`reads_from`, in the order of the edges) and what it
wrote. The state after it is the fold of everything it descends from, each execution once, in depth-first order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)  # nobody changes one; making a frozen one takes three times as long, and each node has one
class Delta:
    """What one node execution wrote, and after which executions."""

    seq: int
    reads_from: tuple[int, ...] = ()
    writes: Mapping[str, Any] = field(default_factory=dict)
    map_index: int | None = None
    """For an item of a map: its index; `writes` then holds one element of the collected list."""


def _append(old: Any, new: Any) -> Any:
    return [*(old or ()), *new] if isinstance(new, list) else [*(old or ()), new]


def _merge(old: Any, new: Any) -> Any:
    return {**(old or {}), **(new or {})}


def _sum(old: Any, new: Any) -> Any:
    return new if old is None else old if new is None else old + new


def _min(old: Any, new: Any) -> Any:
    return new if old is None else old if new is None else min(old, new)


def _max(old: Any, new: Any) -> Any:
    return new if old is None else old if new is None else max(old, new)


REDUCERS: Mapping[str, Callable[[Any, Any], Any]] = {
    "append": _append,
    "merge": _merge,
    "sum": _sum,
    "min": _min,
    "max": _max,
}
"""How a write combines with the value before it; a field without one is replaced. `append` takes a list's elements."""


def lineage(deltas: Mapping[int, Delta], reads_from: Sequence[int]) -> list[Delta]:
    """List everything that `reads_from` descends from, each once, in depth-first order of `reads_from`.

    Args:
        deltas: All finished node executions of a run, by seq. A seq that is missing counts as having written nothing.
    """
    ordered: list[Delta] = []
    seen: set[int] = set()
    # An explicit stack: a run of a thousand executions is deeper than Python's recursion limit.
    stack: list[tuple[int, bool]] = [(seq, False) for seq in reversed(reads_from)]
    while stack:
        seq, expanded = stack.pop()
        if expanded:
            ordered.append(deltas[seq])
        elif seq not in seen and seq in deltas:
            seen.add(seq)
            stack.append((seq, True))
            stack.extend((earlier, False) for earlier in reversed(deltas[seq].reads_from))
    return ordered


def apply(state: dict[str, Any], writes: Mapping[str, Any], reducers: Mapping[str, str]) -> None:
    """Write what one execution wrote into the state, in place."""
    if reducers:
        writes = {
            name: REDUCERS[reducers[name]](state.get(name), value) if name in reducers else value
            for name, value in writes.items()
        }
    state.update(writes)


def _collect(state: dict[str, Any], item: Delta) -> None:
    for name, value in item.writes.items():
        # The first item starts the list, so that a map that runs again does not add to the last one's.
        state[name] = [value] if item.map_index == 0 else [*(state.get(name) or ()), value]


def fold_state(
    initial: Mapping[str, Any], reducers: Mapping[str, str], deltas: Iterable[Delta], reads_from: Sequence[int]
) -> dict[str, Any]:
    """Give the state that an execution reading from `reads_from` sees.

    Args:
        initial: The state before any node.
        reducers: The state fields whose `reduce` is not `replace`.
    """
    state = dict(initial)
    for delta in lineage({delta.seq: delta for delta in deltas}, reads_from):
        if delta.map_index is None:
            apply(state, delta.writes, reducers)
        else:
            _collect(state, delta)
    return state
