"""What a run gives back to its caller, and who may watch it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from configurable_agents.storage.records import RunId

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A run that completed; one that did not raises an error that carries the `run_id`."""

    run_id: RunId
    trace_id: str
    """32 lower-case hex digits."""
    workflow: str
    status: str
    """`completed`."""
    outputs: Mapping[str, Any]
    """The final state: every field of it."""
    duration_seconds: float
    node_executions: int
    model_calls: int
    input_tokens: int
    """Includes cached tokens."""
    output_tokens: int
    """Includes reasoning tokens."""
    total_tokens: int
    total_cost_usd: float | None
    """None if the price of any model call is unknown."""
    priced_cost_usd: float
    """The part of the cost that is known."""
    unpriced_calls: int
    store: str | None
    """Where the run is kept, as people may see it; None if it is not kept."""
    degraded: bool
    """True if the store does not hold the whole run as it returns; a warning was logged."""


class RunObserver(Protocol):
    """Watches one run's spans as they start and end. It is called on the run's thread: be quick, and do not raise."""

    def on_start(self, span: ReadableSpan) -> None:
        """Called when a run, node or model-call span has started, with its start attributes."""

    def on_end(self, span: ReadableSpan) -> None:
        """Called when it has ended."""
