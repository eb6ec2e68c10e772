"""What the package and its libraries log while a command runs: one clean line each, on stderr."""

from __future__ import annotations

import logging
from typing import Final

from configurable_agents.cli.screen import Screen
from configurable_agents.cli.text import one_line

LOGGER: Final = "configurable_agents"


class ScreenHandler(logging.Handler):
    """Writes records on stderr, above the live progress if there is one."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; the traceback only with `--debug`."""
        try:
            text = one_line(record.getMessage())
            if record.exc_info and record.exc_info[1] is not None:
                error = record.exc_info[1]
                text += one_line(f": {type(error).__name__}: {error}")
            self._screen.complain(text, kind=record.levelname.lower())
            if self._screen.debug and record.exc_info:
                self._screen.tell(logging.Formatter().formatException(record.exc_info))
        except Exception:  # noqa: BLE001 - a log line must not end the program; logging says so in its own way
            self.handleError(record)


def log_to(screen: Screen, level: str = "WARNING") -> None:
    """Show what is logged: of ours from `level` on, of libraries from warnings on."""
    stop_logging()
    logging.getLogger().addHandler(ScreenHandler(screen))
    logging.getLogger(LOGGER).setLevel("DEBUG" if screen.debug else level)


def stop_logging() -> None:
    """Take our handler away again."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, ScreenHandler)]:
        root.removeHandler(handler)
