"""The stores that the suite runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.factory import create_storage_backend

STORES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.fixture(params=STORES)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give a place where no store is yet, on each database."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return str(tmp_path / "workflows.db")


@pytest.fixture
def open_store(target: str) -> Iterator[Callable[..., StorageBackend]]:
    """Give a function that opens the store; all are closed after the test."""
    opened: list[StorageBackend] = []

    def open_it(**options: object) -> StorageBackend:
        # Patient: a shared machine may stall for longer than a store waits by default.
        backend = create_storage_backend(target, **{"busy_timeout_seconds": 10, **options})  # type: ignore[arg-type]  # options of each test
        opened.append(backend)
        return backend

    yield open_it
    for backend in opened:
        backend.close()


@pytest.fixture
def store(open_store: Callable[..., StorageBackend]) -> StorageBackend:
    """Give an open, empty store."""
    return open_store()
