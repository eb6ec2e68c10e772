"""Spans that leave: all of them, once, marked in the store, and nothing that a run would notice."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan

from _otlp import PROTOCOLS, OtlpReceiver, ReceivedRequest, otlp_receiver, settle_environment
from _otlp_decode import spans_of
from _runs import PATIENCE_SECONDS, asks, calls, chain, eventually, field, kept, rows, run_program, scripted
from _timing import anew, in_one_of_a_few_tries, timely
from _workflows import make
from configurable_agents import run_workflow
from configurable_agents.observability.content import ShipRules, shippable
from configurable_agents.observability.destinations import Destination
from configurable_agents.observability.resource import current_resource
from configurable_agents.observability.shipper import QUEUE_BYTES, Delivery, Shipper

HELLO = make([asks("a", "x")], chain("START a END"), {"x": field("str")}, scripted("yes"), name="hello")
LONG = make(
    [calls(f"n{number}", "x") for number in range(100)],
    chain(f"START {' '.join(f'n{number}' for number in range(100))} END"),
    {"x": field("int")},
    name="long",
)
FUNCTIONS = {f"n{number}": lambda: 1 for number in range(100)}


@pytest.fixture(params=PROTOCOLS)
def receiver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    """Give a receiver, and an environment in which nothing else is said."""
    with otlp_receiver(request.param) as found:
        settle_environment(monkeypatch, found)
        yield found


def delivered(store: Path) -> list[str]:
    """Give the destinations of the marks in a store."""
    if not store.exists():
        return []
    return [destination for (destination,) in rows(store, "SELECT destination FROM run_deliveries ORDER BY run_id")]


def spans_in(request: ReceivedRequest) -> int:
    """Count what a request holds, also of one that was refused."""
    return len([*spans_of(ExportTraceServiceRequest.FromString(request.body))])


def test_a_run_is_shipped_whole_and_the_store_knows_it(receiver: OtlpReceiver, tmp_path: Path) -> None:
    """The mark is what `runs export --pending` goes by."""
    store = tmp_path / "w.db"
    result = run_workflow(HELLO, store=store, otlp=receiver.endpoint)
    receiver.wait_for(3)
    assert receiver.tree() == "invoke_workflow hello\n  execute_node a\n    chat scripted\n"
    assert {span.trace_id for span in receiver.spans} == {result.trace_id}
    assert eventually(lambda: delivered(store)) == [receiver.endpoint]


def test_spans_are_sent_in_groups_and_each_once(receiver: OtlpReceiver, tmp_path: Path) -> None:
    """A request for each span would cost more than the run."""
    for _ in range(20):
        run_workflow(LONG, functions=FUNCTIONS, store=tmp_path / "w.db", otlp=receiver.endpoint)
    spans = receiver.wait_for(20 * 101, seconds=30)
    assert len({span.span_id for span in spans}) == len(spans) == 20 * 101
    assert len(receiver.requests) <= 100
    assert eventually(lambda: len(delivered(tmp_path / "w.db")) == 20)


def test_no_request_is_larger_than_a_megabyte(receiver: OtlpReceiver, tmp_path: Path) -> None:
    """Proxies refuse larger ones; and no value is longer than 8 kB."""

    def annotate(index: int) -> Callable[[], int]:
        def node() -> int:
            for number in range(20):
                trace.get_current_span().set_attribute(f"mine.{number}", f"{index}" + "ü" * 10_000)
            return 1

        return node

    functions = FUNCTIONS | {f"n{number}": annotate(number) for number in range(30)}
    run_workflow(LONG, functions=functions, store=tmp_path / "w.db", otlp=receiver.endpoint)
    receiver.wait_for(101, seconds=30)
    assert max(len(request.body) for request in receiver.requests) <= 1_000_000
    node = next(span for span in receiver.spans if span.name == "execute_node n7")
    assert 8188 <= max(len(str(value).encode()) for value in node.attributes.values()) <= 8192
    whole = kept(tmp_path / "w.db").node("n7")
    assert len(json.loads(whole.attributes_json)["mine.3"]) == 10_001, "the store has it whole"


def test_nothing_is_shipped_of_a_trace_that_is_not_sampled(receiver: OtlpReceiver, tmp_path: Path) -> None:
    """Sampling is what people pay their backend by; the store has every run all the same."""
    unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    sampled = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    store = tmp_path / "w.db"
    for traceparent in (unsampled, sampled):
        run_workflow(HELLO, store=store, otlp=receiver.endpoint, traceparent=traceparent)
    spans = receiver.wait_for(3)
    assert eventually(lambda: delivered(store)) == [receiver.endpoint]
    assert {span.trace_id for span in spans} == {"1af7651916cd43dd8448eb211c80319c"}
    assert eventually(lambda: len(rows(store, "SELECT * FROM workflow_runs")) == 2)


def test_a_disabled_sdk_ships_nothing(receiver: OtlpReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`OTEL_SDK_DISABLED` is the switch that turns all telemetry off; the history is ours."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    run_workflow(HELLO, store=tmp_path / "w.db", otlp=receiver.endpoint)
    assert kept(tmp_path / "w.db").run.status == "completed"
    assert (receiver.requests, delivered(tmp_path / "w.db")) == ([], [])


@in_one_of_a_few_tries
def test_an_endpoint_that_fails_for_a_moment_loses_nothing(
    receiver: OtlpReceiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A Collector that restarts is the ordinary case, and nobody has to be told."""
    store = anew(tmp_path / "w.db")
    receiver.failures.extend(["unavailable", "unavailable"])
    receiver.spans.clear()
    caplog.clear()
    run_workflow(HELLO, store=store, otlp=receiver.endpoint)
    assert len(receiver.wait_for(3)) == 3
    assert eventually(lambda: delivered(store)) == [receiver.endpoint]
    timely(caplog.records == [], f"told of, since the moment has become longer than a few seconds: {caplog.text}")


