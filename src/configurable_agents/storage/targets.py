"""Where a store is: what people write (a path, a URL, a `storage` block), told apart. Opens nothing."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import unquote

from configurable_agents.errors import StorageError

if TYPE_CHECKING:
    from configurable_agents.config.schema import (
        StorageConfig,
    )  # pydantic is slow to load and a reader has no use for it

STORE_VARIABLE: Final = "CONFIGURABLE_AGENTS_STORE"
"""Environment variable with the path or URL of the store."""
DEFAULT_STORE: Final = "./workflows.db"

STATE_FOLDER: Final = "configurable-agents/journals"
"""In the user's state directory (XDG Base Directory Specification)."""

Target: TypeAlias = "StorageConfig | str | Path"

_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_PASSWORD: Final = re.compile(r"^([a-z]+://[^/@:]*):[^/@]*(?=@)")
_POSTGRESQL: Final = frozenset({"postgresql", "postgres"})


def store_target(
    explicit: str | Path | None, environ: Mapping[str, str], storage_config: StorageConfig | None
) -> Target:
    """Say which store holds: the one asked for, else the environment's, else the workflow file's, else the default."""
    if explicit is not None:
        return explicit
    return environ.get(STORE_VARIABLE) or storage_config or DEFAULT_STORE


def locate(target: Target) -> Path | str:
    """Give the path of a SQLite file, or the URL of a PostgreSQL database (as `postgresql://…`).

    Raises:
        StorageError: It is neither; the message holds no password.
    """
    if isinstance(target, Path):
        return target.expanduser()
    if not isinstance(target, str):
        return _locate_config(target)
    url = _URL.fullmatch(target)
    if url is not None:
        return _locate_url(url["scheme"].lower(), url["rest"])
    if not target.strip():
        raise StorageError("the store's path is empty; give a file or a database URL")
    return Path(target).expanduser()


def _locate_config(config: StorageConfig) -> Path | str:
    if _URL.fullmatch(config.backend):
        return locate(config.backend)
    if config.backend == "sqlite":
        return locate(config.path)
    if config.backend not in _POSTGRESQL:
        raise StorageError(f"unknown storage backend {config.backend!r}; use sqlite, postgresql, or a database URL")
    found = locate(config.path)
    if isinstance(found, Path):
        raise StorageError(
            "storage backend 'postgresql' needs a database URL as its path, as postgresql://user@host/database"
        )
    return found


def _locate_url(scheme: str, rest: str) -> Path | str:
    backend = scheme.partition("+")[0]
    if backend in _POSTGRESQL:
        return f"postgresql://{rest}"
    if backend != "sqlite":
        raise StorageError(f"a store cannot be kept in {scheme!r}; use a path, sqlite:///path or postgresql://…")
    # As in SQLAlchemy's URLs: three slashes and a relative path, or four and an absolute one.
    path = unquote(rest.partition("?")[0].removeprefix("/"))
    if not rest.startswith("/") or path in ("", ":memory:"):
        raise StorageError("a store must be a file: sqlite:///relative/path or sqlite:////absolute/path")
    return Path(path).expanduser()


def journal_directories(place: Path | str, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Say where a store's journals are: beside a file, else (and for a server) in the user's state directory.

    The first one that can be written is used; whoever takes up journals looks into all of them.
    """
    if isinstance(place, Path):
        # `resolve`, so that a link and the file it leads to have one journal.
        file = place.resolve()
        return (file.with_name(f"{file.name}.journal"), _state_directory(environ) / _hash(str(file)))
    return (_state_directory(environ) / _hash(_without_password(place)),)


def shown(place: Path | str) -> str:
    """Give a store's place as people may see it: without a password."""
    return _without_password(place) if isinstance(place, str) else str(place)


def _state_directory(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_STATE_HOME") or environ.get("LOCALAPPDATA")
    # Not `Path.home`, which raises where there is no home: then the path stays as it is, and cannot be written.
    return Path(base or os.path.expanduser("~/.local/state")) / STATE_FOLDER  # noqa: PTH111


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _without_password(url: str) -> str:
    return _PASSWORD.sub(r"\1", url, count=1)
