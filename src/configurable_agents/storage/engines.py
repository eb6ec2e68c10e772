"""How connections to SQLite and PostgreSQL are made."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.pool import NullPool, QueuePool

from configurable_agents.errors import StorageError
from configurable_agents.storage.database import translated
from configurable_agents.storage.forking import GATE
from configurable_agents.storage.sqlite_driver import begin_reading, driver_of, on_driver

_CONNECT_TIMEOUT_SECONDS: Final = 5
_STATEMENT_TIMEOUT_SECONDS: Final = 10
"""A server that does not answer costs a bounded time, also where TCP alone would wait for minutes."""


def sqlite_engine(
    path: Path, *, busy_timeout_seconds: float, read_only: bool = False, power: bool = False
) -> sa.Engine:
    """Make an engine for a file that exists; no connection is made yet. With `power` each commit is synced."""
    connect = _read_only_connector(path) if read_only else _connector(f"{path.as_uri()}?mode=rw", power=power)
    engine = sa.create_engine(
        "sqlite://",
        creator=lambda: connect(busy_timeout_seconds),
        hide_parameters=True,
        pool_reset_on_return=None,  # transactions always end before a connection goes back
        # A reader of a file that it may not lock looks anew each time, since another may write it in between.
        **(
            {"poolclass": NullPool}
            if read_only
            else {"poolclass": QueuePool, "max_overflow": -1, "pool_use_lifo": True}
        ),
    )
    event.listen(engine, "begin", _beginner(busy_timeout_seconds))
    return engine


def postgresql_engine(url: sa.URL, *, busy_timeout_seconds: float, read_only: bool = False) -> sa.Engine:
    """Make an engine for a server; no connection is made yet.

    Raises:
        StorageError: psycopg is not installed.
    """
    try:
        engine = sa.create_engine(
            url,
            hide_parameters=True,
            pool_timeout=_CONNECT_TIMEOUT_SECONDS,
            connect_args=_libpq_defaults(url),
            pool_use_lifo=True,
            max_overflow=20,
        )
    except ImportError as error:
        raise StorageError(
            'a PostgreSQL store needs the package psycopg: pip install "configurable-agents[postgres]"'
        ) from error
    settings = {
        "statement_timeout": f"{_STATEMENT_TIMEOUT_SECONDS}s",
        "lock_timeout": f"{max(1, round(busy_timeout_seconds * 1000))}ms",
        "idle_in_transaction_session_timeout": f"{_STATEMENT_TIMEOUT_SECONDS}s",
        "default_transaction_read_only": "on" if read_only else "off",
    }
    event.listen(engine, "connect", _settings_setter(settings))
    return engine


def parse_url(text: str) -> sa.URL:
    """Parse a PostgreSQL URL; psycopg speaks to the server, whatever driver the URL names.

    Raises:
        StorageError: It is no URL. Neither the message nor its cause repeats it, since it may hold a password.
    """
    try:
        return sa.make_url(text).set(drivername="postgresql+psycopg")
    except (exc.ArgumentError, ValueError):
        message = "the store's URL cannot be read; write postgresql://user:password@host:port/database, with"
        raise StorageError(
            f"{message} the characters @ : / ? # % in a password written as %40 %3A %2F %3F %23 %25"
        ) from None


def without_password(url: sa.URL) -> str:
    """Give a URL as people may see it."""
    query = {key: value for key, value in url.query.items() if "password" not in key}
    # `set(password=None)` keeps it.
    shown = sa.URL.create("postgresql", url.username, None, url.host, url.port, url.database, query)
    return shown.render_as_string(hide_password=True)


def create_file(path: Path) -> None:
    """Make an empty file that only its owner can read, with the directories above it; what exists is left alone.

    A file that exists is not even opened: closing it again would free the locks that SQLite holds on it for any other
    connection of this process, and another process would then throw away a log that is still written
    (https://sqlite.org/howtocorrupt.html, "Posix advisory locks canceled").

    Raises:
        OSError: A directory or the file cannot be made.
    """
    for directory in reversed(path.parents):
        directory.mkdir(mode=0o700, exist_ok=True)
    # The target of a link that leads nowhere yet.
    file = Path(os.path.realpath(path))
    if file.exists():
        return
    # Made under another name, so that nobody can use it before it is closed here, for the same reason.
    descriptor, made = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)  # mode 0600
    os.close(descriptor)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(made, file)
    except OSError:  # a file system without links
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    finally:
        os.unlink(made)  # noqa: PTH108 - as given by mkstemp


def use_write_ahead_log(engine: sa.Engine) -> None:
    """Let readers and one writer of a SQLite file work at once; remembered in the file."""
    with GATE, engine.connect() as connection, translated(str(engine.url)):
        on_driver(connection, "PRAGMA journal_mode = WAL")


def sync_log(path: Path) -> None:
    """Bring the write-ahead log of a file onto the disk, beside SQLite and without keeping anybody from writing.

    To open and close the log frees no locks, which SQLite holds on the other two files.
    """
    with contextlib.suppress(OSError):  # there is none; or a system that syncs only what may be written
        descriptor = os.open(f"{os.path.realpath(path)}-wal", os.O_RDONLY)
        try:
            getattr(os, "fdatasync", os.fsync)(descriptor)  # macOS has no `fdatasync`
        finally:
            os.close(descriptor)


def _beginner(busy_timeout_seconds: float) -> Callable[[sa.Connection], None]:
    """Give what opens the transactions of an engine that SQLAlchemy begins."""

    def begin(connection: sa.Connection) -> None:
        if not driver_of(connection).in_transaction:  # else it is one of `Database`, in which SQLAlchemy takes part
            begin_reading(connection, busy_timeout_seconds=busy_timeout_seconds)

    return begin


def _connector(uri: str, *, power: bool = False) -> Callable[[float], sqlite3.Connection]:
    def connect(busy_timeout_seconds: float) -> sqlite3.Connection:
        # The pool hands a connection to one thread at a time; transactions are begun by `_begin`.
        connection = sqlite3.connect(
            uri, uri=True, timeout=busy_timeout_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            # With a write-ahead log NORMAL loses nothing when the process dies, and at most the last commits with the power.
            # The first statement, so that a file that cannot be read shows here.
            connection.execute(f"PRAGMA synchronous = {'FULL' if power else 'NORMAL'}")
        except BaseException:
            connection.close()
            raise
        return connection

    return connect


def _read_only_connector(path: Path) -> Callable[[float], sqlite3.Connection]:
    usual = _connector(f"{path.as_uri()}?mode=ro")
    # SQLite reads a write-ahead log with the help of a file beside it. Where that cannot be made nobody writes either.
    unchanging = _connector(f"{path.as_uri()}?mode=ro&immutable=1")

    def connect(busy_timeout_seconds: float) -> sqlite3.Connection:
        try:
            return usual(busy_timeout_seconds)
        except sqlite3.OperationalError as error:
            if "unable to open" not in str(error) and "readonly" not in str(error):
                raise
            return unchanging(busy_timeout_seconds)

    return connect


def _libpq_defaults(url: sa.URL) -> dict[str, Any]:
    defaults = {
        "connect_timeout": _CONNECT_TIMEOUT_SECONDS,
        "tcp_user_timeout": _STATEMENT_TIMEOUT_SECONDS * 1000,
        "application_name": "configurable-agents",
        # A database without an encoding (SQL_ASCII) would give bytes for every text.
        "client_encoding": "utf8",
    }
    return {key: value for key, value in defaults.items() if key not in url.query}


def _settings_setter(settings: dict[str, str]) -> Callable[[Any, Any], None]:
    statement = "; ".join(f"SET {name} = '{value}'" for name, value in settings.items())

    def set_them(connection: Any, _record: Any) -> None:
        # Not in the connection's options: a pooler before the server refuses those.
        connection.autocommit = True
        connection.execute(statement)
        connection.autocommit = False

    return set_them
