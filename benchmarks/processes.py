"""A process for each contender: nobody pays for what another one has loaded, patched or left running.

The processes live side by side and take turns, so that what slows the machine down slows all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from benchmarks.contenders import CONTENDERS, Contender, Ready

_SPAWN: Final = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Spent:
    """What a process has spent on something."""

    wall_seconds: float
    cpu_seconds: float
    """Of all its threads; with what was left to them."""
    memory_bytes: int = 0
    """How far its memory grew, at most; 0 where the machine does not tell."""


class RunnerError(Exception):
    """A contender's process could not do it; the text says why."""


class Runner:
    """A contender in a process of its own."""

    def __init__(self, contender: Contender, folder: Path) -> None:
        self.contender = contender
        folder.mkdir(parents=True, exist_ok=True)
        self._connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(theirs, contender.name, folder), daemon=True)
        self._process.start()
        theirs.close()
        self.works: frozenset[str] = self._ask("works")
        """What it can do."""

    def turn(self, work: str, times: int) -> Spent:
        """Have it run a work so many times, one after the other."""
        spent: Spent = self._ask("turn", work, times)
        return spent

    def asleep(self, runs: int) -> Spent | None:
        """Have it run the sleeping chain, so many at once; None if it has no such form."""
        spent: Spent | None = self._ask("asleep", runs)
        return spent

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._connection.send(("close", ()))
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _ask(self, what: str, *arguments: Any) -> Any:
        self._connection.send((what, arguments))
        try:
            answer = self._connection.recv()
        except EOFError:
            raise RunnerError(f"{self.contender.label}: its process ended") from None
        if isinstance(answer, str):
            raise RunnerError(f"{self.contender.label}: {answer}")
        return answer[0]


@contextlib.contextmanager
def runner(contender: Contender, folder: Path) -> Iterator[Runner]:
    """Have a contender in a process as long as this lasts."""
    running = Runner(contender, folder)
    try:
        yield running
    finally:
        running.close()


def in_a_process(call: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """Call a function in a fresh process; give what waits for its result."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_call, args=(theirs, call, arguments))
    process.start()
    theirs.close()

    def result() -> Any:
        answer = ours.recv()
        process.join()
        if isinstance(answer, RunnerError):
            raise answer
        return answer

    return result


def _call(connection: Connection, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        connection.send(call(*arguments))
    except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
        connection.send(RunnerError(f"{type(error).__name__}: {error}"))


# --- in the contender's process ----------------------------------------------------------------------------------------


def _serve(connection: Connection, name: str, folder: Path) -> None:
    os.chdir(folder)
    log = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    ready: Ready | None = None
    while True:
        what, arguments = connection.recv()
        if what == "close":
            # Not by the usual way out: some peers wait there for threads that never end.
            os._exit(0)
        try:
            ready = ready or CONTENDERS[name].take_part(folder)
            connection.send((_DOING[what](ready, *arguments),))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
            connection.send(f"{type(error).__name__}: {error}")


def _works(ready: Ready) -> frozenset[str]:
    return frozenset(ready.works)


def _turn(ready: Ready, work: str, times: int) -> Spent:
    run = ready.works[work]
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(times):
        run()
    wall = time.perf_counter() - wall
    ready.settle()
    return Spent(wall, time.process_time() - cpu)


def _asleep(ready: Ready, runs: int) -> Spent | None:
    return asyncio.run(_all_asleep(ready, runs)) if ready.asleep is not None else None


async def _all_asleep(ready: Ready, runs: int) -> Spent:
    assert ready.asleep is not None
    async with ready.asleep() as one:
        await one()  # what is loaded and opened once
        gc.collect()
        before = forget_peak()
        cpu, wall = time.process_time(), time.perf_counter()
        await asyncio.gather(*(one() for _ in range(runs)))
        wall = time.perf_counter() - wall
        ready.settle()
        return Spent(wall, time.process_time() - cpu, max(0, peak_memory() - before))


_DOING: Final[dict[str, Callable[..., Any]]] = {"works": _works, "turn": _turn, "asleep": _asleep}


def memory() -> int:
    """Give the memory of this process, in bytes; 0 where the machine does not tell."""
    return _status("VmRSS:")


def peak_memory() -> int:
    """Give the most memory that this process had since `forget_peak`."""
    return _status("VmHWM:")


def forget_peak() -> int:
    """Begin the peak anew, and give the memory now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return memory()


def _status(key: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    return 0
