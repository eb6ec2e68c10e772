"""Ends what a test has left going on in its process: stores that are open, and what sends to far away.

A program keeps both until it ends. Here one process runs many tests, and what one has left would log, sync a file or begin
a thread in the middle of another that watches just that.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from configurable_agents.observability.shipping import SHIPPERS
from configurable_agents.runtime.stores import _STORES, OpenStore
from configurable_agents.storage.lifetime import living
from configurable_agents.storage.writer import Writer

_left_open: Final[list[OpenStore]] = []
"""Nobody uses them any more. To close one would wait for the disk each time, to bring SQLite's log into the file."""
_LONGEST_TRY_SECONDS: Final = 10.0
"""To connect to a server that does not answer takes five."""


def end_what_goes_on() -> None:
    """End what sends, then the stores that take marks from it. What is lost by that is no news to anybody."""
    logger = logging.getLogger("configurable_agents")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        _end_shippers()
        _end_stores()
    finally:
        logger.setLevel(before)


def _end_shippers() -> None:
    """Also so that an endpoint which is dead in one test is not told of in another, whose port may be the same."""
    if SHIPPERS._by_destination:
        SHIPPERS.begin_to_end()
        SHIPPERS.end(time.monotonic())
        SHIPPERS._by_destination.clear()


def _end_stores() -> None:
    for keeper in living():
        if isinstance(keeper, Writer):
            _end_writer(keeper)
    _left_open.extend(_STORES._by_place.values())
    _STORES._by_place = {}


def _end_writer(writer: Writer) -> None:
    thread = writer._thread
    if writer.is_away or not writer.is_open:
        # Nobody waits for it to come back; and if a try is still under way, nobody hears that it failed.
        writer._away = True
        writer.close(since=float("-inf"))
    else:
        writer.close()
    if thread is not None:
        thread.join(_LONGEST_TRY_SECONDS)
