"""What would be shipped is one decision; what is kept is another, and it is always everything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from _runs import Kept, asks, calls, chain, field, kept, run_program, scripted
from _timing import anew, in_one_of_a_few_tries, timely
from _workflows import Spans, make
from configurable_agents import Workflow, run_workflow


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def small() -> Workflow:
    return make(
        [asks("a", "x"), calls("b", "y")], chain("START a b END"), {"x": field("str"), "y": field("int")}, scripted()
    )


@in_one_of_a_few_tries
def run_small(store: Path) -> Kept:
    spans = Spans()
    result = run_workflow(small(), functions={"b": lambda: 1}, store=store, observers=[spans])
    timely(not result.degraded)
    stored = kept(store, result.run_id)
    complete(stored)
    return stored


def complete(stored: Kept) -> None:
    """The whole run is there, with its start attributes."""
    assert stored.said() == [("a", "completed"), ("b", "completed")]
    assert [span.name for span in stored.spans] == ["chat scripted"]
    assert (stored.run.workflow_name, stored.run.inputs_json, stored.node("b").outputs) == ("made", "{}", {"y": 1})


def flags(stored: Kept) -> set[int]:
    return {record.trace_flags & 1 for record in (stored.run, *stored.nodes, *stored.spans)}


@pytest.mark.parametrize("sampled", [False, True])
def test_below_a_parent_its_flag_decides_what_would_be_shipped(sampled: bool, store: Path) -> None:
    parent = SpanContext(0x1234 << 64, 0x5678, is_remote=True, trace_flags=TraceFlags(int(sampled)))
    with trace.use_span(NonRecordingSpan(parent)):
        stored = run_small(store)
    assert flags(stored) == {int(sampled)}
    assert (stored.run.trace_id, stored.run.parent_span_id) == (f"{0x1234 << 64:032x}", f"{0x5678:016x}")


def test_every_span_keeps_the_trace_state_and_only_the_runs_parent_is_remote(store: Path) -> None:
    state = TraceState([("vendor", "1")])
    parent = SpanContext(0x1234 << 64, 0x5678, is_remote=True, trace_flags=TraceFlags(1), trace_state=state)
    with trace.use_span(NonRecordingSpan(parent)):
        stored = run_small(store)
    found = [(record.trace_state, record.trace_flags) for record in (stored.run, *stored.nodes, *stored.spans)]
    assert found == [("vendor=1", 0x201), ("vendor=1", 1), ("vendor=1", 1), ("vendor=1", 1)]


def test_without_a_parent_and_a_host_everything_would_be_shipped(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_TRACES_SAMPLER", raising=False)
    assert flags(run_small(store)) == {1}


def test_a_provider_that_the_environment_names_in_vain_stops_no_run(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API raises whenever anybody asks for it, and may be asked for the first time by us."""
    monkeypatch.setenv("OTEL_PYTHON_TRACER_PROVIDER", "nobodys")
    assert flags(run_small(store)) == {1}


@pytest.fixture
def host() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    """A provider of the host's own, not the global one; its spans nest with ours all the same."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


def test_a_run_inside_a_hosts_span_is_part_of_its_trace(host: Any, store: Path) -> None:
    provider, exporter = host
    tracer = provider.get_tracer("host")
    with tracer.start_as_current_span("request") as span:
        stored = run_small(store)
    context = span.get_span_context()
    assert stored.run.trace_id == f"{context.trace_id:032x}"
    assert stored.run.parent_span_id == f"{context.span_id:016x}"
    assert [s.name for s in exporter.get_finished_spans()] == ["request"]


def test_a_hosts_span_inside_a_node_nests_below_it_and_stays_the_hosts(host: Any, store: Path) -> None:
    provider, exporter = host
    tracer = provider.get_tracer("host")

    def b() -> int:
        with tracer.start_as_current_span("query"):
            return 1

    run_workflow(small(), functions={"b": b}, store=store)
    stored = kept(store)
    (query,) = exporter.get_finished_spans()
    assert f"{query.parent.span_id:016x}" == stored.node("b").span_id
    assert [span.name for span in stored.spans] == ["chat scripted"], "only ours are in the store"


HOST = """
import json, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from _runs import calls, chain, field, kept
from _workflows import make
from configurable_agents import run_workflow
from pathlib import Path

store, ratio = sys.argv[1:]
exporter, provider = InMemorySpanExporter(), None
if ratio != "none":
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(float(ratio))))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
before = trace.get_tracer_provider()
# No model: loading langchain-core takes longer than all the rest.
workflow = make([calls("a", "x"), calls("b", "y")], chain("START a b END"), {"x": field("str"), "y": field("int")})
tracer = trace.get_tracer("host")

def b():
    with tracer.start_as_current_span("query"):
        return 1

result = run_workflow(workflow, functions={"a": lambda: "a", "b": b}, store=store)
stored = kept(Path(store), result.run_id)
records = [stored.run, *stored.nodes, *stored.spans]
print(json.dumps({
    "degraded": result.degraded,
    "names": [record.name for record in records],
    "statuses": sorted({record.status_code for record in records}),
    "flags": sorted({record.trace_flags & 1 for record in records}),
    "whole": [stored.run.workflow_name, stored.node("b").outputs, stored.node("a").outputs, stored.run.config_text is not None],
    "same provider": trace.get_tracer_provider() is before,
    "host": [span.name for span in exporter.get_finished_spans() if span.name == "query"],
}))
if provider is not None:
    with tracer.start_as_current_span("after"):
        pass
"""


@pytest.mark.parametrize(
    ("ratio", "environment", "flag", "host"),
    [
        ("0", {}, 0, []),
        ("1", {}, 1, ["query"]),
        ("none", {}, 1, []),
        ("none", {"OTEL_TRACES_SAMPLER": "always_off"}, 0, []),
        ("1", {"OTEL_TRACES_SAMPLER": "always_off"}, 1, ["query"]),
        ("none", {"OTEL_SDK_DISABLED": "true"}, 0, []),
        ("1", {"OTEL_SDK_DISABLED": "true"}, 0, []),
        ("none", {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "1", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "3"}, 1, []),
    ],
)
@in_one_of_a_few_tries
def test_the_store_is_complete_whatever_would_be_shipped(
    ratio: str, environment: dict[str, str], flag: int, host: list[str], store: Path
) -> None:
    code, out, err = run_program(HOST, anew(store), ratio, **environment)
    assert code == 0, err
    assert err in {"", "SDK is disabled.\n"}, "older SDKs say so where a host makes its tracer"
    told = json.loads(out)
    timely(told.pop("degraded") is False)
    assert told == {
        "names": ["invoke_workflow made", "execute_node a", "execute_node b"],
        "statuses": ["OK"],
        "flags": [flag],
        "whole": ["made", {"y": 1}, {"x": "a"}, True],
        "same provider": True,
        "host": host,
    }
