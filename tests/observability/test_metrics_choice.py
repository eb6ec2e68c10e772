"""Who gets metrics: nobody, exporters that the environment names, or the host's meter provider."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _otlp import FAULTS, PROTOCOLS, Protocol, otlp_receiver
from _runs import run_program
from _timing import in_one_of_a_few_tries, timely
from configurable_agents.observability.metrics import metric_destinations

PROGRAM = """
import sys
from _runs import asks, calls, chain, field, scripted
from _workflows import make
from configurable_agents import run_workflow

support = make(
    [asks("draft", "text"), calls("count", "n")],
    chain("START draft count END"),
    {"text": field("str"), "n": field("int")},
    scripted(price={"input_per_mtok": 1_000_000, "output_per_mtok": 1_000_000}),
    name="support",
)
run = lambda **more: run_workflow(support, functions={"count": lambda: 3}, store=False, **more)
"""

HOST = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
host = MeterProvider([reader])
metrics.set_meter_provider(host)
def told():
    data = reader.get_metrics_data()
    found = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
    return {m.name: m.data.data_points for m in found}
"""


NAMES = [
    "configurable_agents.cost",
    "configurable_agents.runs",
    "gen_ai.client.operation.duration",
    "gen_ai.client.token.usage",
    "gen_ai.invoke_workflow.duration",
]


PATIENCE = {"CONFIGURABLE_AGENTS_OTLP_EXIT_SECONDS": "30"}
"""What is told counts here, however busy the machine is, and not how fast a program ends."""


def run(text: str, *arguments: object, **environment: str) -> str:
    """Run a program after the definitions above; give what it printed, and see that it said nothing else."""
    code, out, err = run_program(PROGRAM + textwrap.dedent(text), *arguments, **environment)
    assert (code, err) == (0, ""), err
    return out


# --- off -----------------------------------------------------------------------------------------------------------------


def test_without_somebody_to_tell_no_metrics_sdk_is_loaded() -> None:
    """Neither where nothing is set, nor for an endpoint for traces, `none`, a disabled SDK, or a user of the API only."""
    text = """
        import os
        endpoint = {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:9"}
        for environment in (
            {},
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
            {"OTEL_METRICS_EXPORTER": "none", **endpoint},
            {"OTEL_SDK_DISABLED": "true", **endpoint},
        ):
            os.environ.update(environment)
            run()
            for name in environment:
                del os.environ[name]
        from opentelemetry import metrics
        metrics.get_meter("own").create_counter("c").add(1)
        run()
        print("opentelemetry.sdk.metrics" in sys.modules)
    """
    assert run(text) == "False\n"


# --- the host's ----------------------------------------------------------------------------------------------------------


