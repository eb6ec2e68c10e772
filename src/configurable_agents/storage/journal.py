"""The journal of one process for one store: what is appended survives the process, whatever becomes of it.

A journal is a directory of segment files. Each process appends to segments of its own, which it holds locked: the
kernel frees the lock when the process dies, and whoever can take it may replay the segment. What is written at once is
framed with a marker, its length and a checksum, so that a reader finds its way past damage.

    segment = header (64 bytes) frame*
    header  = magic (8) pid (8) nanoseconds (8) mark zeros
    mark    = generation (4, little-endian) committed (8) crc32 of both (4)
    frame   = marker (4) length (4) generation (4) crc32 of the payload, begun with the generation (4) payload

`committed` is the offset up to which the database has everything of that generation, between two records: whoever takes the
segment up writes only what is beyond. Where it has everything and nothing goes on, the segment is begun anew: the mark says so,
and frames of the next generation are written over those of the one before, what is left of which no reader minds. So runs
one after another write the same few pages again and again.

Journals of the version before, whose marks and frames have no generation, are read as well: a process that still runs the
code before an upgrade leaves such.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from configurable_agents.forks import begin_anew_in_children, hold_in_forks
from configurable_agents.storage.locks import LockedError, lock_exclusively, unlink_and_close

MAGIC: Final = b"CAJOURN2"
_MAGIC_BEFORE: Final = b"CAJOURN1"
_ANY_MAGIC: Final = b"CAJOURN"
HEADER_BYTES: Final = 64
MARKER: Final = b"\xf5J\xaaR"
"""Begins a frame; its first byte stands in no UTF-8 text, so no payload of ours holds it."""
_FRAME: Final = struct.Struct("<4sIII")
_FRAME_BEFORE: Final = struct.Struct("<4sII")
FRAME_BYTES: Final = _FRAME.size
SEGMENT_BYTES: Final = 4 * 1024 * 1024
"""A segment that has grown beyond is closed, and goes when all of it is in the database."""
MAX_PAYLOAD: Final = 256 * 1024 * 1024
"""A length beyond this is damage, not a record."""
_LAST_GENERATION: Final = 2**32 - 1
SUFFIX: Final = ".segment"
LOOK_SECONDS: Final = 0.02
"""How long it may go unnoticed that somebody has deleted the segment that is written."""
_MARK: Final = struct.Struct("<IQ")
_MARK_BEFORE: Final = struct.Struct("<Q")
_MARK_AT: Final = 24
_CHECKSUM: Final = struct.Struct("<I")
_TRIES: Final = 100
"""How often a segment is begun anew because somebody who looked for journals of the dead took it in its first instant."""


class Position(NamedTuple):
    """Where a payload stands in its process's journal."""

    segment: int
    offset: int
    length: int


@dataclass(slots=True)
class _Segment:
    number: int
    path: Path
    fd: int
    generation: int = 0
    end: int = HEADER_BYTES


class JournalError(OSError):
    """Nothing could be appended: the disk is full, the directory is gone, or may not be written."""


