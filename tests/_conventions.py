"""What type each attribute of the conventions has: for spans as we make them and as they are on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from configurable_agents import semconv

TYPES: dict[str, type] = {
    semconv.GEN_AI_OPERATION_NAME: str,
    semconv.GEN_AI_WORKFLOW_NAME: str,
    semconv.GEN_AI_PROVIDER_NAME: str,
    semconv.GEN_AI_OUTPUT_TYPE: str,
    semconv.GEN_AI_REQUEST_MODEL: str,
    semconv.GEN_AI_REQUEST_TEMPERATURE: float,
    semconv.GEN_AI_REQUEST_TOP_P: float,
    semconv.GEN_AI_REQUEST_TOP_K: float,
    semconv.GEN_AI_REQUEST_MAX_TOKENS: int,
    semconv.GEN_AI_REQUEST_FREQUENCY_PENALTY: float,
    semconv.GEN_AI_REQUEST_PRESENCE_PENALTY: float,
    semconv.GEN_AI_REQUEST_STOP_SEQUENCES: tuple,
    semconv.GEN_AI_REQUEST_SEED: int,
    semconv.GEN_AI_REQUEST_CHOICE_COUNT: int,
    semconv.GEN_AI_RESPONSE_MODEL: str,
    semconv.GEN_AI_RESPONSE_ID: str,
    semconv.GEN_AI_RESPONSE_FINISH_REASONS: tuple,
    semconv.GEN_AI_USAGE_INPUT_TOKENS: int,
    semconv.GEN_AI_USAGE_OUTPUT_TOKENS: int,
    semconv.GEN_AI_USAGE_CACHE_READ: int,
    semconv.GEN_AI_USAGE_CACHE_WRITE: int,
    semconv.GEN_AI_USAGE_REASONING: int,
    semconv.SERVER_ADDRESS: str,
    semconv.SERVER_PORT: int,
    semconv.COST_USD: float,
    semconv.PRICE_SOURCE: str,
    semconv.PRICE_VERSION: str,
    semconv.PRICED_COST_USD: float,
    semconv.INPUT_TOKENS: int,
    semconv.MODEL_CALLS: int,
    semconv.DURATION_SECONDS: float,
    semconv.OPENINFERENCE_SPAN_KIND: str,
}
"""Value types by the conventions; ours for money and time are doubles, for counts ints."""


def wrongly_typed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Give the attributes whose type is not that of the conventions, and those that are empty: what is not known is absent."""
    return {
        key: value
        for key, value in attributes.items()
        if value in ("", (), None) or (key in TYPES and type(value) is not TYPES[key])
    }
