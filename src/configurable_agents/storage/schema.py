"""Bringing a database to the present schema when it is opened, safe for several processes and threads at once.

A store of the present revision costs one query. A fresh one is made from `models` and `views` directly, because loading
Alembic takes longer than everything else about it; a test proves that the migrations lead to the very same schema.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from configurable_agents.errors import StorageError
from configurable_agents.storage.database import Database
from configurable_agents.storage.engines import use_write_ahead_log
from configurable_agents.storage.models import OLDER_REVISIONS, SCHEMA_REVISION, metadata, version
from configurable_agents.storage.sqlite_driver import is_locked
from configurable_agents.storage.views import create_views

T = TypeVar("T")

PREPARE_TIMEOUT_SECONDS: Final = 10.0
"""How long one process waits for another that is making or migrating the same store."""
_BASE: Final = ""
"""The revision of a store whose migrations were all taken back."""
_ADVISORY_LOCK: Final = 0x636F6E6661676E74
"""Any number that other programs in the same PostgreSQL database do not use: the bytes of `confagnt`."""
_UNDEFINED_TABLE: Final = "42P01"
_PAUSE_SECONDS: Final = 0.01
# Alembic's `op` and `context` stand for one migration in the whole process.
_MIGRATING: Final = threading.Lock()


def bring_up_to_date(database: Database, *, read_only: bool = False, patient: bool = False) -> None:
    """Make or migrate the schema unless it is the present one.

    Args:
        database: The open database.
        read_only: Change nothing.
        patient: The file is fresh, so that a lock on it is most likely held by another process that makes it.

    Raises:
        StorageError: The schema is newer than this version, or (read-only) older or absent.
    """
    revision = _patiently(lambda: database.run(read_revision)) if patient else database.run(read_revision)
    if revision == SCHEMA_REVISION:
        return
    if read_only:
        raise StorageError(
            f"there is no store at {database.location}"
            if revision is None
            else f"the store at {database.location} has another schema ({revision or 'none'}) than this version reads"
            f" ({SCHEMA_REVISION}): run a workflow with it once, or `store rebuild`, to upgrade it; or use the"
            " version that wrote it"
        )
    if revision is not None and revision not in OLDER_REVISIONS:
        raise StorageError(
            f"the store at {database.location} was written by a newer version of configurable-agents (schema {revision});"
            " upgrade the package, or choose another store with --store"
        )
    if database.engine.dialect.name == "sqlite":
        _patiently(lambda: _prepare_sqlite(database))
    else:
        database.run(lambda connection: _prepare_postgresql(connection, database.location), write=True)


def read_revision(connection: sa.Connection) -> str | None:
    """Read the schema's revision; None where no store was ever made."""
    try:
        with connection.begin_nested():
            found = connection.execute(sa.select(version.c.version_num)).scalar()
    except (exc.OperationalError, exc.ProgrammingError) as error:
        if not _is_missing_table(error):
            raise
        return None
    return _BASE if found is None else str(found)


def upgrade(connection: sa.Connection, *, location: str) -> None:
    """Migrate to the present revision, inside the connection's transaction.

    Raises:
        StorageError: It cannot be done.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    # In Alembic's configuration a percent sign begins a reference.
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    if not _MIGRATING.acquire(timeout=PREPARE_TIMEOUT_SECONDS):
        raise StorageError(f"the store at {location}: another store is being migrated; try again")
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StorageError(f"the store at {location} cannot be upgraded: {error}") from error
    finally:
        _MIGRATING.release()


def _prepare(connection: sa.Connection, location: str) -> None:
    revision = read_revision(connection)
    if revision is None:
        _create(connection)
    elif revision != SCHEMA_REVISION:  # else another process has just done it
        upgrade(connection, location=location)


def _create(connection: sa.Connection) -> None:
    metadata.create_all(connection, checkfirst=False)
    for statement in create_views(connection.dialect.name):
        connection.exec_driver_sql(statement)
    version.create(connection, checkfirst=False)
    connection.execute(version.insert().values(version_num=SCHEMA_REVISION))


def _prepare_sqlite(database: Database) -> None:
    use_write_ahead_log(database.engine)
    # BEGIN IMMEDIATE lets one process at a time in here; the next one finds the work done.
    database.run(lambda connection: _prepare(connection, database.location), write=True)


def _prepare_postgresql(connection: sa.Connection, location: str) -> None:
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{PREPARE_TIMEOUT_SECONDS:.0f}s'")
    connection.exec_driver_sql("SET LOCAL statement_timeout = '600s'")  # a migration may copy a large table
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
    _prepare(connection, location)


def _patiently(work: Callable[[], T]) -> T:
    """Try again while the database is locked: SQLite does not wait by itself when the kind of log changes."""
    deadline = time.monotonic() + PREPARE_TIMEOUT_SECONDS
    while True:
        try:
            return work()
        except StorageError as error:
            if not is_locked(error.__cause__) or time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE_SECONDS)


def _is_missing_table(error: exc.DBAPIError) -> bool:
    return "no such table" in str(error.orig) or getattr(error.orig, "sqlstate", None) == _UNDEFINED_TABLE
