"""One open database: its connections, its transactions, and its errors in our words.

SQLite and PostgreSQL differ here and in `engines`; what is above sees `Database.run` alone.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from configurable_agents.errors import StorageError
from configurable_agents.storage.forking import GATE, mind_forks
from configurable_agents.storage.sqlite_driver import WritingConnection

T = TypeVar("T")


class Database:
    """Runs pieces of work in transactions, from any thread."""

    def __init__(self, engine: sa.Engine, *, location: str, busy_timeout_seconds: float) -> None:
        self.location = location
        self.engine = engine
        self.dialect = engine.dialect.name
        self._busy_timeout_seconds = busy_timeout_seconds
        self._closed = False
        self._current = threading.local()
        # SQLite has one writer at a time. Its own waiting polls and is unfair, so threads of one process queue here.
        self._writer = threading.RLock() if engine.dialect.name == "sqlite" else None
        self._kept: list[WritingConnection] = []
        """SQLite's writing connection, between transactions: taking one from the pool costs as much as an insert."""
        mind_forks(self)
        # An engine that is only dropped would leave its connections to the garbage collector, which warns of them.
        weakref.finalize(self, _dispose, engine, self._kept)

    def run(self, work: Callable[[sa.Connection], T], *, write: bool = False) -> T:
        """Do the work in one transaction; inside of another `run` of the same thread it is part of that one.

        Raises:
            StorageError: The database did not do it; nothing was written.
        """
        connection: sa.Connection | None = getattr(self._current, "connection", None)
        if connection is not None:
            return work(connection)
        if self._closed:
            raise StorageError(f"the store at {self.location} is closed")
        try:
            if write and self._writer is not None:
                return self._write(work, self._writer)
            try:
                return self._once(work)
            except exc.DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                # The server was restarted since the connection was made; the pool has dropped the rest of its kind.
                return self._once(work)
        except _FOREIGN as error:
            raise _translation(error, self.location) from error

    def at_once(self, write: Callable[[], None]) -> bool:
        """Have a write into a SQLite file fail at once where somebody else is writing it; say whether it was done.

        Nor does it wait for the disk: bringing the log into the file is left to whoever has time (`checkpoint`).
        """
        if getattr(self._current, "connection", None) is not None:
            return False  # what this thread writes now would be a part of a transaction that it is in the middle of
        self._current.is_in_haste = True
        try:
            write()
        except StorageError:  # whoever writes the usual way finds out what it is
            return False
        finally:
            self._current.is_in_haste = False
        return True

    def checkpoint(self) -> None:
        """Bring what SQLite's log holds into the file, as far as no reader needs it.

        Raises:
            StorageError: The database did not do it.
        """
        if self._writer is None:
            return
        # While nobody of this process writes, on the same connection: else the log would never begin anew, and SQLite before
        # 3.51.3 is not quite safe where one connection writes and another one does this.
        with translated(self.location), self._writer, GATE:
            kept, is_whole = self._taken(), False
            try:
                kept.checkpoint()
                is_whole = True
            finally:
                self._give_back(kept, is_whole=is_whole)

    def _taken(self) -> WritingConnection:
        return self._kept.pop() if self._kept else WritingConnection(self.engine.connect())

    def _give_back(self, kept: WritingConnection, *, is_whole: bool) -> None:
        self._kept.append(kept) if is_whole and not self._closed else _let_go(kept)

    def close(self) -> None:
        """Give all connections back."""
        self._closed = True
        # Whoever is writing just now gives his back himself.
        if self._writer is None or self._writer.acquire(timeout=self._busy_timeout_seconds):
            _dispose(self.engine, self._kept)
            if self._writer is not None:
                self._writer.release()
        else:
            self.engine.dispose()

    def _once(self, work: Callable[[sa.Connection], T]) -> T:
        gate = contextlib.nullcontext() if self._writer is None else GATE  # a server may be slow to answer
        with gate, self.engine.begin() as connection:
            return self._within(connection, work)

    def _within(self, connection: sa.Connection, work: Callable[[sa.Connection], T]) -> T:
        self._current.connection = connection
        try:
            return work(connection)
        finally:
            self._current.connection = None

    def _write(self, work: Callable[[sa.Connection], T], turn: threading.RLock) -> T:
        """Write into a SQLite file, on the connection that is kept for it."""
        in_haste = getattr(self._current, "is_in_haste", False)
        patience = 0.0 if in_haste else self._busy_timeout_seconds
        try:
            if not turn.acquire(timeout=patience):
                raise StorageError(f"the store at {self.location} is being written by another thread; try again")
            with GATE:
                kept, is_whole = self._taken(), False
                try:
                    kept.begin(busy_timeout_seconds=patience, checkpoints=not in_haste)
                    result = self._within(kept.connection, work)
                    kept.commit()
                    is_whole = True
                    return result
                finally:
                    self._give_back(kept, is_whole=is_whole)
        finally:
            # Not in a function: a signal's handler that raises as one is entered would leave the turn to nobody.
            try:  # noqa: SIM105 - `suppress` costs more than all the rest, at each commit
                turn.release()
            except RuntimeError:  # it is somebody else's: a handler that raises just when it is had hides that
                pass

    def before_fork(self) -> None:
        """Leave no idle connection to a child: SQLite's locks and files do not survive being shared by a fork."""
        _dispose(self.engine, self._kept)

    def after_fork_in_child(self) -> None:
        """Start afresh: other threads' connections and turns stayed in the parent."""
        self.engine.dispose(close=False)
        self._kept.clear()
        self._current = threading.local()
        self._writer = threading.RLock() if self._writer is not None else None


