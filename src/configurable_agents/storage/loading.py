"""Loads the libraries that an open store needs. Done whole: a child that is forked in the middle could never load the rest."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from typing import Final

_LOCK: Final = threading.RLock()
"""Held while modules are loaded, and by whoever forks: a fork waits some tenths of a second, once."""
_OURS: Final = ("database", "engines", "repositories", "schema")


def load(dialect: str) -> None:
    """Load SQLAlchemy with a dialect, its driver, and what of this package is built on it."""
    with _LOCK:
        importlib.import_module(f"sqlalchemy.dialects.{dialect}")
        if dialect == "postgresql":
            with contextlib.suppress(ImportError):  # whoever opens the store says what is missing
                importlib.import_module("psycopg")
        for name in _OURS:
            importlib.import_module(f"configurable_agents.storage.{name}")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)
