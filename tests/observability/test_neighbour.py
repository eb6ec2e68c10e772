"""A program that traces itself is the same with us as without us, whatever it samples and whenever it begins to trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from _runs import run_program
from _timing import anew, in_one_of_a_few_tries, timely

PROGRAM = """
import json, sys
from pathlib import Path
from _host import Host, SameIds, ids, parent_id

store, ratio, when, requests = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3], 12
host, alone = Host(ratio=ratio, ids=SameIds()), Host(ratio=ratio, ids=SameIds())

from opentelemetry import trace
if when == "before":
    trace.set_tracer_provider(host.provider)
from _runs import calls, chain, field, kept
from _workflows import make
from configurable_agents import run_workflow
workflow = make([calls("a", "x"), calls("b", "y")], chain("START a b END"), {"x": field("str"), "y": field("int")})
if when == "after":
    trace.set_tracer_provider(host.provider)

def query(tracer):
    with tracer.start_as_current_span("query"):
        return 1

def run():
    return run_workflow(workflow, functions={"a": lambda: "a", "b": lambda: query(host.tracer)}, store=store)

results = []
for _ in range(requests):  # as it would have been without us
    with alone.tracer.start_as_current_span("request"):
        query(alone.tracer)
for _ in range(requests):
    with host.tracer.start_as_current_span("request") as request:
        results.append((run(), request.get_span_context()))
own = [(span.name, ids(span)) for span in host.own]
roots = [run() for _ in range(requests)]  # outside of any request of the host's

def told(record):
    return [record.trace_id, record.span_id, record.parent_span_id, record.name]

def whole(found):
    said, run = found.said(), found.run
    return said == [("a", "completed"), ("b", "completed")] and run.status == "completed" and bool(run.config_text)

stored = {result.run_id: kept(store, result.run_id) for result in [*(r for r, _ in results), *roots]}
in_backend = [[*ids(span), parent_id(span), span.name] for span in host.ours]
queries = {parent_id(span): ids(span)[0] for span in host.own if span.name == "query"}
print(json.dumps({
    "degraded": sum(result.degraded for result, _ in results),
    "whole": sum(map(whole, stored.values())),
    "own spans as without us": own == [(span.name, ids(span)) for span in alone.own],
    "sampled requests": sum(context.trace_flags.sampled for _, context in results),
    "sampled roots": sum(stored[r.run_id].run.trace_flags & 1 for r in roots),
    "runs below their requests": sum(
        (stored[r.run_id].run.trace_id, stored[r.run_id].run.parent_span_id) == (f"{c.trace_id:032x}", f"{c.span_id:016x}")
        for r, c in results
    ),
    "as sampled": sorted(in_backend) == sorted(
        told(record)
        for found in stored.values() for record in (found.run, *found.nodes) if record.trace_flags & 1
    ),
    "flags as the request's": all(
        record.trace_flags & 1 == int(c.trace_flags.sampled)
        for r, c in results for record in (stored[r.run_id].run, *stored[r.run_id].nodes)
    ),
    "queries below their nodes": all(
        (found.node("b").span_id in queries) == bool(found.run.trace_flags & 1)
        and queries.get(found.node("b").span_id, found.run.trace_id) == found.run.trace_id
        for found in stored.values()
    ),
    "same provider": trace.get_tracer_provider() is host.provider,
}))
with host.tracer.start_as_current_span("after", context=trace.set_span_in_context(trace.NonRecordingSpan(
        trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(1))))):
    pass
assert host.own[-1].name == "after", "it still exports"
"""


@pytest.mark.parametrize(("ratio", "when"), [(0, "before"), (0.5, "before"), (0.5, "after"), (1, "after")])
@in_one_of_a_few_tries
def test_a_host_and_its_history_are_whole_at_any_ratio(ratio: float, when: str, tmp_path: Path) -> None:
    """The host's spans as without us; ours in its backend exactly where the trace is sampled; the store complete."""
    code, out, err = run_program(PROGRAM, anew(tmp_path / "runs.db"), ratio, when)
    assert (code, err) == (0, "")
    told: dict[str, Any] = json.loads(out)
    sampled = told.pop("sampled requests"), told.pop("sampled roots")
    if ratio == 0.5:
        assert 0 < sampled[0] < 12, "the requests' ids are the same each time"
    else:
        assert sampled == (12 * ratio, 12 * ratio)
    timely(told.pop("degraded") == 0)
    assert told == {
        "whole": 24,
        "own spans as without us": True,
        "runs below their requests": 12,
        "as sampled": True,
        "flags as the request's": True,
        "queries below their nodes": True,
        "same provider": True,
    }


LATE = """
import json, sys
from pathlib import Path
from _host import Host
from opentelemetry import trace
from _runs import calls, chain, field, kept
from _workflows import make
from configurable_agents import run_workflow

store, host = Path(sys.argv[1]), Host()
workflow = make([calls("a", "x")], chain("START a END"), {"x": field("str")})
statuses = []
statuses.append(kept(store, run_workflow(workflow, functions={"a": lambda: "a"}, store=store).run_id).run.status)
assert not isinstance(trace.get_tracer_provider(), type(host.provider)), "a run sets no global provider"
trace.set_tracer_provider(host.provider)
statuses.append(kept(store, run_workflow(workflow, functions={"a": lambda: "a"}, store=store).run_id).run.status)
print(json.dumps([statuses, host.tree()]))
"""


def test_a_host_that_begins_to_trace_after_a_run_gets_the_next_one(tmp_path: Path) -> None:
    """Our import and our runs set nothing global, so the host can still set its own."""
    code, out, err = run_program(LATE, tmp_path / "runs.db")
    assert (code, err) == (0, "")
    assert json.loads(out) == [["completed", "completed"], "invoke_workflow made\n  execute_node a\n"]