def _let_go(kept: WritingConnection) -> None:
    """Give a connection back after a fault: what had begun is over, whatever went wrong."""
    # Also that SQLAlchemy has given it up, as in an interrupt amid a statement: what raised is to be heard, not this.
    with contextlib.suppress(exc.SQLAlchemyError):
        kept.roll_back()
    kept.connection.close()


def _dispose(engine: sa.Engine, kept: list[WritingConnection]) -> None:
    pool, idle = engine.pool, [*kept]
    # First, since an interrupt amid what follows may leave the old pool's own lock to nobody.
    engine.dispose(close=False)
    kept.clear()
    for one in idle:
        one.connection.close()
    pool.dispose()


@contextlib.contextmanager
def translated(location: str) -> Iterator[None]:
    """Turn a database's errors into `StorageError`."""
    try:
        yield
    except _FOREIGN as error:
        raise _translation(error, location) from error


_FOREIGN: Final = (exc.SQLAlchemyError, UnicodeEncodeError, OverflowError)
"""What databases and their drivers raise."""


def _translation(error: Exception, location: str) -> StorageError:
    """Say it in our words, without the statement and its values."""
    return StorageError(_message(error, location), refused=_is_refused(error))


_REFUSED: Final = (exc.DataError, exc.IntegrityError, UnicodeEncodeError, OverflowError)
"""What a database raises for a value that it cannot hold, however often it is offered."""


def _is_refused(error: Exception) -> bool:
    # SQLite's driver has no class of its own for a value of a kind that no column takes.
    unbindable = isinstance(error, exc.InterfaceError | exc.ProgrammingError) and "binding" in str(error.orig)
    return unbindable or isinstance(error, _REFUSED)


def _message(error: Exception, location: str) -> str:
    if isinstance(error, exc.TimeoutError):
        return f"the store at {location}: all connections are in use; try again"
    reason = str(error.orig if isinstance(error, exc.DBAPIError) and error.orig else error).strip()
    reason = reason.splitlines()[0] if reason else type(error).__name__
    for sign, what in _REASONS.items():
        if sign in reason:
            return f"the store at {location} {what}"
    return f"the store at {location} failed: {reason}"


_REASONS: Final = {
    "database is locked": "is locked by another process; try again, or close the program that holds it",
    "readonly database": "cannot be written: give yourself write permission for the file and its directory,"
    " or choose another place with --store",
    "unable to open database file": "cannot be opened: check that the file and its directory can be read and written",
    "file is not a database": "is not a SQLite database; choose another file with --store",
    "database disk image is malformed": "is damaged; move it away, or restore it from a copy",
    "disk is full": "cannot be written: the disk is full",
}
