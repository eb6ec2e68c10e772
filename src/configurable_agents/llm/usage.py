"""Tokens of one call, from what langchain-core's `usage_metadata` says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from configurable_agents.llm.base import Usage


def read_usage(metadata: Any) -> Usage | None:
    """Read `AIMessage.usage_metadata`; None if it says nothing that can be counted.

    See: langchain_core.messages.ai.UsageMetadata (input includes cached tokens, output includes reasoning).
    """
    if not isinstance(metadata, Mapping):
        return None
    tokens_in, tokens_out = _count(metadata.get("input_tokens")), _count(metadata.get("output_tokens"))
    if tokens_in is None and tokens_out is None:
        return None
    ins, outs = _mapping(metadata.get("input_token_details")), _mapping(metadata.get("output_token_details"))
    read, reasoning = _count(ins.get("cache_read")) or 0, _count(outs.get("reasoning")) or 0
    written = _cache_writes(ins)
    # The parts are part of the whole. Where they are more than it, the integration counted them beside it.
    whole_in, whole_out = tokens_in or 0, tokens_out or 0
    return Usage(
        input_tokens=whole_in if read + written <= whole_in else whole_in + read + written,
        output_tokens=whole_out if reasoning <= whole_out else whole_out + reasoning,
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=reasoning,
    )


def _cache_writes(details: Mapping[str, Any]) -> int:
    # langchain-anthropic sets `cache_creation` to 0 where it tells writes by their lifetime.
    by_lifetime = [_count(value) or 0 for key, value in details.items() if str(key).startswith("ephemeral_")]
    return max(_count(details.get("cache_creation")) or 0, sum(by_lifetime))


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
        return None
    return int(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
