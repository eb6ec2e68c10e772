"""Acting as a user whom file permissions stop: root may read and write everything."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def plain_user() -> Iterator[Path]:
    """Be a plain user for a while (all threads of the process are); gives a directory that is this user's own."""
    # Not under pytest's own directory, which is closed to other users.
    directory = Path(tempfile.mkdtemp(prefix="plain-")).resolve()
    root = os.geteuid() == 0
    try:
        if root:
            nobody = pwd.getpwnam("nobody")
            os.chown(directory, nobody.pw_uid, nobody.pw_gid)
            os.seteuid(nobody.pw_uid)
        yield directory
    finally:
        if root:
            os.seteuid(0)
        _remove(directory)


def _remove(directory: Path) -> None:
    for path in [directory, *directory.rglob("*")]:
        if path.is_dir():
            path.chmod(0o700)
    deadline = time.monotonic() + 30
    while True:
        try:
            return shutil.rmtree(directory)
        except OSError:
            # A store that could not be written is tried again in the background, and now can be: a file more.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
