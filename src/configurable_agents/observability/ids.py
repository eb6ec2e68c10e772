"""Makes the ids of runs and spans. Both sort by time, so that the store's keys stay local (a random key costs 4 times)."""

from __future__ import annotations

import itertools
import random
import time
from typing import Final

from configurable_agents.forks import begin_anew_in_children

_LOW_BITS = 22
_LOW_MASK = (1 << _LOW_BITS) - 1


class TimeOrderedIdGenerator:
    """Span ids of milliseconds (high 42 bits) and a counter from a random start (low 22 bits); trace ids are random.

    The counter keeps the spans of one process apart even if thousands start in one millisecond; a forked child
    starts from a number of its own, and with chances of its own.
    """

    def __init__(self) -> None:
        self._reseed()
        begin_anew_in_children(self._reseed)

    def _reseed(self) -> None:
        # Begun with what the system gives, which is not asked for each id: that takes longer than all else of one. Not the
        # module's own generator: a program that seeds it for the sake of its own results would get the same ids again.
        self._random = random.Random()  # noqa: S311 - an id is to be unique, and is no secret
        self._counter = itertools.count(self._random.getrandbits(_LOW_BITS))

    def generate_span_id(self, now: int) -> str:
        """Give 16 hex digits, never all 0, for a span that starts now, in Unix nanoseconds."""
        value = now // 1_000_000 << _LOW_BITS | next(self._counter) & _LOW_MASK
        return (value & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8).hex()

    def generate_trace_id(self) -> int:
        """Give 128 random bits, never 0."""
        return self._random.getrandbits(128) or 1

    def generate_run_id(self) -> str:
        """Give a UUIDv7 (RFC 9562, method 3): 48 bits of milliseconds, 12 of their fraction, 62 random."""
        time_ms, rest = divmod(time.time_ns(), 1_000_000)
        fraction, chance = (rest << 12) // 1_000_000, self._random.getrandbits(62)
        return (
            f"{time_ms >> 16:08x}-{time_ms & 0xFFFF:04x}-{0x7000 | fraction:04x}"
            f"-{0x8000 | chance >> 48:04x}-{chance & 0xFFFF_FFFF_FFFF:012x}"
        )


IDS: Final = TimeOrderedIdGenerator()
