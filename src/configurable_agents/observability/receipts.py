"""Tells a receipt from whatever else answers over HTTP: the SDK's exporters take each answer below 400 for "delivered"."""

from __future__ import annotations

import functools
import os
from typing import Any, Final, Literal
from urllib.parse import urlsplit

Signal = Literal["traces", "metrics"]

_CREDENTIALS: Final = {
    "traces": "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER",
    "metrics": "OTEL_PYTHON_EXPORTER_OTLP_HTTP_METRICS_CREDENTIAL_PROVIDER",
}
_ANY_CREDENTIALS: Final = "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER"


def signs_on(signal: Signal) -> bool:
    """Whether the environment names who makes the sessions of this signal's exporters, which sign on."""
    return any(os.environ.get(name) for name in (_CREDENTIALS[signal], _ANY_CREDENTIALS))


def checking_session(signal: Signal) -> Any:
    """Make a session for an exporter over HTTP, which raises a ValueError for what is no receipt."""
    import requests

    session = requests.Session()
    session.hooks["response"].append(functools.partial(_refuse_what_is_no_receipt, signal))
    return session


def _refuse_what_is_no_receipt(signal: Signal, response: Any, **_: Any) -> None:
    reason = None
    if 300 <= response.status_code < 400:
        to = urlsplit(response.headers.get("Location", ""))
        place = f"{to.scheme}://{to.netloc.rpartition('@')[2]}" if to.netloc else "another path"
        reason = f"it sends on to {place} (HTTP status {response.status_code}); name that endpoint"
    elif response.ok and response.headers.get("Content-Type", "").startswith("text/html"):
        reason = "it answered with a web page; is it an OTLP endpoint?"
    elif response.ok and response.headers.get("Content-Type", "").startswith("application/x-protobuf"):
        reason = _rejection(signal, response.content)
    if reason is not None:
        response.close()
        raise ValueError(reason)


def _rejection(signal: Signal, body: bytes) -> str | None:
    """Say what a backend that took a request did not take of it (OTLP, "Partial Success"); None if it took all."""
    try:
        number, what, why = _rejected_spans(body) if signal == "traces" else _rejected_points(body)
    except Exception:  # noqa: BLE001 - protobuf has errors of its own; whoever answers so has taken them, as far as anybody knows
        return None
    return f"it rejected {number} of the {what}: {why}" if number else None


def _rejected_spans(body: bytes) -> tuple[int, str, str]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    answer = ExportTraceServiceResponse.FromString(body).partial_success
    return answer.rejected_spans, "spans", answer.error_message


def _rejected_points(body: bytes) -> tuple[int, str, str]:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

    answer = ExportMetricsServiceResponse.FromString(body).partial_success
    return answer.rejected_data_points, "data points", answer.error_message
