"""Durations, tokens, money and times as people read them. Pure; the exact figures are in `--json`."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, Protocol

NOTHING: Final = "–"
"""Shown where there is nothing to say: no model was asked."""


class Totals(Protocol):
    """What model calls used and cost: a run, a node execution."""

    @property
    def model_calls(self) -> int: ...  # noqa: D102 - as in storage.records
    @property
    def input_tokens(self) -> int: ...  # noqa: D102
    @property
    def output_tokens(self) -> int: ...  # noqa: D102
    @property
    def cache_read_tokens(self) -> int: ...  # noqa: D102
    @property
    def reasoning_tokens(self) -> int: ...  # noqa: D102
    @property
    def cost_usd(self) -> float | None: ...  # noqa: D102
    @property
    def priced_cost_usd(self) -> float: ...  # noqa: D102
    @property
    def unpriced_calls(self) -> int: ...  # noqa: D102


def duration(seconds: float | None) -> str:
    """Say a duration: `38 ms`, `2.1 s`, `3 min 05 s`, `1 h 02 min`."""
    if seconds is None:
        return ""
    if seconds < 0.0005:
        return "<1 ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def instant(unix_nano: int) -> str:
    """Say a time: ISO 8601, UTC, to the second."""
    return datetime.fromtimestamp(unix_nano // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def precise_instant(unix_nano: int) -> str:
    """Say a time: ISO 8601, UTC, to the microsecond."""
    seconds, nano = divmod(unix_nano, 1_000_000_000)
    at = datetime.fromtimestamp(seconds, UTC).replace(microsecond=nano // 1000)
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def usd(amount: float) -> str:
    """Say an amount of money: two digits after the point, and for small amounts as many as four figures need."""
    exact = Decimal(str(amount))
    if exact == 0 or abs(exact) >= 100:
        return f"${exact:,.2f}"
    places = 3 - exact.adjusted()  # four significant figures
    text = f"{exact:,.{max(2, places)}f}"
    whole, _, fraction = text.partition(".")
    return f"${whole}.{fraction[:2]}{fraction[2:].rstrip('0')}"


def tokens(input_tokens: int | None, output_tokens: int | None, *, cached: int = 0, reasoning: int = 0) -> str:
    """Say tokens: `143 → 12`, with the cached part of the input and the reasoning part of the output."""
    into = f"{input_tokens or 0:,}" + (f" ({cached:,} cached)" if cached else "")
    out = f"{output_tokens or 0:,}" + (f" ({reasoning:,} reasoning)" if reasoning else "")
    return f"{into} → {out}"


def tokens_of(totals: Totals) -> str:
    """Say the tokens of a run or a node execution."""
    if not (totals.model_calls or totals.input_tokens or totals.output_tokens):
        return NOTHING
    cached, reasoning = totals.cache_read_tokens, totals.reasoning_tokens
    return tokens(totals.input_tokens, totals.output_tokens, cached=cached, reasoning=reasoning)


def cost_of(totals: Totals, *, note: bool = False) -> str:
    """Say what a run or a node execution cost; unknown is never 0.

    Args:
        note: Say also why it is 0, and how much of an unknown cost is known.
    """
    if totals.cost_usd is None:
        calls = f"{totals.unpriced_calls} {'call' if totals.unpriced_calls == 1 else 'calls'} unpriced"
        known = f", {usd(totals.priced_cost_usd)} priced" if note else ""
        return f"unknown ({calls}{known})"
    if not totals.model_calls and not totals.cost_usd:
        return NOTHING
    return usd(totals.cost_usd) + (" (priced at 0)" if note and totals.cost_usd == 0 else "")


def count(number: int, noun: str, plural: str = "") -> str:
    """Say a number of things: `1 model call`, `2 model calls`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
