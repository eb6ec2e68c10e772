"""Acting as a user whom file permissions stop: root may read and write everything."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import tempfile
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
        for path in [directory, *directory.rglob("*")]:
            if path.is_dir():
                path.chmod(0o700)
        shutil.rmtree(directory)
