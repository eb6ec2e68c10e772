"""Where spans are shipped to: the option, then the environment, then the file, then nowhere."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from _otlp import otlp_receiver, settle_environment
from _runs import asks, chain, eventually, field, rows, scripted
from _workflows import make
from configurable_agents import ConfigError, InputError, Workflow, run_workflow
from configurable_agents.config.schema import OtlpConfig
from configurable_agents.observability.destinations import Destination, destinations
from configurable_agents.observability.shipping import SHIPPERS

SECRET = "tok-4711-tok-4711"


@pytest.fixture(autouse=True)
def _no_settings_of_the_person(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def where(
    otlp: str | None = None, config: OtlpConfig | None = None, **environ: str
) -> list[tuple[str, str | None, str | None]]:
    """Say where spans go: exporter, endpoint, protocol."""
    return [(d.exporter, d.endpoint, d.protocol) for d in destinations(otlp, config, environ)]


HTTP, GRPC = "http/protobuf", "grpc"
BASE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
FILE = OtlpConfig(endpoint="http://file:4317")


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        (None, {}, []),
        ("http://127.0.0.1:4318", {}, [("otlp", "http://127.0.0.1:4318/v1/traces", HTTP)]),
        ("http://127.0.0.1:4317", {}, [("otlp", "http://127.0.0.1:4317", GRPC)]),
        ("localhost:4317", {}, [("otlp", "http://localhost:4317", GRPC)]),
        ("https://api.example.com/otel/", {}, [("otlp", "https://api.example.com/otel/v1/traces", HTTP)]),
        ("http://h:9/v1/traces", {}, [("otlp", "http://h:9/v1/traces", HTTP)]),
        ("http://h:9", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, [("otlp", "http://h:9", GRPC)]),
        ("http://h:4318", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, [("otlp", "http://h:4318/v1/traces", HTTP)]),
        ("unix:///run/otlp.sock", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, [("otlp", "unix:///run/otlp.sock", GRPC)]),
        ("none", BASE, []),
        ("http://127.0.0.1:4318", BASE, [("otlp", "http://127.0.0.1:4318/v1/traces", HTTP)]),
        (None, BASE, [("otlp", "http://collector:4318/v1/traces", HTTP)]),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}, [("otlp", "http://collector:4317", GRPC)]),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector"}, [("otlp", "http://collector", GRPC)]),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}, [("otlp", "https://collector:4317", GRPC)]),
        (
            None,
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317", "OTEL_EXPORTER_OTLP_INSECURE": "true"},
            [("otlp", "http://collector:4317", GRPC)],
        ),
        (None, {**BASE, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, [("otlp", "http://collector:4318", GRPC)]),
        (
            None,
            {**BASE, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
            [("otlp", "http://collector:4318/v1/traces", HTTP)],
        ),
        (
            None,
            {**BASE, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://traces:4318/in"},
            [("otlp", "http://traces:4318/in", HTTP)],
        ),
        (None, {**BASE, "OTEL_TRACES_EXPORTER": "none"}, []),
        (None, {**BASE, "OTEL_TRACES_EXPORTER": "console"}, [("console", None, None)]),
        (None, {"OTEL_TRACES_EXPORTER": "configurable_agents"}, []),
        (None, {"OTEL_TRACES_EXPORTER": "otlp"}, [("otlp", "http://localhost:4317", GRPC)]),
        (
            None,
            {**BASE, "OTEL_TRACES_EXPORTER": " console , otlp_proto_http,configurable_agents,console"},
            [("console", None, None), ("otlp", "http://collector:4318/v1/traces", HTTP)],
        ),
    ],
)
def test_option_environment_and_defaults_decide(
    given: str | None, environ: Mapping[str, str], expected: list[Any]
) -> None:
    """As the OpenTelemetry specification has it, but that nothing is shipped unasked."""
    assert where(given, None, **environ) == expected


def test_the_environment_goes_over_the_file_and_the_option_over_both() -> None:
    """Whoever runs a file knows where his collector is better than whoever wrote it."""
    assert where(None, FILE) == [("otlp", "http://file:4317", GRPC)]
    assert where(None, FILE, **BASE) == [("otlp", "http://collector:4318/v1/traces", HTTP)]
    assert where(None, FILE, OTEL_TRACES_EXPORTER="none") == []
    assert where("none", FILE, **BASE) == []
    assert where(None, OtlpConfig(endpoint="http://file:4317", protocol="http/protobuf")) == [
        ("otlp", "http://file:4317/v1/traces", HTTP)
    ]


@pytest.mark.parametrize("text", ["", "  ", "ftp://h:1", "http://", "http://h:port", "http://h:99999", "http://[::1"])
def test_what_is_no_endpoint_is_said_before_anything_runs(text: str, tmp_path: Path) -> None:
    """A misspelt one would otherwise be found out when the trace is looked for."""
    with pytest.raises(InputError, match="is no endpoint; give a URL as http"):
        run_workflow(HELLO, store=tmp_path / "w.db", otlp=text)
    assert not (tmp_path / "w.db").exists()


@pytest.mark.parametrize("text", ["  ", "ftp://h:1", "http://u:pass-4711@h:port", "http://h:99999", "http://[::1"])
@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_what_is_no_endpoint_in_the_environment_is_one_warning(
    text: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It stands there for other programs, too: no run fails of it."""
    monkeypatch.setenv(name, text)
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    for _ in range(2):
        run_workflow(HELLO, store=tmp_path / "w.db")
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"{name} is no endpoint, so no span is shipped; write a URL as http://127.0.0.1:4318"]


