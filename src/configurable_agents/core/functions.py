"""Calls the caller's functions: coroutines on the loop, plain functions inline or in a pool of daemon threads."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import queue
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from inspect import CO_COROUTINE
from types import FunctionType, NoneType
from typing import Any, Final

from configurable_agents.core.waiting import in_a_loop
from configurable_agents.errors import OutputError

_PLAIN: Final = frozenset({bool, dict, float, int, list, NoneType, str, tuple})
"""What nobody awaits: looking at it more closely takes longer than a short function."""
VALUES: Final = _PLAIN - {dict}
"""What cannot hold outputs by name."""
_IDLE_SECONDS: Final = 5.0
"""An idle thread ends after this, so that a quiet program keeps none."""


def is_async(call: Callable[..., Any]) -> bool:
    """Tell whether a callable runs on the loop: an `async def` does, or an object whose `__call__` is one."""
    if type(call) is FunctionType and not call.__dict__:  # nothing marks it as what it is not, as mostly
        return call.__code__.co_flags & CO_COROUTINE != 0
    looked_at = [call] if isinstance(call, FunctionType) else [call, getattr(call, "__call__", None)]  # noqa: B004 - its kind is asked, not whether it is there
    return any(map(inspect.iscoroutinefunction, looked_at))


class FunctionPool:
    """Runs plain functions in daemon threads, which never keep the process from ending.

    (The threads of `concurrent.futures` are joined at exit: one function that hangs would hang the program.)
    """

    def __init__(self, max_threads: int) -> None:
        self._max_threads = max_threads
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        self.abandoned = 0
        """Calls whose caller has gone (a timeout, a cancellation) while their thread still worked."""

    async def run(self, call: Callable[[], Any]) -> Any:
        """Run a call in a thread, with the context of the caller, and await its result or exception."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def job() -> None:
            nonlocal call, context
            try:
                result, error = context.run(call), None
            except BaseException as raised:  # noqa: BLE001 - SystemExit too belongs to the run, not to this thread
                result, error = None, raised
            del call, context  # with the node's span in it, while this thread goes on to the next job
            try:
                loop.call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:  # the loop has closed: nobody waits any more
                return

        self.submit(job)
        try:
            return _unwrap(await future)
        except asyncio.CancelledError:
            if future.cancelled():
                self.abandoned += 1
            raise

    def submit(self, job: Callable[[], None]) -> None:
        """Run a job in a thread; it must not raise."""
        with self._lock:
            self._jobs.put(job)
            if self._idle >= self._jobs.qsize() or self._threads - self.abandoned >= self._max_threads:
                return
            self._threads += 1
            name = f"configurable-agents-function-{self._threads}"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            try:
                job = self._jobs.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    self._idle -= 1
                    if self._jobs.empty():
                        self._threads -= 1
                        return
                continue
            with self._lock:
                self._idle -= 1
            job()
            del job


@dataclass(frozen=True, slots=True)
class _Raised:
    """An exception as a value: a future refuses StopIteration and reports what nobody fetched."""

    error: BaseException


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if not future.done():
        future.set_result(result if error is None else _Raised(error))


def _unwrap(value: Any) -> Any:
    if isinstance(value, _Raised):
        raise value.error
    return value


def call_inline(call: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a plain function on this thread.

    It finds no event loop running, as in a thread, so that it may run one of its own. A frame of this name tells the Ctrl-C
    handler of `runtime.driver` to interrupt it at once.
    """
    loop = asyncio._get_running_loop()  # noqa: SLF001 - these two are documented
    if loop is None:
        return call(**arguments)
    asyncio._set_running_loop(None)  # noqa: SLF001
    try:
        return call(**arguments)
    finally:
        asyncio._set_running_loop(loop)  # noqa: SLF001


async def awaited(result: Awaitable[Any]) -> Any:
    """Await what a function handed back, in an event loop."""
    try:
        await in_a_loop()
    except BaseException:
        if inspect.iscoroutine(result):
            result.close()  # nobody awaits it any more
        raise
    return await result


def is_awaited(result: Any) -> bool:
    """Tell whether a function handed back a coroutine, or something else that is to be awaited."""
    return type(result) not in _PLAIN and inspect.isawaitable(result)


def named_outputs(result: Any, outputs: tuple[str, ...]) -> dict[str, Any]:
    """Sort what a function gave back by output name.

    One output takes the value itself, or a mapping with just that name; several take a mapping with all the names.
    """
    if not outputs:
        return {}
    value = result.model_dump() if hasattr(result, "model_dump") else result
    if len(outputs) == 1 and not (isinstance(value, Mapping) and set(value) == set(outputs)):
        return {outputs[0]: value}
    if not isinstance(value, Mapping):
        raise OutputError(f"the function gave {_shape(value)}; outputs {list(outputs)} need a mapping with these keys")
    missing = [name for name in outputs if name not in value]
    unknown = [str(name) for name in value if name not in outputs]
    if missing or unknown:
        parts = [f"gave no {missing}"] * bool(missing) + [f"gave {unknown}, which are not in its outputs"] * bool(
            unknown
        )
        raise OutputError(f"the function {' and '.join(parts)}; outputs are {list(outputs)}")
    return dict(value)


def _shape(value: Any) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__!r}"