class Journal:
    """Appends payloads to segments of this process.

    Args:
        directory: Made if missing, readable by the owner only.
        power: Sync each payload, so that it survives the loss of power too.
    """

    def __init__(self, directory: Path, *, power: bool = False, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.directory = directory
        self._power = power
        self._most = segment_bytes - FRAME_BYTES
        """How far a segment may grow with a payload alone; what its frame has besides is in the difference."""
        self._lock = threading.Lock()
        self._segments: dict[int, _Segment] = {}
        self.segment = 0
        """The number of the segment that is written now; 0 before the first append."""
        self._look_at = 0.0
        self._name = f"{os.getpid()}-{time.time_ns():x}"
        with _FILES:
            _ALL.add(self)

    def begin(self) -> None:
        """Begin a segment, so that it is known whether this directory can be written.

        Raises:
            JournalError: It cannot.
        """
        with self._lock:
            if self.segment not in self._segments:
                self._open()

    def append(self, payload: bytes) -> Position:
        """Append a payload; when this returns, it survives the death of the process.

        Raises:
            JournalError: Nothing was appended.
        """
        length = len(payload)
        with self._lock:
            segment = self._segments.get(self.segment)
            if segment is None or segment.end + length > self._most or time.monotonic() >= self._look_at:
                segment = self._current(length)
            fd, offset, generation = segment.fd, segment.end, segment.generation
            frame = _FRAME.pack(MARKER, length, generation, zlib.crc32(payload, generation)) + payload
            try:
                if _write_at(fd, frame, offset) != len(frame):
                    _write_over(fd, frame, offset)
            except OSError as error:
                # All or nothing: what a full disk took is taken back, so that the next reader sees no half frame.
                with contextlib.suppress(OSError):
                    os.ftruncate(fd, offset)
                raise _cannot_be_written(error) from error
            if self._power:
                _sync(fd)
            segment.end = offset + FRAME_BYTES + length
            return tuple.__new__(Position, (segment.number, offset, length))  # `Position(…)` is a call more

    def read(self, position: Position) -> bytes:
        """Read a payload back."""
        with self._lock:
            return read_at(self._segments[position.segment].fd, position.length, position.offset + FRAME_BYTES)

    def payloads(self) -> Iterator[bytes]:
        """Give every payload that is still there, committed ones too, the oldest first."""
        with self._lock:
            numbers = sorted(self._segments)
        for number in numbers:
            with self._lock:
                segment = self._segments.get(number)
                data = b"" if segment is None else read_at(segment.fd, segment.end, 0)
            for frame in frames(data):
                yield frame.payload

    def forget_before(self, number: int, offset: int) -> None:
        """Say that the database has all that stands before a place: segments that nobody needs any more are removed.

        What was committed before the process died is then not written again: it may have been deleted meanwhile.
        """
        with self._lock:
            self._forget_before(number, offset)

    def forget_all(self) -> None:
        """Say that the database has everything, and nothing goes on: the segment is begun anew.

        A page that a file has not had yet takes several times as long to write. Called where nobody appends meanwhile.
        """
        with self._lock:
            segment = self._segments.get(self.segment)
            if segment is None or not self._forget_before(segment.number, segment.end):
                return
            if segment.generation < _LAST_GENERATION:
                # In this order, whatever handler of a signal raises in between.
                segment.generation += 1
                segment.end = HEADER_BYTES

    def _forget_before(self, number: int, offset: int) -> bool:
        try:
            if len(self._segments) > 1:
                with _FILES:
                    for old in [old for old in self._segments if old < number]:
                        self._remove(self._segments.pop(old))
            segment = self._segments.get(number)
            if segment is not None:
                _write_over(segment.fd, _mark(segment.generation, offset), _MARK_AT)
        except OSError:  # what stays is taken up later, and written twice, which is harmless
            return False
        return True

    def unforget(self) -> None:
        """Say that the database has none of what is still here: another one stands at its place."""
        with self._lock:
            for segment in self._segments.values():
                with contextlib.suppress(JournalError):
                    _write_over(segment.fd, _mark(segment.generation, HEADER_BYTES), _MARK_AT)

    def close(self, *, remove: bool) -> None:
        """Let go of all segments; remove them if all of them is in the database."""
        with self._lock, _FILES:
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
    def end(self) -> tuple[int, int]:
        """The segment that is written now, and where the next payload goes in it."""
        with self._lock:
            segment = self._segments.get(self.segment)
            return self.segment, HEADER_BYTES if segment is None else segment.end

    def _current(self, length: int) -> _Segment:
        """Give the segment for a payload: the one that is written now, if it is still there and has room."""
        segment = self._segments.get(self.segment)
        if segment is None:
            return self._open()
        # Not each time, since a look costs a fifth of an append.
        self._look_at = time.monotonic() + LOOK_SECONDS
        if not _links(segment.fd):
            return self._open()  # somebody has deleted the file: it goes with the process
        # What is bigger than a whole segment has one of its own.
        return self._open() if segment.end + length > self._most and segment.end > HEADER_BYTES else segment

    def _open(self) -> _Segment:
        try:
            with _FILES:
                return self._begun()
        except OSError as error:
            raise JournalError(error.errno, f"no journal can be begun in {self.directory}: {error.strerror}") from error

    def _begun(self) -> _Segment:
        make_private_directory(self.directory)
        path, fd = self._new_file()
        try:
            _write_over(fd, _header(), 0)
            if self._power:
                _sync_directory(self.directory)
        except OSError:
            unlink_and_close(path, fd)
            raise
        segment = self._segments[self.segment] = _Segment(self.segment, path, fd)
        return segment

    def _new_file(self) -> tuple[Path, int]:
        for _ in range(_TRIES):
            self.segment += 1
            path = self.directory / f"{self._name}-{self.segment:06d}{SUFFIX}"
            fd = _created_and_locked(path)
            if fd is not None:
                return path, fd
        raise OSError(errno.EAGAIN, "others take each new segment at once")

    def _remove(self, segment: _Segment) -> None:
        unlink_and_close(segment.path, segment.fd)

    def after_fork_in_child(self) -> None:
        """Let go of the parent's segments: the lock is the open file's, and would outlive the parent in the child."""
        self._lock = threading.Lock()
        while self._segments:
            with contextlib.suppress(OSError):
                os.close(self._segments.popitem()[1].fd)
        self.segment = 0
        self._name = f"{os.getpid()}-{time.time_ns():x}"


# A fork concerns the whole process, and hooks cannot be taken back: one for all journals, which it does not keep alive.
_ALL: Final[weakref.WeakSet[Journal]] = weakref.WeakSet()
_FILES: Final = threading.RLock()
"""Held while a segment is begun or let go of, and in forks: a child would hold one unseen, or close a file of others."""


def _held_in_forks() -> Iterator[None]:
    with _FILES:
        yield


def _after_fork_in_child() -> None:
    for journal in _ALL:
        journal.after_fork_in_child()


hold_in_forks(_held_in_forks)
begin_anew_in_children(_after_fork_in_child)


def _created_and_locked(path: Path) -> int | None:
    """Make a file and lock it; None if there is one, or if whoever looks for journals of the dead took it in between."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        fd = os.open(path, flags, 0o600)
    except FileExistsError:  # a link that somebody put there, or the name of a process before ours
        return None
    try:
        lock_exclusively(fd)
        if os.fstat(fd).st_nlink:  # else it was taken and removed, and what is written into it would be lost
            return fd
    except LockedError:
        pass
    except OSError:
        unlink_and_close(path, fd)
        raise
    os.close(fd)
    return None


def _header() -> bytes:
    start = MAGIC + struct.pack("<qq", os.getpid(), time.time_ns()) + _mark(0, HEADER_BYTES)
    return start.ljust(HEADER_BYTES, b"\0")


def _mark(generation: int, offset: int) -> bytes:
    mark = _MARK.pack(generation, offset)
    return mark + _CHECKSUM.pack(zlib.crc32(mark))


def _marked(data: bytes) -> tuple[int, int]:
    """Give the generation in a segment, and the offset up to which the database has it; zeros if that cannot be told."""
    form = _MARK_BEFORE if data.startswith(_MAGIC_BEFORE) else _MARK
    behind = _MARK_AT + form.size
    mark = data[_MARK_AT:behind]
    if data[behind : behind + _CHECKSUM.size] != _CHECKSUM.pack(zlib.crc32(mark)):
        return 0, 0
    *generation, offset = form.unpack(mark)
    return sum(generation), offset  # where there is none, it is the first


def _sync(fd: int) -> None:
    try:
        getattr(os, "fdatasync", os.fsync)(fd)  # macOS has no `fdatasync`
    except OSError as error:
        raise JournalError(error.errno, f"the journal cannot be synced: {error.strerror}") from error


def _sync_directory(directory: Path) -> None:
    if sys.platform == "win32":  # directories cannot be opened there
        return
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _links(fd: int) -> int:
    try:
        return os.fstat(fd).st_nlink
    except OSError as error:  # of a file system that has failed
        raise _cannot_be_written(error) from error


def _write_over(fd: int, data: bytes, offset: int) -> None:
    try:
        while data:
            done = _write_at(fd, data, offset)
            if done == 0:
                raise OSError(errno.ENOSPC, "nothing more could be written")
            data, offset = data[done:], offset + done
    except OSError as error:
        raise _cannot_be_written(error) from error


def _cannot_be_written(error: OSError) -> JournalError:
    if isinstance(error, JournalError):
        return error
    return JournalError(error.errno, f"the journal cannot be written: {error.strerror}")


def _seek_and_write(fd: int, data: bytes, offset: int) -> int:
    os.lseek(fd, offset, os.SEEK_SET)  # two steps; the journal's lock keeps them together
    return os.write(fd, data)


_write_at: Final[Callable[[int, bytes, int], int]] = getattr(os, "pwrite", _seek_and_write)


def read_at(fd: int, length: int, offset: int) -> bytes:
    """Read bytes of an open file."""
    if sys.platform != "win32":
        return os.pread(fd, length, offset)
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, length)


def make_private_directory(directory: Path) -> None:
    """Make a directory that only its owner can read, and those above it; what is there is left as it is."""
    for missing in reversed([place for place in (directory, *directory.parents) if not place.exists()]):
        # Not `parents=True`: that makes those above as open as the umask allows.
        missing.mkdir(mode=0o700, exist_ok=True)


class Frame(NamedTuple):
    """A payload in a segment."""

    end: int
    """The offset behind it."""
    payload: bytes
    committed: int
    """The offset up to which the database has its generation."""


def is_of_a_later_version(beginning: bytes) -> bool:
    """Tell of the first bytes of a file whether it is a segment that only a later version can read."""
    return beginning.startswith(_ANY_MAGIC) and beginning[: len(MAGIC)] not in (MAGIC, _MAGIC_BEFORE)


def frames(data: bytes) -> Iterator[Frame]:
    """Give the payloads of a segment's newest generation, in order; what is damaged is passed over up to the next marker."""
    form = _FRAME_BEFORE if data.startswith(_MAGIC_BEFORE) else _FRAME
    newest, committed = _marked(data)
    offset = HEADER_BYTES if data.startswith(_ANY_MAGIC) else 0
    while True:
        offset = data.find(MARKER, offset)
        begin = offset + form.size
        if offset < 0 or begin > len(data):
            return
        _, length, *generations, checksum = form.unpack_from(data, offset)
        generation = sum(generations)  # where there is none, all are of the first
        end = begin + length
        if length <= MAX_PAYLOAD and end <= len(data):
            payload = data[begin:end]
            if zlib.crc32(payload, generation) == checksum:
                if generation > newest:  # the first of them: what is older was committed, and only follows
                    newest, committed = generation, 0
                if generation == newest:
                    yield Frame(end, payload, committed)
                offset = end
                continue
        offset += 1
