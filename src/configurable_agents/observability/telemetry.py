"""Puts together where the telemetry of one run goes: our endpoints, else the host, and the metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from opentelemetry.sdk.trace.sampling import Sampler

from configurable_agents.observability.content import ship_rules
from configurable_agents.observability.destinations import Destination
from configurable_agents.observability.exporter import StoreSpanExporter
from configurable_agents.observability.host import host_route
from configurable_agents.observability.metrics import metrics_route
from configurable_agents.observability.resource import current_resource, host_provider, resource_text, shared
from configurable_agents.observability.sampling import sampler_of
from configurable_agents.observability.shipping import SHIPPERS, ShippingRoute
from configurable_agents.observability.spans import SpanRoute
from configurable_agents.storage.records import RunId

LOAD_SECONDS: Final = 2.0
"""How long the first run waits until the exporter's libraries are loaded: it takes a fifth of a second, in which the
interpreter is busy, and the nodes would be slow instead. The endpoint itself is never waited for."""


class Loads(Protocol):
    """What loads libraries on a thread of its own."""

    def when_loaded(self, call: Callable[[], None]) -> bool:
        """Be called when that is done; True if there is nothing to wait for."""


@dataclass(slots=True)  # nobody changes one; making a frozen one takes three times as long, and each run makes one
class Telemetry:
    """Where one run's spans go, beside the store and the run's observers."""

    resource: str | None
    """On whose behalf it runs, as its record says it (`resource_text`)."""
    sampler: Sampler | None
    """Decides whether it is shipped, where no parent says so; None where nothing is."""
    routes: Sequence[SpanRoute] = ()
    senders: Sequence[Loads] = ()

    async def loaded(self) -> None:
        """Wait, where a library is not loaded yet, for a bounded time; no event loop is held up."""
        for sender in self.senders:
            loop, event = asyncio.get_running_loop(), asyncio.Event()
            if sender.when_loaded(lambda loop=loop, event=event: loop.call_soon_threadsafe(event.set)):  # type: ignore[misc]  # mypy cannot infer a lambda with defaults
                continue
            try:
                async with asyncio.timeout(LOAD_SECONDS):
                    await event.wait()
            except TimeoutError:
                return


def open_telemetry(
    destinations: Sequence[Destination],
    environ: Mapping[str, str],
    *,
    run_id: RunId,
    store: StoreSpanExporter | None,
    ship_to_host: bool,
) -> Telemetry:
    """Open the ways out for a run that starts in the current context; none where nothing is configured.

    Args:
        destinations: Endpoints of ours; where there are any, spans go only there.
        store: Keeps the whole spans, and takes the marks of what was delivered.
        ship_to_host: Whether spans and metrics may go to the SDK's providers that the host has set up.
    """
    host = host_provider(environ)
    resource, sampler = current_resource(host, environ), sampler_of(host, environ)
    said = resource_text(resource)
    if sampler is None:
        return Telemetry(said, None)
    route: SpanRoute | None = None
    shippers = [SHIPPERS.of(destination, store) for destination in destinations]
    if shippers:
        rules = ship_rules(environ)
        route = ShippingRoute(shippers, rules, shared(resource), run_id=run_id, store=store)
    elif ship_to_host and host is not None:
        route = host_route(host, ship_rules(environ), kept=store is not None)
    routes = () if route is None else (route,)
    metrics = metrics_route(environ, ship_to_host=ship_to_host)
    if metrics is None:
        return Telemetry(said, sampler, routes, shippers)
    return Telemetry(said, sampler, (*routes, metrics), (*shippers, *metrics.senders))
