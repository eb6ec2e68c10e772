"""Metrics over real sockets: which, with what types, buckets and attributes; and none where nobody asked for any."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider

from _both_ways import both_ways
from _otlp import PROTOCOLS, OtlpReceiver, Protocol, otlp_receiver
from _otlp_decode import ReceivedMetric, ReceivedPoint
from _runs import Run, asks, calls, chain, eventually, field, kept, scripted
from _workflows import make
from configurable_agents import NodeExecutionError, Workflow, run_workflow
from configurable_agents.observability import metrics as ours

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
RUN_SECONDS = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)

A_CALL = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "scripted",
    "gen_ai.request.model": "scripted",
    "gen_ai.response.model": "scripted",
    "gen_ai.workflow.name": "support",
}


@pytest.fixture(autouse=True)
def _nobody_else_asks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [*ours._VARIABLES, "OTEL_SDK_DISABLED"]:
        monkeypatch.delenv(name, raising=False)
    yield
    ended()


@pytest.fixture(params=PROTOCOLS)
def receiver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    """A receiver that the environment names, asked for what there is each twentieth of a second."""
    protocol: Protocol = request.param
    with otlp_receiver(protocol) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", endpoint_for_metrics(receiver))
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
        yield receiver
        ended()


def ended() -> None:
    """End what the test has begun, as the program's end would; the next one begins anew."""
    ours.SENDERS.end(time.monotonic() + 2)
    ours.SENDERS.__init__()  # type: ignore[misc]  # the same object, as new


def endpoint_for_metrics(receiver: OtlpReceiver) -> str:
    """Give what the variable for metrics takes: over HTTP it is the whole URL."""
    return receiver.endpoint if receiver.protocol == "grpc" else f"{receiver.endpoint}/v1/metrics"


def support(*replies: Any, price: dict[str, float] | None = None) -> Workflow:
    return make(
        [asks("draft", "text"), calls("count", "n"), asks("send", "sent")],
        chain("START draft count send END"),
        {"text": field("str"), "n": field("int"), "sent": field("str")},
        scripted(*replies, price=price or {"input_per_mtok": 1_000_000, "output_per_mtok": 2_000_000}),
        name="support",
    )


def count() -> int:
    return 3


def metric(receiver: OtlpReceiver, name: str, *, runs: int) -> ReceivedMetric:
    """Wait until so many runs have been told of, and give what that told of a metric."""

    def told() -> bool:
        last = {metric.name: metric for metric in receiver.metrics}.get("configurable_agents.runs")
        return last is not None and sum(point.value or 0 for point in last.points) == runs

    receiver.wait_until(told)
    return {metric.name: metric for metric in receiver.metrics}[name]


def only(points: tuple[ReceivedPoint, ...]) -> ReceivedPoint:
    (point,) = points
    return point


@both_ways
def test_a_run_gives_exactly_the_metrics_of_the_conventions_and_ours(run: Run, receiver: OtlpReceiver) -> None:
    run(support(), functions={"count": count}, store=False)
    metric(receiver, "configurable_agents.runs", runs=1)
    found = {m.name: (m.kind, m.unit, m.temporality) for m in receiver.metrics}
    assert found == {
        "gen_ai.client.operation.duration": ("histogram", "s", "CUMULATIVE"),
        "gen_ai.client.token.usage": ("histogram", "{token}", "CUMULATIVE"),
        "gen_ai.invoke_workflow.duration": ("histogram", "s", "CUMULATIVE"),
        "configurable_agents.runs": ("sum", "{run}", "CUMULATIVE"),
        "configurable_agents.cost": ("sum", "USD", "CUMULATIVE"),
    }
    assert {m.scope for m in receiver.metrics} == {"configurable_agents"}
    assert {m.resource["service.name"] for m in receiver.metrics} == {"configurable-agents"}


def test_model_calls_fall_into_the_buckets_of_the_conventions(receiver: OtlpReceiver) -> None:
    run_workflow(support(), functions={"count": count}, store=False)
    point = only(metric(receiver, "gen_ai.client.operation.duration", runs=1).points)
    assert point.attributes == A_CALL
    assert (point.count, point.bounds, sum(point.buckets)) == (2, SECONDS, 2)
    assert 0 < point.sum < 5


def test_tokens_are_counted_by_their_type(receiver: OtlpReceiver) -> None:
    run_workflow(support("one two three", "four"), functions={"count": count}, store=False)
    points = {
        p.attributes["gen_ai.token.type"]: p for p in metric(receiver, "gen_ai.client.token.usage", runs=1).points
    }
    assert set(points) == {"input", "output"}
    for kind, point in points.items():
        assert point.attributes == A_CALL | {"gen_ai.token.type": kind}
        assert (point.count, point.bounds) == (2, TOKENS)
    assert points["output"].sum == 4


def test_a_run_is_timed_and_counted_by_what_became_of_it(receiver: OtlpReceiver) -> None:
    def fails() -> int:
        raise ValueError("a text of the run's")

    run_workflow(support(), functions={"count": count}, store=False)
    with pytest.raises(NodeExecutionError):
        run_workflow(support(), functions={"count": fails}, store=False)
    runs = metric(receiver, "configurable_agents.runs", runs=2)
    assert {p.attributes["configurable_agents.status"]: p.value for p in runs.points} == {"completed": 1, "failed": 1}
    assert all(p.attributes["gen_ai.workflow.name"] == "support" and isinstance(p.value, int) for p in runs.points)
    assert runs.monotonic
    durations = metric(receiver, "gen_ai.invoke_workflow.duration", runs=2)
    assert {p.attributes.get("error.type"): (p.count, p.bounds) for p in durations.points} == {
        None: (1, RUN_SECONDS),
        "ValueError": (1, RUN_SECONDS),
    }
    assert b"a text of the run's" not in receiver.raw()


