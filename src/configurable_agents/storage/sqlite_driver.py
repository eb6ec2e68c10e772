"""Statements of SQLite on the driver's own connection: through SQLAlchemy a BEGIN costs as much as the insert that follows."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy import exc

_ASK_MS: Final = 10
"""SQLite asks for the lock of another process ever more rarely, soon every 100 ms: one that writes group after group then
hardly ever leaves it to the others. Within its first 10 ms it asks four times, and without the interpreter's lock."""
_CHECKPOINT_PAGES: Final = 8192
"""After so many pages in the log, 32 MB, a commit brings them into the file, for which runs may wait. Mostly it does not come
to that: the writer tends the store before."""


def on_driver(connection: sa.Connection, statement: str, values: Sequence[Any] = ()) -> list[Any]:
    """Execute a small statement, and give its rows."""
    try:
        return driver_of(connection).execute(statement, values).fetchall()
    except sqlite3.Error as error:
        raise _as_sqlalchemy_says(error, statement) from error


def changed_on_driver(connection: sa.Connection, statement: str, values: Sequence[Any]) -> int:
    """Execute a statement that writes; gives how many rows it made or changed."""
    try:
        return driver_of(connection).execute(statement, values).rowcount
    except sqlite3.Error as error:
        raise _as_sqlalchemy_says(error, statement) from error


def begin_reading(connection: sa.Connection, *, busy_timeout_seconds: float) -> None:
    """Begin a transaction that reads."""
    _set(connection, "busy_timeout", round(busy_timeout_seconds * 1000))
    on_driver(connection, "BEGIN")


def begin_writing(connection: sa.Connection, *, busy_timeout_seconds: float, checkpoints: bool = True) -> None:
    """Begin a transaction that writes, when whoever else writes has ended.

    Args:
        busy_timeout_seconds: How long to wait for that; 0 for now or not at all.
        checkpoints: Whether its commit may bring the log into the file, and wait for the disk.
    """
    usual = round(busy_timeout_seconds * 1000)
    _set(connection, "busy_timeout", min(usual, _ASK_MS))
    _set(connection, "wal_autocheckpoint", _CHECKPOINT_PAGES if checkpoints else 0)
    # Counted as SQLite does, not by the clock: who is given no time to ask is not to give up sooner for that.
    for left in reversed(range(max(1, usual // _ASK_MS))):
        try:
            on_driver(connection, "BEGIN IMMEDIATE")
        except exc.OperationalError as error:
            if not left or not is_locked(error):
                raise
        else:
            return


def commit(connection: sa.Connection) -> None:
    """Commit what `begin_writing` began."""
    try:
        driver_of(connection).commit()
    except sqlite3.Error as error:
        raise _as_sqlalchemy_says(error, "COMMIT") from error


def roll_back(connection: sa.Connection) -> None:
    """Take back what `begin_writing` began."""
    try:
        driver_of(connection).rollback()
    except sqlite3.Error as error:
        raise _as_sqlalchemy_says(error, "ROLLBACK") from error


def checkpoint(connection: sa.Connection) -> None:
    """Bring what the log holds into the file, as far as no reader needs it.

    As a script, which gives the interpreter's lock away once: beside a busy thread it takes milliseconds to get it back, and a
    statement that gives rows does so four times.
    """
    try:
        driver_of(connection).executescript("PRAGMA wal_checkpoint(PASSIVE)")
    except sqlite3.Error as error:
        raise _as_sqlalchemy_says(error, "PRAGMA wal_checkpoint") from error


def is_locked(error: BaseException | None) -> bool:
    """Tell whether another process holds the lock that was asked for."""
    return isinstance(error, exc.DBAPIError) and ("locked" in str(error.orig) or "busy" in str(error.orig))


def driver_of(connection: sa.Connection) -> sqlite3.Connection:
    """Give the driver's own connection."""
    return cast("sqlite3.Connection", connection.connection.dbapi_connection)


def _set(connection: sa.Connection, name: str, value: int) -> None:
    """Set a PRAGMA of a connection, if it is not so already."""
    if connection.info.get(name) != value:
        on_driver(connection, f"PRAGMA {name} = {value}")
        connection.info[name] = value


def _as_sqlalchemy_says(error: sqlite3.Error, statement: str) -> BaseException:
    return exc.DBAPIError.instance(statement, None, error, sqlite3.Error)
