"""What everybody has to do: the same workflows, the same trivial nodes, the same state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

CHAIN_NODES: Final = 10
BRANCHES: Final = 50
ROUNDS: Final = 100
SLEEP_SECONDS: Final = 0.05
DOCUMENT: Final = "".join(f"{number:04d} is a line of the document.\n" for number in range(4096 // 32 + 1))[:4096]
"""A text that the state carries and no node changes."""


@dataclass(frozen=True)
class Work:
    """A workflow that every contender runs."""

    label: str
    nodes: int
    """Node executions in one run."""


CHAIN: Final = "chain"
DOCUMENT_CHAIN: Final = "chain-4kB"
FAN_OUT: Final = "fan-out"
LOOP: Final = "loop"

WORKS: Final[Mapping[str, Work]] = {
    CHAIN: Work(f"a chain of {CHAIN_NODES} trivial nodes", CHAIN_NODES),
    DOCUMENT_CHAIN: Work(f"the same with {len(DOCUMENT) // 1024} kB in the state", CHAIN_NODES),
    FAN_OUT: Work(f"a fan-out of {BRANCHES} with a join", BRANCHES + 1),
    LOOP: Work(f"a loop of {ROUNDS}", ROUNDS),
}


def check(result: object, expected: object) -> None:
    """Make sure that a contender did the work.

    Raises:
        AssertionError: It did not.
    """
    if result != expected:
        raise AssertionError(f"the work was not done: {result!r} is not {expected!r}")
