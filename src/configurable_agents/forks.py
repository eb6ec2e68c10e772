"""Forks of the process: what is held until one is over, and what begins anew in the child.

Python tells of what a fork's hook raises, and goes on. So a signal's handler that raises, as Ctrl-C does, ends a hook
wherever it has come to, or as it is entered; what it would have done is never made up for.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator


def hold_in_forks(held: Callable[[], Iterator[None]]) -> None:
    """Have whoever forks hold, until that is over, what a generator holds at its `yield`.

    It is let go of with the generator: at once where that or its hook is ended too early, else by a hook that is none of
    Python's own code, in which no signal is heard.
    """
    of_thread = threading.local()

    def hold() -> None:
        fork = held()
        next(fork)
        of_thread.fork = fork

    let_go = functools.partial(setattr, of_thread, "fork", None)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=hold, after_in_parent=let_go, after_in_child=let_go)


def begin_anew_in_children(begin: Callable[[], object]) -> None:
    """Have it called in each child that is forked, before anything else goes on there.

    Twice, for the signal that ends one of the calls; so it must not matter whether it was done before.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=begin)
        os.register_at_fork(after_in_child=begin)