def test_metrics_tell_the_same_tokens_and_cost_as_the_store(receiver: OtlpReceiver, tmp_path: Path) -> None:
    result = run_workflow(support("a b c", "d e"), functions={"count": count}, store=tmp_path / "runs.db")
    record = kept(tmp_path / "runs.db").run
    cost = only(metric(receiver, "configurable_agents.cost", runs=1).points)
    assert cost.attributes == A_CALL
    assert isinstance(cost.value, float)
    assert cost.value == pytest.approx(record.cost_usd) == pytest.approx(result.total_cost_usd)
    tokens = metric(receiver, "gen_ai.client.token.usage", runs=1).points
    assert sum(p.sum for p in tokens) == (record.input_tokens or 0) + (record.output_tokens or 0)


def test_a_call_without_a_price_is_counted_and_costs_nothing_known(receiver: OtlpReceiver) -> None:
    """A cost of 0 would be a lie."""
    unknown = {"text": "hello", "usage": None}
    run_workflow(support(unknown), functions={"count": count}, store=False)
    metric(receiver, "configurable_agents.runs", runs=1)
    names = {m.name for m in receiver.metrics}
    assert names.isdisjoint({"configurable_agents.cost", "gen_ai.client.token.usage"})
    assert only(metric(receiver, "configurable_agents.unpriced_calls", runs=1).points).value == 2


def test_a_failed_call_says_what_it_failed_of(receiver: OtlpReceiver) -> None:
    refused = {"error": {"message": "a text of the provider's", "type": "ConnectionError", "retryable": False}}
    with pytest.raises(NodeExecutionError):
        run_workflow(support(refused), functions={"count": count}, store=False)
    duration = only(metric(receiver, "gen_ai.client.operation.duration", runs=1).points)
    without_response = {key: value for key, value in A_CALL.items() if key != "gen_ai.response.model"}
    assert duration.attributes == without_response | {"error.type": "ConnectionError"}
    assert {m.name for m in receiver.metrics} == {
        "gen_ai.client.operation.duration",
        "gen_ai.invoke_workflow.duration",
        "configurable_agents.runs",
    }
    assert b"a text of the provider's" not in receiver.raw()


def test_many_runs_make_no_more_series_than_one(receiver: OtlpReceiver) -> None:
    """An id among the attributes would make a series of each run, and break every metrics store."""
    for _ in range(10):
        run_workflow(support(), functions={"count": count}, store=False)
    metric(receiver, "configurable_agents.runs", runs=10)
    last = {m.name: m for m in receiver.metrics}
    assert {name: len(m.points) for name, m in last.items()} == {
        "gen_ai.client.operation.duration": 1,
        "gen_ai.client.token.usage": 2,
        "gen_ai.invoke_workflow.duration": 1,
        "configurable_agents.runs": 1,
        "configurable_agents.cost": 1,
    }


def test_the_environment_may_ask_for_differences(receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short processes need it: each begins a cumulative sum anew."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    run_workflow(support(), functions={"count": count}, store=False)
    metric(receiver, "configurable_agents.runs", runs=1)
    assert {m.temporality for m in receiver.metrics} == {"DELTA"}


def test_an_exemplar_leads_from_a_bucket_to_the_trace(receiver: OtlpReceiver) -> None:
    result = run_workflow(support(), functions={"count": count}, store=False)
    metric(receiver, "configurable_agents.runs", runs=1)
    assert bytes.fromhex(result.trace_id) in receiver.raw()


def test_what_an_endpoint_refused_it_gets_when_it_takes_metrics_again(
    receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Sums are not lost with the request that told of them. It is told of once, with the reason."""
    receiver.fault = "bad_request"
    run_workflow(support(), functions={"count": count}, store=False)
    receiver.wait_until(lambda: len(receiver.requests) > 2)
    receiver.fault = None
    assert only(metric(receiver, "configurable_agents.runs", runs=1).points).value == 1
    (warning,) = [text for text in caplog.messages if "metrics" in text]
    assert warning.startswith(f"metrics could not be sent to {receiver.endpoint}: ")
    assert re.search("bad_request|INVALID_ARGUMENT|400", warning)


def test_the_end_waits_for_an_endpoint_that_has_failed_before(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be back, and then it gets what there is."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "400")
    receiver.failures.append("bad_request")
    run_workflow(support(), functions={"count": count}, store=False)
    eventually(lambda: "metrics could not be sent" in caplog.text)
    ended()
    receiver.wait_for_metrics("configurable_agents.runs")


def test_a_host_whose_meter_provider_fails_costs_no_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(MeterProvider):
        def get_meter(self, *args: Any, **more: Any) -> Any:
            raise RuntimeError("broken")

    broken = Broken(shutdown_on_exit=False)
    monkeypatch.setattr("opentelemetry.metrics._internal._METER_PROVIDER", broken)
    assert run_workflow(support(), functions={"count": count}, store=False).outputs["n"] == 3
    assert "this run is not measured" in caplog.text


def test_a_password_in_an_endpoint_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://me:s3cret@127.0.0.1:bad/v1/metrics")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf")
    run_workflow(support(), functions={"count": count}, store=False)
    ended()
    assert "metrics could not be sent to http://127.0.0.1:bad" in caplog.text
    assert "s3cret" not in caplog.text