@pytest.mark.parametrize(
    ("endpoint", "protocol", "name"),
    [
        ("http://user:pass-4711@H:4318/v1/traces?key=4711", HTTP, "http://h:4318"),
        ("https://api.example.com/otel/v1/traces/?key=4711#4711", HTTP, "https://api.example.com/otel"),
        ("http://traces:4318/in", HTTP, "http://traces:4318/in"),
        ("http://traces:4318/", HTTP, "http://traces:4318"),
        ("https://user@api.example.com/otel", GRPC, "https://api.example.com"),
        ("http://[::1]:4317", GRPC, "http://[::1]:4317"),
        ("unix:///run/otlp.sock", GRPC, "unix:///run/otlp.sock"),
    ],
)
def test_a_destination_is_shown_without_credentials(endpoint: str, protocol: Any, name: str) -> None:
    """Its name stands in warnings and in the store."""
    assert Destination(endpoint=endpoint, protocol=protocol).name == name


@pytest.mark.parametrize(
    ("endpoint", "exposed"),
    [
        ("http://127.0.0.1:4318", False),
        ("http://127.9.9.9:4318", False),
        ("http://[::1]:4318", False),
        ("http://localhost:4318", False),
        ("http://jaeger.localhost:4318", False),
        ("unix:///run/otlp.sock", False),
        ("https://collector:4318", False),
        ("http://collector:4318", True),
        ("http://10.0.0.1:4318", True),
        ("http://localhost.example.com:4318", True),
    ],
)
def test_what_leaves_the_machine_unencrypted_is_known(endpoint: str, exposed: bool) -> None:
    """So that a warning can say it."""
    assert Destination(endpoint=endpoint).is_exposed is exposed


