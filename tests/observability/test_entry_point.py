"""`OTEL_TRACES_EXPORTER=configurable_agents`: the store keeps the spans of any program that is traced from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from _cli import run_process
from _runs import TESTS, eventually, kept, rows

FOREIGN = """
from opentelemetry import trace
tracer = trace.get_tracer("shop", "2.1")
with tracer.start_as_current_span("request", kind=trace.SpanKind.SERVER, attributes={"n": 1, "names": ["a", "b"]}) as span:
    span.add_event("looked", {"at": "cart"})
    with tracer.start_as_current_span("query"):
        pass
    try:
        with tracer.start_as_current_span("payment"):
            raise ValueError("no money")
    except ValueError:
        pass
import sys
assert not [name for name in sys.modules if name.startswith("langchain")], "a program pays for what it uses"
"""

BOTH = """
from opentelemetry import trace
from _runs import asks, calls, chain, field, scripted
from _workflows import make
from configurable_agents import run_workflow

tracer = trace.get_tracer("shop")

def b(said):
    with tracer.start_as_current_span("query"):
        return len(said)

nodes = [asks("a", "x"), calls("b", "y", said="{x}")]
workflow = make(nodes, chain("START a b END"), {"x": field("str"), "y": field("int")}, scripted("what it said"))
with tracer.start_as_current_span("request"):
    print(run_workflow(workflow, functions={"b": b}).run_id)
"""


def traced(program: str, store: Path, **environment: str) -> str:
    """Run a program under `opentelemetry-instrument`, with nothing but the environment to say where spans go."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    (store.parent / "program.py").write_text(program, encoding="utf-8")
    done = subprocess.run(
        [Path(sys.executable).with_name("opentelemetry-instrument"), sys.executable, "program.py"],
        cwd=store.parent,
        env={
            **variables,
            "PYTHONPATH": str(TESTS),
            "OTEL_TRACES_EXPORTER": "configurable_agents",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_SERVICE_NAME": "shop",
            "CONFIGURABLE_AGENTS_STORE": str(store),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    # On a machine with much to do the store may not open before the program's end is up; then its journal has the records.
    said = done.stderr.splitlines()
    if said and "are not in the store yet; they are kept in" in said[-1]:
        said.pop()
        assert run_process(["runs", "list", "--store", str(store)], store.parent).code == 0, "takes up what is left"
    assert (done.returncode, said) == (0, [])
    return done.stdout.strip()


def spans(store: Path) -> list[tuple[str, str, str | None, str | None, str]]:
    found: list[tuple[str, str, str | None, str | None, str]] = rows(
        store, "SELECT name, span_id, parent_span_id, run_id, attributes_json FROM spans ORDER BY start_time_unix_nano"
    )
    return found


def test_the_store_keeps_the_spans_of_a_program_that_is_not_ours(tmp_path: Path) -> None:
    store = tmp_path / "spans.db"
    traced(FOREIGN, store)
    found = eventually(lambda: spans(store))
    assert [name for name, *_ in found] == ["request", "query", "payment"]
    request, query, payment = found
    assert {run_id for *_, run_id, _ in found} == {None}
    assert (query[2], payment[2]) == (request[1], request[1])
    assert json.loads(request[4]) == {"n": 1, "names": ["a", "b"]}
    assert rows(store, "SELECT count(*) FROM workflow_runs") == [(0,)]
    resources = rows(store, "SELECT DISTINCT resource_json FROM spans")
    assert [json.loads(text)["service.name"] for (text,) in resources] == ["shop"]


def test_a_run_in_such_a_program_is_kept_once_and_whole(tmp_path: Path) -> None:
    """The host's exporter gets filtered copies of the run's spans; what the run itself keeps is the whole."""
    store = tmp_path / "spans.db"
    run_id = traced(BOTH, store)
    stored = kept(store, run_id)
    assert stored.said() == [("a", "completed"), ("b", "completed")]
    assert stored.run.config_text
    assert (stored.node("b").inputs, stored.node("b").outputs) == ({"said": "what it said"}, {"y": 12})
    assert "what it said" in stored.spans[0].attributes_json
    names = eventually(lambda: sorted(name for name, *_ in spans(store)) if len(spans(store)) >= 3 else [])
    assert names == ["chat scripted", "query", "request"]
    (query,) = [span for span in spans(store) if span[0] == "query"]
    assert query[2] == stored.node("b").span_id
    assert rows(store, "SELECT count(*) FROM workflow_runs") == [(1,)]
    assert rows(store, "SELECT count(*) FROM execution_states") == [(2,)]


def test_a_program_that_samples_nothing_still_keeps_its_runs(tmp_path: Path) -> None:
    store = tmp_path / "spans.db"
    stored = kept(store, traced(BOTH, store, OTEL_TRACES_SAMPLER="always_off"))
    assert stored.said() == [("a", "completed"), ("b", "completed")]
    assert [name for name, *_ in spans(store)] == ["chat scripted"], (
        "what is not sampled, the host's exporter never sees"
    )
