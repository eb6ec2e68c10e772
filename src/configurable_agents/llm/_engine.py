"""Our side of a local model's process: started on first use, shared by all models of the same file, ended with us."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Final

from configurable_agents.errors import ModelSetupError
from configurable_agents.llm.weights import engine_folder

_WORKER: Final = Path(__file__).with_name("_engine_worker.py")
_SHARED: Final = threading.Lock()

Answer = dict[str, Any]


class EngineDiedError(ConnectionError):
    """The local model's process ended in the middle; another one is started for the next call."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What makes one engine another than the next."""

    path: str
    sha256: str | None
    n_ctx: int
    n_threads: int
    n_gpu_layers: int


class Engine:
    """One model, loaded in one process. Safe to use from several threads; calls are answered one after the other."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._session: _Session | None = None
        self._owner = os.getpid()

    def submit(self, request: dict[str, Any]) -> tuple[int, Future[Answer]]:
        """Send a request, in a process that is started if there is none.

        Returns at once, with the call's number and a future of its answer: it may be called on an event loop.
        """
        with self._lock:
            if self._session is None or self._session.ended:
                self._session = _Session(self._settings)
            number = next(self._numbers)
            return number, self._session.submit(number, request)

    def cancel(self, number: int) -> None:
        """Give a call up: the engine stops working on it within a batch. A call that is answered already is no error."""
        with self._lock:
            if self._session is not None:
                self._session.cancel(number)

    def close(self) -> None:
        """End the process, whatever it does."""
        # A forked child inherits the object and its `atexit` entry, but the process is its parent's.
        if self._session is not None and os.getpid() == self._owner:
            self._session.close()


class _Session:
    """The life of one process: two threads of ours, of which one writes to it and one reads from it."""

    def __init__(self, settings: EngineSettings) -> None:
        self.ended = False
        self._closed = False
        self._settings = settings
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[Answer]] = {}
        self._outbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        # Daemons: a hanging native call must not hold up the program's exit.
        threading.Thread(target=self._run, name="local-model", daemon=True).start()

    def submit(self, number: int, request: dict[str, Any]) -> Future[Answer]:
        answer: Future[Answer] = Future()
        answer.set_running_or_notify_cancel()  # else a cancelled waiter cancels it, and to answer it is an error
        with self._lock:
            self._waiting[number] = answer
        self._outbox.put({"id": number, "request": request})
        if self.ended:
            self._fail(EngineDiedError("the local model's process ended"))
        return answer

    def cancel(self, number: int) -> None:
        with self._lock:
            answer = self._waiting.pop(number, None)
        if answer is not None:
            self._outbox.put({"cancel": number})

    def close(self) -> None:
        self.ended = self._closed = True
        self._outbox.put(None)
        process = self._process
        if process is not None:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=2)

    def _run(self) -> None:
        with tempfile.TemporaryFile() as errors:
            try:
                self._process = process = _start(self._settings, errors)
            except (OSError, ModelSetupError) as error:
                self.ended = True
                self._fail(ModelSetupError(f"the local model's process cannot be started: {error}"))
                return
            if self._closed:  # meanwhile
                process.kill()
            threading.Thread(target=self._write, args=(process,), name="local-model-writer", daemon=True).start()
            problem = self._read(process)
            self.ended = True
            self._outbox.put(None)
            process.wait()
            if not self._closed:  # else the program is exiting, and a daemon thread of its would print a traceback
                self._fail(problem or EngineDiedError(f"the local model's process ended{_last_words(errors)}"))

    def _write(self, process: subprocess.Popen[bytes]) -> None:
        """Send what is in the outbox; a thread of its own, since a long prompt waits until the model is loaded."""
        pipe = process.stdin
        if pipe is None:
            return
        with contextlib.suppress(OSError):  # the process ended: who waits is told by the thread that reads
            while (message := self._outbox.get()) is not None:
                data = json.dumps(message).encode() + b"\n"
                while data:
                    data = data[pipe.write(data) or 0 :]
        with contextlib.suppress(OSError):
            pipe.close()

    def _read(self, process: subprocess.Popen[bytes]) -> Exception | None:
        """Hand answers to those who wait until the process ends; give the reason if the model could not be loaded."""
        problem: Exception | None = None
        buffer = b""
        pipe = process.stdout
        if pipe is None:
            return problem
        with pipe:
            # Unbuffered: a buffered reader's lock, held by a daemon thread, aborts the interpreter's exit.
            while data := os.read(pipe.fileno(), 65536):
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    problem = self._take(json.loads(line)) or problem
        return problem

    def _take(self, message: dict[str, Any]) -> Exception | None:
        if "fatal" in message:
            return ModelSetupError(f"the local model cannot be loaded: {message['fatal']}{_remedy(message['fatal'])}")
        with self._lock:
            answer = self._waiting.pop(message.get("id", 0), None)
        if answer is not None:
            answer.set_result(message["answer"])
        return None

    def _fail(self, error: Exception) -> None:
        with self._lock:
            left = list(self._waiting.values())
            self._waiting.clear()
        for answer in left:
            answer.set_exception(error)


def _start(settings: EngineSettings, errors: BinaryIO) -> subprocess.Popen[bytes]:
    arguments = json.dumps({**asdict(settings), "engine_folder": engine_folder()})
    return subprocess.Popen(  # noqa: S603 - our own script, run by this interpreter
        [sys.executable, "-P", str(_WORKER), arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        bufsize=0,
    )


def _last_words(errors: BinaryIO) -> str:
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - 400))
    said = errors.read().decode(errors="replace").strip()
    return f": {said}" if said else ""


@functools.cache
def _engine(settings: EngineSettings, process_id: int) -> Engine:
    engine = Engine(settings)
    atexit.register(engine.close)
    return engine


def shared_engine(settings: EngineSettings) -> Engine:
    """Give the engine for these settings; the same one in the whole process, another one in a forked child."""
    with _SHARED:  # `cache` alone may make two when two threads ask at once
        return _engine(settings, os.getpid())


def _remedy(problem: str) -> str:
    # The engine's wheel brings everything but OpenMP, which minimal Linux images (containers) lack.
    return "; install it with `apt-get install libgomp1` or your system's like" if "libgomp" in problem else ""
