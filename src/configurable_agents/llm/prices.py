"""What a call cost, exactly: the file's own price, else the price list as of the call, else unknown (never 0)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from importlib import metadata
from typing import Any, Final

from configurable_agents.config.schema import PriceConfig
from configurable_agents.llm.base import Cost, Usage

_MTOK: Final = Decimal(1_000_000)
_LIST: Final = "genai-prices"

LISTED_PROVIDERS: Final[Mapping[str, str]] = {
    "anthropic": "anthropic",
    "aws.bedrock": "aws",
    "azure.ai.inference": "azure",
    "azure.ai.openai": "azure",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "fireworks": "fireworks",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "groq": "groq",
    "mistral_ai": "mistral",
    "openai": "openai",
    "openrouter": "openrouter",
    "perplexity": "perplexity",
    "together": "together",
    "x_ai": "x-ai",
}
"""Our providers' names in the price list. Only these: the list's own matching by likeness would price strangers."""


@dataclass(frozen=True, slots=True)
class Pricing:
    """Where a model's prices come from."""

    own: PriceConfig | None = None
    """The file's own price; it wins."""
    free: bool = False
    """True for a model that runs here and costs nothing."""
    listed_provider: str | None = None
    """The provider's id in the price list."""
    api_url: str | None = None
    """Without an id: the URL by which the price list may know the provider."""

    def cost(self, usage: Usage, models: Iterable[str | None], *, at_unix_nano: int) -> Cost | None:
        """Price a call; None if the price is unknown.

        Args:
            models: Names that the model goes by, the most exact first.
            at_unix_nano: When the call started.
        """
        if self.own is not None:
            return Cost(price_by(self.own, usage), "workflow")
        if self.free:
            return Cost(Decimal(0), "provider")
        if self.listed_provider is None and self.api_url is None:
            return None
        at = datetime.fromtimestamp(at_unix_nano / 1e9, tz=UTC)
        prices = (self._listed(usage, model, at) for model in models if model)
        usd = next((price for price in prices if price is not None), None)
        return None if usd is None else Cost(usd, _LIST, metadata.version(_LIST))

    def _listed(self, usage: Usage, model: str, at: datetime) -> Decimal | None:
        # The bundled list only: `UpdatePrices` would ask the network.
        from genai_prices import Usage as ListedUsage
        from genai_prices import calc_price

        counted = ListedUsage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
        )
        name = model.removeprefix("models/")
        try:
            if self.listed_provider is not None:
                found = calc_price(counted, name, provider_id=self.listed_provider, genai_request_timestamp=at)
            else:
                found = calc_price(counted, name, provider_api_url=self.api_url, genai_request_timestamp=at)
        except (LookupError, ValueError):  # not listed, or listed in a way that does not fit what was counted
            return None
        return found.total_price if _covers(found.model_price, usage) else None


def price_by(price: PriceConfig, usage: Usage) -> Decimal:
    """Price a call in USD by the file's price; a cached token is part of the input and is counted once."""
    per_input = _decimal(price.input_per_mtok)
    per_read = per_input if price.cache_read_per_mtok is None else _decimal(price.cache_read_per_mtok)
    per_write = per_input if price.cache_write_per_mtok is None else _decimal(price.cache_write_per_mtok)
    fresh = usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens
    with localcontext() as context:
        context.prec = 60  # 28, the default, would round a long price times a long count
        total = (
            per_input * fresh
            + per_read * usage.cache_read_tokens
            + per_write * usage.cache_write_tokens
            + _decimal(price.output_per_mtok) * usage.output_tokens
        )
        return total / _MTOK


def _decimal(price: float) -> Decimal:
    return Decimal(str(price))  # as written in the file: 0.1 is 0.1, not the float beside it


def _covers(listed: Any, usage: Usage) -> bool:
    # A listed model may lack a price; the list then counts 0, which would pass for one.
    per_input, per_output = getattr(listed, "input_mtok", None), getattr(listed, "output_mtok", None)
    if per_input is None and per_output is None:
        return False
    return (per_input is not None or not usage.input_tokens) and (per_output is not None or not usage.output_tokens)
