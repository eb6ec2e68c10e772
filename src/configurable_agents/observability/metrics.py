"""Where the metrics of a run go: to exporters that the environment names, else to the host's meter provider, else nowhere."""

from __future__ import annotations

import functools
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.trace import ReadableSpan

from configurable_agents import semconv
from configurable_agents.forks import begin_anew_in_children
from configurable_agents.logs import logger_of
from configurable_agents.observability.exits import EXITS
from configurable_agents.observability.measurements import Measurement, measurements
from configurable_agents.observability.metric_sender import MetricDestination, MetricSender
from configurable_agents.semconv import Operation

if TYPE_CHECKING:
    from configurable_agents.observability.metric_sdk import Instruments

logger = logger_of(__name__)

_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_METRICS_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
_VARIABLES: Final = (
    "OTEL_METRICS_EXPORTER",
    _METRICS_ENDPOINT,
    _ENDPOINT,
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_METRIC_EXPORT_TIMEOUT",
)
"""What decides here; headers, certificates, compression and temporality the exporters read for themselves."""
_GRPC: Final = "otlp_proto_grpc"
_HTTP: Final = "otlp_proto_http"
_PROTOCOL_OF_PORT: Final = {"4317": "grpc", "4318": "http/protobuf"}
"""Who names a port by the conventions means its protocol, whatever an SDK's default is."""
_DEFAULT_PROTOCOL: Final = "grpc"
"""That of the OpenTelemetry SDK for Python."""
_SDK: Final = "opentelemetry.sdk.metrics"
_INSTRUMENTS: Final = "_configurable_agents_instruments"


class MetricsRoute:
    """Measures the spans of one run as they end."""

    def __init__(self, takers: Sequence[Callable[[Measurement], None]], senders: Sequence[MetricSender] = ()) -> None:
        self._takers = takers
        self.senders = senders
        self._workflow: str | None = None

    def on_start(self, span: ReadableSpan) -> None:
        """Learn from the run's span which workflow runs: a model call's does not say it."""
        said = span.attributes or {}
        name = said.get(semconv.GEN_AI_WORKFLOW_NAME)
        if said.get(semconv.GEN_AI_OPERATION_NAME) == Operation.INVOKE_WORKFLOW and isinstance(name, str):
            self._workflow = name

    def on_end(self, span: ReadableSpan) -> None:
        """Hand on what the span adds."""
        for measurement in measurements(span, self._workflow):
            for take in self._takers:
                take(measurement)


def metrics_route(environ: Mapping[str, str], *, ship_to_host: bool) -> MetricsRoute | None:
    """Give the way of one run into the metrics; None where nobody wants any, which costs nothing.

    Metrics are made where `OTEL_METRICS_EXPORTER` or an OTLP endpoint for metrics is set; without either, on the host's
    meter provider if the host has one of the SDK. Sampling does not thin them out: a rate needs every run.

    Args:
        ship_to_host: Whether a host's meter provider may be used.
    """
    try:
        chosen = metric_destinations(environ)
        if chosen:
            takers = [functools.partial(SENDERS.record, destination) for destination in chosen]
            return MetricsRoute(takers, [SENDERS.of(destination) for destination in chosen])
        host = _host_instruments() if ship_to_host else None
    except Exception:  # no run fails of its metrics, whatever a foreign provider or resource detector does
        logger.warning("this run is not measured", exc_info=True)
        return None
    return None if host is None else MetricsRoute([host.record])


# --- exporters that the environment names --------------------------------------------------------------------------------


def metric_destinations(environ: Mapping[str, str]) -> tuple[MetricDestination, ...]:
    """Give the exporters that the environment asks for, each once.

    See: OpenTelemetry specification, "Environment variables": exporter selection and OTLP exporter.
    """
    return _destinations(tuple(map(environ.get, _VARIABLES)))


@functools.lru_cache(maxsize=8)
def _destinations(values: tuple[str | None, ...]) -> tuple[MetricDestination, ...]:
    said = zip(_VARIABLES, values, strict=True)
    environ = {name: value.strip() for name, value in said if value is not None and value.strip()}
    default = "none" if _first(environ, _METRICS_ENDPOINT, _ENDPOINT) is None else "otlp"
    names = [name.strip() for name in environ.get("OTEL_METRICS_EXPORTER", default).split(",") if name.strip()]
    if "none" in names:
        return ()
    return tuple(dict.fromkeys(_destination(name, environ) for name in names))


