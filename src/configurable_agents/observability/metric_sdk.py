"""The metrics SDK, wired: a meter provider of our own with an exporter, or instruments on the host's. Loaded when first needed."""

from __future__ import annotations

import inspect
from importlib.metadata import entry_points
from typing import Any

from opentelemetry.metrics import Counter, Histogram, Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricReader, MetricsData
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource

from configurable_agents._version import __version__
from configurable_agents.observability.loading import LOADING
from configurable_agents.observability.measurements import INSTRUMENTS, Instrument, Measurement
from configurable_agents.observability.receipts import checking_session, signs_on
from configurable_agents.semconv import SCOPE_NAME

_ENTRY_POINTS = "opentelemetry_metrics_exporter"
_OVER_HTTP = "otlp_proto_http"


class Instruments:
    """Our instruments on one meter; aggregates in memory, so that recording waits for nobody."""

    def __init__(self, provider: MeterProvider) -> None:
        meter = provider.get_meter(SCOPE_NAME, __version__)
        self._by_name = {instrument.name: _make(meter, instrument) for instrument in INSTRUMENTS}

    def record(self, measurement: Measurement) -> None:
        """Aggregate a measurement."""
        instrument = self._by_name[measurement.instrument.name]
        if isinstance(instrument, Histogram):
            instrument.record(measurement.value, dict(measurement.attributes), measurement.context)
        else:
            instrument.add(measurement.value, dict(measurement.attributes), measurement.context)


def _make(meter: Meter, instrument: Instrument) -> Histogram | Counter:
    about: dict[str, Any] = {"unit": instrument.unit, "description": instrument.description}
    if instrument.kind == "counter":
        return meter.create_counter(instrument.name, **about)
    # What a host's view says goes before advice; older SDKs know no advice, and there its own bounds have to do.
    if "explicit_bucket_boundaries_advisory" in inspect.signature(meter.create_histogram).parameters:
        about["explicit_bucket_boundaries_advisory"] = list(instrument.boundaries)
    return meter.create_histogram(instrument.name, **about)


class ExportingReader(MetricReader):
    """Reads when told to, and exports what it read on the same thread."""

    def __init__(self, exporter: MetricExporter) -> None:
        self._exporter = exporter
        self._delivered = True
        # An exporter says by these what its environment prefers (delta or cumulative); the SDK's own reader asks it so, too.
        super().__init__(
            preferred_temporality=getattr(exporter, "_preferred_temporality", None),
            preferred_aggregation=getattr(exporter, "_preferred_aggregation", None),
        )

    def export(self, timeout_millis: float) -> bool:
        """Read and send; True unless something was there and was not taken.

        Raises:
            Exception: Whatever an exporter raises.
        """
        self._delivered = True
        self.collect(timeout_millis=timeout_millis)
        return self._delivered

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_more: Any) -> None:
        result = self._exporter.export(metrics_data, timeout_millis=timeout_millis)
        self._delivered = result is MetricExportResult.SUCCESS

    def shutdown(self, timeout_millis: float = 30_000, **_more: Any) -> None:
        """Release the exporter, which interrupts a wait between its tries."""
        self._exporter.shutdown(timeout_millis=timeout_millis)


def open_metrics(
    exporter_name: str, endpoint: str | None, resource: Resource
) -> tuple[Instruments, ExportingReader | None]:
    """Make a meter provider of our own, never the global one, with the exporter of that name.

    Args:
        endpoint: For an exporter of OTLP. It was read when the run began; all else the exporter reads now.

    Returns:
        Its instruments, and what sends them; None where others come and fetch them (Prometheus).

    Raises:
        LookupError: No installed package has an exporter of that name.
    """
    found = next(iter(entry_points(group=_ENTRY_POINTS, name=exporter_name)), None)
    if found is None:
        raise LookupError(f"no installed package has a metrics exporter called {exporter_name!r}")
    with LOADING:
        exporter = found.load()
    options: dict[str, Any] = {} if endpoint is None else {"endpoint": endpoint}
    if exporter_name == _OVER_HTTP and not signs_on("metrics"):
        options["session"] = checking_session("metrics")
    made = exporter(**options)
    reader: MetricReader = made if isinstance(made, MetricReader) else ExportingReader(made)
    provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False, views=_views())
    return Instruments(provider), reader if isinstance(reader, ExportingReader) else None


def _views() -> list[View]:
    """Give the conventions' buckets as views, which every SDK we support knows."""
    return [
        View(
            instrument_name=instrument.name,
            aggregation=ExplicitBucketHistogramAggregation(boundaries=list(instrument.boundaries)),
        )
        for instrument in INSTRUMENTS
        if instrument.boundaries
    ]
