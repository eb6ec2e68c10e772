"""Durations, tokens, money and times, as people read them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _records import node_record
from configurable_agents.cli import figures


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0, "<1 ms"),
        (0.0123, "12 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (90061, "25 h 01 min"),
    ],
)
def test_a_duration_has_the_unit_that_suits_it(seconds: float | None, text: str) -> None:
    """Nobody counts digits of seconds."""
    assert figures.duration(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "$0.00"),
        (0.000123, "$0.000123"),
        (0.00012345, "$0.0001234"),
        (0.01, "$0.01"),
        (0.0125, "$0.0125"),
        (1.5, "$1.50"),
        (1.2345, "$1.234"),
        (1234.5, "$1,234.50"),
        (1e-12, "$0.000000000001"),
    ],
)
def test_a_small_cost_is_not_rounded_to_nothing(amount: float, text: str) -> None:
    """A call that cost something must not look free."""
    assert figures.usd(amount) == text


@given(st.floats(min_value=1e-12, max_value=1e9))
def test_a_shown_cost_is_right_to_four_figures(amount: float) -> None:
    """What is shown may be short, not wrong."""
    shown = Decimal(figures.usd(amount).removeprefix("$").replace(",", ""))
    assert abs(shown - Decimal(str(amount))) <= Decimal(str(amount)) / 1000


@pytest.mark.parametrize(
    ("values", "short", "noted"),
    [
        ({}, "–", "–"),
        ({"model_calls": 1}, "$0.00", "$0.00 (priced at 0)"),
        ({"model_calls": 1, "cost_usd": 0.5}, "$0.50", "$0.50"),
        (
            {"model_calls": 3, "cost_usd": None, "priced_cost_usd": 0.000123, "unpriced_calls": 2},
            "unknown (2 calls unpriced)",
            "unknown (2 calls unpriced, $0.000123 priced)",
        ),
    ],
)
def test_an_unknown_cost_is_not_zero_and_a_zero_says_why(values: dict[str, Any], short: str, noted: str) -> None:
    """Free, unasked and unknown are three different things."""
    record = node_record(**values)
    assert (figures.cost_of(record), figures.cost_of(record, note=True)) == (short, noted)


def test_cached_and_reasoning_tokens_are_told_where_there_are_any() -> None:
    """They are parts of the two figures, not further ones."""
    plain = node_record(model_calls=1, input_tokens=1500, output_tokens=20)
    parts = node_record(model_calls=1, input_tokens=1500, output_tokens=20, cache_read_tokens=1000, reasoning_tokens=8)
    assert figures.tokens_of(plain) == "1,500 → 20"
    assert figures.tokens_of(parts) == "1,500 (1,000 cached) → 20 (8 reasoning)"


def test_times_are_iso_8601_in_utc() -> None:
    """The same text everywhere."""
    assert figures.instant(1_760_000_000_123_456_789) == "2025-10-09T08:53:20Z"
    assert figures.precise_instant(1_760_000_000_123_456_789) == "2025-10-09T08:53:20.123456Z"