@in_one_of_a_few_tries
def test_a_refused_request_is_tried_in_smaller_parts(receiver: OtlpReceiver, tmp_path: Path) -> None:
    """One span that a backend does not take must not keep the others from it."""
    receiver.failures.extend(["bad_request"])
    receiver.spans.clear()
    receiver.requests.clear()
    run_workflow(HELLO, store=tmp_path / "w.db", otlp=receiver.endpoint)
    eventually(lambda: receiver.requests)
    timely(spans_in(receiver.requests[0]) == 3, "a span waits a second for others; one that is refused alone is lost")
    assert len(receiver.wait_for(3)) == 3
    assert [request.refused for request in receiver.requests][:2] == [True, False]
    assert len(receiver.requests) >= 3, "three spans, then one and two or less"


@in_one_of_a_few_tries
def test_an_endpoint_that_comes_back_gets_what_waited(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever starts Jaeger a little late sees the runs of before."""
    store = anew(tmp_path / "w.db")
    caplog.clear()
    with otlp_receiver("http/protobuf") as receiver:
        receiver.failures.append("too_large")
        for _ in range(3):
            run_workflow(HELLO, store=store, otlp=receiver.endpoint)
        eventually(lambda: receiver.requests)
        timely(
            spans_in(receiver.requests[0]) > 1, "a span waits a second for others; one that is refused alone is lost"
        )
        assert len(receiver.wait_for(9)) == 9
        assert eventually(lambda: len(delivered(store)) == 3)
        assert delivered(store) == [receiver.endpoint] * 3
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1
    assert f"spans do not reach {receiver.endpoint}: " in said[0]


# --- exporters of other packages -----------------------------------------------------------------------------------------


class Remembering:
    """An exporter of another package: it has what it was given, and fails as it is told."""

    got: list[ReadableSpan]
    threads: set[str]
    suppressed: list[bool]

    def export(self, spans: Sequence[ReadableSpan]) -> Any:
        from opentelemetry import context
        from opentelemetry.sdk.trace.export import SpanExportResult

        if (tries := type(self)).failing:
            tries.failing -= 1
            raise RuntimeError("not now")
        self.got.extend(spans)
        self.threads.add(threading.current_thread().name)
        self.suppressed.append(bool(context.get_value(context._SUPPRESS_INSTRUMENTATION_KEY)))
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Have nothing to close."""

    failing = 0


@pytest.fixture
def remembering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Remembering]:
    """Install a package that offers an exporter, as pip would: with its metadata on the path."""
    Remembering.got, Remembering.threads, Remembering.suppressed, Remembering.failing = [], set(), [], 0
    info = tmp_path / "site" / "remembering-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: remembering\nVersion: 1.0\n")
    module = f"{Remembering.__module__}:Remembering"
    (info / "entry_points.txt").write_text(f"[opentelemetry_traces_exporter]\nremembering = {module}\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "remembering")
    return Remembering


def test_an_exporter_of_another_package_gets_the_spans(
    remembering: type[Remembering], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In our thread, where nobody's instrumentation makes spans of the shipping, and tried again when it raises."""
    remembering.failing = 1
    run_workflow(HELLO, store=tmp_path / "w.db")
    assert eventually(lambda: len(remembering.got) == 3, seconds=10)
    assert remembering.threads == {"configurable-agents-otlp"}
    assert all(remembering.suppressed)
    assert eventually(lambda: delivered(tmp_path / "w.db")) == ["remembering"]
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == [
        "spans do not reach remembering: RuntimeError: not now; runs go on, and the store has them",
    ]


def test_an_exporter_that_nobody_offers_is_said_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A misspelt name is no reason to fail, and none for silence."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "jeager")
    for _ in range(3):
        assert run_workflow(HELLO, store=tmp_path / "w.db").status == "completed"
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "no installed package offers an exporter 'jeager'; there are" in said[0]
    assert "console" in said[0]


def test_a_setting_that_the_exporter_does_not_understand_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Only what it says of each failed try is swallowed."""
    with otlp_receiver("http/protobuf") as receiver:
        settle_environment(monkeypatch, receiver)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
        run_workflow(HELLO, store=tmp_path / "w.db", otlp=receiver.endpoint)
        said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert receiver.endpoint in said[0]
    assert "'soon'" in said[0]


def test_the_first_run_of_a_program_says_it_too(tmp_path: Path) -> None:
    """The exporter's package is loaded by that run, and its loggers with it."""
    program = """
import sys
from configurable_agents import run_workflow
from _runs import asks, chain, field, scripted
from _workflows import make
hello = make([asks("a", "x")], chain("START a END"), {"x": field("str")}, scripted("yes"), name="hello")
run_workflow(hello, store=sys.argv[1], otlp="http://127.0.0.1:9")
"""
    _, _, err = run_program(program, tmp_path / "w.db", OTEL_EXPORTER_OTLP_TIMEOUT="soon")
    (said,) = [line for line in err.splitlines() if "'soon'" in line]
    assert "http://127.0.0.1:9" in said


# --- bounds --------------------------------------------------------------------------------------------------------------


def test_what_waits_for_a_dead_endpoint_is_bounded_and_the_rest_is_counted(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A service that runs for weeks without its Collector must not grow."""
    with otlp_receiver("http/protobuf", fault="hang") as receiver:
        shipper = Shipper(Destination(endpoint=f"{receiver.endpoint}/v1/traces", protocol="http/protobuf"))
        context = trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1))
        made = ReadableSpan("execute_node a", context, attributes={"mine": "x" * 5000}, start_time=1, end_time=2)
        span = shippable(made, ShipRules(), current_resource(None, {}), kept=True)
        delivery = Delivery(None)
        for _ in range(10_000):
            shipper.offer(span, delivery, is_last=False)
        waiting = len(shipper._queue)
        assert QUEUE_BYTES * 0.99 < waiting * (span.size + 512) <= QUEUE_BYTES
        assert not delivery.is_whole
        shipper.begin_to_end()
        shipper.end(0.0)
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith(f"spans do not reach {receiver.endpoint}: it takes spans more slowly than they are made")
    assert said[1].startswith(f"10000 spans were not delivered to {receiver.endpoint}: ")
    assert len(said) == 2
    assert f"`configurable-agents runs export --pending --otlp {receiver.endpoint}` ships them later" in said[1]


def test_a_loss_from_several_stores_names_one_and_counts_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """A server may keep the runs of each customer apart."""
    context = trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1))
    made = ReadableSpan("execute_node a", context, start_time=1, end_time=2)
    span = shippable(made, ShipRules(), current_resource(None, {}), kept=True)
    with otlp_receiver("http/protobuf", fault="refuse") as receiver:
        shipper = Shipper(Destination(endpoint=f"{receiver.endpoint}/v1/traces", protocol="http/protobuf"))
        for store in ("b.db", "a.db", None, "a.db"):
            shipper.offer(span, Delivery(None, store=store), is_last=False)
        shipper.begin_to_end()
        shipper.end(0.0)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"4 spans were not delivered to {receiver.endpoint}: ")
    command = f"`configurable-agents runs export --pending --otlp {receiver.endpoint}`"
    assert said.endswith(f"{command} ships them later; other stores that have some: 2")


# --- processes -----------------------------------------------------------------------------------------------------------

SHORT = """
import os, sys
from _runs import asks, chain, field, scripted
from _workflows import make
from configurable_agents import run_workflow
HELLO = make([asks("a", "x")], chain("START a END"), {"x": field("str")}, scripted("yes"), name="hello")
store, endpoint = sys.argv[1:3]
"""


def program(body: str, receiver: OtlpReceiver, store: object, **environment: str) -> str:
    """Run a program that ships to the receiver, and give what it said."""
    code, out, err = run_program(
        SHORT + body,
        store,
        receiver.endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL=receiver.protocol,
        # What is shown here is that nothing is lost, on however slow a machine; how long it takes, another test shows.
        CONFIGURABLE_AGENTS_OTLP_EXIT_SECONDS=str(PATIENCE_SECONDS),
        OTEL_EXPORTER_OTLP_TIMEOUT=str(PATIENCE_SECONDS),
        **environment,
    )
    assert code == 0, err
    assert "Traceback" not in err
    return out + err


def test_a_short_program_loses_nothing_at_its_end(receiver: OtlpReceiver, tmp_path: Path) -> None:
    """A run of a few milliseconds is over before the first byte could be sent; the mark still gets into the store."""
    store = tmp_path / "w.db"
    assert program("run_workflow(HELLO, store=store, otlp=endpoint)", receiver, store) == ""
    assert len(receiver.spans) == 3
    assert delivered(store) == [receiver.endpoint]


def test_two_destinations_get_the_same(tmp_path: Path) -> None:
    """`OTEL_TRACES_EXPORTER` is a list; our own store is not one of them, it has every run anyway."""
    with otlp_receiver("http/protobuf") as receiver:
        said = program(
            "run_workflow(HELLO, store=store)",
            receiver,
            tmp_path / "w.db",
            OTEL_TRACES_EXPORTER="otlp,console,configurable_agents",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            OTEL_METRICS_EXPORTER="none",
        )
        (trace_id,) = {span.trace_id for span in receiver.spans}
    assert said.count(f'"trace_id": "0x{trace_id}"') == 3
    assert sorted(delivered(tmp_path / "w.db")) == ["console", receiver.endpoint]


def test_without_a_store_the_spans_are_shipped_all_the_same(receiver: OtlpReceiver) -> None:
    """Jaeger alone is a way to use this."""
    run_workflow(HELLO, store=False, otlp=receiver.endpoint)
    assert len(receiver.wait_for(3)) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@in_one_of_a_few_tries
def test_a_forked_child_ships_its_own_and_the_parents_only_once(receiver: OtlpReceiver, tmp_path: Path) -> None:
    """Servers fork after they have loaded; neither may send what the other made, nor wait for the other's thread."""
    body = """
run_workflow(HELLO, store=store, otlp=endpoint)
child = os.fork()
for _ in range(2):
    run_workflow(HELLO, store=store, otlp=endpoint)
if child:
    os.waitpid(child, 0)
"""
    store = anew(tmp_path / "w.db")
    receiver.spans.clear()
    said = program(body, receiver, store)
    received = len(receiver.spans), len({span.span_id for span in receiver.spans})
    # What becomes of a call that is under way in gRPC's own threads at the moment of a fork is chance, and not ours.
    timely(receiver.protocol != "grpc" or received == (5 * 3, 5 * 3), said)
    assert received == (5 * 3, 5 * 3)
    assert eventually(lambda: len(delivered(store)) == 5)


@pytest.mark.skipif(sys.platform == "win32", reason="nothing forks here")
def test_a_worker_of_multiprocessing_loses_nothing_at_its_end(tmp_path: Path) -> None:
    """It ends without the interpreter's exit handlers."""
    body = """
import multiprocessing
child = multiprocessing.get_context("fork").Process(target=run_workflow, args=(HELLO,), kwargs={"store": store, "otlp": endpoint})
child.start()
child.join()
assert child.exitcode == 0
"""
    with otlp_receiver("http/protobuf") as receiver:
        program(body, receiver, tmp_path / "w.db")
        assert len(receiver.spans) == 3


def test_nothing_of_shipping_is_loaded_where_nothing_is_shipped(tmp_path: Path) -> None:
    """gRPC alone costs a fifth of a second."""
    code, out, err = run_program(
        "import sys\n"
        "from _runs import asks, chain, field, scripted\n"
        "from _workflows import make\n"
        "from configurable_agents import run_workflow\n"
        "hello = make([asks('a', 'x')], chain('START a END'), {'x': field('str')}, scripted('yes'))\n"
        "run_workflow(hello, store=sys.argv[1])\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'grpc', 'google'}))\n"
        "print([m for m in sys.modules if m.startswith('opentelemetry.exporter')])",
        tmp_path / "w.db",
    )
    assert (code, out.splitlines()) == (0, ["[]", "[]"]), err


def test_a_run_that_ships_shows_in_the_store_like_any_other(receiver: OtlpReceiver, tmp_path: Path) -> None:
    """Shipping takes nothing away and adds nothing."""
    run_workflow(HELLO, store=tmp_path / "a.db")
    run_workflow(HELLO, store=tmp_path / "b.db", otlp=receiver.endpoint)
    receiver.wait_for(3)
    states = [kept(tmp_path / name).node("a") for name in ("a.db", "b.db")]
    attributes = [[*sorted(json.loads(state.attributes_json)), state.outputs_json] for state in states]
    assert attributes[0] == attributes[1]