def test_a_host_gets_our_metrics_on_its_own_provider_unless_it_refuses_them() -> None:
    """With an endpoint of ours it gets none: what both send to would count twice."""
    text = """
        import inspect, os
        def run_with(name, value):
            os.environ[name] = value
            run()
            del os.environ[name]
        run(ship_to_host=False)
        run_with("OTEL_SDK_DISABLED", "true")
        run_with("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", sys.argv[1])
        print(told())
        run(); run()
        points = told()
        print(sorted(points))
        print([p.value for p in points["configurable_agents.runs"]])
        (bounds,) = [p.explicit_bounds for p in points["gen_ai.client.operation.duration"]]
        advised = "advisory" in str(inspect.signature(host.get_meter("own").create_histogram))
        print(tuple(bounds)[:3] == ((0.01, 0.02, 0.04) if advised else (0, 5, 10)))  # older SDKs take no advice
        print(metrics.get_meter_provider() is host)
    """
    with otlp_receiver("http/protobuf") as receiver:
        endpoint = f"{receiver.endpoint}/v1/metrics"
        out = run(HOST + textwrap.dedent(text), endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf")
        ours = receiver.wait_for_metrics(*NAMES)
    assert out.splitlines() == ["{}", str(NAMES), "[2]", "True", "True"]
    assert [point.value for point in ours["configurable_agents.runs"].points] == [1]


# --- exporters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_short_program_has_told_all_when_it_ends(protocol: Protocol) -> None:
    with otlp_receiver(protocol) as receiver:
        run("run()", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol, **PATIENCE)
        told = {metric.name for metric in receiver.metrics}
    assert sorted(told) == NAMES


def test_a_forked_child_tells_only_of_its_own_runs() -> None:
    """What its parent had summed up is the parent's to tell, or it would count twice."""
    text = """
        import os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads forks is the point
        run(); run()
        child = os.fork()
        if child == 0:
            run()
            sys.exit()  # in order, as a worker of a server ends
        os.waitpid(child, 0)
    """
    with otlp_receiver("http/protobuf") as receiver:
        run(
            text,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=f"{receiver.endpoint}/v1/metrics",
            **PATIENCE,
        )
        runs = [m for m in receiver.metrics if m.name == "configurable_agents.runs"]
    assert sorted(sum(point.value or 0 for point in metric.points) for metric in runs) == [1, 2]
    instances = {metric.resource.get("service.instance.id") for metric in runs}
    assert len(instances) == 2 or instances == {None}, "older SDKs have none"


@pytest.mark.alone
@in_one_of_a_few_tries
def test_endpoints_that_fail_cost_the_program_no_more_time_at_its_end_than_one() -> None:
    """Whatever they do instead of answering, all together; each is told of once, and every run is done."""
    text = """
        import atexit, os, time
        atexit.register(lambda: print(time.monotonic() - ended))  # called last
        for place in sys.argv[1:]:
            protocol, endpoint = place.split("=")
            os.environ["OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"] = protocol
            os.environ["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"] = endpoint
            assert run().outputs["n"] == 3
        time.sleep(1)  # all are loaded and have been asked for what they have
        ended = time.monotonic()
    """
    with contextlib.ExitStack() as stack:
        receivers = [stack.enter_context(otlp_receiver(p, fault=fault)) for p in PROTOCOLS for fault in FAULTS]
        places = [
            f"{one.protocol}={one.endpoint}{'' if one.protocol == 'grpc' else '/v1/metrics'}" for one in receivers
        ]
        code, out, err = run_program(PROGRAM + textwrap.dedent(text), *places, OTEL_METRIC_EXPORT_INTERVAL="300")
    assert code == 0
    timely(float(out) < 0.5, out)
    warnings = err.splitlines()
    assert len(warnings) == len(receivers)
    for receiver in receivers:
        (warning,) = [line for line in warnings if receiver.endpoint in line]
        assert warning.startswith("metrics could not be sent to")


def test_any_installed_exporter_may_be_named(tmp_path: Path) -> None:
    """Also one that others fetch from, as that of Prometheus. A name that nobody has is one warning, and the run is done."""
    package(
        tmp_path,
        """
        import sys
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExporter, MetricExportResult
        class Pushed(MetricExporter):
            def export(self, metrics_data, timeout_millis=10_000, **more):
                for scope in metrics_data.resource_metrics[0].scope_metrics:
                    sys.stdout.write(f"pushed {sorted(metric.name for metric in scope.metrics)}\\n")
                return MetricExportResult.SUCCESS
            def force_flush(self, timeout_millis=10_000): return True
            def shutdown(self, timeout_millis=30_000, **more): pass
        class Fetched(InMemoryMetricReader):
            made = []
            def _set_collect_callback(self, func):
                super()._set_collect_callback(func)
                self.made.append(self)
        """,
    )
    text = """
        import time
        sys.path.insert(0, sys.argv[1])
        run(); run()
        import its_module
        end = time.monotonic() + 30
        while not (its_module.Fetched.made and (data := its_module.Fetched.made[0].get_metrics_data())):
            assert time.monotonic() < end
        print("fetched", "configurable_agents.runs" in data.to_json())
    """
    names = {"OTEL_METRICS_EXPORTER": "pushed,fetched,prometeus,console"}
    code, out, err = run_program(PROGRAM + textwrap.dedent(text), tmp_path, **names, **PATIENCE)
    assert code == 0
    assert "fetched True" in out
    assert f"pushed {NAMES}" in out
    assert '"name": "configurable_agents.runs"' in out, "that is the console's"
    assert err.count("prometeus") > 0
    assert err.count("\n") == 1


def package(folder: Path, module: str) -> None:
    """Lay a package down that offers metrics exporters called `pushed` and `fetched`."""
    (folder / "its_module.py").write_text(textwrap.dedent(module))
    about = folder / "its_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: its-package\nVersion: 1.0\n")
    points = "pushed = its_module:Pushed\nfetched = its_module:Fetched\n"
    (about / "entry_points.txt").write_text(f"[opentelemetry_metrics_exporter]\n{points}")


