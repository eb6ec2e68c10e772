"""Tests that bound a time run alone: where several workers share the tests, the others wait meanwhile.

Each test holds a lock, shared, and one that is marked `alone` holds it for itself. A second lock is the door: whoever
waits to be alone keeps it, so that nobody new goes in before. Both are on files that are there anyway, so that nothing is
left behind; a system without `flock` knows no such turns.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]  # asked for below

_ROOM: Final = Path(__file__)
_DOOR: Final = Path(__file__).with_name("conftest.py")


class Turns:
    """A plugin for one worker among several."""

    def __init__(self) -> None:
        self._room, self._door = (path.open("rb") for path in (_ROOM, _DOOR))
        self._stayed = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        """Wait for the test's turn. Tests that are alone one after another wait only once."""
        if not self._stayed:
            how = fcntl.LOCK_EX if _is_alone(item) else fcntl.LOCK_SH
            fcntl.flock(self._door, how)
            fcntl.flock(self._room, how)
            fcntl.flock(self._door, fcntl.LOCK_UN)
        try:
            return (yield)
        finally:
            self._stayed = _is_alone(item) and _is_alone(nextitem)
            if not self._stayed:
                fcntl.flock(self._room, fcntl.LOCK_UN)


def _is_alone(item: pytest.Item | None) -> bool:
    return item is not None and item.get_closest_marker("alone") is not None


def let_tests_be_alone(config: pytest.Config) -> None:
    """Register the turns, if this process is a worker among several."""
    if fcntl is not None and hasattr(config, "workerinput"):
        config.pluginmanager.register(Turns())
