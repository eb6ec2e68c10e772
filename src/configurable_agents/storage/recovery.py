"""Takes up the journals of processes that have died.

What they had recorded goes into the database, and what they were running becomes `interrupted`. Doing it twice, or two
doing it at once, changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from configurable_agents.errors import StorageError
from configurable_agents.logs import logger_of
from configurable_agents.semconv import Status
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.codec import OpenSpan, decode_record, encode_record, split
from configurable_agents.storage.journal import (
    HEADER_BYTES,
    SUFFIX,
    frames,
    is_of_a_later_version,
    make_private_directory,
    read_at,
)
from configurable_agents.storage.locks import lock_exclusively, unlink_and_close
from configurable_agents.storage.records import AnyRecord, DeliveryRecord, SpanKey, SpanRecord, WorkflowRunRecord

logger = logger_of(__name__)

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

    runs: dict[str, SpanKey] = field(default_factory=dict)
    """By span id."""
    nodes: dict[str, SpanKey] = field(default_factory=dict)

    def look_at(self, record: AnyRecord | OpenSpan) -> None:
        if isinstance(record, SpanRecord | DeliveryRecord):
            return
        if isinstance(record, OpenSpan):
            spans, goes_on = self.runs if record.kind == "run" else self.nodes, True
        else:
            spans = self.runs if isinstance(record, WorkflowRunRecord) else self.nodes
            goes_on = record.status == Status.RUNNING
        if goes_on:
            # The first to say it has said the most: a note of an older version does not know the run.
            spans.setdefault(record.span_id, SpanKey(record.run_id, record.span_id, record.trace_id))
        else:
            spans.pop(record.span_id, None)


def recover(directory: Path, backend: StorageBackend) -> Recovered:
    """Replay every segment of `directory` whose owner has died, and remove it.

    Raises:
        StorageError: The database did not take it; the segments stay.
    """
    recovered = Recovered()
    for owner in sorted({path.name.rpartition("-")[0] for path in segments(directory)}):
        held = _taken(directory, owner)
        try:
            if held:
                _replay(directory, held, backend, recovered)
                while held:
                    unlink_and_close(*held.pop(0))
                    recovered.segments += 1
        finally:
            _close(held)
    return recovered


def segments(directory: Path) -> list[Path]:
    """List the segments in a journal directory, oldest first for each owner; none if there is no such directory."""
    try:
        return sorted(Path(entry.path) for entry in os.scandir(directory) if entry.name.endswith(SUFFIX))
    except (FileNotFoundError, NotADirectoryError):
        return []


_Held = tuple[Path, int]
"""A segment that is open and locked."""


def _taken(directory: Path, owner: str) -> list[_Held]:
    """Open and lock all segments of an owner; none if it lives, if somebody else is at it, or if they are not ours."""
    held: list[_Held] = []
    try:
        for path in sorted(directory.glob(f"{owner}-*{SUFFIX}")):
            try:
                fd = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
            except FileNotFoundError:  # somebody else has just finished with it
                continue
            held.append((path, fd))
            lock_exclusively(fd)
            if not os.fstat(fd).st_nlink:
                _close([held.pop()])
            elif is_of_a_later_version(read_at(fd, HEADER_BYTES, 0)):
                logger.warning("%s was written by a later version, which has to take it up; it is left as it is", path)
                _close(held)
                return []
    except OSError:
        _close(held)
        return []
    return held


def _close(held: Sequence[_Held]) -> None:
    for _, fd in held:
        os.close(fd)


def _replay(directory: Path, held: Sequence[_Held], backend: StorageBackend, recovered: Recovered) -> None:
    still_open = _Open()
    batch: list[AnyRecord] = []
    for _, fd in held:
        for line, is_committed in _lines(_whole(fd)):
            try:
                record = decode_record(line)
            except ValueError:
                logger.warning("a journal holds a record that this version cannot read; it is put aside")
                recovered.refused += 1
                _put_aside(directory, [line])
                continue
            still_open.look_at(record)
            if not is_committed and not isinstance(record, OpenSpan):
                batch.append(record)
            if len(batch) == BATCH:
                _write(directory, batch, backend, recovered)
                batch = []
    _write(directory, batch, backend, recovered)
    logger.info("took up %d records of a process that had died", recovered.records)
    if still_open.runs or still_open.nodes:
        backend.mark_interrupted(sorted(still_open.runs.values()), sorted(still_open.nodes.values()))


def _lines(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Give the records in a segment, and of each whether the database has had it."""
    for end, payload, committed in frames(data):
        at = end - len(payload)
        for line in split(payload):
            at += len(line)
            yield line, at <= committed
            at += 1


def _write(directory: Path, batch: Sequence[AnyRecord], backend: StorageBackend, recovered: Recovered) -> None:
    refused = write_or_isolate(backend, batch)
    recovered.records += len(batch) - len(refused)
    recovered.refused += len(refused)
    quarantine(directory, refused)


def _whole(fd: int) -> bytes:
    # Through the descriptor that holds the lock: on Windows nobody else may read, and the name may lead elsewhere by now.
    os.lseek(fd, 0, os.SEEK_SET)
    with os.fdopen(os.dup(fd), "rb") as file:
        return file.read()


def write_or_isolate(backend: StorageBackend, records: Sequence[AnyRecord]) -> list[AnyRecord]:
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
            logger.exception("the store refused a record of %s", _what(records[0]))
            return list(records)
        half = len(records) // 2
        return write_or_isolate(backend, records[:half]) + write_or_isolate(backend, records[half:])
    return []


def _what(record: AnyRecord) -> str:
    return f"the run {record.run_id}" if isinstance(record, DeliveryRecord) else f"the span {record.name!r}"


def quarantine(directory: Path, records: Sequence[AnyRecord]) -> None:
    """Keep records that the database refuses, beside the journal."""
    _put_aside(directory, [encode_record(record) for record in records])


def _put_aside(directory: Path, payloads: Sequence[bytes]) -> None:
    if not payloads:
        return
    try:
        make_private_directory(directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        fd = os.open(directory / QUARANTINE, flags, 0o600)
        try:
            os.write(fd, b"".join(payload + b"\n" for payload in payloads))
        finally:
            os.close(fd)
    except OSError:
        logger.exception("%d records that the store refused could not be put aside", len(payloads))
