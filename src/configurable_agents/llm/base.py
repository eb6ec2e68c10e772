"""What the engine needs of a language model, without naming the library that asks it.

`core` speaks to models through these types alone; `llm.providers.open_model` and `llm.providers.wrap_model` make them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, as the provider counted them (langchain-core's `usage_metadata`)."""

    input_tokens: int
    """Includes cache reads and cache writes."""
    output_tokens: int
    """Includes reasoning."""
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call cost, exactly."""

    usd: Decimal
    source: str
    """`workflow`, `genai-prices`, or `provider` for a model that runs here and costs nothing."""
    version: str | None = None
    """Of the price list."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered."""

    text: str
    """The answer as text; for structured output its JSON."""
    value: Any = None
    """The parsed JSON value if a schema was asked for and the answer is JSON; else None."""
    parse_error: str | None = None
    """Why the answer is no JSON value of the asked shape, in words that the model can be told; None if it is."""
    usage: Usage | None = None
    """None if the provider says nothing."""
    model: str | None = None
    """The model that answered, by its own word."""
    response_id: str | None = None
    finish_reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a model before it is asked: the attributes of its spans."""

    provider: str
    """Value of `gen_ai.provider.name`, as `openai` or `gcp.gemini`; a provider of ours or unknown: its own name."""
    model: str
    """The model asked for."""
    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    top_k: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    choice_count: int | None = None
    """How many answers are asked for; None is one."""
    stop_sequences: tuple[str, ...] = ()
    in_process: bool = False
    """True for a model that runs in this process: its span is INTERNAL, not CLIENT."""
    server_address: str | None = None
    server_port: int | None = None


class ChatModel(Protocol):
    """A model that can be asked."""

    @property
    def info(self) -> ModelInfo:
        """What is known before it is asked."""

    async def ask(self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None) -> Reply:
        """Ask once; no retry is made here.

        Args:
            schema: JSON Schema (an object) of the answer; None asks for text.

        Raises:
            Exception: Whatever the provider's package raises; `is_retryable` tells whether to try again.
        """

    def price(self, usage: Usage, *, model: str | None, at_unix_nano: int) -> Cost | None:
        """Price a call, or say None if the price is unknown.

        Args:
            model: The model that answered, if it said so.
            at_unix_nano: When the call started; prices change.
        """

    def is_retryable(self, error: Exception) -> bool:
        """Tell whether asking again may help: a rate limit, a time-out, a broken connection, an overloaded server."""
