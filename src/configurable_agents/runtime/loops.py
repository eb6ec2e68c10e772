"""Event loops for blocking runs: one that a run has left as it was is the next run's too.

Making and closing a loop costs as much as several short nodes.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
from collections.abc import Callable
from typing import Any, Final

from configurable_agents.core.functions import FunctionPool

MOST_IDLE: Final = 4
"""Loops that are kept: as many threads may well run one workflow after the other."""
BEAT_SECONDS: Final = 0.25
"""So late a signal is heard at most."""


class Loops:
    """The loops that nobody uses at the moment."""

    def __init__(self) -> None:
        self._idle: list[asyncio.AbstractEventLoop] = []

    def take(self) -> asyncio.AbstractEventLoop:
        """Give a loop; it is the caller's alone until it is given back or closed."""
        try:
            return self._idle.pop()
        except IndexError:
            loop = asyncio.new_event_loop()
            # A chat model that only blocks is called in the default executor; asyncio's own would wait for it at exit.
            loop.set_default_executor(DaemonExecutor())
            _beat(loop)
            return loop

    def give_back(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Keep a loop, or close it, if nothing is left in it; False if something is, which is the caller's to end."""
        if asyncio.all_tasks(loop) or getattr(loop, "_asyncgens", True):
            return False
        if len(self._idle) < MOST_IDLE and _is_as_new(loop):
            self._idle.append(loop)
        else:
            loop.close()
        return True

    def close(self) -> None:
        """Close what is kept."""
        while self._idle:
            self._idle.pop().close()


def _beat(loop: asyncio.AbstractEventLoop) -> None:
    """Have a loop wake now and then.

    Python calls a signal's handler between two steps of the main thread, not in its sleep. One that comes just as the loop
    falls asleep, or to another thread, would be heard when the next timer ends the sleep. A file that signals write into
    would wake it at once (`signal.set_wakeup_fd`), but there is one for the whole process: whoever forgets it, or a child
    that was forked, writes into whatever file has that number next.
    """
    loop.call_later(BEAT_SECONDS, _beat, loop)


def _is_as_new(loop: asyncio.AbstractEventLoop) -> bool:
    """Say whether no callback, timer, file, signal or setting of a run's code has stayed in a loop.

    The attributes are asyncio's own, and not trusted to be there: without them a loop is not used again.
    """
    try:
        if type(getattr(loop, "_default_executor")) is not DaemonExecutor:  # noqa: B009 - it may be missing
            return False
        # One that was cancelled is no more than an entry in the list; asyncio tidies those up when they are many.
        timers = [getattr(timer, "_callback") for timer in getattr(loop, "_scheduled") if not timer.cancelled()]  # noqa: B009
        found = [getattr(loop, name) for name in _EMPTY]
        return timers == [_beat] and not any(found) and len(getattr(loop, "_selector").get_map()) == 1  # noqa: B009 - its own wake-up pipe
    except (AttributeError, TypeError):
        return False


_EMPTY: Final = (
    *("_ready", "_signal_handlers", "_exception_handler", "_task_factory", "_debug"),
    *("_executor_shutdown_called", "_asyncgens_shutdown_called"),
)


class DaemonExecutor(concurrent.futures.ThreadPoolExecutor):
    """An executor (asyncio asks for one of this class) whose threads never keep the process from ending."""

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self._pool = FunctionPool(max_threads=64)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Run a call in a daemon thread."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever awaits the future
                future.set_exception(error)

        self._pool.submit(job)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the threads alone: they end when they are idle, or with the process."""


LOOPS: Final = Loops()
# As loops are not to be left to the garbage collector, which warns of them; and a child would share the parent's files.
atexit.register(LOOPS.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=LOOPS.close)
