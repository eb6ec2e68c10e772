"""Sends metrics to one exporter, on a thread of its own: no run waits for an endpoint, nor for a library to load."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from opentelemetry import context as otel_context

from configurable_agents.environ import environment
from configurable_agents.logs import logger_of
from configurable_agents.observability.exporter_log import exporter_log, shortened
from configurable_agents.observability.loading import LOADING
from configurable_agents.observability.measurements import Measurement
from configurable_agents.observability.resource import current_resource, host_provider

if TYPE_CHECKING:
    from configurable_agents.observability.metric_sdk import ExportingReader, Instruments

logger = logger_of(__name__)

EARLY_MEASUREMENTS: Final = 10_000
"""How many measurements wait for the SDK to load (a few tenths of a second); afterwards none waits, they are summed up."""


@dataclass(frozen=True, slots=True)
class MetricDestination:
    """Where metrics go."""

    exporter: str
    """The name of an entry point."""
    name: str
    """As people may see it, without credentials."""
    endpoint: str | None = field(default=None, repr=False)
    """For an exporter of OTLP, as it wants it; None for its default."""
    interval_seconds: float = 60.0
    timeout_seconds: float = 30.0


class MetricSender:
    """Sums measurements up, and sends what they come to at an interval and at the process's end."""

    def __init__(self, destination: MetricDestination) -> None:
        self._destination = destination
        # Here, not on the thread: the SDK makes a resource with a pool of threads, and there is none in a program that ends.
        environ = environment()
        self._resource = current_resource(host_provider(environ), environ, with_instance=True)
        self._lock = threading.Lock()
        self._instruments: Instruments | None = None
        self._early: list[Measurement] | None = []
        """Measurements from before the SDK was loaded; None when nothing has to wait any more."""
        self._too_early = 0
        self._watchers: list[Callable[[], None]] = []
        self._ending = threading.Event()
        self._settled = threading.Event()
        """Whether there is nothing to wait for at the end: all was sent, or the last try is failing."""
        self._is_done = False
        self._failure: str | None = None
        """Why the last try failed; None if it did not."""
        self._warned = False
        self._heard: str | None = None
        """What the exporter logged of the try that goes on: its result has no reason."""
        self._thread = threading.Thread(target=self._work, name="configurable-agents-metrics", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # no thread can be had now, or the interpreter is ending
            self._give_up(error)
            self._is_done = True
            self._settled.set()

    # --- on the run's thread -------------------------------------------------------------------------------------------

    def record(self, measurement: Measurement) -> None:
        """Take a measurement; never waits."""
        if self._instruments is None:
            with self._lock:
                if self._instruments is None:
                    self._keep_for_later(measurement)
                    return
        self._instruments.record(measurement)

    def _keep_for_later(self, measurement: Measurement) -> None:
        if self._early is not None and len(self._early) < EARLY_MEASUREMENTS:
            self._early.append(measurement)
        else:
            self._too_early += 1

    def when_loaded(self, call: Callable[[], None]) -> bool:
        """Be called when the SDK and the exporter are loaded; True if there is nothing to wait for."""
        with self._lock:
            if self._early is None:
                return True
            self._watchers.append(call)
            return False

    # --- at the end of the process -------------------------------------------------------------------------------------

    def begin_to_end(self) -> None:
        """Have it send once more and end, without waiting for that."""
        self._ending.set()

    def end(self, deadline: float) -> None:
        """Wait until that is done or fails, or until `deadline` on the monotonic clock; then it is left alone."""
        self._ending.set()
        if self._heard is None:  # else a try is failing already
            self._settled.wait(max(0.0, deadline - time.monotonic()))
        reason = self._failure or self._heard
        if reason is not None or not self._is_done:
            self._warn(reason or "the program ended before they were taken")

    # --- on its own thread ---------------------------------------------------------------------------------------------

    def _work(self) -> None:
        # Whoever instruments HTTP or gRPC in this program shall not make spans of how metrics are sent.
        otel_context.attach(otel_context.set_value(otel_context._SUPPRESS_INSTRUMENTATION_KEY, True))  # noqa: SLF001
        try:
            with exporter_log(self._hear):  # which also keeps headers that it does not understand out of the log
                reader = self._open()
            self._heard = None
            if reader is not None:
                self._send_until_the_end(reader)
        except Exception as error:  # noqa: BLE001 - metrics never break a program, and their loss is never silent
            self._give_up(error)
        self._is_done = True
        self._settled.set()

    def _open(self) -> ExportingReader | None:
        with LOADING:
            from configurable_agents.observability.metric_sdk import open_metrics

        instruments, reader = open_metrics(self._destination.exporter, self._destination.endpoint, self._resource)
        for measurement in self._begin(instruments):
            instruments.record(measurement)
        if self._too_early:
            logger.warning("%d measurements came before metrics could be taken, and are lost", self._too_early)
        return reader

    def _begin(self, instruments: Instruments | None) -> list[Measurement]:
        """Have measurements go to the instruments from now on; give those from before."""
        with self._lock:
            self._instruments = instruments
            early, self._early = self._early or [], None
            watchers, self._watchers = self._watchers, []
        for call in watchers:
            with contextlib.suppress(RuntimeError):  # its event loop has closed meanwhile
                call()
        return early

    def _send_until_the_end(self, reader: ExportingReader) -> None:
        # The exporter's library is loaded by now, and with it the loggers that are listened to here.
        with exporter_log(self._hear):
            while not self._ending.wait(self._destination.interval_seconds):
                self._send(reader)
            self._send(reader)

    def _send(self, reader: ExportingReader) -> None:
        self._heard = None
        try:
            delivered = reader.export(self._destination.timeout_seconds * 1000)
        except Exception as error:  # noqa: BLE001 - an exporter may raise anything
            delivered = False
            self._hear(_told(error))
        if delivered:
            self._failure, self._warned = None, False
        else:
            self._fail(self._heard or "they were not taken")
        self._heard = None

    def _hear(self, text: str) -> None:
        """Take what the exporter would log: a try that failed. It goes on trying, which may take a minute."""
        self._heard = text
        if self._ending.is_set():
            self._settled.set()

    def _give_up(self, error: Exception) -> None:
        self._begin(None)
        self._fail(_told(error))

    def _fail(self, reason: str) -> None:
        self._failure = reason
        if not self._ending.is_set():  # else `end` warns: a thread may be gone before it has
            self._warn(reason)

    def _warn(self, reason: str) -> None:
        """Warn, once until metrics are taken again."""
        if self._warned:
            return
        self._warned = True
        name, endpoint = self._destination.name, self._destination.endpoint
        logger.warning(
            "metrics could not be sent to %s: %s; OTEL_METRICS_EXPORTER=none turns them off",
            name,
            reason.replace(endpoint, name) if endpoint is not None else reason,  # it may hold a password
        )


def _told(error: Exception) -> str:
    return shortened(f"{type(error).__name__}: {error}")
