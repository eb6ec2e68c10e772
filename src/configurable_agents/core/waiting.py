"""Waiting: when an event loop is needed for it, and time limits that hold even where code does not let itself be cancelled."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Collection, Generator
from dataclasses import dataclass
from typing import Any, Final

GRACE_SECONDS: Final = 0.15
"""How long cancelled code may clean up before it is left behind. The limits around it (a map or fan-out, then the run)
wait a little longer each, so that what is innermost ends first, and half a second holds for all together."""


LOOP_WANTED: Final = object()
"""What a coroutine hands to whoever drives it without an event loop, when it needs one."""


@types.coroutine
def in_a_loop() -> Generator[object]:
    """Go on in an event loop: to be awaited before anything that needs one.

    A blocking run begins without (`runtime.driver`): many have nothing but plain functions, and never need it.
    """
    if not is_in_a_loop():
        yield LOOP_WANTED


def is_in_a_loop() -> bool:
    """Say whether an event loop runs on this thread."""
    return asyncio._get_running_loop() is not None  # noqa: SLF001 - documented, and `get_running_loop` raises instead


@dataclass(slots=True)
class Interruption:
    """Tells a run that it is to end, where it awaits nothing and so nothing can be raised into it."""

    is_wanted: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of an awaited call, as a value.

    A task that raises KeyboardInterrupt or SystemExit tears down the event loop, so tasks of ours never raise.
    """

    value: Any = None
    error: BaseException | None = None

    def unwrap(self) -> Any:
        """Give the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


async def settle(awaitable: Awaitable[Any]) -> Settled:
    """Await a call and give what came of it, an exception of any kind included."""
    try:
        return Settled(value=await awaitable)
    except BaseException as error:  # noqa: BLE001 - see Settled
        return Settled(error=error)


async def within(
    seconds: float, awaitable: Awaitable[Any], *, error: BaseException, grace_seconds: float = GRACE_SECONDS
) -> Any:
    """Await a call in an event loop, for at most `seconds`; then it is cancelled and, if that does not end it, left behind.

    Raises:
        error: The time is over.
    """
    task = asyncio.ensure_future(settle(awaitable))
    try:
        await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        await cancel_all({task}, seconds=grace_seconds)
        raise
    if task.done():
        return task.result().unwrap()
    await cancel_all({task}, seconds=grace_seconds)
    raise error


async def cancel_all(tasks: Collection[asyncio.Future[Any]], *, seconds: float) -> None:
    """Cancel tasks and give them a moment to clean up."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=seconds)
