"""What a program's own backend gets of our runs: each sampled span, whole but for content, as if its provider had made it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, Sampler, SamplingResult
from opentelemetry.trace import StatusCode

from _both_ways import both_ways
from _host import Host, global_host, ids, parent_id, tree
from _otlp import otlp_receiver
from _runs import Kept, asks, calls, chain, field, kept, scripted
from _timing import in_one_of_a_few_tries, timely
from _workflows import make
from configurable_agents import NodeExecutionError, RunResult, StoreSpanExporter, Workflow, run_workflow

SECRET = "what nobody else shall read"


@pytest.fixture(autouse=True)
def _no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def host() -> Iterator[Host]:
    with global_host(Host()) as host:
        yield host


def workflow() -> Workflow:
    nodes = [asks("a", "x", system=SECRET), calls("b", "y", said="{x}")]
    fields = {"x": field("str"), "y": field("int"), "topic": field("str", SECRET)}
    return make(nodes, chain("START a b END"), fields, scripted(SECRET))


def run(store: Path | bool, **options: Any) -> RunResult:
    return run_workflow(workflow(), functions={"b": lambda said: len(said)}, store=store, **options)


TREE = """\
invoke_workflow made
  execute_node a
    chat scripted
  execute_node b
"""


@both_ways
def test_each_span_of_a_run_reaches_the_hosts_backend(run: Any, host: Host, store: Path) -> None:
    run(workflow(), functions={"b": lambda said: len(said)}, store=store)
    assert host.tree() == TREE


def test_a_span_there_is_the_span_in_the_store(host: Host, store: Path) -> None:
    """Ids, parents, kinds, times, status: whoever goes from one to the other finds the same."""
    stored = kept(store, run(store).run_id)

    def seen(record: Any) -> tuple[Any, ...]:
        times = (record.start_time_unix_nano, record.end_time_unix_nano)
        return (record.trace_id, record.span_id, record.parent_span_id, record.name, record.kind, *times)

    there = [
        (*ids(span), parent_id(span), span.name, span.kind.name, span.start_time, span.end_time) for span in host.ours
    ]
    assert sorted(there) == sorted(seen(record) for record in (stored.run, *stored.nodes, *stored.spans))
    assert {span.status.status_code for span in host.ours} == {StatusCode.OK}


def test_the_resource_is_the_hosts(host: Host, store: Path) -> None:
    run(store)
    assert {span.resource for span in host.ours} == {host.provider.resource}


def test_content_stays_here(host: Host, store: Path) -> None:
    stored = kept(store, run(store).run_id)
    assert SECRET in str(stored.nodes), "the store has it"
    assert SECRET not in "".join(span.to_json() for span in host.ours)
    assert {key for span in host.ours for key in span.attributes or {} if "content" in key} == set()


def test_content_leaves_where_it_is_asked_for(host: Host, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")
    run(store)
    (chat,) = [span for span in host.ours if span.name == "chat scripted"]
    assert SECRET in str((chat.attributes or {})["gen_ai.output.messages"])


def test_a_failure_is_told_without_its_text(host: Host, store: Path) -> None:
    def b(said: str) -> int:
        raise ValueError(said)

    with pytest.raises(NodeExecutionError):
        run_workflow(workflow(), functions={"b": b}, store=store)
    failed = {span.name: span for span in host.ours if span.status.status_code is StatusCode.ERROR}
    assert sorted(failed) == ["execute_node b", "invoke_workflow made"]
    assert [event.name for event in failed["execute_node b"].events] == ["exception"]
    assert (failed["execute_node b"].attributes or {})["error.type"] == "ValueError"
    assert SECRET not in "".join(span.to_json() for span in host.ours)


def test_nothing_is_handed_over_where_that_is_turned_off(host: Host, store: Path) -> None:
    run(store, ship_to_host=False)
    assert host.tree() == "\n"
    assert kept(store).said() == [("a", "completed"), ("b", "completed")]


def test_with_an_endpoint_of_ours_spans_go_there_and_only_there(host: Host, store: Path) -> None:
    with otlp_receiver("http/protobuf") as receiver:
        run(store, otlp=receiver.endpoint)
        receiver.wait_for(4)
        assert receiver.tree() == TREE
        assert {span.resource["service.name"] for span in receiver.spans} == {"shop"}
    assert host.tree() == "\n"


def test_spans_are_handed_over_without_a_store_too(host: Host) -> None:
    run(False)
    assert host.tree() == TREE


def test_spans_nest_both_ways(host: Host, store: Path) -> None:
    def b(said: str) -> int:
        with host.tracer.start_as_current_span("query"):
            return len(said)

    with host.tracer.start_as_current_span("request"):
        run_workflow(workflow(), functions={"b": b}, store=store)
    assert host.tree() == "request\n" + "".join(f"  {line}\n" for line in TREE.splitlines()) + "      query\n"
    assert len({ids(span)[0] for span in host.spans}) == 1


# --- the hosts' processors -------------------------------------------------------------------------------------------------


class Watcher(SpanProcessor):
    """Does what real processors do: looks at the parent and the baggage, sets attributes, keeps count."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.shut_down = False

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        parent = trace.get_current_span(parent_context)
        self.seen.append(f"start {span.name} in {getattr(parent, 'name', 'nothing')}")
        assert span.is_recording()
        for name, value in baggage.get_all(parent_context).items():
            span.set_attribute(name, str(value))

    def on_end(self, span: ReadableSpan) -> None:
        self.seen.append(f"end {span.name}")

    def shutdown(self) -> None:
        self.shut_down = True


