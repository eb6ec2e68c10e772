"""Forks of a process that opens databases: none in the middle of a load or inside SQLite, and a child gets no connection.

Loaded before SQLAlchemy: a fork that waits for that calls no hook any more that was registered while it waited.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Final, Protocol


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
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._inside = 0
        self._is_closed = False

    def __enter__(self) -> None:
        with self._lock:
            if self._is_closed:
                self._changed.wait_for(lambda: not self._is_closed, timeout=_FORK_SECONDS)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._is_closed:
                self._changed.notify_all()

    def before_fork(self) -> None:
        with self._lock:
            self._is_closed = True
            self._changed.wait_for(lambda: not self._inside, timeout=_FORK_SECONDS)

    def after_fork_in_parent(self) -> None:
        with self._lock:
            self._is_closed = False
            self._changed.notify_all()


_FORK_SECONDS: Final = 2.0
"""A fork waits no longer: the forking thread may be inside itself."""
GATE: Final = _Gate()

# A fork concerns the whole process, and hooks cannot be taken back: one for all open databases, which it does not keep alive.
_OPEN: Final[weakref.WeakSet[Connected]] = weakref.WeakSet()
_OPEN_LOCK: Final = threading.Lock()


def mind_forks(database: Connected) -> None:
    """Tell it of each fork; it is not kept alive for that."""
    with _OPEN_LOCK:
        _OPEN.add(database)


def _before_fork() -> None:
    LOADING.acquire()
    GATE.before_fork()
    _OPEN_LOCK.acquire()
    for database in _OPEN:
        database.before_fork()


def _release() -> None:
    # A fork that had begun when this module was loaded comes here without having been in `_before_fork`.
    if _OPEN_LOCK.locked():
        _OPEN_LOCK.release()
        LOADING.release()


def _after_fork_in_parent() -> None:
    GATE.after_fork_in_parent()  # first: another thread may wait to fork, and would find the gate opened after it has shut it
    _release()


def _after_fork_in_child() -> None:
    GATE.__init__()  # type: ignore[misc]  # the same object, as new: what was inside stayed in the parent
    for database in _OPEN:
        database.after_fork_in_child()
    _release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
