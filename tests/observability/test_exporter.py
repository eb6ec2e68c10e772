"""The exporter: running spans show in the store, foreign spans are kept as they are, and nothing is lost in silence."""

from __future__ import annotations

import json
import logging
import sqlite3
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from importlib.metadata import entry_points
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExportResult
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from _runs import calls, chain, eventually, field, kept, rows
from _timing import anew, in_one_of_a_few_tries, timely
from _workflows import make
from configurable_agents import StoreSpanExporter, Workflow, create_storage_backend, run_workflow, semconv
from configurable_agents.observability.route import RunRoute
from configurable_agents.observability.tracing import start_run
from configurable_agents.spans import RecordedSpan
from configurable_agents.storage.records import AnyRecord, NodeStart
from configurable_agents.storage.writer import Writer


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def one(**more: Any) -> Workflow:
    return make([calls("slow", "x") | more], chain("START slow END"), {"x": field("int")}, name="slowly")


@in_one_of_a_few_tries
def test_a_node_that_still_runs_has_a_row_that_says_so_a_moment_later(store: Path) -> None:
    def slow() -> int:
        seen.append(rows(store, "SELECT status FROM execution_states"))
        seen.append(
            eventually(lambda: rows(store, "SELECT node_id, status, seq, duration_seconds FROM execution_states"))
        )
        return 1

    seen: list[Any] = []
    store = anew(store)
    run_workflow(one(), functions={"slow": slow}, store=store)
    assert seen[1] == [("slow", "running", 1, None)]
    timely(seen[0] == [], "not before half a second")
    assert kept(store).said() == [("slow", "completed")], "one row in the end"


@in_one_of_a_few_tries
def test_what_is_short_costs_no_row_of_its_start(store: Path) -> None:
    """Otherwise each run and each node would be written twice."""
    workflow = make([calls("slow", "x")], chain("START slow END"), {"x": field("int")})
    backend = create_storage_backend(store)
    written: list[str] = []
    write = backend.write

    def noting(records: Any) -> None:
        written.extend(f"{record.name} {getattr(record, 'status', '')}" for record in records)
        write(records)

    backend.write = noting  # type: ignore[method-assign]  # a store of the caller's own may be of any class
    run_workflow(workflow, functions={"slow": lambda: 1}, store=backend)
    backend.close()
    timely(written == ["execute_node slow completed", "invoke_workflow made completed"], written)


class Interrupted(Writer):
    """A user presses Ctrl+C as the third write begins."""

    writes = 0

    def write(self, records: Sequence[AnyRecord | NodeStart]) -> None:
        self.writes += 1
        if self.writes == 3:
            raise KeyboardInterrupt
        super().write(records)


def test_an_interrupt_while_records_are_written_takes_nothing_with_it_that_has_ended(store: Path) -> None:
    """What a node did is not to be lost because the next one was about to start."""
    backend = create_storage_backend(store)
    exporter = StoreSpanExporter(writer=Interrupted(None, journals=backend.journals, backend=backend))
    run_id = {semconv.RUN_ID: "01900000-0000-7000-8000-000000000000"}

    def begin(node: str, seq: int) -> RecordedSpan:
        what = run_id | {semconv.GEN_AI_OPERATION_NAME: "execute_node", semconv.NODE_ID: node}
        return run.begin_child(f"execute_node {node}", {**what, semconv.SEQ: seq})

    run = start_run(RunRoute(exporter), "made", Context(), {**run_id, semconv.GEN_AI_OPERATION_NAME: "invoke_workflow"})
    begin("a", 1).complete({semconv.STATUS: "completed"})
    begin("b", 2).complete({semconv.STATUS: "completed"})
    with pytest.raises(KeyboardInterrupt):
        begin("c", 3)
    run.complete({semconv.STATUS: "cancelled"})
    exporter.shutdown()
    backend.close()
    assert kept(store).said() == [("a", "completed"), ("b", "completed")]


