"""OTLP receivers for tests: real gRPC and HTTP servers on sockets of this machine, and ones that misbehave.

with otlp_receiver("grpc") as receiver:
    run_workflow(workflow, otlp=receiver.endpoint)
    spans = receiver.wait_for(3)

A receiver fails as `fault` says, or for as many requests as `failures` has entries. `otlp_receiver(protocol,
fault="refuse")` and "drip" are about the socket itself and last as long as the receiver. The endpoint may be handed to a
child process as well.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, TypeVar

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from _otlp_decode import ReceivedMetric, ReceivedSpan, metrics_of, spans_of
from _runs import PATIENCE_SECONDS

Protocol = Literal["grpc", "http/protobuf"]
PROTOCOLS: tuple[Protocol, ...] = ("grpc", "http/protobuf")

Fault = Literal["throttle", "unavailable", "too_large", "bad_request", "hang", "refuse", "drip"]
"""What goes wrong. throttle: 429 with `Retry-After: 60`, in gRPC RESOURCE_EXHAUSTED with a RetryInfo of 60 s. unavailable: 503 or
UNAVAILABLE. too_large: 413, or RESOURCE_EXHAUSTED without a word on retrying. bad_request: 400 or INVALID_ARGUMENT. hang: the
request is taken and never answered. refuse: nobody listens. drip: one byte a second."""
FAULTS: tuple[Fault, ...] = ("throttle", "unavailable", "too_large", "hang", "refuse", "drip")

Kind = Literal["traces", "metrics"]
_Found = TypeVar("_Found")

_RETRY_SECONDS = 60
_GRPC_METHODS: dict[str, Kind] = {
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export": "traces",
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export": "metrics",
}
_HTTP_PATHS: dict[str, Kind] = {"/v1/traces": "traces", "/v1/metrics": "metrics"}
_HTTP_STATUS: dict[Fault, int] = {"throttle": 429, "unavailable": 503, "too_large": 413, "bad_request": 400}


@dataclass(frozen=True)
class ReceivedRequest:
    """A request, answered well or not."""

    kind: Kind
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    """The protobuf message, unpacked."""
    wire_bytes: int
    """The body's size on the wire (HTTP; in gRPC the message's own size)."""
    refused: bool
    """Whether a fault was answered, so that its content does not count as received."""


@dataclass
class OtlpReceiver:
    """What came in, and what the receiver shall do."""

    protocol: Protocol
    endpoint: str = ""
    """Base URL, as `http://127.0.0.1:4318`."""
    fault: Fault | None = None
    """What goes wrong with every request, until it is set to None again."""
    failures: deque[Fault] = field(default_factory=deque)
    """What goes wrong with the next requests, in turn."""
    requests: list[ReceivedRequest] = field(default_factory=list)
    spans: list[ReceivedSpan] = field(default_factory=list)
    metrics: list[ReceivedMetric] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def wait_for(self, count: int, *, seconds: float = PATIENCE_SECONDS) -> list[ReceivedSpan]:
        """Wait until so many spans have come, and give all of them in the order of their start."""
        self.wait_until(lambda: len(self.spans) >= count, seconds=seconds)
        return sorted(self.spans, key=lambda span: (span.start_time_unix_nano, span.span_id))

    def wait_until(self, found: Callable[[], _Found], *, seconds: float = PATIENCE_SECONDS) -> _Found:
        """Wait until something holds of what came, and give it."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not (value := found()):
                left = deadline - time.monotonic()
                assert left > 0, f"it never came: {len(self.requests)} requests, {[s.name for s in self.spans]}"
                self._changed.wait(left)
            return value

    def wait_for_metrics(self, *names: str, seconds: float = PATIENCE_SECONDS) -> dict[str, ReceivedMetric]:
        """Wait until metrics of these names have come, and give the last of each."""
        self.wait_until(lambda: set(names) <= {metric.name for metric in self.metrics}, seconds=seconds)
        return {metric.name: metric for metric in list(self.metrics)}

    def tree(self) -> str:
        """The spans as text, children below their parents, in the order of their start."""
        return tree_of(self.spans)

    def raw(self) -> bytes:
        """All that came, as bytes, headers too: what is not in here has not left."""
        parts = [b"\n".join([str(request.headers).encode(), request.body]) for request in self.requests]
        return b"\n".join(parts)

    def _take(self, kind: Kind, path: str, headers: dict[str, str], body: bytes, wire_bytes: int) -> Fault | None:
        with self._changed:
            fault = self.failures.popleft() if self.failures else self.fault
            self.requests.append(ReceivedRequest(kind, path, headers, body, wire_bytes, fault is not None))
            if fault is None and kind == "traces":
                self.spans.extend(spans_of(ExportTraceServiceRequest.FromString(body)))
            elif fault is None:
                self.metrics.extend(metrics_of(ExportMetricsServiceRequest.FromString(body)))
            self._changed.notify_all()
        return fault


def tree_of(spans: list[ReceivedSpan]) -> str:
    """Give spans as text, children below their parents, in the order of their start; one whose parent is not here is a root."""
    ids = {span.span_id for span in spans}
    below: dict[str | None, list[ReceivedSpan]] = {}
    for span in sorted(spans, key=lambda one: (one.start_time_unix_nano, one.span_id)):
        below.setdefault(span.parent_span_id if span.parent_span_id in ids else None, []).append(span)

    def lines(parent: str | None, depth: int) -> list[str]:
        return [
            line
            for span in below.get(parent, [])
            for line in ["  " * depth + span.name, *lines(span.span_id, depth + 1)]
        ]

    return "\n".join(lines(None, 0)) + "\n"


