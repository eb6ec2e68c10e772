"""What becomes of those who keep things for a while when the process forks or ends."""

from __future__ import annotations

import atexit
import functools
import time
import weakref
from typing import Final, Protocol

from configurable_agents.forks import begin_anew_in_children


class Keeper(Protocol):
    """Has a thread, locks and something that waits."""

    @property
    def is_at_work_here(self) -> bool:
        """Whether this thread is amid something of it: what waits for another one's write here waits for ever."""

    def begin_anew_in_child(self) -> None:
        """Forget what waits: it and the locks belong to the parent."""

    def close(self, *, since: float | None = None) -> None:
        """Do what is left to do, for a bounded time that began at `since`, on the monotonic clock."""


def live_with_the_process(keeper: Keeper) -> None:
    """Have somebody begin anew in a forked child, and closed at the end; it is not kept alive for that."""
    reference = weakref.ref(keeper, _ALL.remove)
    _ALL.append(reference)

    def close() -> None:
        alive = reference()
        if alive is not None:
            alive.close(since=exit_began())

    atexit.register(close)
    # Not at the exit itself: finalizers may have their turn there before `close`, and would take it away.
    weakref.finalize(keeper, atexit.unregister, close).atexit = False


def is_at_work_here() -> bool:
    """Say whether a signal's handler that asks has come amid somebody's work."""
    return any(keeper.is_at_work_here for keeper in living())


def living() -> list[Keeper]:
    """Give all who live with this process."""
    return [keeper for reference in tuple(_ALL) if (keeper := reference()) is not None]


@functools.cache
def exit_began() -> float:
    """Say when the end of this process began: when it is first asked. All who wait there wait side by side from then on."""
    return time.monotonic()


_ALL: Final[list[weakref.ref[Keeper]]] = []


def _after_fork_in_child() -> None:
    exit_began.cache_clear()
    for keeper in living():
        keeper.begin_anew_in_child()


# At once, not at the next record: a lock that the parent's thread held at the fork would stay locked for ever.
begin_anew_in_children(_after_fork_in_child)