@pytest.mark.parametrize("inside", [True, False])
def test_processors_see_starts_and_ends_in_their_order(inside: bool, store: Path) -> None:
    """Processors that time spans, find the local root or add attributes need the start, the parent and the baggage."""
    watcher = Watcher()
    with global_host(Host(processors=[watcher])) as host:
        token = otel_context.attach(baggage.set_baggage("tenant", "blue"))
        try:
            if inside:
                with host.tracer.start_as_current_span("request"):
                    run(store)
            else:
                run(store)
        finally:
            otel_context.detach(token)
        seen = [line for line in watcher.seen if "request" not in line or "made" in line]
        assert seen == [
            f"start invoke_workflow made in {'request' if inside else 'nothing'}",
            "start execute_node a in invoke_workflow made",
            "start chat scripted in execute_node a",
            "end chat scripted",
            "end execute_node a",
            "start execute_node b in invoke_workflow made",
            "end execute_node b",
            "end invoke_workflow made",
        ]
        assert {(span.attributes or {}).get("tenant") for span in host.spans} == {"blue"}
        assert not watcher.shut_down
    records = kept(store)
    assert "blue" not in str(records), "what a host adds to its spans is the host's"


def test_what_a_function_says_of_its_span_arrives_in_both(host: Host, store: Path) -> None:
    """`get_current_span()` in a node's function is how libraries add what they know."""

    def b(said: str) -> int:
        span = trace.get_current_span()
        span.set_attribute("shop.cart", 3)
        span.add_event("looked", {"at": "cart"})
        span.add_link(other)
        return len(said)

    with host.tracer.start_as_current_span("other") as span:
        other = span.get_span_context()
    run_workflow(workflow(), functions={"b": b}, store=store)
    (node,) = [span for span in host.ours if span.name == "execute_node b"]
    assert (node.attributes or {})["shop.cart"] == 3
    assert [(event.name, dict(event.attributes or {})) for event in node.events] == [("looked", {"at": "cart"})]
    assert [link.context for link in node.links] == [other]
    assert '"shop.cart":3' in kept(store).node("b").attributes_json


def test_the_hosts_limits_apply_there_and_not_in_the_store(store: Path) -> None:
    limits = SpanLimits(max_span_attributes=5, max_span_attribute_length=6)
    with global_host(Host(limits=limits)) as host:
        stored = kept(store, run(store).run_id)
        assert max(len(span.attributes or {}) for span in host.ours) == 5
        texts = [text for span in host.ours for text in (span.attributes or {}).values() if isinstance(text, str)]
        assert max(map(len, texts)) == 6
    assert stored.node("b").outputs == {"y": len(SECRET)}


class Broken(SpanProcessor):
    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        raise RuntimeError("no start today")

    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("no end today")


