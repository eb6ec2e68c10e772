"""Loads libraries on other threads, whole: a child that is forked in the middle could never load the rest."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

from configurable_agents.forks import hold_in_forks

LOADING: Final = threading.RLock()
"""Held while modules are loaded, and by whoever forks: a fork waits some tenths of a second, once. Only for imports: what
is far away could make a fork wait for ever."""


def _held_in_forks() -> Iterator[None]:
    with LOADING:
        yield


hold_in_forks(_held_in_forks)
