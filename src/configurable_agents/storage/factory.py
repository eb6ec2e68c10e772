"""Opening a store. SQLAlchemy is loaded when one is opened, not when this module is."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from configurable_agents.errors import StorageError
from configurable_agents.logs import logger_of
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.loading import load
from configurable_agents.storage.recovery import segments
from configurable_agents.storage.targets import Target, journal_directories, locate, store_target
from configurable_agents.storage.writer import Writer

if TYPE_CHECKING:
    from configurable_agents.storage.database import Database

__all__ = ["create_storage_backend", "locate", "open_for_reading", "open_writer", "store_target"]

logger = logger_of(__name__)

BUSY_TIMEOUT_SECONDS: Final = 0.2
"""How long a write waits for another writer before it is a `StorageError`; whoever writes tries again later."""
REQUIRED_SECONDS: Final = 2.0
"""How long a run that must have a store waits for another program that holds it locked, before it is not begun."""
_PAUSE_SECONDS: Final = 0.01
_LEAST_BYTES: Final = 512
"""Of a SQLite database. A smaller file SQLite would take for an empty one and write over; it looks into bigger ones."""


def create_storage_backend(
    target: Target | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
    read_only: bool = False,
    power: bool = False,
) -> StorageBackend:
    """Open a store and make or upgrade its schema if need be; gives the pair of repositories.

    Args:
        target: A path, a database URL, or a workflow file's `storage` block; None takes `CONFIGURABLE_AGENTS_STORE`,
            else `./workflows.db`.
        environ: Where `CONFIGURABLE_AGENTS_STORE` is looked up.
        busy_timeout_seconds: How long a write waits for another writer.
        read_only: Create and change nothing: a store that is not there is an error.
        power: Sync each commit, so that it survives the loss of power too (a server does so by its own settings).

    Raises:
        StorageError: It cannot be opened; the message says what to do and holds no password.
    """
    place = locate(store_target(None, environ, None) if target is None else target)
    load("sqlite" if isinstance(place, Path) else "postgresql")
    journals = () if read_only else journal_directories(place, environ)
    if isinstance(place, Path):
        return _open_sqlite(
            place, journals, busy_timeout_seconds=busy_timeout_seconds, read_only=read_only, power=power
        )
    return _open_postgresql(place, journals, busy_timeout_seconds=busy_timeout_seconds, read_only=read_only)


def open_for_reading(target: Target | None = None, *, environ: Mapping[str, str] = os.environ) -> StorageBackend:
    """Open a store to look into it, after taking up what processes that have died left in their journals.

    It creates no store and changes none but for that; where that cannot be written, what is there can still be read.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    place = locate(store_target(None, environ, None) if target is None else target)
    if isinstance(place, str) or any(segments(directory) for directory in journal_directories(place, environ)):
        try:
            backend = create_storage_backend(place, environ=environ)
            try:
                backend.recover()
            finally:
                backend.close()
        except StorageError as error:
            logger.warning("journals of processes that have died could not be taken up: %s", error)
    return create_storage_backend(place, environ=environ, read_only=True)


def open_writer(
    place: Path | str, *, environ: Mapping[str, str] = os.environ, required: bool = False, power: bool = False
) -> Writer:
    """Open the way into a store, with a journal: a store that is out of reach is tried again, and nothing is lost.

    The store itself is opened by the first record, on the writer's own thread: a server that does not answer takes
    seconds, and whoever writes may be an event loop.

    Args:
        place: As `locate` gives it.
        required: Raise if the store cannot be opened and written now.
        power: Sync each record and each commit, so that they survive the loss of power too.

    Raises:
        StorageError: It is required and cannot be opened or written.
    """
    again = partial(create_storage_backend, place, environ=environ, power=power)
    backend = _opened_for_writing(again) if required else None
    return Writer(again, journals=journal_directories(place, environ), backend=backend, power=power)


def _opened_for_writing(open_backend: Callable[[], StorageBackend]) -> StorageBackend:
    deadline = time.monotonic() + REQUIRED_SECONDS
    while True:
        try:
            return _written(open_backend())
        except StorageError as error:
            from configurable_agents.storage.sqlite_driver import is_locked

            if not is_locked(error.__cause__) or time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE_SECONDS)  # SQLite waits by itself, but not for each kind of lock


def _written(backend: StorageBackend) -> StorageBackend:
    """See that a store takes a transaction, which here writes nothing: one that is locked can be opened, and read."""
    try:
        backend.take_in(())
    except BaseException:
        backend.close()
        raise
    return backend


def _open_sqlite(
    path: Path, journals: Sequence[Path], *, busy_timeout_seconds: float, read_only: bool, power: bool
) -> StorageBackend:
    from configurable_agents.storage.database import Database
    from configurable_agents.storage.engines import sqlite_engine

    # A later change of the working directory must not move the store.
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would follow links, which people may redirect
    fresh = _check_file(absolute, shown=path, read_only=read_only)
    engine = sqlite_engine(absolute, busy_timeout_seconds=busy_timeout_seconds, read_only=read_only, power=power)
    database = Database(engine, location=str(path), busy_timeout_seconds=busy_timeout_seconds)
    return _brought_up(database, journals, file=absolute, read_only=read_only, patient=fresh, power=power)


def _open_postgresql(
    text: str, journals: Sequence[Path], *, busy_timeout_seconds: float, read_only: bool
) -> StorageBackend:
    from configurable_agents.storage.database import Database
    from configurable_agents.storage.engines import parse_url, postgresql_engine, without_password

    url = parse_url(text)
    engine = postgresql_engine(url, busy_timeout_seconds=busy_timeout_seconds, read_only=read_only)
    database = Database(engine, location=without_password(url), busy_timeout_seconds=busy_timeout_seconds)
    return _brought_up(database, journals, file=None, read_only=read_only, patient=False)


def _brought_up(
    database: Database,
    journals: Sequence[Path],
    *,
    file: Path | None,
    read_only: bool,
    patient: bool,
    power: bool = False,
) -> StorageBackend:
    from configurable_agents.storage.backend import SqlAlchemyStorageBackend
    from configurable_agents.storage.schema import bring_up_to_date

    try:
        bring_up_to_date(database, read_only=read_only, patient=patient)
    except BaseException:
        database.close()
        raise
    # Processes that share a file share a host, too, where locks say who lives.
    has_leases = file is None and not read_only
    return SqlAlchemyStorageBackend(database, file=file, journals=journals, has_leases=has_leases, power=power)


def _check_file(path: Path, *, shown: Path, read_only: bool) -> bool:
    """See to it that the file is there and fit; True if it is empty. It is not opened (see `create_file`)."""
    from configurable_agents.storage.engines import create_file

    try:
        if path.is_dir():
            raise StorageError(f"{str(shown)!r} is a directory; give the path of a file in it")
        if not read_only:
            create_file(path)
        size = path.stat().st_size
        wanted = os.R_OK if read_only else os.R_OK | os.W_OK
        if not os.access(path, wanted, effective_ids=os.access in os.supports_effective_ids):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except FileNotFoundError as error:
        raise StorageError(f"there is no store at {str(shown)!r}") from error
    except OSError as error:
        remedy = "check its permissions" if read_only else "choose another place with --store"
        raise StorageError(f"the store at {str(shown)!r} cannot be opened: {error.strerror}; {remedy}") from error
    if 0 < size < _LEAST_BYTES:
        raise StorageError(f"{str(shown)!r} is not a SQLite database; choose another file")
    return not size
