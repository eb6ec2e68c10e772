"""A run belongs to the trace that it is told of, and tells the programs that it starts."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from _both_ways import both_ways
from _cli import run_here
from _runs import Kept, calls, chain, eventually, field, kept, rows
from _workflows import make, workflow_file
from configurable_agents import InputError, Workflow, child_environment, run_workflow
from configurable_agents.observability.propagation import parent_context

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
OTHER = SpanContext(0x1234 << 64, 0x5678, is_remote=False, trace_flags=TraceFlags(1))

INNER = """
schema_version: "1.0"
flow: {name: inner}
state: {fields: {x: {type: str}}}
nodes: [{id: deep, prompt: deep, outputs: [x]}]
edges: [{from: START, to: deep}, {from: deep, to: END}]
config: {llm: {provider: scripted}}
"""

MALFORMED = [
    "",
    "nonsense",
    SAMPLED.upper(),
    SAMPLED[:-1],
    SAMPLED + "-more",
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    SAMPLED * 20,
]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("TRACEPARENT", "TRACESTATE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "runs.db"


def small() -> Workflow:
    return make([calls("a", "x")], chain("START a END"), {"x": field("str")})


def go(store: Path, run: Any = run_workflow, **options: Any) -> Kept:
    return kept(store, run(small(), functions={"a": lambda: "a"}, store=store, **options).run_id)


def place(stored: Kept) -> tuple[str, str | None, int]:
    return stored.run.trace_id, stored.run.parent_span_id, stored.run.trace_flags & 1


# --- in --------------------------------------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize(("traceparent", "flag"), [(SAMPLED, 1), (UNSAMPLED, 0)])
def test_a_run_belongs_below_the_span_that_it_is_given(run: Any, traceparent: str, flag: int, store: Path) -> None:
    assert place(go(store, run, traceparent=traceparent)) == (TRACE, SPAN, flag)


def test_a_later_version_of_the_header_is_read_as_far_as_it_is_known(store: Path) -> None:
    """W3C Trace Context, "Versioning of traceparent"."""
    assert place(go(store, traceparent=f"01-{TRACE}-{SPAN}-01-what-else")) == (TRACE, SPAN, 1)


def test_the_environment_names_the_parent_where_nothing_else_does(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a build server or another program sets it for what it starts."""
    monkeypatch.setenv("TRACEPARENT", SAMPLED)
    monkeypatch.setenv("TRACESTATE", "vendor=1")
    assert place(go(store)) == (TRACE, SPAN, 1)
    with trace.use_span(NonRecordingSpan(OTHER)):
        assert place(go(store)) == (f"{OTHER.trace_id:032x}", f"{OTHER.span_id:016x}", 1), "a current span is nearer"
        assert place(go(store, traceparent=UNSAMPLED)) == (TRACE, SPAN, 0), "and what is said outright is nearest"


def test_the_vendors_part_of_the_trace_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    context = parent_context(None, {"TRACEPARENT": SAMPLED, "TRACESTATE": "vendor=1,other=2"})
    state = trace.get_current_span(context).get_span_context().trace_state
    assert dict(state) == {"vendor": "1", "other": "2"}
    told = parent_context(UNSAMPLED, {"TRACEPARENT": SAMPLED, "TRACESTATE": "vendor=1"})
    assert dict(trace.get_current_span(told).get_span_context().trace_state) == {}, "it belongs to the other parent"


def test_the_callers_baggage_stays_with_a_run_that_is_given_a_parent() -> None:
    token = otel_context.attach(baggage.set_baggage("tenant", "blue"))
    try:
        assert baggage.get_baggage("tenant", parent_context(SAMPLED, {})) == "blue"
    finally:
        otel_context.detach(token)


@pytest.mark.parametrize("traceparent", MALFORMED)
def test_a_malformed_parent_is_an_error_before_anything_runs(traceparent: str, store: Path) -> None:
    with pytest.raises(InputError, match=r"traceparent '.*' is malformed: it must be '00-' and 32 hex digits"):
        go(store, traceparent=traceparent)
    assert not store.exists()


@pytest.mark.parametrize("traceparent", [text for text in MALFORMED if text])
def test_a_malformed_parent_in_the_environment_is_ignored_with_one_warning(
    traceparent: str, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What an unknown program has set must not stop a run."""
    monkeypatch.setenv("TRACEPARENT", traceparent + " " * len(store.name))
    monkeypatch.setenv("TRACESTATE", f"test={store.parent.name}"[:200])
    with caplog.at_level(logging.WARNING):
        places = [place(go(store)) for _ in range(2)]
    assert [parent for _, parent, _ in places] == [None, None]
    ours = [record for record in caplog.records if record.name.startswith("configurable_agents")]
    assert len(ours) == 1
    assert "TRACEPARENT is ignored" in ours[0].message


@given(st.text(max_size=80) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True))
def test_any_text_is_a_parent_or_an_input_error(text: str) -> None:
    with contextlib.suppress(InputError):
        context = trace.get_current_span(parent_context(text, {})).get_span_context()
        assert context.is_valid
        assert context.is_remote
        assert f"{context.trace_id:032x}-{context.span_id:016x}" in text


def test_a_command_line_names_the_parent_too(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For a build server or a shell script that is traced itself."""
    file = str(workflow_file(store.parent, INNER))
    assert run_here(capsys, "run", file, "--store", str(store), "--traceparent", SAMPLED).code == 0
    assert place(kept(store)) == (TRACE, SPAN, 1)
    said = run_here(capsys, "run", file, "--store", str(store), "--traceparent", "nonsense")
    assert (said.code, said.err[:45]) == (2, "error: traceparent 'nonsense' is malformed: i")


# --- out -------------------------------------------------------------------------------------------------------------------


def test_a_child_process_is_told_of_the_span_that_starts_it() -> None:
    with trace.use_span(NonRecordingSpan(OTHER)):
        child = child_environment({"PATH": "/bin", "TRACEPARENT": SAMPLED, "TRACESTATE": "vendor=1"})
    assert child == {"PATH": "/bin", "TRACEPARENT": f"00-{OTHER.trace_id:032x}-{OTHER.span_id:016x}-01"}


def test_without_a_span_a_child_is_told_of_none() -> None:
    """An old value would put the child below a span that has nothing to do with it."""
    assert child_environment({"PATH": "/bin", "TRACEPARENT": SAMPLED, "TRACESTATE": "vendor=1"}) == {"PATH": "/bin"}
    assert child_environment().keys() == os.environ.keys() - {"TRACEPARENT", "TRACESTATE"}


@pytest.mark.parametrize("pooled", [False, True], ids=["inline", "in the pool"])
def test_a_workflow_run_by_a_child_process_is_part_of_the_trace(pooled: bool, store: Path) -> None:
    """A node's function starts a program, which runs a workflow: one trace, in one store."""
    inner = workflow_file(store.parent, INNER)

    def a() -> str:
        command = [sys.executable, "-m", "configurable_agents.cli.main", "run", str(inner), "--store", str(store)]
        done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return "a"

    node = calls("a", "x") | ({"timeout": 60} if pooled else {})
    workflow = make([node], chain("START a END"), {"x": field("str")}, name="outer")
    outer = kept(store, run_workflow(workflow, functions={"a": a}, store=store).run_id)
    query = "SELECT run_id FROM workflow_runs WHERE workflow_name = 'inner'"
    ((inner_id,),) = eventually(lambda: rows(store, query))
    assert place(kept(store, inner_id))[:2] == (outer.run.trace_id, outer.node("a").span_id)
