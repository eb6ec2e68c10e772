"""The space that a store takes on disk, and how it is given back."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from configurable_agents.errors import StorageError
from configurable_agents.storage.backend import SqlAlchemyStorageBackend
from configurable_agents.storage.database import translated
from configurable_agents.storage.models import metadata

PATIENCE_SECONDS: Final = 30.0
"""How long upkeep waits for those who write; they in turn wait for it, with what they have in their journals."""
_PAUSE_SECONDS: Final = 0.05


def size_of(backend: SqlAlchemyStorageBackend) -> int:
    """Give the bytes that a store takes: of SQLite the file and its write-ahead log, of PostgreSQL our tables."""
    if backend.file is not None:
        files = (backend.file, backend.file.with_name(f"{backend.file.name}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())
    tables = " + ".join(f"pg_total_relation_size('{table.name}')" for table in metadata.sorted_tables)
    return backend.database.run(lambda connection: int(connection.exec_driver_sql(f"SELECT {tables}").scalar_one()))


def free_bytes_of(backend: SqlAlchemyStorageBackend) -> int:
    """Give the bytes in a SQLite file that hold nothing any more; `give_back` gives them back."""
    return 0 if backend.file is None else _bytes_in_pages(backend, "freelist_count")


def used_bytes_of(backend: SqlAlchemyStorageBackend) -> int:
    """Give the bytes that a store takes when its free space has been given back, and its log is empty."""
    if backend.file is None:
        return size_of(backend)
    return _bytes_in_pages(backend, "page_count") - _bytes_in_pages(backend, "freelist_count")


def _bytes_in_pages(backend: SqlAlchemyStorageBackend, counter: str) -> int:
    def work(connection: sa.Connection) -> int:
        pages, size = (connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in (counter, "page_size"))
        return int(pages) * int(size)

    return backend.database.run(work)


def give_back(backend: SqlAlchemyStorageBackend) -> None:
    """Give the space of what was deleted back to the file system.

    Raises:
        StorageError: The database did not do it, for want of time or of space; nothing is lost.
    """
    if backend.file is not None:
        _vacuum_sqlite(backend.file, backend.location)
    else:
        _vacuum_postgresql(backend)


@contextlib.contextmanager
def plain_connection(file: Path, location: str) -> Iterator[sqlite3.Connection]:
    """Connect to a SQLite file outside of any transaction.

    Raises:
        StorageError: What is done with it failed.
    """
    try:
        with contextlib.closing(
            sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=PATIENCE_SECONDS, isolation_level=None)
        ) as connection:
            yield connection
    except sqlite3.Error as error:
        raise StorageError(f"the store at {location} failed: {error}") from error


def _vacuum_sqlite(file: Path, location: str) -> None:
    with plain_connection(file, location) as connection:
        connection.execute("VACUUM")
        # The new file goes through the write-ahead log, and becomes shorter when nobody reads the old one any more.
        deadline = time.monotonic() + PATIENCE_SECONDS
        while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] and time.monotonic() < deadline:
            time.sleep(_PAUSE_SECONDS)


def _vacuum_postgresql(backend: SqlAlchemyStorageBackend) -> None:
    engine = backend.database.engine.execution_options(isolation_level="AUTOCOMMIT")
    with translated(backend.location), engine.connect() as connection:
        settings = ("statement_timeout = 0", f"lock_timeout = '{PATIENCE_SECONDS:.0f}s'")
        try:
            for setting in settings:
                connection.exec_driver_sql(f"SET {setting}")
            for table in metadata.sorted_tables:
                connection.exec_driver_sql(f"VACUUM (FULL, ANALYZE) {table.name}")
        finally:
            connection.invalidate()  # with its settings
