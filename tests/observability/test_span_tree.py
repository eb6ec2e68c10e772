"""The spans of a run: their names, their order, what they say, and that each ends with a status."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from _both_ways import both_ways
from _runs import Run, asks, calls, field, kept, scripted
from _timing import in_one_of_a_few_tries, timely
from _workflows import Spans, make
from configurable_agents import NodeExecutionError, Workflow, semconv
from configurable_agents.runtime.executor import run_workflow


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def support() -> Workflow:
    return make(
        [asks("draft", "text"), calls("review", "ok", text="{text}"), calls("count", "n"), asks("send", "sent")],
        [
            {"from": "START", "to": "draft"},
            {"from": "draft", "to": ["review", "count"]},
            {"from": "review", "to": "send"},
            {"from": "count", "to": "send"},
            {"from": "send", "to": "END"},
        ],
        {"text": field("str"), "ok": field("bool"), "n": field("int"), "sent": field("str")},
        scripted(price={"input_per_mtok": 1, "output_per_mtok": 1}),
        name="support",
    )


FUNCTIONS: dict[str, Any] = {"review": lambda text: True, "count": lambda: 3}

TREE = """\
invoke_workflow support
  execute_node draft
    chat scripted
  execute_node review
  execute_node count
  execute_node send
    chat scripted
"""


@both_ways
def test_a_run_is_one_tree_of_spans(run: Run, store: Path) -> None:
    spans = Spans()
    run(support(), functions=FUNCTIONS, store=store, observers=[spans])
    assert spans.tree() == TREE
    assert len(spans.ended) == len(spans.started) == 7
    assert spans.ended[-1].name == "invoke_workflow support"


@both_ways
def test_the_store_holds_the_same_tree(run: Run, store: Path) -> None:
    spans = Spans()
    run(support(), functions=FUNCTIONS, store=store, observers=[spans])
    stored = kept(store)
    records = [stored.run, *stored.nodes, *stored.spans]
    by_id = {record.span_id: record for record in records}
    assert {(r.name, by_id[r.parent_span_id].name if r.parent_span_id else None) for r in records} == {
        ("invoke_workflow support", None),
        ("execute_node draft", "invoke_workflow support"),
        ("execute_node review", "invoke_workflow support"),
        ("execute_node count", "invoke_workflow support"),
        ("execute_node send", "invoke_workflow support"),
        ("chat scripted", "execute_node draft"),
        ("chat scripted", "execute_node send"),
    }
    for span in spans.ended:
        context = span.get_span_context()
        assert context is not None
        record = by_id[f"{context.span_id:016x}"]
        assert (record.start_time_unix_nano, record.end_time_unix_nano) == (span.start_time, span.end_time)


def test_span_ids_sort_by_time_and_trace_ids_do_not(store: Path) -> None:
    spans = Spans()
    run = partial(run_workflow, support(), functions=FUNCTIONS, store=store, observers=[spans])
    traces = [run().trace_id for _ in range(5)]
    ids = [context.span_id for span in spans.started if (context := span.get_span_context())]
    milliseconds = [span_id >> 22 for span_id in ids]
    assert milliseconds == sorted(milliseconds)
    assert len(set(ids)) == len(ids)
    assert len(set(traces)) == 5
    assert len({trace[:4] for trace in traces}) > 1, "random, not by the clock"


@both_ways
def test_names_and_kinds_follow_the_conventions(run: Run, store: Path) -> None:
    spans = Spans()
    run(support(), functions=FUNCTIONS, store=store, observers=[spans])
    by_name = {span.name: span for span in spans.ended}
    root, node, call = by_name["invoke_workflow support"], by_name["execute_node draft"], by_name["chat scripted"]
    assert {span.kind for span in spans.ended} == {SpanKind.INTERNAL}, "a scripted model runs in this process"
    attributes = dict(root.attributes or {})
    assert attributes["gen_ai.operation.name"] == "invoke_workflow"
    assert attributes["gen_ai.workflow.name"] == "support"
    assert attributes["openinference.span.kind"] == "CHAIN"
    assert dict(node.attributes or {})["configurable_agents.node.id"] == "draft"
    said = dict(call.attributes or {})
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.request.model"] == said["gen_ai.response.model"] == "scripted"
    assert said["openinference.span.kind"] == "LLM"
    assert said["gen_ai.usage.input_tokens"] == 1
    # Money and tokens by the conventions' names stand on model calls only, so that no backend counts them twice.
    for span in spans.ended:
        if span.name != "chat scripted":
            assert not [name for name in span.attributes or {} if name.startswith("gen_ai.usage")]
    assert attributes["configurable_agents.input_tokens"] == 2


def test_what_is_known_at_the_start_is_given_at_the_start(store: Path) -> None:
    """Samplers and progress displays see it."""
    seen: dict[str, dict[str, Any]] = {}

    class Starts(Spans):
        def on_start(self, span: Any) -> None:
            seen[span.name] = dict(span.attributes)

    run_workflow(support(), functions=FUNCTIONS, store=store, observers=[Starts()])
    assert seen["invoke_workflow support"][semconv.GEN_AI_WORKFLOW_NAME] == "support"
    assert seen["execute_node send"][semconv.READS_FROM] == (2, 3)
    assert seen["chat scripted"][semconv.GEN_AI_REQUEST_MODEL] == "scripted"
    assert all(semconv.RUN_ID in attributes for attributes in seen.values())


@both_ways
@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "completed"), (ValueError("bad"), "failed"), (SystemExit(1), "failed"), (KeyboardInterrupt(), "cancelled")],
)
def test_every_span_ends_with_a_status(run: Run, error: BaseException | None, status: str, store: Path) -> None:
    """UNSET would look like success."""

    def count() -> int:
        if error is not None:
            raise error
        return 3

    spans = Spans()
    try:
        run(support(), functions=FUNCTIONS | {"count": count}, store=store, observers=[spans])
    except (NodeExecutionError, SystemExit, KeyboardInterrupt):
        assert error is not None
    assert len(spans.ended) == len(spans.started)
    for span in spans.ended:
        own = (span.attributes or {})[semconv.STATUS]
        assert span.status.status_code is (StatusCode.OK if own == "completed" else StatusCode.ERROR), span.name
    assert (spans.ended[-1].attributes or {})[semconv.STATUS] == status
    assert kept(store).run.status == status


@in_one_of_a_few_tries
def test_an_observer_that_raises_changes_nothing(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Bad(Spans):
        def on_start(self, span: Any) -> None:
            raise ValueError("start")

        def on_end(self, span: Any) -> None:
            raise ValueError("end")

    after = Spans()
    result = run_workflow(support(), functions=FUNCTIONS, store=store, observers=[Bad(), after])
    timely(not result.degraded)
    assert after.tree() == TREE
    assert "an observer of the run failed" in caplog.text
