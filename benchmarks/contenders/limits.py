"""What nobody who keeps a trace can be below: the SDK's own span, and the rows by bare `sqlite3`."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import StatusCode

from benchmarks.contenders import Ready, ours
from benchmarks.work import CHAIN_NODES, DOCUMENT, WORKS
from configurable_agents import create_storage_backend, run_workflow
from configurable_agents.semconv import GEN_AI_OPERATION_NAME, Operation


def take_part(variant: str, folder: Path) -> Ready:
    """Give for each work as much of the limit as it has node executions."""
    one = _span() if variant == "span" else _append(folder)
    return Ready(works={name: one(work.nodes) for name, work in WORKS.items()})


Times = Callable[[int], Callable[[], object]]


class _Capture:
    """Keeps the last node's span as it was at its start, and as it ended."""

    def __init__(self) -> None:
        self.at_start: Mapping[str, Any] = {}
        self.ended: ReadableSpan | None = None

    def on_start(self, span: ReadableSpan) -> None:
        self.at_start = dict(span.attributes or {})

    def on_end(self, span: ReadableSpan) -> None:
        if (span.attributes or {}).get(GEN_AI_OPERATION_NAME) == Operation.EXECUTE_NODE:
            self.ended = span


def _run(**options: Any) -> None:
    names = [f"f{number}" for number in range(CHAIN_NODES)]
    functions = dict.fromkeys(names, lambda x: x + 1)
    run_workflow(ours.chain(names, document=True), {"document": DOCUMENT}, functions=functions, **options)


def _span() -> Times:
    """Give the bare form of a node's span: the same name and attributes, those known at the start given there."""
    capture = _Capture()
    _run(store=False, observers=[capture])
    assert capture.ended is not None
    start, name = capture.at_start, capture.ended.name
    end = {key: value for key, value in (capture.ended.attributes or {}).items() if key not in start}
    tracer = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False).get_tracer("bare")

    def spans(times: int) -> Callable[[], object]:
        def make() -> None:
            for _ in range(times):
                span = tracer.start_span(name, attributes=start)
                span.set_attributes(end)
                span.set_status(StatusCode.OK)
                span.end()

        return make

    return spans


def _append(folder: Path) -> Times:
    """Give the bare form of keeping a run: its rows as ours, each inserted alone, in one transaction."""
    like, path = folder / "like.db", folder / "bare.db"
    _run(store=like)
    create_storage_backend(path).close()
    with contextlib.closing(sqlite3.connect(like)) as source:
        run, insert_run = _row(source, "workflow_runs")
        node, insert_node = _row(source, "execution_states")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = NORMAL")
    numbers = itertools.count(1)

    def rows(times: int) -> Callable[[], object]:
        def append() -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(insert_run, {**run, "span_id": f"{next(numbers):016x}"})
            for _ in range(times):
                connection.execute(insert_node, {**node, "span_id": f"{next(numbers):016x}"})
            connection.execute("COMMIT")

        return append

    return rows


def _row(source: sqlite3.Connection, table: str) -> tuple[dict[str, Any], str]:
    cursor = source.execute(f"SELECT * FROM {table} LIMIT 1")
    names = [column[0] for column in cursor.description]
    values = ", ".join(f":{name}" for name in names)
    return dict(zip(names, cursor.fetchone(), strict=True)), f"INSERT INTO {table} VALUES ({values})"
