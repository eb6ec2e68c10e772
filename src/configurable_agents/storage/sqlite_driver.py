"""Statements of SQLite on the driver's own connection: through SQLAlchemy a BEGIN costs as much as the insert that follows."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
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


def changing_on_driver(connection: sa.Connection) -> Callable[[str, Sequence[Any]], int]:
    """Give what executes statements that write, and says how many rows each made or changed."""
    cursor = driver_of(connection).cursor()

    def change(statement: str, values: Sequence[Any]) -> int:
        try:
            return cursor.execute(statement, values).rowcount
        except sqlite3.Error as error:
            raise _as_sqlalchemy_says(error, statement) from error

    return change


def begin_reading(connection: sa.Connection, *, busy_timeout_seconds: float) -> None:
    """Begin a transaction that reads."""
    _set(connection, connection.info, "busy_timeout", round(busy_timeout_seconds * 1000))
    on_driver(connection, "BEGIN")


class WritingConnection:
    """A connection for transactions that write, with the driver's own: SQLAlchemy looks each time whether that is still there."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self._driver = driver_of(connection)
        self._cursor = self._driver.cursor()
        self._settings = connection.info

    def begin(self, *, busy_timeout_seconds: float, checkpoints: bool = True) -> None:
        """Begin a transaction, when whoever else writes has ended.

        Args:
            busy_timeout_seconds: How long to wait for that; 0 for now or not at all.
            checkpoints: Whether its commit may bring the log into the file, and wait for the disk.
        """
        usual = round(busy_timeout_seconds * 1000)
        _set(self.connection, self._settings, "busy_timeout", min(usual, _ASK_MS))
        _set(self.connection, self._settings, "wal_autocheckpoint", _CHECKPOINT_PAGES if checkpoints else 0)
        # Counted as SQLite does, not by the clock: who is given no time to ask is not to give up sooner for that.
        for left in reversed(range(max(1, usual // _ASK_MS))):
            try:
                self._execute("BEGIN IMMEDIATE")
            except exc.OperationalError as error:
                if not left or not is_locked(error):
                    raise
            else:
                return

    def commit(self) -> None:
        """Commit what `begin` began."""
        if self.connection.in_transaction():  # SQLAlchemy has taken part, and wants to be told
            self.connection.commit()
        else:
            self._execute("COMMIT")  # the driver's own method parses it anew each time

    def roll_back(self) -> None:
        """Take back what `begin` began."""
        try:
            self._driver.rollback()
        except sqlite3.Error as error:
            raise _as_sqlalchemy_says(error, "ROLLBACK") from error

    def checkpoint(self) -> None:
        """Bring what the log holds into the file, as far as no reader needs it.

        As a script, which gives the interpreter's lock away once: beside a busy thread it takes milliseconds to get it back,
        and a statement that gives rows does so four times.
        """
        try:
            self._cursor.executescript("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            raise _as_sqlalchemy_says(error, "PRAGMA wal_checkpoint") from error

    def _execute(self, statement: str) -> None:
        try:
            self._cursor.execute(statement)
        except sqlite3.Error as error:
            raise _as_sqlalchemy_says(error, statement) from error


def is_locked(error: BaseException | None) -> bool:
    """Tell whether another process holds the lock that was asked for."""
    return isinstance(error, exc.DBAPIError) and ("locked" in str(error.orig) or "busy" in str(error.orig))


def driver_of(connection: sa.Connection) -> sqlite3.Connection:
    """Give the driver's own connection."""
    return cast("sqlite3.Connection", connection.connection.dbapi_connection)


def _set(connection: sa.Connection, settings: dict[Any, Any], name: str, value: int) -> None:
    """Set a PRAGMA of a connection, if it is not so already."""
    if settings.get(name) != value:
        on_driver(connection, f"PRAGMA {name} = {value}")
        settings[name] = value


def _as_sqlalchemy_says(error: sqlite3.Error, statement: str) -> BaseException:
    return exc.DBAPIError.instance(statement, None, error, sqlite3.Error)
