"""The journal of one process for one store: what is appended survives the process, whatever becomes of it.

A journal is a directory of segment files. Each process appends to segments of its own, which it holds locked: the
kernel frees the lock when the process dies, and whoever can take it may replay the segment. Records are framed with a
marker, their length and a checksum, so that a reader finds its way past damage.

    segment = header (64 bytes) frame*
    frame   = marker (4) length (4, little-endian) crc32 of the payload (4) payload
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import sys
import threading
import time
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from configurable_agents.storage.locks import lock_exclusively

MAGIC: Final = b"CAJOURN1"
HEADER_BYTES: Final = 64
MARKER: Final = b"\xf5J\xaaR"
"""Begins a frame; its first byte stands in no UTF-8 text, so no payload of ours holds it."""
_FRAME: Final = struct.Struct("<4sII")
FRAME_BYTES: Final = _FRAME.size
SEGMENT_BYTES: Final = 4 * 1024 * 1024
"""A segment that has grown beyond is closed, and goes when all of it is in the database."""
MAX_PAYLOAD: Final = 256 * 1024 * 1024
"""A length beyond this is damage, not a record."""
SUFFIX: Final = ".segment"


class Position(NamedTuple):
    """Where a record stands in its process's journal."""

    segment: int
    offset: int
    length: int


@dataclass(slots=True)
class _Segment:
    number: int
    path: Path
    fd: int
    end: int = HEADER_BYTES


class JournalError(OSError):
    """A record could not be appended: the disk is full, the directory is gone, or may not be written."""


class Journal:
    """Appends records to segments of this process.

    Args:
        directory: Made if missing, readable by the owner only.
        power: Sync each record, so that it survives the loss of power too.
    """

    def __init__(self, directory: Path, *, power: bool = False, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.directory = directory
        self._power = power
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        self._segments: dict[int, _Segment] = {}
        self._number = 0
        self._name = f"{os.getpid()}-{time.time_ns():x}"
        _ALL.add(self)

    def begin(self) -> None:
        """Begin a segment, so that it is known whether this directory can be written.

        Raises:
            JournalError: It cannot.
        """
        with self._lock:
            if self._number not in self._segments:
                self._open(self._number + 1)

    def append(self, payload: bytes) -> Position:
        """Append a record; when this returns, it survives the death of the process.

        Raises:
            JournalError: Nothing was appended.
        """
        frame = _FRAME.pack(MARKER, len(payload), zlib.crc32(payload)) + payload
        with self._lock:
            segment = self._current(len(frame))
            _write_whole(segment.fd, frame, segment.end)
            if self._power:
                os.fdatasync(segment.fd)
            position = Position(segment.number, segment.end, len(payload))
            segment.end += len(frame)
            return position

    def read(self, position: Position) -> bytes:
        """Read a record back."""
        with self._lock:
            segment = self._segments[position.segment]
            return _read_at(segment.fd, position.length, position.offset + FRAME_BYTES)

    def forget(self, before: int) -> None:
        """Remove the segments before number `before`: all of them is in the database."""
        with self._lock:
            for number in [number for number in self._segments if number < before]:
                self._remove(self._segments.pop(number))

    def close(self, *, remove: bool) -> None:
        """Let go of all segments; remove them if all of them is in the database."""
        with self._lock:
            for segment in self._segments.values():
                if remove:
                    self._remove(segment)
                else:
                    os.close(segment.fd)
            self._segments.clear()

    @property
    def size(self) -> int:
        """Bytes that the segments of this process hold."""
        with self._lock:
            return sum(segment.end for segment in self._segments.values())

    @property
    def segment(self) -> int:
        """The number of the segment that is written now; 0 before the first append."""
        return self._number

    def _current(self, frame_bytes: int) -> _Segment:
        segment = self._segments.get(self._number)
        if segment is None or segment.end + frame_bytes > max(self._segment_bytes, frame_bytes + HEADER_BYTES):
            segment = self._open(self._number + 1)
        return segment

    def _open(self, number: int) -> _Segment:
        path = self.directory / f"{self._name}-{number:06d}{SUFFIX}"
        try:
            make_private_directory(self.directory)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
            fd = os.open(path, flags, 0o600)
        except OSError as error:
            raise JournalError(error.errno, f"no journal can be begun in {self.directory}: {error.strerror}") from error
        try:
            # Whoever looks for journals of the dead between these two lines may take the lock first, and remove the empty
            # file: then the append fails as on a full disk, and the next one begins another segment.
            lock_exclusively(fd)
            _write_whole(fd, _header(), 0)
        except OSError as error:
            os.close(fd)
            with contextlib.suppress(OSError):
                path.unlink()
            raise JournalError(error.errno, f"no journal can be begun in {self.directory}: {error}") from error
        segment = self._segments[number] = _Segment(number, path, fd)
        self._number = number
        return segment

    def _remove(self, segment: _Segment) -> None:
        with contextlib.suppress(OSError):
            segment.path.unlink()
        os.close(segment.fd)

    def let_go_after_fork(self) -> None:
        """Let go of the parent's segments: the lock is the open file's, and would outlive the parent in the child."""
        self._lock = threading.Lock()
        for segment in self._segments.values():
            with contextlib.suppress(OSError):
                os.close(segment.fd)
        self._segments.clear()
        self._number = 0
        self._name = f"{os.getpid()}-{time.time_ns():x}"


_ALL: Final[weakref.WeakSet[Journal]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for journal in list(_ALL):
        journal.let_go_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _header() -> bytes:
    return MAGIC + struct.pack("<qq", os.getpid(), time.time_ns()).ljust(HEADER_BYTES - len(MAGIC), b"\0")


def _write_whole(fd: int, data: bytes, offset: int) -> None:
    """Write all or nothing: a short write (a full disk) is taken back, so that the next reader sees no half frame."""
    written = 0
    try:
        while written < len(data):
            done = _write_at(fd, memoryview(data)[written:], offset + written)
            if done == 0:
                raise OSError(errno.ENOSPC, "nothing more could be written")
            written += done
    except OSError as error:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, offset)
        raise JournalError(error.errno, f"the journal cannot be written: {error.strerror}") from error


def _write_at(fd: int, data: memoryview, offset: int) -> int:
    if sys.platform != "win32":
        return os.pwrite(fd, data, offset)
    os.lseek(fd, offset, os.SEEK_SET)  # two steps; the journal's lock keeps them together
    return os.write(fd, data)


def _read_at(fd: int, length: int, offset: int) -> bytes:
    if sys.platform != "win32":
        return os.pread(fd, length, offset)
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, length)


def make_private_directory(directory: Path) -> None:
    """Make a directory that only its owner can read, whatever the umask; one that is there is left as it is."""
    if not directory.is_dir():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)


def frames(data: bytes) -> Iterator[bytes]:
    """Give the payloads of a segment, in order; what is damaged is passed over up to the next marker."""
    offset = HEADER_BYTES if data.startswith(MAGIC) else 0
    while True:
        offset = data.find(MARKER, offset)
        if offset < 0 or offset + FRAME_BYTES > len(data):
            return
        _, length, checksum = _FRAME.unpack_from(data, offset)
        payload = data[offset + FRAME_BYTES : offset + FRAME_BYTES + length]
        if length <= MAX_PAYLOAD and len(payload) == length and zlib.crc32(payload) == checksum:
            yield payload
            offset += FRAME_BYTES + length
        else:
            offset += 1
