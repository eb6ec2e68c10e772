"""Tokens and money: counted once, exact, and unknown where they are unknown."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configurable_agents.config.schema import LLMConfig, PriceConfig
from configurable_agents.llm.base import Usage
from configurable_agents.llm.prices import Pricing, price_by
from configurable_agents.llm.providers import open_model
from configurable_agents.llm.usage import read_usage

NOW = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1e9)
counts = st.integers(min_value=0, max_value=10**12)


def test_parts_are_read_with_their_whole() -> None:
    told = {
        "input_tokens": 1000,
        "output_tokens": 200,
        "total_tokens": 1200,
        "input_token_details": {"cache_read": 300, "cache_creation": 100, "audio": 5},
        "output_token_details": {"reasoning": 150},
    }
    assert read_usage(told) == Usage(1000, 200, 300, 100, 150)


def test_cache_writes_told_by_their_lifetime_are_counted() -> None:
    """langchain-anthropic says `cache_creation: 0` beside them."""
    details = {
        "cache_read": None,
        "cache_creation": 0,
        "ephemeral_5m_input_tokens": 70,
        "ephemeral_1h_input_tokens": 30,
    }
    usage = read_usage({"input_tokens": 500, "output_tokens": 1, "input_token_details": details})
    assert usage == Usage(500, 1, cache_write_tokens=100)


def test_parts_counted_beside_the_whole_are_added_to_it() -> None:
    """Some integrations leave cached tokens out of `input_tokens`: no part can be more than its whole."""
    told = {
        "input_tokens": 10,
        "output_tokens": 5,
        "input_token_details": {"cache_read": 90},
        "output_token_details": {"reasoning": 20},
    }
    assert read_usage(told) == Usage(100, 25, cache_read_tokens=90, reasoning_tokens=20)


@pytest.mark.parametrize(
    "told", [None, {}, [], "12", {"input_tokens": None}, {"input_tokens": "many"}, {"total_tokens": 5}]
)
def test_a_provider_that_counts_nothing_gives_no_usage(told: Any) -> None:
    assert read_usage(told) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.dictionaries(
            st.sampled_from(
                [
                    "input_tokens",
                    "output_tokens",
                    "input_token_details",
                    "output_token_details",
                    "cache_read",
                    "reasoning",
                ]
            ),
            inner,
        ),
        max_leaves=8,
    )
)
def test_nonsense_is_read_without_an_error_and_parts_stay_within_their_whole(told: Any) -> None:
    usage = read_usage(told)
    if usage is not None:
        assert 0 <= usage.cache_read_tokens + usage.cache_write_tokens <= usage.input_tokens
        assert 0 <= usage.reasoning_tokens <= usage.output_tokens


def test_a_cached_token_costs_its_own_price_and_not_the_inputs_too() -> None:
    price = PriceConfig(input_per_mtok=3, output_per_mtok=15, cache_read_per_mtok=0.3, cache_write_per_mtok=3.75)
    usage = Usage(1000, 200, cache_read_tokens=300, cache_write_tokens=100, reasoning_tokens=150)
    # 600 x 3 + 300 x 0.3 + 100 x 3.75 + 200 x 15 = 1800 + 90 + 375 + 3000
    assert price_by(price, usage) == Decimal("0.005265")


def test_without_a_cache_price_a_cached_token_costs_what_input_costs() -> None:
    assert price_by(PriceConfig(input_per_mtok=0.1, output_per_mtok=0), Usage(30, 9, 10, 10)) == Decimal("0.000003")


@given(counts, counts, counts, counts, *[st.decimals(0, 1000, places=4, allow_nan=False)] * 4)
def test_a_price_is_exact(
    fresh: int, read: int, written: int, out: int, p_in: Decimal, p_out: Decimal, p_read: Decimal, p_write: Decimal
) -> None:
    price = PriceConfig(
        input_per_mtok=float(p_in),
        output_per_mtok=float(p_out),
        cache_read_per_mtok=float(p_read),
        cache_write_per_mtok=float(p_write),
    )
    usd = price_by(price, Usage(fresh + read + written, out, read, written))
    wanted = fresh * Fraction(p_in) + read * Fraction(p_read) + written * Fraction(p_write) + out * Fraction(p_out)
    assert Fraction(usd) == wanted / 1_000_000


def listed(provider: str, model: str, **keys: Any) -> Pricing:
    opened = open_model(LLMConfig(provider=provider, model=model, **keys), environ={"OPENAI_API_KEY": "k"})
    return opened.pricing  # type: ignore[attr-defined,no-any-return]


def test_the_files_price_beats_the_list_and_zero_is_a_price() -> None:
    price = PriceConfig(input_per_mtok=0, output_per_mtok=0)
    cost = listed("openai", "gpt-4o", price=price).cost(Usage(5, 5), ["gpt-4o"], at_unix_nano=NOW)
    assert cost is not None
    assert (cost.usd, cost.source) == (Decimal(0), "workflow")


def test_the_answering_model_is_priced_before_the_one_asked_for() -> None:
    usage = Usage(1_000_000, 0)
    pricing = Pricing(listed_provider="openai")
    mini = pricing.cost(usage, ["gpt-4o-mini-2024-07-18", "gpt-4o"], at_unix_nano=NOW)
    big = pricing.cost(usage, ["something-new", "gpt-4o"], at_unix_nano=NOW)
    assert (mini and mini.usd, big and big.usd) == (Decimal("0.15"), Decimal("2.5"))


def test_prices_are_those_of_the_time_of_the_call() -> None:
    """o3 became cheaper on 10 June 2025."""
    usage, pricing = Usage(1_000_000, 0), Pricing(listed_provider="openai")
    before = pricing.cost(usage, ["o3"], at_unix_nano=int(datetime(2025, 6, 1, tzinfo=UTC).timestamp() * 1e9))
    after = pricing.cost(usage, ["o3"], at_unix_nano=NOW)
    assert (before and before.usd, after and after.usd) == (Decimal(10), Decimal(2))


def test_anthropics_cache_is_priced_by_reading_and_writing() -> None:
    cost = Pricing(listed_provider="anthropic").cost(
        Usage(1000, 100, cache_read_tokens=400, cache_write_tokens=200), ["claude-sonnet-4-5"], at_unix_nano=NOW
    )
    # 400 x 3 + 400 x 0.3 + 200 x 3.75 + 100 x 15
    assert cost is not None
    assert cost.usd == Decimal("0.00357")


@pytest.mark.parametrize(
    ("pricing", "model"),
    [
        (Pricing(listed_provider="openai"), "gpt-none-such"),
        (Pricing(listed_provider="github-copilot"), "gpt-4o"),  # listed, without a price
        (Pricing(), "gpt-4o"),
        (Pricing(api_url="http://localhost:8000/v1"), "gpt-4o"),
        (Pricing(listed_provider="openai"), None),
    ],
)
def test_an_unknown_price_is_none_and_never_zero(pricing: Pricing, model: str | None) -> None:
    assert pricing.cost(Usage(10, 10), [model], at_unix_nano=NOW) is None


def test_a_compatible_server_that_the_list_knows_is_priced() -> None:
    pricing = Pricing(api_url="https://api.groq.com/openai/v1")
    cost = pricing.cost(Usage(1_000_000, 0), ["llama-3.3-70b-versatile"], at_unix_nano=NOW)
    assert cost is not None
    assert cost.usd == Decimal("0.59")


@pytest.mark.parametrize(("price", "wanted"), [(None, (0, "provider")), (1.0, (Decimal("0.00002"), "workflow"))])
def test_a_scripted_model_costs_nothing_unless_the_file_says_so(price: float | None, wanted: tuple[Any, str]) -> None:
    own = None if price is None else PriceConfig(input_per_mtok=price, output_per_mtok=price)
    model = open_model(LLMConfig(provider="scripted", price=own), environ={})
    cost = model.price(Usage(15, 5), model="scripted", at_unix_nano=NOW)
    assert cost is not None
    assert (cost.usd, cost.source) == wanted
