"""Sends metrics to one exporter, on a thread of its own: no run waits for an endpoint, nor for a library to load."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from opentelemetry import context as otel_context

from configurable_agents.observability.exporter_log import exporter_log, shortened
from configurable_agents.observability.measurements import Measurement
from configurable_agents.observability.resource import current_resource

if TYPE_CHECKING:
    from configurable_agents.observability.metric_sdk import ExportingReader, Instruments

logger = logging.getLogger(__name__)

EARLY_MEASUREMENTS: Final = 10_000
"""How many measurements wait for the SDK to load (a few tenths of a second); afterwards none waits, they are aggregated."""


@dataclass(frozen=True, slots=True)
class MetricDestination:
    """Where metrics go."""

    exporter: str
    """The name of an entry point."""
    name: str
    """As people may see it, without credentials."""
    interval_seconds: float = 60.0
    timeout_seconds: float = 30.0


class MetricSender:
    """Aggregates measurements, and sends what they come to at an interval and at the process's end."""

    def __init__(self, destination: MetricDestination) -> None:
        self._destination = destination
        self._lock = threading.Lock()
        self._instruments: Instruments | None = None
        self._early: list[Measurement] | None = []
        """Measurements from before the SDK was loaded; None once that could not be done."""
        self._ending = threading.Event()
        self._ended = threading.Event()
        self._warned = False
        self._heard: str | None = None
        """What the exporter logged last: its result has no reason."""
        self._thread = threading.Thread(target=self._work, name="configurable-agents-metrics", daemon=True)
        self._thread.start()

    def record(self, measurement: Measurement) -> None:
        """Take a measurement; never waits."""
        if self._instruments is None:
            with self._lock:
                if self._instruments is None:
                    if self._early is not None and len(self._early) < EARLY_MEASUREMENTS:
                        self._early.append(measurement)
                    return
        self._instruments.record(measurement)

    def begin_to_end(self) -> None:
        """Have it send once more and end, without waiting for that."""
        self._ending.set()

    def end(self, deadline: float) -> None:
        """Wait until it has ended, or until `deadline` on the monotonic clock; then it is left alone."""
        self._ending.set()
        if not self._ended.wait(max(0.0, deadline - time.monotonic())):
            self._warn(self._heard or "the program ended before they were taken")

    def _work(self) -> None:
        otel_context.attach(otel_context.set_value(otel_context._SUPPRESS_INSTRUMENTATION_KEY, True))  # noqa: SLF001
        try:
            reader = self._open()
            if reader is not None:
                self._send_until_the_end(reader)
        except Exception as error:  # noqa: BLE001 - metrics never break a program, and their loss is never silent
            with self._lock:
                self._early = None
            self._warn(_told(error))
        finally:
            self._ended.set()

    def _send_until_the_end(self, reader: ExportingReader) -> None:
        # The exporter's library is loaded by now, and with it the loggers that are listened to here.
        with exporter_log(self._hear):
            while not self._ending.wait(self._destination.interval_seconds):
                self._send(reader)
            self._send(reader)

    def _open(self) -> ExportingReader | None:
        from configurable_agents.observability.metric_sdk import open_metrics

        destination = self._destination
        instruments, reader = open_metrics(destination.exporter, current_resource(with_instance=True))
        with self._lock:
            early, self._early = self._early or [], None
            for measurement in early:
                instruments.record(measurement)
            self._instruments = instruments
        return reader

    def _send(self, reader: ExportingReader) -> None:
        self._heard = None
        try:
            delivered = reader.export(self._destination.timeout_seconds * 1000)
        except Exception as error:  # noqa: BLE001 - an exporter may raise anything
            delivered, self._heard = False, _told(error)
        if delivered:
            self._warned = False
        else:
            self._warn(self._heard or "they were not taken")

    def _hear(self, text: str) -> None:
        self._heard = text

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "metrics could not be sent to %s: %s; OTEL_METRICS_EXPORTER=none turns them off",
                self._destination.name,
                reason,
            )


def _told(error: Exception) -> str:
    return shortened(f"{type(error).__name__}: {error}")
