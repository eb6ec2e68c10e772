"""Loads libraries on other threads, whole: a child that is forked in the middle could never load the rest."""

from __future__ import annotations

import os
import threading
from typing import Final

LOADING: Final = threading.RLock()
"""Held while modules are loaded, and by whoever forks: a fork waits some tenths of a second, once. Only for imports: what
is far away could make a fork wait for ever."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=LOADING.acquire, after_in_parent=LOADING.release, after_in_child=LOADING.release)
