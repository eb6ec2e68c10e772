"""Adds up what model calls used and cost. Sums are exact: money is Decimal until it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from configurable_agents import semconv
from configurable_agents.llm.base import Cost, Usage


@dataclass(slots=True)
class Meter:
    """The totals of one node execution, or of one run."""

    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    priced_cost: Decimal | int = 0
    """0 until something costs: of most runs nothing does, and a Decimal takes long to become a float."""
    unpriced_calls: int = 0

    def count(self, usage: Usage | None, cost: Cost | None) -> None:
        """Add one model call; without a cost it counts as unpriced."""
        self.model_calls += 1
        if usage is not None:
            self.input_tokens += usage.input_tokens
            self.output_tokens += usage.output_tokens
            self.cache_read_tokens += usage.cache_read_tokens
            self.cache_write_tokens += usage.cache_write_tokens
            self.reasoning_tokens += usage.reasoning_tokens
        if cost is None:
            self.unpriced_calls += 1
        else:
            self.priced_cost += cost.usd

    def include(self, other: Meter) -> None:
        """Add the totals of a part."""
        self.model_calls += other.model_calls
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cache_read_tokens += other.cache_read_tokens
        self.cache_write_tokens += other.cache_write_tokens
        self.reasoning_tokens += other.reasoning_tokens
        self.priced_cost += other.priced_cost
        self.unpriced_calls += other.unpriced_calls

    @property
    def cost_usd(self) -> float | None:
        """The whole cost; None if any call was unpriced."""
        return None if self.unpriced_calls else float(self.priced_cost)

    def attributes(self) -> Mapping[str, int | float]:
        """Give the roll-up attributes of a node or run span; none where no model was asked."""
        if not self.model_calls:
            return {}
        totals: dict[str, int | float] = {
            semconv.MODEL_CALLS: self.model_calls,
            semconv.INPUT_TOKENS: self.input_tokens,
            semconv.OUTPUT_TOKENS: self.output_tokens,
            semconv.CACHE_READ_TOKENS: self.cache_read_tokens,
            semconv.CACHE_WRITE_TOKENS: self.cache_write_tokens,
            semconv.REASONING_TOKENS: self.reasoning_tokens,
            semconv.PRICED_COST_USD: float(self.priced_cost),
            semconv.UNPRICED_CALLS: self.unpriced_calls,
        }
        cost = self.cost_usd
        if cost is not None:
            totals[semconv.COST_USD] = cost
        return totals
