"""Which open files are a test's own: a count or a fault at the seam to the operating system is for those alone."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def is_below(descriptor: int, *folders: Path) -> bool:
    """Tell whether an open file is one of those below some folders; other threads of the process have others open."""
    opened = os.fstat(descriptor)
    for path in (path for folder in folders for path in folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # it has gone meanwhile
            if os.path.samestat(opened, path.stat()):
                return True
    return False
