"""Drives the one async engine from blocking code: on this thread, or on one of its own where this one is in use.

A run begins without an event loop, and gets one when it first asks for it (`core.waiting.in_a_loop`): most runs that have
nothing but plain functions never do, and a loop costs as much as several of them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, Final, Generic, TypeVar

from configurable_agents.core.functions import call_inline
from configurable_agents.core.waiting import GRACE_SECONDS, LOOP_WANTED, Interruption, cancel_all, is_in_a_loop
from configurable_agents.errors import StorageError
from configurable_agents.runtime.loops import LOOPS
from configurable_agents.storage.lifetime import is_at_work_here

try:
    # What `signal` itself calls: it looks each handler up among its enums, in vain, which takes as long as two nodes.
    from _signal import SIGINT, default_int_handler, getsignal  # type: ignore[import-not-found]  # it has no stubs
    from _signal import signal as set_handler
except ImportError:  # the module is Python's own, and not trusted to be there
    from signal import SIGINT, default_int_handler, getsignal
    from signal import signal as set_handler

T = TypeVar("T")


LOOK_SECONDS: Final = 0.05
"""How often a run on a thread of its own looks whether its caller has been cancelled."""


class _Here(threading.local):
    """This thread."""

    is_driving = False
    """Whether a run is driven on it."""


_HERE: Final = _Here()


def drive(make: Callable[[Interruption | None], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end and give its result.

    Ctrl-C cancels it (at once where a plain function runs on this thread), lets it end, and raises KeyboardInterrupt.

    Args:
        make: Makes the coroutine; given what tells it of Ctrl-C where a plain function may run inline, since it is reached
            there.
    """
    # A run within another one's plain function must not be interrupted as that function is, wherever it may be just then.
    if _HERE.is_driving or is_in_a_loop():
        return _on_a_thread(make)
    drive = _Drive(make)
    return drive.run(drive.interruption)


class _Drive(Generic[T]):
    """One coroutine, and the loop that it has to itself once it asks for one."""

    def __init__(self, make: Callable[[Interruption | None], Coroutine[Any, Any, T]]) -> None:
        self._make = make
        self.interruption = Interruption()
        """Wanted by Ctrl-C on the main thread, on a thread of its own by whoever waits for it."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[T] | None = None
        self._was_torn = False
        """Whether KeyboardInterrupt or SystemExit went through the loop, which then has callbacks left to call."""

    def run(self, inline: Interruption | None) -> T:
        """Run until the coroutine ends; handle Ctrl-C meanwhile, unless the program has a handler of its own."""
        _HERE.is_driving = True
        try:
            here = threading.current_thread() is threading.main_thread()
            if not here or getsignal(SIGINT) is not default_int_handler:
                return self._begin(inline)
            set_handler(SIGINT, self._on_sigint)
            try:
                result = self._begin(inline)
            except asyncio.CancelledError:
                if self.interruption.is_wanted:
                    raise KeyboardInterrupt from None
                raise
            finally:
                set_handler(SIGINT, default_int_handler)
            if self.interruption.is_wanted:
                raise KeyboardInterrupt  # too late for the run, which has been kept as completed; not for the program
            return result
        finally:
            _HERE.is_driving = False

    def _begin(self, inline: Interruption | None) -> T:
        context = contextvars.copy_context()
        coroutine = context.run(self._make, inline)
        step: Callable[[], object] = functools.partial(coroutine.send, None)
        while True:
            try:
                wanted = context.run(step)
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                if wanted is not LOOP_WANTED:
                    raise RuntimeError(f"a run awaited {wanted!r} before it asked for an event loop")
                loop = LOOPS.take()
            except Exception as error:  # noqa: BLE001 - it is the run's, which ends by it
                step = functools.partial(coroutine.throw, error)
            else:
                return self._go_on(coroutine, context, loop)

    def _go_on(
        self, coroutine: Coroutine[Any, Any, T], context: contextvars.Context, loop: asyncio.AbstractEventLoop
    ) -> T:
        """Run what has begun without a loop to its end in one."""
        self._loop = loop
        try:
            self._task = loop.create_task(coroutine, context=context)
            if self.interruption.is_wanted:
                self._task.cancel()
            return loop.run_until_complete(self._task)
        except (KeyboardInterrupt, SystemExit):
            self._was_torn = True
            raise
        finally:
            self._close(loop)

    def cancel(self) -> None:
        """Cancel the coroutine, from any thread: where it waits, or before its next node."""
        self.interruption.is_wanted = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
                self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _on_sigint(self, _signal: int, frame: FrameType | None) -> None:
        # Inside asyncio's own code KeyboardInterrupt would leave the loop in pieces; inside a plain function it is right,
        # and nothing else would end it. The second Ctrl-C is for whoever does not let himself be cancelled.
        if self.interruption.is_wanted or _in_plain_function(frame):
            raise KeyboardInterrupt
        self.cancel()

    def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._was_torn and LOOPS.give_back(loop):
            return
        # Whoever has been cancelled before has had its time, and it must not be given twice.
        fresh = [task for task in asyncio.all_tasks(loop) if not task.cancelling()]
        if fresh:
            loop.run_until_complete(cancel_all(fresh, seconds=GRACE_SECONDS))
        left = asyncio.all_tasks(loop)
        if left:
            # Closing the loop under a task that does not let itself be cancelled would break it at some odd moment.
            name = "configurable-agents-left-behind"
            threading.Thread(target=_let_end, args=(loop, left), name=name, daemon=True).start()
        else:
            _close(loop)


def _let_end(loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[Any]]) -> None:
    """Run tasks that were left behind to their own end; on a daemon thread, so that nobody waits for them."""
    loop.run_until_complete(asyncio.wait(tasks))
    _close(loop)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _in_plain_function(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code is call_inline.__code__:
            return True
        frame = frame.f_back
    return False


def _on_a_thread(make: Callable[[Interruption | None], Coroutine[Any, Any, T]]) -> T:
    """Run on a thread of its own, in the caller's context; the caller's loop stands still meanwhile, as it asked for.

    Raises:
        StorageError: This is a signal's handler, and the run would wait for ever for the write that it has come amid.
    """
    if is_at_work_here():
        raise StorageError(
            "a signal's handler cannot run a workflow: it has come amid a write into the store, which waits for it;"
            " have it tell a thread or an event loop to run it"
        )
    result: concurrent.futures.Future[T] = concurrent.futures.Future()
    context = contextvars.copy_context()
    drives: list[_Drive[T]] = []

    def work() -> None:
        try:
            drives.append(_Drive(make))
            result.set_result(context.run(drives[0].run, None))
        except BaseException as error:  # noqa: BLE001 - it is raised again where it belongs
            result.set_exception(error)

    thread = threading.Thread(target=work, name="configurable-agents-run", daemon=True)
    thread.start()
    try:
        return _result(result, asyncio.current_task() if is_in_a_loop() else None)
    except (KeyboardInterrupt, asyncio.CancelledError):
        for begun in drives:
            begun.cancel()
        thread.join(timeout=1.0)
        raise


def _result(result: concurrent.futures.Future[T], caller: asyncio.Task[Any] | None) -> T:
    """Wait for a result, for as long as the caller's own task is not cancelled: `asyncio.run` does so on Ctrl-C."""
    before = caller.cancelling() if caller else 0
    while not concurrent.futures.wait([result], timeout=LOOK_SECONDS).done:
        if caller is not None and caller.cancelling() > before:
            raise asyncio.CancelledError
    return result.result()
