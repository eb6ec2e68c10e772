"""Takes what exporters of OpenTelemetry log, so that a dead endpoint is not told of once a second."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Final

Listener = Callable[[str], None]

_LISTENER: Final[ContextVar[Listener | None]] = ContextVar("configurable-agents-exporter-log", default=None)
_PREFIX: Final = "opentelemetry.exporter."
_HEADERS: Final = "opentelemetry.util.re"
"""Reads headers from the environment, and shows those that it does not understand: they are secrets."""
_CAUSE: Final = re.compile(r"\[Errno -?\d+\] ([^'\")]+)|error details: (.+)", re.IGNORECASE)
"""What exporters wrap in many words."""
MAX_CHARACTERS: Final = 300


class _ToListener(logging.Filter):
    """Hands a record to whoever listens on this thread; other threads' records go their way."""

    def filter(self, record: logging.LogRecord) -> bool:
        listener = _LISTENER.get()
        if listener is None:
            return True
        if record.levelno >= logging.WARNING and record.name != _HEADERS:
            listener(reason_of(record.getMessage()))
        return False


_FILTER: Final = _ToListener()


@contextlib.contextmanager
def exporter_log(listener: Listener) -> Iterator[None]:
    """Give the listener what exporters log on this thread, in place of the log.

    Args:
        listener: Called on this thread with the reason that each text gives, from a warning on.
    """
    for name in [_HEADERS, *(name for name in list(logging.root.manager.loggerDict) if name.startswith(_PREFIX))]:
        found = logging.getLogger(name)
        if _FILTER not in found.filters:
            found.filters.insert(0, _FILTER)  # before the exporters' own filter against repetition
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def reason_of(text: str) -> str:
    """Give the reason in a foreign text, as one line."""
    cause = _CAUSE.search(text)
    return shortened(cause[1] or cause[2] if cause else text)


def shortened(text: str) -> str:
    """Give a foreign text as one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_CHARACTERS else line[:MAX_CHARACTERS] + "…"
