"""Ends what sends to far away when the process ends: all side by side, and within one bound."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from configurable_agents.forks import begin_anew_in_children
from configurable_agents.logs import logger_of
from configurable_agents.storage.lifetime import exit_began

logger = logger_of(__name__)

EXIT_VARIABLE: Final = "CONFIGURABLE_AGENTS_OTLP_EXIT_SECONDS"
EXIT_SECONDS: Final = 0.3
"""How long a process's end waits for far places; with the interpreter's own end, a fifth, it is half a second."""


_LONGEST_SECONDS: Final = 3600.0


class Sender(Protocol):
    """What sends to far away, on threads of its own."""

    def begin_to_end(self) -> None:
        """Have it send what it has, and do not wait for that."""

    def end(self, deadline: float) -> None:
        """Wait until it has, or until `deadline` on the monotonic clock; then leave it alone, and say what is lost."""


def exit_seconds(environ: Mapping[str, str]) -> float:
    """Say how long the process's end may wait."""
    text = environ.get(EXIT_VARIABLE, "")
    try:
        seconds = float(text) if text.strip() else EXIT_SECONDS
        if seconds >= 0:
            return min(seconds, _LONGEST_SECONDS)
    except ValueError:
        pass
    logger.warning("%s=%r is no number of seconds; %g s it is", EXIT_VARIABLE, text, EXIT_SECONDS)
    return EXIT_SECONDS


class Exits:
    """Who has to be ended with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._senders: list[Sender] = []

    def add(self, sender: Sender) -> None:
        """Have a sender ended with the process, before every store that is open now: those still take marks from it."""
        with self._lock:
            if sender not in self._senders:
                self._senders.append(sender)
            # What is registered last is called first.
            atexit.unregister(self.end_all)
            atexit.register(self.end_all)
            _register_with_multiprocessing(self.end_all)

    def end_all(self) -> None:
        """End all."""
        deadline = exit_began() + exit_seconds(os.environ)
        for sender in self._senders:
            sender.begin_to_end()
        for sender in self._senders:
            sender.end(deadline)


def _register_with_multiprocessing(call: Callable[[], None]) -> None:
    """Have it called in a worker process of `multiprocessing`, too: where that was forked it ends without `atexit`."""
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, call, exitpriority=0)


EXITS: Final = Exits()
# A lock that another thread held at the fork would stay locked in the child for ever.
begin_anew_in_children(lambda: EXITS.__init__())  # type: ignore[misc]  # the same object, as new
