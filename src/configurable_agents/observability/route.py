"""Where the spans of one run go: to the store's exporter, and to whoever watches the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from configurable_agents.logs import logger_of
from configurable_agents.observability.exporter import StoreSpanExporter
from configurable_agents.observability.records import run_record
from configurable_agents.observability.spans import RunSpan, SpanRoute
from configurable_agents.semconv import Operation
from configurable_agents.storage.records import NodeStart, Record

logger = logger_of(__name__)

_NODE: Final = Operation.EXECUTE_NODE.value
_RUN: Final = Operation.INVOKE_WORKFLOW.value


class RunRoute:
    """Keeps a run's spans, and hands them to further routes and to who watches the run.

    What has ended is written together with what starts next, where that follows at once: a node's record is durable
    before the next one's code runs, and there is one write for each node, not two.
    """

    def __init__(
        self,
        exporter: StoreSpanExporter | None,
        further: Sequence[SpanRoute] = (),
        observers: Sequence[SpanRoute] = (),
    ) -> None:
        self._exporter = exporter
        self._told = (*further, *observers)
        self.leads_somewhere = exporter is not None or bool(self._told)
        """Whether anybody takes the spans."""
        self._is_watched = bool(observers)
        self._held: list[Record] = []
        """What is to be written with the next span: a run with its first node, model calls with their node, a node with
        its successor."""
        self._open_nodes = 0

    def on_start(self, span: RunSpan) -> None:
        """Keep the start of a run or node, and what has ended before it."""
        exporter = self._exporter
        if exporter is not None:
            if span.operation == _NODE:
                self._open_nodes += 1
                exporter.record([*self._held, NodeStart(span.fields, span.known_attributes)])
                self._held = []  # only now: an interrupt in between must not lose what has ended
            elif span.operation == _RUN:
                # Before its first node starts nothing has happened that anybody could miss: the two are one write. Only
                # the first run of a process waits for its row, and for the store to be opened.
                self._hold(span)
                if not exporter.is_open:
                    self._write_held(exporter)
        if self._told:
            self._tell("on_start", span)

    def on_end(self, span: RunSpan) -> None:
        """Keep the finished span."""
        exporter = self._exporter
        if exporter is not None:
            self._hold(span)
            if span.operation == _NODE:
                self._open_nodes -= 1
                # With no other node open nothing is waited for: the next node starts now, or the run ends. Who watches,
                # though, may tell others what has ended, and be believed.
                if self._open_nodes or self._is_watched:
                    self._write_held(exporter)
            elif span.operation == _RUN:
                self._write_held(exporter)
        if self._told:
            self._tell("on_end", span)

    def _hold(self, span: RunSpan) -> None:
        try:
            self._held.append(run_record(span))
        except Exception:  # telemetry never breaks a run: this line is the only witness
            logger.exception("could not keep the span %r", span.name)

    def _write_held(self, exporter: StoreSpanExporter) -> None:
        exporter.record(self._held)
        self._held = []  # only now, as above

    def _tell(self, what: str, span: RunSpan) -> None:
        for route in self._told:
            try:
                getattr(route, what)(span)
            except Exception:  # who watches a run does not change it
                logger.exception("an observer of the run failed")
