"""The package's loggers: what a host's filters and handlers raise changes nothing but the log."""

from __future__ import annotations

import contextlib
import logging
from typing import Any


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger that never raises: runs, and the threads that keep and ship them, go on whatever becomes of a message."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log; a fault is told as `logging` itself tells of one that a handler has caught."""
        try:
            super().log(level, msg, *args, **{**kwargs, "stacklevel": 2})  # of whoever logs, not of this line
        except Exception:  # noqa: BLE001 - of a filter, a handler or a record's factory: any
            record = logging.LogRecord(self.logger.name, level, __file__, 0, msg, args, None)
            with contextlib.suppress(Exception):  # stderr is the host's, too
                logging.Handler().handleError(record)


def logger_of(module: str) -> Log:
    """Give the logger of a module, by its name."""
    return Log(logging.getLogger(module))
