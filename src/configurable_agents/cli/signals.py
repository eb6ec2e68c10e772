"""Ctrl-C and SIGTERM: the run is cancelled and stored, then the process ends as the signal would have ended it."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from types import FrameType
from typing import Any


class Ending:
    """Cancels on signals, and remembers which one it was.

    Whoever started us (a shell loop, a supervisor) tells "was interrupted" from "failed" by the signal that ended the
    process; a shell shows it as 128 and the number: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._mask_before: set[int] | None = None
        # Registered before anything else is, so that it runs last: stores and exporters have been closed by then.
        atexit.register(self._end)

    def listen(self) -> None:
        """Let SIGTERM and SIGHUP cancel as Ctrl-C does; a signal that the caller ignores (`nohup`) stays ignored."""
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # A job in the background of a script: Ctrl-C is not for it, but SIGTERM takes the way of Ctrl-C (below),
            # which needs a handler. Blocked is as good as ignored.
            self._mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                self._before[number] = signal.signal(number, self._cancel)

    def _cancel(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number)
        handler = signal.getsignal(signal.SIGINT)  # while a run goes on, its own: it cancels and lets the run end
        if callable(handler):
            handler(signal.SIGINT, frame)

    def code(self) -> int:
        """Give the exit code after a cancellation, and let the process end by the signal."""
        self._signal = self._signal or signal.SIGINT
        return 128 + self._signal

    def forget(self) -> None:
        """End as usual: nothing has been cancelled."""
        atexit.unregister(self._end)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._mask_before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask_before)

    def _end(self) -> None:
        if self._signal is None or os.name == "nt":
            return
        signal.signal(self._signal, signal.SIG_DFL)
        # The first process of a container is not ended by its own signal: then the exit code says it.
        os.kill(os.getpid(), self._signal)
