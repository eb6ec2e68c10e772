"""Ships runs from a store: to an endpoint that missed them, or has forgotten them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from configurable_agents.errors import DeliveryError
from configurable_agents.observability.archive import StoredRun, shipped
from configurable_agents.observability.content import MAX_REQUEST_BYTES, ShippedSpan, ShipRules
from configurable_agents.observability.destinations import Destination, open_exporter
from configurable_agents.observability.exporter_log import exporter_log, shortened
from configurable_agents.storage.records import RunId

BATCH_SPANS: Final = 512
ENVELOPE_BYTES: Final = 20_000
"""Left free in a request for resources, scopes and framing."""


@dataclass(frozen=True)
class Delivered:
    """What one request brought to its destination."""

    runs: tuple[RunId, ...]
    """Those that are there as a whole now."""
    spans: int


def send(destination: Destination, runs: Iterable[StoredRun], rules: ShipRules) -> Iterator[Delivered]:
    """Ship runs with the ids that they have, so that a backend that has them already takes them for the same.

    Raises:
        DeliveryError: The destination did not take a request; what was delivered before is there.
    """
    with contextlib.closing(_Opened(destination)) as opened:
        for batch, whole in _requests(runs, rules):
            opened.send(batch)
            yield Delivered(whole, len(batch))


class _Opened:
    """A destination's exporter."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        try:
            self._exporter: SpanExporter = open_exporter(destination)
        except Exception as error:  # a foreign package may raise anything
            raise self._error(f"{type(error).__name__}: {error}") from error

    def send(self, batch: Sequence[ShippedSpan]) -> None:
        said: list[str] = []
        try:
            with exporter_log(said.append), _uninstrumented():
                taken = self._exporter.export(batch) is SpanExportResult.SUCCESS
        except Exception as error:
            raise self._error(f"{type(error).__name__}: {error}") from error
        if not taken:
            # The first text says what happened, the last one that the exporter has tried again in vain.
            raise self._error(said[0] if said else "it did not say why")

    def close(self) -> None:
        with contextlib.suppress(Exception):  # nobody is left to be told
            self._exporter.shutdown()

    def _error(self, reason: str) -> DeliveryError:
        return DeliveryError(f"{self._destination.name} did not take the spans: {shortened(reason)}")


@contextlib.contextmanager
def _uninstrumented() -> Iterator[None]:
    """Let nobody who instruments HTTP or gRPC in this program make spans of how spans are shipped."""
    token = otel_context.attach(otel_context.set_value(otel_context._SUPPRESS_INSTRUMENTATION_KEY, True))  # noqa: SLF001
    try:
        yield
    finally:
        otel_context.detach(token)


def _requests(runs: Iterable[StoredRun], rules: ShipRules) -> Iterator[tuple[list[ShippedSpan], tuple[RunId, ...]]]:
    """Give what goes in one request, with the runs that are whole with it."""
    batch: list[ShippedSpan] = []
    whole: list[RunId] = []
    left = MAX_REQUEST_BYTES - ENVELOPE_BYTES
    for stored in runs:
        for span in shipped(stored, rules):
            if batch and (span.size > left or len(batch) == BATCH_SPANS):
                yield batch, tuple(whole)
                batch, whole, left = [], [], MAX_REQUEST_BYTES - ENVELOPE_BYTES
            batch.append(span)
            left -= span.size
        whole.append(stored.run_id)
    if batch:
        yield batch, tuple(whole)
