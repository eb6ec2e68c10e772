"""Takes up the journals of processes that have died.

What they had recorded goes into the database, and what they were running becomes `interrupted`. Doing it twice, or two
doing it at once, changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from configurable_agents.errors import StorageError
from configurable_agents.semconv import Status
from configurable_agents.storage.base import (
    Record,
    SpanKey,
    SpanRecord,
    StorageBackend,
    WorkflowRunRecord,
)
from configurable_agents.storage.codec import OpenSpan, decode_record, encode_record
from configurable_agents.storage.journal import SUFFIX, frames, make_private_directory
from configurable_agents.storage.locks import LockedError, lock_exclusively

logger = logging.getLogger(__name__)

BATCH: Final = 256
"""Records in one transaction: beyond 64 a bigger one is hardly cheaper, and others wait for it."""
QUARANTINE: Final = "quarantine.jsonl"
"""Records that a database refuses for good: one JSON object a line, for a person to look at."""


@dataclass
class Recovered:
    """What one look at a journal directory brought back."""

    segments: int = 0
    records: int = 0
    refused: int = 0
    """Records that the database does not take; they stay in the journal's quarantine."""


@dataclass
class _Open:
    """Spans that had begun and, as far as the journal tells, not ended."""

    runs: set[SpanKey] = field(default_factory=set)
    nodes: set[SpanKey] = field(default_factory=set)

    def look_at(self, record: Record | OpenSpan) -> None:
        if isinstance(record, OpenSpan):
            (self.runs if record.kind == "run" else self.nodes).add(SpanKey(record.span_id, record.trace_id))
        elif not isinstance(record, SpanRecord):
            spans = self.runs if isinstance(record, WorkflowRunRecord) else self.nodes
            key = SpanKey(record.span_id, record.trace_id)
            (spans.add if record.status == Status.RUNNING else spans.discard)(key)


def recover(directory: Path, backend: StorageBackend) -> Recovered:
    """Replay every segment of `directory` whose owner has died, and remove it.

    Raises:
        StorageError: The database did not take it; the segments stay.
    """
    recovered = Recovered()
    for owner in sorted({path.name.rpartition("-")[0] for path in segments(directory)}):
        with _taken(directory, owner) as paths:
            if paths:
                _replay(paths, backend, recovered)
    return recovered


def segments(directory: Path) -> list[Path]:
    """List the segments in a journal directory, oldest first for each owner; none if there is no such directory."""
    try:
        return sorted(Path(entry.path) for entry in os.scandir(directory) if entry.name.endswith(SUFFIX))
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextlib.contextmanager
def _taken(directory: Path, owner: str) -> Iterator[list[Path]]:
    """Hold all segments of an owner locked; none are given if it lives, or if somebody else is at it."""
    with contextlib.ExitStack() as stack:
        paths: list[Path] = []
        for path in sorted(directory.glob(f"{owner}-*{SUFFIX}")):
            try:
                fd = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
            except FileNotFoundError:  # somebody else has just finished with it
                continue
            stack.callback(os.close, fd)
            try:
                lock_exclusively(fd)
            except LockedError:
                paths = []
                break
            if path.exists():
                paths.append(path)
        yield paths


def _replay(paths: list[Path], backend: StorageBackend, recovered: Recovered) -> None:
    still_open, batch = _Open(), []
    for path in paths:
        for payload in frames(path.read_bytes()):
            try:
                record = decode_record(payload)
            except ValueError:
                recovered.refused += 1
                continue
            still_open.look_at(record)
            if not isinstance(record, OpenSpan):
                batch.append(record)
    for start in range(0, len(batch), BATCH):
        refused = write_or_isolate(backend, batch[start : start + BATCH])
        recovered.refused += len(refused)
        quarantine(paths[0].parent, refused)
    if still_open.runs or still_open.nodes:
        backend.mark_interrupted(sorted(still_open.runs), sorted(still_open.nodes))
    recovered.records += len(batch)
    for path in paths:
        path.unlink(missing_ok=True)
        recovered.segments += 1
    logger.info("took up %d records of a process that had died", len(batch))


def write_or_isolate(backend: StorageBackend, records: Sequence[Record]) -> list[Record]:
    """Write records in one transaction; if one of them is refused, write the others without it.

    Returns:
        The records that the database refuses for good.

    Raises:
        StorageError: The database is away; what had to be written may be written again.
    """
    if not records:
        return []
    try:
        backend.write(records)
    except StorageError as error:
        if not error.refused:
            raise
        if len(records) == 1:
            logger.exception("the store refused a record of the span %r", records[0].name)
            return list(records)
        half = len(records) // 2
        return write_or_isolate(backend, records[:half]) + write_or_isolate(backend, records[half:])
    return []


def quarantine(directory: Path, records: Sequence[Record]) -> None:
    """Keep records that the database refuses, beside the journal."""
    if not records:
        return
    try:
        make_private_directory(directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        fd = os.open(directory / QUARANTINE, flags, 0o600)
        try:
            os.write(fd, b"".join(encode_record(record) + b"\n" for record in records))
        finally:
            os.close(fd)
    except OSError:
        logger.exception("%d records that the store refused could not be put aside", len(records))