def test_unencrypted_shipping_is_warned_of_once_and_no_warning_shows_a_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`.invalid` never resolves (RFC 6761), so nothing leaves here; errors of HTTP libraries quote the whole URL."""
    for _ in range(2):
        run_workflow(
            HELLO, store=tmp_path / "w.db", otlp="http://user:pass-4711@collector.invalid:4318/otel?key=key-4711"
        )
    SHIPPERS.begin_to_end()
    SHIPPERS.end(time.monotonic() + 5)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "spans go to http://collector.invalid:4318/otel without encryption; https:// has it"
    assert said[1].startswith("6 spans were not delivered to http://collector.invalid:4318/otel: ")
    assert "`configurable-agents runs export --pending --otlp http://collector.invalid:4318/otel --store /" in said[1]
    assert len(said) == 2
    assert "4711" not in "".join(said)


# --- headers -------------------------------------------------------------------------------------------------------------


def hello(**otlp: Any) -> Workflow:
    """Give a workflow of one node whose file names an endpoint."""
    config = scripted(f"the token is {SECRET}")
    if otlp:
        config["observability"] = {"otlp": otlp}
    return make([asks("a", "x")], chain("START a END"), {"x": field("str")}, config, name="hello")


HELLO = hello()


def test_headers_come_from_the_variable_that_the_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key to a backend is a secret: it is sent, and nothing else shows it."""
    with otlp_receiver("http/protobuf") as receiver:
        settle_environment(monkeypatch, receiver)
        monkeypatch.setenv("MY_HEADERS", f"Authorization=Bearer%20{SECRET},x-team=blue")
        monkeypatch.setenv("MY_ENDPOINT", receiver.endpoint)
        workflow = hello(endpoint="${env:MY_ENDPOINT}", headers_env="MY_HEADERS")
        run_workflow(workflow, store=tmp_path / "w.db")
        receiver.wait_for(3)
        headers = receiver.requests[0].headers
    assert (headers["authorization"], headers["x-team"]) == (f"Bearer {SECRET}", "blue")
    ((outputs,),) = eventually(lambda: rows(tmp_path / "w.db", "SELECT outputs_json FROM execution_states"))
    assert outputs == '{"x":"the token is ***"}', "it is masked like every other secret"


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"])
@pytest.mark.filterwarnings("ignore")
def test_headers_of_the_environment_that_are_half_wrong_go_nowhere(
    name: str, protocol: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter would take the half that it understands, and send it to whatever host a file names."""
    with otlp_receiver(protocol) as receiver:
        settle_environment(monkeypatch, receiver)
        monkeypatch.setenv(name, f"X-Key={SECRET},half")
        run_workflow(hello(endpoint=receiver.endpoint, protocol=protocol), store=tmp_path / "w.db")
        receiver.wait_for(3)
        assert SECRET.encode() not in receiver.raw()


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_headers_of_the_environment_go_to_its_own_endpoint_and_the_options(
    protocol: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are meant for the person's own backend: a file that names another host must not get the key to it."""
    with otlp_receiver(protocol) as receiver:
        settle_environment(monkeypatch, receiver)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-key={SECRET}")
        run_workflow(HELLO, store=tmp_path / "w.db", otlp=receiver.endpoint)
        receiver.wait_for(3)
        assert receiver.requests[0].headers["x-key"] == SECRET
        run_workflow(hello(endpoint=receiver.endpoint, protocol=protocol), store=tmp_path / "w.db")
        receiver.wait_for(6)
        assert "x-key" not in receiver.requests[-1].headers


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "the environment variable 'MY_HEADERS' is not set"),
        (SECRET, "holds is no list of headers"),
        (f"authorization=Bearer%0A{SECRET}", "holds is no list of headers"),
    ],
)
def test_wrong_headers_are_said_with_their_place_and_without_their_value(
    value: str | None, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything runs, as everything that is wrong with a file."""
    if value is not None:
        monkeypatch.setenv("MY_HEADERS", value)
    workflow = hello(endpoint="http://127.0.0.1:4318", headers_env="MY_HEADERS")
    with pytest.raises(ConfigError, match=problem) as caught:
        run_workflow(workflow, store=tmp_path / "w.db")
    assert "config.observability.otlp.headers_env" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_wrong_headers_of_the_environment_are_ignored_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The exporter's own warning would show them."""
    for _ in range(2):
        destinations("http://127.0.0.1:4318", None, {"OTEL_EXPORTER_OTLP_HEADERS": f"{SECRET}-wrong"})
    said = [record.getMessage() for record in caplog.records]
    assert said == ["OTEL_EXPORTER_OTLP_HEADERS is ignored: write key=value,key2=value2"]


def test_an_endpoint_of_a_file_that_is_not_trusted_is_refused(tmp_path: Path) -> None:
    """What a run says would otherwise go where whoever wrote the file wants it."""
    with pytest.raises(ConfigError, match=r"may not use the host 'evil\.example'"):
        run_workflow(hello(endpoint="http://evil.example"), store=tmp_path / "w.db", trust=False)


def test_an_endpoint_that_the_caller_names_too_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names it himself does not have to trust the file for it."""
    with otlp_receiver("http/protobuf") as receiver:
        settle_environment(monkeypatch, receiver)
        untrusted = hello(endpoint=receiver.endpoint)
        run_workflow(untrusted, store=tmp_path / "w.db", trust=False, otlp=receiver.endpoint)
        assert len(receiver.wait_for(3)) == 3


def test_headers_and_passwords_are_not_in_the_representation_of_a_destination() -> None:
    """It may be logged, or stand in a traceback."""
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": f"x-key={SECRET}"}
    (made,) = destinations("http://me:pass-4711@127.0.0.1:4318", None, environ)
    assert repr(made) == "Destination('http://127.0.0.1:4318')"
    assert made.secrets == {SECRET, "pass-4711"}
