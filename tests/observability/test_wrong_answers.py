"""An endpoint over HTTP that answers, but is none: what it did not take must not count as delivered."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from _otlp import otlp_receiver, settle_environment
from _runs import asks, chain, eventually, field, rows, run_program, scripted
from _workflows import make
from configurable_agents import run_workflow

HELLO = make([asks("a", "x")], chain("START a END"), {"x": field("str")}, scripted("yes"), name="hello")


@contextmanager
def answering(status: int, headers: dict[str, str], body: bytes = b"") -> Iterator[str]:
    """Serve one and the same answer to every POST; give the server's URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
            """Keep silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def delivered(store: Path) -> int:
    found: int = rows(store, "SELECT count(*) FROM run_deliveries")[0][0]
    return found


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_an_endpoint_that_sends_elsewhere_has_got_nothing(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As http:// does where https:// is meant. The spans do not go where nobody named, and the warning says what to name."""
    caplog.set_level(logging.WARNING)
    with otlp_receiver("http/protobuf") as other:
        settle_environment(monkeypatch, other)
        with answering(status, {"Location": f"{other.endpoint}/v1/traces?token=secret"}) as endpoint:
            run_workflow(HELLO, store=tmp_path / "w.db", otlp=endpoint)
            eventually(lambda: f"it sends on to {other.endpoint}" in caplog.text)
    assert (other.requests, delivered(tmp_path / "w.db")) == ([], 0)
    assert "secret" not in caplog.text


def test_a_web_page_is_no_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A login page, or the page of a single-page application, comes with status 200 whatever is asked for."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    caplog.set_level(logging.WARNING)
    with answering(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>") as endpoint:
        run_workflow(HELLO, store=tmp_path / "w.db", otlp=endpoint)
        eventually(lambda: "a web page" in caplog.text)
    assert delivered(tmp_path / "w.db") == 0


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "application/json"}, {"Content-Type": "text/plain"}])
def test_an_endpoint_may_be_careless_of_its_answers_type(headers: dict[str, str], tmp_path: Path) -> None:
    with answering(202, headers, b"{}") as endpoint:
        run_workflow(HELLO, store=tmp_path / "w.db", otlp=endpoint)
        assert eventually(lambda: delivered(tmp_path / "w.db")) == 1


def test_what_a_backend_rejects_of_a_request_is_not_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers 200 and says in the body how many spans it did not take (OTLP, "Partial Success")."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    caplog.set_level(logging.WARNING)
    rejected = ExportTracePartialSuccess(rejected_spans=2, error_message="too old")
    body = ExportTraceServiceResponse(partial_success=rejected).SerializeToString()
    with answering(200, {"Content-Type": "application/x-protobuf"}, body) as endpoint:
        run_workflow(HELLO, store=tmp_path / "w.db", otlp=endpoint)
        eventually(lambda: "rejected 2 of the spans: too old" in caplog.text)
    assert delivered(tmp_path / "w.db") == 0
    assert "runs export --pending" in caplog.text


def test_of_a_run_that_nobody_keeps_no_remedy_is_promised(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    caplog.set_level(logging.WARNING)
    with answering(400, {}) as endpoint:
        run_workflow(HELLO, store=False, otlp=endpoint)
        eventually(lambda: "there is no store that has them" in caplog.text)


REJECTED = ExportMetricsServiceResponse(
    partial_success=ExportMetricsPartialSuccess(rejected_data_points=3, error_message="too many names")
).SerializeToString()


@pytest.mark.parametrize(
    ("status", "headers", "body", "reason"),
    [
        (
            308,
            {"Location": "https://other.invalid/v1/metrics?token=secret"},
            b"",
            "it sends on to https://other.invalid",
        ),
        (200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>", "it answered with a web page"),
        (200, {"Content-Type": "application/x-protobuf"}, REJECTED, "rejected 3 of the data points: too many names"),
    ],
)
def test_metrics_that_nobody_took_are_told_of_once(
    status: int, headers: dict[str, str], body: bytes, reason: str
) -> None:
    """They are looked for when something is wrong, which is a bad moment to find out that there have never been any."""
    text = """
        import sys, time
        from _runs import calls, chain, field
        from _workflows import make
        from configurable_agents import run_workflow

        count = make([calls("a", "n")], chain("START a END"), {"n": field("int")})
        run_workflow(count, functions={"a": lambda: 1}, store=False)
        time.sleep(1)  # it is sent several times
    """
    with answering(status, headers, body) as endpoint:
        environment = {
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{endpoint}/v1/metrics",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRIC_EXPORT_INTERVAL": "100",
            "CONFIGURABLE_AGENTS_OTLP_EXIT_SECONDS": "30",
        }
        code, _, err = run_program(textwrap.dedent(text), **environment)
    assert code == 0
    assert err.count("\n") == 1, err
    assert f"metrics could not be sent to {endpoint}: " in err
    assert reason in err
    assert "secret" not in err
