"""Ships the spans of runs: each sampled one, filtered, to every destination of its run."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import Final
from weakref import WeakSet

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from configurable_agents import semconv
from configurable_agents.forks import begin_anew_in_children
from configurable_agents.logs import logger_of
from configurable_agents.observability.content import ShipRules, shippable
from configurable_agents.observability.destinations import Destination
from configurable_agents.observability.exits import EXITS
from configurable_agents.observability.exporter import StoreSpanExporter
from configurable_agents.observability.shipper import Delivery, Shipper
from configurable_agents.semconv import Operation
from configurable_agents.storage.records import RunId

logger = logger_of(__name__)


class Shippers:
    """The shippers of this process, one for each destination: all runs share its queue, its thread and its connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_destination: dict[Destination, Shipper] = {}
        self._stores: WeakSet[StoreSpanExporter] = WeakSet()
        self._is_ended_with_the_process = False

    def of(self, destination: Destination, store: StoreSpanExporter | None) -> Shipper:
        """Give the shipper to a destination, made when it is first asked for.

        Args:
            store: Takes the marks of what was delivered, also at the process's end.
        """
        with self._lock:
            shipper = self._by_destination.get(destination)
            is_new = shipper is None
            if shipper is None:
                shipper = self._by_destination[destination] = Shipper(destination)
            is_new_store = store is not None and store not in self._stores
            if store is not None and is_new_store:
                self._stores.add(store)
            is_registered, self._is_ended_with_the_process = self._is_ended_with_the_process, True
        if is_new_store or not is_registered:
            EXITS.add(self)
        if is_new:
            shipper.when_loaded(_nobody)  # its libraries load while the run gets ready
        if is_new and destination.is_exposed:
            logger.warning("spans go to %s without encryption; https:// has it", destination.name)
        return shipper

    def begin_to_end(self) -> None:
        """Have all send what waits."""
        for shipper in self._all():
            shipper.begin_to_end()

    def end(self, deadline: float) -> None:
        """Wait for all, until `deadline` on the monotonic clock at the latest."""
        for shipper in self._all():
            shipper.end(deadline)

    def begin_anew(self) -> None:
        """Begin with nothing, in a forked child: what waits, the threads and the connections are its parent's."""
        self._lock = threading.Lock()
        self._is_ended_with_the_process = False
        for shipper in self._by_destination.values():  # the same ones: a run that began in the parent may go on here
            shipper.begin_anew()

    def _all(self) -> list[Shipper]:
        with self._lock:
            return list(self._by_destination.values())


SHIPPERS: Final = Shippers()
# At once: a lock that another thread held at the fork would stay locked in the child for ever.
begin_anew_in_children(SHIPPERS.begin_anew)


class ShippingRoute:
    """Where the spans of one run go to leave this machine."""

    def __init__(
        self,
        shippers: Sequence[Shipper],
        rules: ShipRules,
        resource: Resource,
        *,
        run_id: RunId,
        store: StoreSpanExporter | None,
    ) -> None:
        self._rules = rules
        self._resource = resource
        self._kept = store is not None
        named = None if store is None else store.named
        self._lanes = [
            (shipper, Delivery(_mark(store, run_id, shipper.destination.name), store=named)) for shipper in shippers
        ]

    def on_start(self, span: ReadableSpan) -> None:
        """Ship nothing yet: what has not ended has no place in OTLP."""

    def on_end(self, span: ReadableSpan) -> None:
        """Ship the finished span if it is sampled."""
        context = span.get_span_context()
        if context is None or not context.trace_flags.sampled:
            return
        shipped = shippable(span, self._rules, self._resource, kept=self._kept)
        is_last = (shipped.attributes or {}).get(semconv.GEN_AI_OPERATION_NAME) == Operation.INVOKE_WORKFLOW
        for shipper, delivery in self._lanes:
            shipper.offer(shipped, delivery, is_last=is_last)


def _nobody() -> None:
    """Be told of what nobody waits for."""


def _mark(store: StoreSpanExporter | None, run_id: RunId, destination: str) -> functools.partial[None] | None:
    return None if store is None else functools.partial(store.mark_delivered, run_id, destination)