def test_a_processor_that_fails_costs_one_warning_and_no_run(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    with global_host(Host(processors=[Broken()])), caplog.at_level(logging.WARNING):
        for _ in range(2):
            run(store)
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    assert "no start today" in caplog.text
    assert kept(store).said() == [("a", "completed"), ("b", "completed")]


@in_one_of_a_few_tries
def test_a_store_exporter_in_the_host_keeps_each_run_once_and_whole(store: Path) -> None:
    """It would get the filtered copies, too, and must not put them in place of what the run has kept."""
    backend = StoreSpanExporter()
    with pytest.MonkeyPatch.context() as patch, global_host(Host()) as host:
        patch.setenv("CONFIGURABLE_AGENTS_STORE", str(store))
        host.provider.add_span_processor(SimpleSpanProcessor(backend))
        with host.tracer.start_as_current_span("request"):
            result = run_workflow(workflow(), functions={"b": lambda said: len(said)})
        host.provider.force_flush()
    timely(not result.degraded)
    stored: Kept = kept(store, result.run_id)
    assert stored.said() == [("a", "completed"), ("b", "completed")]
    assert stored.run.config_text
    assert (stored.node("b").inputs, stored.node("b").outputs) == ({"said": SECRET}, {"y": len(SECRET)})
    assert SECRET in stored.spans[0].attributes_json


class Weighted(Sampler):
    """As samplers that tell their backend how many traces one stands for."""

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        return SamplingResult(Decision.RECORD_AND_SAMPLE, {"sample.rate": 4})

    def get_description(self) -> str:
        return "weighted"


def test_what_the_hosts_sampler_says_of_a_root_reaches_its_backend(store: Path) -> None:
    with global_host(Host(sampler=Weighted())) as host:
        run(store)
        assert (host.ours[0].attributes or {})["sample.rate"] == 4
        assert (host.ours[0].attributes or {})["gen_ai.operation.name"] == "invoke_workflow"


class Careless(Sampler):
    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        args[4].clear()
        return SamplingResult(Decision.RECORD_AND_SAMPLE, {"sample.rate": 4})

    def get_description(self) -> str:
        return "careless"


def test_a_sampler_that_changes_what_it_is_given_takes_nothing_from_a_run(store: Path) -> None:
    """It is foreign code, and what a run is stands in these attributes."""
    with global_host(Host(sampler=Careless())) as host:
        result = run(store)
        assert (host.ours[0].attributes or {})["sample.rate"] == 4
    stored = kept(store, result.run_id)
    assert (stored.run.workflow_name, stored.run.status) == (result.workflow, "completed")


@in_one_of_a_few_tries
def test_a_provider_that_is_not_the_sdks_is_left_alone(store: Path) -> None:
    """It could take no span that it did not make."""

    class Vendors(trace.TracerProvider):
        def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
            return trace.NoOpTracer()

    before, trace._TRACER_PROVIDER = trace._TRACER_PROVIDER, Vendors()
    try:
        timely(not run(store).degraded)
    finally:
        trace._TRACER_PROVIDER = before
    assert kept(store).said() == [("a", "completed"), ("b", "completed")]


class Wrapping(TracerProvider):
    """As vendors derive theirs from the SDK's, with tracers of another class."""

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        inner = super().get_tracer(*args, **kwargs)

        class Wrapper(trace.Tracer):
            def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
                return inner.start_span(*args, **kwargs)

            start_as_current_span = trace.NoOpTracer.start_as_current_span

        return Wrapper()


def set_up(host: Host, kind: type[TracerProvider]) -> Host:
    host.provider = kind(sampler=ALWAYS_ON, shutdown_on_exit=False)
    host.provider.add_span_processor(SimpleSpanProcessor(host.exporter))
    return host


def test_a_provider_derived_from_the_sdks_gets_our_spans(store: Path) -> None:
    with global_host(set_up(Host(), Wrapping)) as host:
        run(store)
        assert host.tree() == TREE


class Renamed(TracerProvider):
    """The SDK's limits stand under a private name, which may go."""

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        self._span_limits = SpanLimits()
        tracer = super().get_tracer(*args, **kwargs)
        del self._span_limits
        return tracer


def test_an_sdk_without_the_name_that_we_read_is_said_so_once(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    with global_host(set_up(Host(), Renamed)) as host, caplog.at_level(logging.WARNING):
        for _ in range(2):
            run(store)
        assert tree(host.ours[:4]) == TREE
    assert [record.message for record in caplog.records].count(
        "this OpenTelemetry SDK does not tell its span limits: those of the environment apply to runs"
    ) == 1


class Refusing(TracerProvider):
    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        raise RuntimeError("no tracer today")


class WithoutResource(TracerProvider):
    @property
    def resource(self) -> Any:
        raise RuntimeError("no resource today")


class WithoutSampler(TracerProvider):
    @property
    def sampler(self) -> Any:
        raise RuntimeError("no sampler today")

    @sampler.setter
    def sampler(self, value: Any) -> None:
        """Keep none."""


class Undecided(Sampler):
    def should_sample(self, *args: Any, **kwargs: Any) -> Any:
        return None

    def get_description(self) -> str:
        return "undecided"


class WithSamplerThatDecidesNothing(TracerProvider):
    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "sampler": Undecided()})


@pytest.mark.parametrize("kind", [Refusing, WithoutResource, WithoutSampler, WithSamplerThatDecidesNothing])
def test_no_run_fails_of_a_foreign_tracer_provider(
    kind: type[TracerProvider], store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a vendor derives from the SDK's provider is foreign code, and runs are kept whatever it raises."""
    with global_host(set_up(Host(), kind)):
        run(store)
    assert kept(store).said() == [("a", "completed"), ("b", "completed")]
    assert {record.levelname for record in caplog.records if record.name.startswith("configurable_agents")} == {
        "WARNING"
    }