# --- which the environment names -----------------------------------------------------------------------------------------

ENDPOINT, METRICS_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"


@pytest.mark.parametrize(
    ("environment", "exporters", "shown"),
    [
        ({ENDPOINT: "http://collector:4317"}, ["otlp_proto_grpc"], ["http://collector:4317"]),
        ({ENDPOINT: "http://collector:4318"}, ["otlp_proto_http"], ["http://collector:4318"]),
        ({METRICS_ENDPOINT: "https://u:pw@c.example/v1/metrics"}, ["otlp_proto_grpc"], ["https://c.example"]),
        ({ENDPOINT: "collector:4317"}, ["otlp_proto_grpc"], ["collector:4317"]),
        (
            {ENDPOINT: "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            ["otlp_proto_http"],
            ["http://c:4317"],
        ),
        (
            {ENDPOINT: "http://c:9", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/json"},
            ["otlp_proto_http"],
            ["http://c:9"],
        ),
        ({ENDPOINT: "http://a:4317", METRICS_ENDPOINT: "http://b:4317"}, ["otlp_proto_grpc"], ["http://b:4317"]),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, ["otlp_proto_grpc"], ["otlp_proto_grpc"]),
        ({"OTEL_METRICS_EXPORTER": " console , console,"}, ["console"], ["console"]),
        (
            {"OTEL_METRICS_EXPORTER": "otlp,console", ENDPOINT: "http://c:4318"},
            ["otlp_proto_http", "console"],
            ["http://c:4318", "console"],
        ),
        ({"OTEL_METRICS_EXPORTER": "none", ENDPOINT: "http://c:4318"}, [], []),
        ({"OTEL_METRICS_EXPORTER": "", ENDPOINT: " "}, [], []),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318"}, [], []),
    ],
)
def test_the_environment_names_exporters_as_opentelemetry_says(
    environment: Mapping[str, str], exporters: list[str], shown: list[str]
) -> None:
    found = metric_destinations(environment)
    assert [one.exporter for one in found] == exporters
    assert [one.name for one in found] == shown


def test_interval_and_timeout_are_milliseconds_as_opentelemetry_says() -> None:
    variables = {"OTEL_METRIC_EXPORT_INTERVAL": "1500", "OTEL_METRIC_EXPORT_TIMEOUT": "250"}
    (one,) = metric_destinations({"OTEL_METRICS_EXPORTER": "console", **variables})
    assert (one.interval_seconds, one.timeout_seconds) == (1.5, 0.25)


@pytest.mark.parametrize("value", ["soon", "0", "-5", "nan", "inf"])
def test_an_interval_that_is_none_is_a_warning(value: str, caplog: pytest.LogCaptureFixture) -> None:
    variables = {"OTEL_METRICS_EXPORTER": f"console,{value}", "OTEL_METRIC_EXPORT_INTERVAL": value}
    found = metric_destinations(variables)
    assert {one.interval_seconds for one in found} == {60.0}
    assert "OTEL_METRIC_EXPORT_INTERVAL" in caplog.text


@given(st.text(max_size=50), st.text(max_size=50))
def test_whatever_stands_in_the_environment_no_run_fails_of_it(endpoint: str, names: str) -> None:
    metric_destinations({ENDPOINT: endpoint, "OTEL_METRICS_EXPORTER": names})
    metric_destinations({METRICS_ENDPOINT: endpoint})
