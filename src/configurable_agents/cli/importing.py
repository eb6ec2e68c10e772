"""The work of `runs import`: files are read, and what they hold is taken into the store."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Final

from configurable_agents.cli import figures
from configurable_agents.cli.screen import Screen
from configurable_agents.errors import TraceFileError
from configurable_agents.observability.archive import read_records
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.factory import create_storage_backend
from configurable_agents.storage.records import ExecutionStateRecord, Record, SpanRecord, WorkflowRunRecord

_BATCH: Final = 128
_STDIN: Final = "-"
_PATIENCE_SECONDS: Final = 30.0
"""How long it waits for another writer."""


def take_in(screen: Screen, files: Sequence[str], store: str | None, *, as_json: bool) -> int:
    """Take files into the store, one after the other; gives the exit code.

    Raises:
        TraceFileError: A file is not what it should be; those before it are in the store.
    """
    backend = create_storage_backend(store, busy_timeout_seconds=_PATIENCE_SECONDS)
    with contextlib.closing(backend):
        for file in files:
            found: Counter[type[Record]] = Counter()
            new = _take_in(backend, file, found)
            if as_json:
                screen.write_json(_object(file, found, new))
            else:
                screen.tell(_sentence(file, found, new, backend.location))
    return 0


def _take_in(backend: StorageBackend, file: str, found: Counter[type[Record]]) -> int:
    try:
        with _opened(file) as lines:
            return backend.take_in(_batches(read_records(lines), found))
    except TraceFileError as error:
        raise TraceFileError(f"{file}: {error}\nNothing of this file was taken in.") from error
    except OSError as error:
        raise TraceFileError(f"{file!r} cannot be read: {error.strerror or error}") from error


def _opened(file: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    return contextlib.nullcontext(sys.stdin.buffer) if file == _STDIN else Path(file).expanduser().open("rb")


def _batches(records: Iterable[Record], found: Counter[type[Record]]) -> Iterator[list[Record]]:
    remaining = iter(records)
    while batch := list(islice(remaining, _BATCH)):
        found.update(type(record) for record in batch)
        yield batch


def _object(file: str, found: Counter[type[Record]], new: int) -> dict[str, object]:
    return {
        "file": file,
        "runs": found[WorkflowRunRecord],
        "node_executions": found[ExecutionStateRecord],
        "spans": found[SpanRecord],
        "new": new,
    }


def _sentence(file: str, found: Counter[type[Record]], new: int, store: str) -> str:
    parts = [
        figures.count(found[WorkflowRunRecord], "run"),
        figures.count(found[ExecutionStateRecord], "node execution"),
        figures.count(found[SpanRecord], "other span"),
    ]
    known = found.total() - new
    there = f"; {known:,} of {found.total():,} were there already" if known else ""
    return f"{file}: {', '.join(parts)} taken into {store}{there}"