def is_amid_a_write(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code is not Writer.write.__code__:
        frame = frame.f_back
    return frame is not None


def test_what_a_signals_handler_raises_amid_a_write_takes_no_record_with_it(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As that of an alarm, which the program had meant for something else; it is heard where a function is entered."""
    left = 0

    def alarm(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        if is_amid_a_write(frame):
            left -= 1
            if not left:
                raise TimeoutError("the program's own")

    workflow = make([calls("a", "x"), calls("b", "x")], chain("START a b END"), {"x": field("int")})
    for number in range(1, 200):
        left, usual = number, sys.gettrace()
        sys.settrace(alarm)
        try:
            result = run_workflow(workflow, functions=dict.fromkeys("ab", lambda: 1), store=store)
        finally:
            sys.settrace(usual)
        assert kept(store, result.run_id).said() == [("a", "completed"), ("b", "completed")], number
        if left > 0:
            break
    else:
        pytest.fail("it never came to its end")
    assert number > 10, "each write enters several functions"
    assert "the program's own" in caplog.text


def foreign_provider(exporter: StoreSpanExporter, *, batch: bool) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter) if batch else SimpleSpanProcessor(exporter))
    return provider


@pytest.mark.parametrize("batch", [False, True])
def test_alone_in_a_foreign_provider_it_keeps_foreign_spans_whole_and_without_a_run(batch: bool, store: Path) -> None:
    backend = create_storage_backend(store)
    provider = foreign_provider(StoreSpanExporter(backend), batch=batch)
    tracer = provider.get_tracer("foreign", "1.2")
    with tracer.start_as_current_span("parent") as parent:
        link = Link(parent.get_span_context(), {"why": "because"})
        with tracer.start_as_current_span(
            "child", kind=SpanKind.CLIENT, links=[link], attributes={"text": "ü", "list": [1, 2], "odd": 2**70}
        ) as child:
            child.add_event("event", {"at": 1})
            child.set_status(Status(StatusCode.ERROR, "it failed"))
    provider.shutdown()
    backend.close()
    found = rows(store, "SELECT name, run_id, kind, status_code, status_message, operation FROM spans ORDER BY name")
    assert found == [
        ("child", None, "CLIENT", "ERROR", "it failed", None),
        ("parent", None, "INTERNAL", "UNSET", None, None),
    ]
    ((attributes, events, links, scope),) = rows(
        store, "SELECT attributes_json, events_json, links_json, scope_json FROM spans WHERE name = 'child'"
    )
    assert json.loads(attributes)["text"] == "ü"
    assert json.loads(attributes)["list"] == [1, 2]
    assert json.loads(events)[0]["name"] == "event"
    assert json.loads(links)[0]["attributes"] == {"why": "because"}
    assert json.loads(scope) == {"name": "foreign", "version": "1.2"}
    assert rows(store, "SELECT count(*) FROM workflow_runs") == [(0,)]


def test_without_arguments_it_opens_the_store_that_the_environment_names(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONFIGURABLE_AGENTS_STORE", str(store))
    provider = foreign_provider(StoreSpanExporter(), batch=False)
    assert not store.exists(), "not before the first span"
    provider.get_tracer("foreign").start_span("only").end()
    provider.shutdown()
    assert rows(store, "SELECT name FROM spans") == [("only",)]


def test_it_is_found_by_its_entry_point() -> None:
    (entry,) = entry_points(group="opentelemetry_traces_exporter", name="configurable_agents")
    assert entry.load() is StoreSpanExporter


def test_where_no_store_can_be_opened_spans_wait_in_the_journal_and_one_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "place" / "runs.db"
    store.mkdir(parents=True)
    monkeypatch.setenv("CONFIGURABLE_AGENTS_STORE", str(store))
    exporter = StoreSpanExporter()
    span: Any = TracerProvider(shutdown_on_exit=False).get_tracer("foreign").start_span("patient")
    span.end()
    assert exporter.export([span]) is SpanExportResult.SUCCESS
    assert not exporter.force_flush(100)
    eventually(lambda: caplog.records)
    assert len(caplog.records) == 1
    assert "is a directory" in caplog.text
    store.rmdir()
    eventually(lambda: store.exists() and exporter.force_flush(100))
    exporter.shutdown()
    assert rows(store, "SELECT name FROM spans") == [("patient",)]


def test_the_same_span_exported_twice_is_one_row(store: Path) -> None:
    backend = create_storage_backend(store)
    exporter = StoreSpanExporter(backend)
    provider = TracerProvider(shutdown_on_exit=False)
    span: Any = provider.get_tracer("foreign").start_span("twice")
    span.end()
    assert [exporter.export([span, span]), exporter.export([span])] == [SpanExportResult.SUCCESS] * 2
    assert exporter.force_flush()
    backend.close()
    assert rows(store, "SELECT name FROM spans") == [("twice",)]


@in_one_of_a_few_tries
def test_a_store_that_is_away_for_long_gets_everything_when_it_comes_back(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = anew(store)
    caplog.clear()
    run_workflow(one(), functions={"slow": lambda: 0}, store=store)
    with closing(sqlite3.connect(store, isolation_level=None)) as other, caplog.at_level(logging.INFO):
        other.execute("BEGIN EXCLUSIVE")
        started = time.perf_counter()
        runs = [run_workflow(one(), functions={"slow": lambda: 1}, store=store) for _ in range(20)]
        seconds = time.perf_counter() - started
        # No run waits until the database has said why.
        eventually(lambda: [record for record in caplog.records if record.levelno >= logging.WARNING])
        other.execute("ROLLBACK")
    assert all(result.degraded for result in runs)
    eventually(lambda: rows(store, "SELECT count(*) FROM workflow_runs WHERE status = 'completed'") == [(21,)])
    assert [kept(store, result.run_id).said() for result in runs] == [[("slow", "completed")]] * 20
    assert sum(record.levelno >= logging.WARNING for record in caplog.records) == 1, caplog.text
    timely(seconds < 20 * 0.2 + 1.5, "after one miss nothing waits until a commit succeeds")


def test_a_record_that_the_store_refuses_is_told_and_takes_no_other_with_it(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen by a record that holds what no database takes."""
    backend = create_storage_backend(store)
    exporter = StoreSpanExporter(backend)
    provider = TracerProvider(shutdown_on_exit=False)
    tracer = provider.get_tracer("foreign")
    spans: list[Any] = [tracer.start_span(name) for name in ("good", "odd \ud800", "also good")]
    for span in spans:
        span.end()
    exporter.export(spans)
    assert exporter.force_flush()
    backend.close()
    names = [name for (name,) in rows(store, "SELECT name FROM spans ORDER BY name")]
    assert {"good", "also good"} <= set(names)
    assert len(names) == 3 or "refused" in caplog.text


def test_no_provider_of_ours_becomes_the_global_one(store: Path) -> None:
    before = trace.get_tracer_provider()
    run_workflow(one(), functions={"slow": lambda: 1}, store=store)
    assert trace.get_tracer_provider() is before


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_the_store_is_for_its_owners_eyes_only(store: Path) -> None:
    run_workflow(one(), functions={"slow": lambda: 1}, store=store)
    assert store.stat().st_mode & 0o077 == 0
