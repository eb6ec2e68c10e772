"""Forks of a process that opens databases: none in the middle of a load or inside SQLite, and a child gets no connection.

Loaded before SQLAlchemy: a fork that waits for that calls no hook any more that was registered while it waited.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from typing import Final, Protocol

from configurable_agents.forks import begin_anew_in_children, hold_in_forks


class Connected(Protocol):
    """What has connections."""

    def before_fork(self) -> None:
        """Leave none of them to a child."""

    def after_fork_in_child(self) -> None:
        """Start afresh."""


LOADING: Final = threading.RLock()
"""Held while SQLAlchemy is loaded: a fork waits some tenths of a second, once."""


class _Gate:
    """Keeps a fork waiting while a thread is inside SQLite, whose own locks would stay locked in the child for ever."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        """Held while a fork goes on: nobody comes in, or out."""
        self._changed = threading.Condition(self.lock)
        self._inside = 0
        self._is_closed = False
        """Whether a fork waits for those who are inside."""

    def __enter__(self) -> None:
        with self.lock:
            if self._is_closed:
                self._changed.wait_for(lambda: not self._is_closed, timeout=_FORK_SECONDS)
                self._is_closed = False  # also where an interrupt has kept the fork from saying so
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self._inside -= 1
            if self._is_closed:
                self._changed.notify_all()

    def empty(self) -> None:
        """Wait until nobody is inside; the lock is the caller's, and keeps all others out from then on."""
        self._is_closed = True
        try:
            self._changed.wait_for(lambda: not self._inside, timeout=_FORK_SECONDS)
        finally:
            self._is_closed = False
            self._changed.notify_all()


_FORK_SECONDS: Final = 2.0
"""A fork waits no longer: the forking thread may be inside itself."""
GATE: Final = _Gate()

# A fork concerns the whole process, and hooks cannot be taken back: one for all open databases, which it does not keep alive.
_OPEN: Final[weakref.WeakSet[Connected]] = weakref.WeakSet()


def mind_forks(database: Connected) -> None:
    """Tell it of each fork; it is not kept alive for that."""
    with GATE.lock:
        _OPEN.add(database)


def _held_in_forks() -> Iterator[None]:
    with LOADING, GATE.lock:
        GATE.empty()
        for database in _OPEN:
            database.before_fork()
        yield


def _after_fork_in_child() -> None:
    GATE.__init__()  # type: ignore[misc]  # the same object, as new: what was inside stayed in the parent
    for database in _OPEN:
        database.after_fork_in_child()


hold_in_forks(_held_in_forks)
begin_anew_in_children(_after_fork_in_child)
