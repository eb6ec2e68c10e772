"""What goes on: runs and node executions that have begun and not ended, and which of them the database has no row of.

Mostly an end comes soon, says everything, and makes the start superfluous; so it waits apart from all other records.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from configurable_agents.storage.codec import OpenSpan
from configurable_agents.storage.journal import Journal, Position
from configurable_agents.storage.records import SpanKey

START_SECONDS: Final = 0.5
"""What goes on for so long gets a row that says so, for who looks on. The journal has it from the start."""
RUN, NODE = "run", "node"


@dataclass(slots=True)
class Start:
    """A run or node execution that goes on."""

    kind: str
    span_id: str
    trace_id: str
    run_id: str
    journal: Journal | None
    """None where only the memory has it: then its row is written like any other record's."""
    position: Position
    """Of what was written with it."""
    offset: int
    """Of itself in there: what was written before it need not be kept for it."""
    since: float
    """On the monotonic clock."""


class Starts:
    """The starts of one process."""

    def __init__(self) -> None:
        self._open: dict[str, Start] = {}
        self._unsaid: dict[str, Start] = {}
        """That of it which only the journal knows, by span id; the oldest first."""
        self._unsaid_runs: dict[str | None, Start] = {}
        """The runs among them, by run id."""
        self._runs: dict[str, Start] = {}
        """The runs that go on, by span id."""

    def __len__(self) -> int:
        return len(self._open)

    @property
    def runs(self) -> int:
        """How many runs go on."""
        return len(self._runs)

    @property
    def unsaid(self) -> Collection[Start]:
        """What the database has no row of, the oldest first."""
        return self._unsaid.values()

    @property
    def is_said(self) -> bool:
        """Whether the database has a row of all that goes on."""
        return not self._unsaid

    @property
    def is_due(self) -> bool:
        """Whether something has gone on for so long that the database is to say so."""
        return next(self.due(), None) is not None

    @property
    def trace_ids(self) -> set[str]:
        """The traces that go on."""
        return {start.trace_id for start in self._open.values()}

    def begin(self, start: Start) -> None:
        """Note that something goes on."""
        if start.kind is RUN:
            self._runs[start.span_id] = start
        self._open[start.span_id] = start
        if start.journal is not None:
            self._unsaid[start.span_id] = start
            if start.kind is RUN:
                self._unsaid_runs[start.run_id] = start

    def end(self, span_id: str) -> None:
        """Note that it does not any more; nothing if that is not known to have begun."""
        start = self._open.pop(span_id, None)
        if start is None:
            return
        self._runs.pop(span_id, None)
        self.say([start])

    def say(self, starts: Iterable[Start]) -> None:
        """Note that the database has rows of them."""
        for start in starts:
            self._unsaid.pop(start.span_id, None)
            if start.kind is RUN:
                self._unsaid_runs.pop(start.run_id, None)

    def due(self) -> Iterator[Start]:
        """Give what has gone on for so long that the database is to say so."""
        due_since = time.monotonic() - START_SECONDS
        return takewhile(lambda start: start.since <= due_since, self._unsaid.values())

    def unsaid_runs(self, run_ids: set[str | None]) -> list[Start]:
        """Give those of these runs that the database has no row of."""
        return [self._unsaid_runs[run_id] for run_id in run_ids & self._unsaid_runs.keys()]

    def is_unsaid_run(self, run_id: str) -> bool:
        """Say whether this run goes on, and the database has no row of it."""
        return run_id in self._unsaid_runs

    def open_runs(self) -> list[SpanKey]:
        """Give the runs that go on."""
        return [SpanKey(start.run_id, start.span_id, start.trace_id) for start in self._runs.values()]

    def notes(self) -> Iterator[OpenSpan]:
        """Give what a journal's next segment is to say of what goes on."""
        return (OpenSpan(start.kind, start.run_id, start.span_id, start.trace_id) for start in self._open.values())
