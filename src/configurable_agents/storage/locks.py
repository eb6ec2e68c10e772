"""Locks on open files that the kernel frees when their process dies."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path


class LockedError(OSError):
    """Somebody else holds the lock."""


if sys.platform == "win32":
    import msvcrt

    def lock_exclusively(fd: int) -> None:
        """Take the lock at once.

        Raises:
            LockedError: Somebody else holds it.
        """
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise LockedError(error.errno, "somebody else holds the lock") from error

else:
    import fcntl

    def lock_exclusively(fd: int) -> None:
        """Take the lock at once.

        `flock`, not `lockf`: its locks belong to the open file, so that another opening of the same file in the same
        process does not get it, and closing that other one does not free it.

        Raises:
            LockedError: Somebody else holds it.
        """
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(error.errno, "somebody else holds the lock") from error


def unlink_and_close(path: Path, fd: int) -> None:
    """Remove a file that is held open, and locked, by `fd`.

    The name goes before the lock, so that nobody else takes the file up; Windows removes no file that is open.
    """
    if sys.platform == "win32":
        os.close(fd)
    with contextlib.suppress(OSError):
        path.unlink()
    if sys.platform != "win32":
        os.close(fd)
