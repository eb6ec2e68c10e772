"""Loads the libraries that an open store needs. Done whole: a child that is forked in the middle could never load the rest."""

from __future__ import annotations

import contextlib
import importlib
from typing import Final

from configurable_agents.storage.forking import LOADING

_OURS: Final = ("backend", "database", "engines", "schema")


def load(dialect: str) -> None:
    """Load SQLAlchemy with a dialect, its driver, and what of this package is built on it."""
    with LOADING:
        importlib.import_module(f"sqlalchemy.dialects.{dialect}")
        if dialect == "postgresql":
            with contextlib.suppress(ImportError):  # whoever opens the store says what is missing
                importlib.import_module("psycopg")
        for name in _OURS:
            importlib.import_module(f"configurable_agents.storage.{name}")