def settle_environment(patch: pytest.MonkeyPatch, receiver: OtlpReceiver) -> None:
    """Let the person's own OpenTelemetry settings have no say, and name the protocol: the receiver's port says nothing of it."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        patch.delenv(name)
    patch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", receiver.protocol)
    # A receiver that a busy machine holds up must not be taken for one that fails, and get the same again.
    patch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(PATIENCE_SECONDS))


@contextlib.contextmanager
def otlp_receiver(protocol: Protocol, *, fault: Fault | None = None) -> Iterator[OtlpReceiver]:
    """Serve on a free port of 127.0.0.1 until the block is left."""
    receiver = OtlpReceiver(protocol, fault=fault)
    serve = {"refuse": _refusing, "drip": _dripping}.get(fault or "") or (_grpc if protocol == "grpc" else _http)
    with serve(receiver) as port:
        receiver.endpoint = f"http://127.0.0.1:{port}"
        try:
            yield receiver
        finally:
            receiver._stopped.set()


# --- HTTP --------------------------------------------------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    """Ends the connections that clients keep open, so that it can be closed at once."""

    daemon_threads = False
    request_queue_size = 64

    def __init__(self, receiver: OtlpReceiver) -> None:
        self.receiver = receiver
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has gone."""

    def server_close(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        wire = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        # What stands before is a tenant's.
        kind = next((kind for path, kind in _HTTP_PATHS.items() if self.path.endswith(path)), None)
        if kind is None:
            return self._answer(404)
        body = gzip.decompress(wire) if headers.get("content-encoding") == "gzip" else wire
        fault = self.server.receiver._take(kind, self.path, headers, body, len(wire))
        if fault == "hang":
            self.server.receiver._stopped.wait()
            self.close_connection = True
            return None
        return self._answer(200 if fault is None else _HTTP_STATUS[fault], throttle=fault == "throttle")

    def _answer(self, status: int, *, throttle: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        if throttle:
            self.send_header("Retry-After", str(_RETRY_SECONDS))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Keep silent."""


@contextlib.contextmanager
def _http(receiver: OtlpReceiver) -> Iterator[int]:
    server = _Server(receiver)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="otlp-http")
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        receiver._stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


# --- gRPC --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _grpc(receiver: OtlpReceiver) -> Iterator[int]:
    import grpc  # type: ignore[import-untyped]  # it publishes no types

    class Methods(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc publishes no types
        def service(self, details: Any) -> Any:
            kind = _GRPC_METHODS.get(details.method)
            if kind is None:
                return None
            # Messages stay bytes: what is searched is what was sent.
            return grpc.unary_unary_rpc_method_handler(
                lambda body, context: _grpc_answer(receiver, kind, details.method, body, context)
            )

    # So many threads as calls may hang at once.
    with ThreadPoolExecutor(max_workers=16, thread_name_prefix="otlp-grpc") as pool:
        server = grpc.server(pool, handlers=[Methods()], options=[("grpc.max_receive_message_length", 64 << 20)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            receiver._stopped.set()
            server.stop(grace=1).wait()  # no call is left; without any grace gRPC would complain on stderr


def _grpc_answer(receiver: OtlpReceiver, kind: Kind, method: str, body: bytes, context: Any) -> bytes:
    headers = {key: str(value) for key, value in context.invocation_metadata()}
    fault = receiver._take(kind, method, headers, body, len(body))
    if fault == "hang":
        receiver._stopped.wait()
    elif fault is not None:
        _grpc_fail(fault, context)
    return b""  # an Export…ServiceResponse that says nothing: all was accepted


def _grpc_fail(fault: Fault, context: Any) -> None:
    import grpc

    codes = {"unavailable": grpc.StatusCode.UNAVAILABLE, "bad_request": grpc.StatusCode.INVALID_ARGUMENT}
    context.set_code(codes.get(fault, grpc.StatusCode.RESOURCE_EXHAUSTED))
    context.set_details(f"the test says {fault}")
    if fault == "throttle":
        from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]  # it publishes no types

        info = RetryInfo()
        info.retry_delay.FromSeconds(_RETRY_SECONDS)
        # The key under which the OpenTelemetry exporter looks for it.
        context.set_trailing_metadata((("google.rpc.retryinfo-bin", info.SerializeToString()),))


# --- sockets that misbehave --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _refusing(_receiver: OtlpReceiver) -> Iterator[int]:
    """Hold a port on which nobody listens, so that nobody else gets it meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextlib.contextmanager
def _dripping(receiver: OtlpReceiver) -> Iterator[int]:
    """Answer every connection with one byte a second, of an answer that would be a good one."""
    if receiver.protocol == "grpc":
        answer = bytes.fromhex("000012040000000000000300000064000400100000000600004000")  # an HTTP/2 SETTINGS frame
    else:
        answer = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 100000\r\n\r\n" + b"0" * 100
        )
    connections: list[socket.socket] = []

    def drip() -> None:
        for byte in answer:
            if receiver._stopped.wait(1):
                return
            for connection in tuple(connections):  # the other thread adds to them
                with contextlib.suppress(OSError):
                    connection.send(bytes([byte]))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connections.append(listener.accept()[0])

    listener = socket.create_server(("127.0.0.1", 0))
    threads = [threading.Thread(target=target, name="otlp-drip") for target in (drip, accept)]
    for thread in threads:
        thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        receiver._stopped.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join()
        for connection in connections:
            connection.close()
