"""A PostgreSQL cluster of the tests' own, and an empty place in it for each test that asks.

Needs `initdb` on the PATH or under /usr/lib/postgresql, and psycopg. The server refuses to run as root: as root it runs
as a plain user.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from _require import require_part

_START_TIMEOUT_SECONDS: Final = 60
_SPEED: Final = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "listen_addresses=")


@dataclass(frozen=True)
class PostgresServer:
    """A running server on a socket of its own."""

    directory: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def url(self, database: str, *, user: str = "postgres") -> str:
        """Give the URL of a database."""
        return f"postgresql://{user}@/{database}?host={self.directory}"

    def new_database(self) -> str:
        """Create an empty database and give its URL."""
        name = f"test_{next(self.numbers)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)

    def new_schema(self) -> str:
        """Create an empty schema and give a URL that sees nothing else: much faster than a database."""
        name = f"test_{next(self.numbers)}"
        self._execute(f"CREATE SCHEMA {name}")
        return f"{self.url('postgres')}&options=-csearch_path%3D{name}"

    def _execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Run a server for the whole session; skip (or fail, where required) if there is none on this machine."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        require_part("postgres", 'psycopg is missing: pip install "configurable-agents[postgres]"')
    programs = _find_programs()
    if programs is None:
        require_part("postgres", "initdb is neither on the PATH nor under /usr/lib/postgresql: install PostgreSQL")
    with _cluster(programs) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """Give the URL of a place that is empty."""
    return postgres_server.new_schema()


def _find_programs() -> Path | None:
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@contextlib.contextmanager
def _cluster(programs: Path) -> Iterator[PostgresServer]:
    # Not under pytest's own directory: that is closed to other users, and a socket's path may have 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        user = _plain_user()
        if user is not None:
            os.chown(directory, user.pw_uid, user.pw_gid)
        directory.chmod(0o700)
        options = _run_as(user)
        data = directory / "data"
        command = [
            str(programs / "initdb"),
            "-D",
            str(data),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **options)
        if done.returncode:
            require_part("postgres", f"initdb failed: {done.stderr.strip()}")
        with _server(programs, directory, options):
            yield PostgresServer(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _server(programs: Path, directory: Path, options: dict[str, Any]) -> Iterator[None]:
    settings = [part for setting in _SPEED for part in ("-c", setting)]
    command = [str(programs / "postgres"), "-D", str(directory / "data"), "-k", str(directory), *settings]
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd="/", text=False, **options) as process,
    ):
        try:
            _wait_until_ready(process, directory)
            yield
        finally:
            process.send_signal(signal.SIGQUIT)  # at once: nothing in it is worth a clean end
            process.wait(timeout=30)


def _wait_until_ready(process: subprocess.Popen[Any], directory: Path) -> None:
    import psycopg

    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while True:
        try:
            psycopg.connect(PostgresServer(directory).url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                require_part("postgres", f"the server did not start: {(directory / 'log').read_text()[-2000:]}")
            time.sleep(0.05)
        else:
            return


def _plain_user() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    by_name = {user.pw_name: user for user in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in by_name:
            return by_name[name]
    return require_part("postgres", "the server refuses to run as root, and there is no user postgres or nobody")


def _run_as(user: pwd.struct_passwd | None) -> dict[str, Any]:
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