def _destination(name: str, environ: Mapping[str, str]) -> MetricDestination:
    endpoint = None
    if name.startswith("otlp"):
        name, endpoint = _otlp(name, environ)
    return MetricDestination(
        exporter=name,
        name=name if endpoint is None else _shown(endpoint),
        endpoint=endpoint,
        interval_seconds=_seconds(environ, "OTEL_METRIC_EXPORT_INTERVAL", 60.0),
        timeout_seconds=_seconds(environ, "OTEL_METRIC_EXPORT_TIMEOUT", 30.0),
    )


def _otlp(name: str, environ: Mapping[str, str]) -> tuple[str, str | None]:
    """Give the exporter for the protocol, and the endpoint as that exporter wants it."""
    endpoint = _first(environ, _METRICS_ENDPOINT, _ENDPOINT)
    if name == "otlp":
        asked = _first(environ, "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
        protocol = asked.lower() if asked is not None else _protocol_of(endpoint)
        # `http/json` is not in Python's SDK; who takes it takes protobuf on the same port.
        name = _HTTP if protocol.startswith("http") else _GRPC
    if endpoint is not None and name == _HTTP and _METRICS_ENDPOINT not in environ:
        # The variable for metrics holds the whole URL of an HTTP endpoint, the general one its base.
        endpoint = f"{endpoint.rstrip('/')}/v1/metrics"
    return name, endpoint


def _first(environ: Mapping[str, str], *names: str) -> str | None:
    return next((environ[name] for name in names if name in environ), None)


def _protocol_of(endpoint: str | None) -> str:
    port = re.search(r":(\d+)$", _shown(endpoint or ""))
    return _PROTOCOL_OF_PORT.get(port[1] if port else "", _DEFAULT_PROTOCOL)


def _shown(endpoint: str) -> str:
    """Give an endpoint as people may see it: a URL may hold a password or a key."""
    scheme, sign, rest = endpoint.rpartition("://")
    return scheme + sign + re.split(r"[/?#]", rest)[0].rpartition("@")[2]


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    try:
        seconds = float(environ.get(name, default * 1000)) / 1000
    except ValueError:
        seconds = 0.0
    if 0 < seconds < threading.TIMEOUT_MAX:
        return seconds
    logger.warning("%s=%r is no number of milliseconds above 0; %g s it is", name, environ.get(name), default)
    return default


# --- what lives as long as the process -----------------------------------------------------------------------------------


class Senders:
    """The senders of this process, one for each destination: what runs add is summed up over all of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_destination: dict[MetricDestination, MetricSender] = {}

    def record(self, destination: MetricDestination, measurement: Measurement) -> None:
        """Take a measurement for a destination."""
        self.of(destination).record(measurement)

    def of(self, destination: MetricDestination) -> MetricSender:
        """Give the sender to a destination, begun when it is first asked for."""
        sender = self._by_destination.get(destination)
        if sender is not None:
            return sender
        with self._lock:
            sender = self._by_destination.get(destination)
            if sender is None:
                sender = self._by_destination[destination] = MetricSender(destination)
                EXITS.add(self)
            return sender

    def begin_to_end(self) -> None:
        """Have all send what they have."""
        for sender in self._all():
            sender.begin_to_end()

    def end(self, deadline: float) -> None:
        """Wait for all, until `deadline` on the monotonic clock at the latest."""
        for sender in self._all():
            sender.end(deadline)

    def _all(self) -> list[MetricSender]:
        with self._lock:
            return list(self._by_destination.values())


SENDERS: Final = Senders()
# A child begins with nothing measured: what its parent measured is the parent's to send, and threads do not fork.
begin_anew_in_children(lambda: SENDERS.__init__())  # type: ignore[misc]  # the same object, as new


# --- the host's ----------------------------------------------------------------------------------------------------------


def _host_instruments() -> Instruments | None:
    """Give our instruments on the host's meter provider, always the same ones."""
    # Another thread may be loading it just now: then its names are not there yet.
    made_by_the_sdk = getattr(sys.modules.get(_SDK), "MeterProvider", None)
    if made_by_the_sdk is None:
        return None  # nobody has loaded the metrics SDK, so nobody has a provider of it
    from opentelemetry.metrics import get_meter_provider

    provider = get_meter_provider()
    if not isinstance(provider, made_by_the_sdk):
        return None
    from configurable_agents.observability.metric_sdk import Instruments

    # Kept by the provider itself: a mapping of ours would keep both alive for ever.
    made: Instruments | None = vars(provider).get(_INSTRUMENTS)
    return made or vars(provider).setdefault(_INSTRUMENTS, Instruments(provider))
