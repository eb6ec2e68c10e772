"""One model call: its span, its retries, what it used and what it cost."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from opentelemetry.util.types import AttributeValue

from configurable_agents import semconv
from configurable_agents.core.meter import Meter
from configurable_agents.core.spans import Recorder, error_type, record_failure
from configurable_agents.llm.base import ChatModel, Cost, Message, ModelInfo, Reply, Usage
from configurable_agents.semconv import Operation

_FIRST_DELAY_SECONDS: Final = 0.5
_LONGEST_DELAY_SECONDS: Final = 8.0


class ProviderError(Exception):
    """Carries a provider's error past the node's own retries, which are for everything else; never seen outside."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        super().__init__()


@dataclass(frozen=True, slots=True)
class ModelCaller:
    """Asks one node's model, with a span for each call."""

    model: ChatModel
    recorder: Recorder
    max_retries: int
    """Tries after the first, for errors that the model calls retryable."""

    async def call(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None, meter: Meter, capture: bool
    ) -> Reply:
        """Ask, and try again after a retryable error. One span covers all tries, as the GenAI conventions want it.

        Raises:
            ProviderError: The provider failed, and trying again did not help or could not.
        """
        info = self.model.info
        kind = SpanKind.INTERNAL if info.in_process else SpanKind.CLIENT
        span = self.recorder.start(f"chat {info.model}", self._start(messages, schema, capture), kind=kind)
        started_at, started = time.time_ns(), time.perf_counter()
        token = otel_context.attach(trace.set_span_in_context(span))
        end: dict[str, AttributeValue] = {}
        try:
            reply, retries = await self._try(messages, schema)
            cost = self._price(reply, started_at)
            meter.count(reply.usage, cost)
            end = self._response(reply, cost, retries, capture)
        except BaseException as error:
            cause = error.error if isinstance(error, ProviderError) else error
            end = record_failure(span, cause, mask=self.recorder.mask, capture=capture)
            raise
        finally:
            otel_context.detach(token)
            end[semconv.DURATION_SECONDS] = time.perf_counter() - started
            span.complete(end)
        return reply

    async def _try(self, messages: Sequence[Message], schema: Mapping[str, Any] | None) -> tuple[Reply, int]:
        for retry in range(self.max_retries + 1):
            try:
                return await self.model.ask(messages, schema=schema), retry
            except Exception as error:
                if retry == self.max_retries or not self.model.is_retryable(error):
                    raise ProviderError(error) from error
                trace.get_current_span().add_event("retry", {semconv.EXCEPTION_TYPE: error_type(error)})
                await asyncio.sleep(min(_FIRST_DELAY_SECONDS * 2**retry, _LONGEST_DELAY_SECONDS))
        raise AssertionError("unreachable: the last try returns or raises")

    def _price(self, reply: Reply, started_at: int) -> Cost | None:
        if reply.usage is None:
            return None
        return self.model.price(reply.usage, model=reply.model, at_unix_nano=started_at)

    def _start(
        self, messages: Sequence[Message], schema: Mapping[str, Any] | None, capture: bool
    ) -> Mapping[str, AttributeValue]:
        attributes = _request(self.model.info, has_schema=schema is not None)
        if not capture:
            return attributes
        text = self.recorder.mask(_encode([_message(message) for message in messages]))
        return {**attributes, semconv.CONTENT_INPUT_MESSAGES: text}

    def _response(self, reply: Reply, cost: Cost | None, retries: int, capture: bool) -> dict[str, AttributeValue]:
        attributes: dict[str, AttributeValue] = {semconv.STATUS: semconv.COMPLETED}
        attributes |= _usage(reply.usage) | _cost(cost)
        if reply.model:
            attributes[semconv.GEN_AI_RESPONSE_MODEL] = reply.model
        if reply.response_id:
            attributes[semconv.GEN_AI_RESPONSE_ID] = reply.response_id
        if reply.finish_reasons:
            attributes[semconv.GEN_AI_RESPONSE_FINISH_REASONS] = reply.finish_reasons
        if retries:
            attributes[semconv.RETRIES] = retries
        if capture:
            attributes[semconv.CONTENT_OUTPUT_MESSAGES] = self.recorder.mask(_encode([_answer(reply)]))
        return attributes


@functools.lru_cache(maxsize=256)
def _request(info: ModelInfo, *, has_schema: bool) -> Mapping[str, AttributeValue]:
    """Give the attributes that are the same for every call of a model, so that a call does not build them again."""
    attributes: dict[str, AttributeValue | None] = {
        semconv.GEN_AI_OPERATION_NAME: Operation.CHAT.value,
        semconv.OPENINFERENCE_SPAN_KIND: semconv.LLM,
        semconv.GEN_AI_PROVIDER_NAME: info.provider,
        semconv.GEN_AI_REQUEST_MODEL: info.model,
        semconv.GEN_AI_OUTPUT_TYPE: "json" if has_schema else "text",
        semconv.GEN_AI_REQUEST_TEMPERATURE: _double(info.temperature),
        semconv.GEN_AI_REQUEST_MAX_TOKENS: info.max_tokens,
        semconv.GEN_AI_REQUEST_TOP_P: _double(info.top_p),
        semconv.GEN_AI_REQUEST_TOP_K: _double(info.top_k),
        semconv.GEN_AI_REQUEST_FREQUENCY_PENALTY: _double(info.frequency_penalty),
        semconv.GEN_AI_REQUEST_PRESENCE_PENALTY: _double(info.presence_penalty),
        semconv.GEN_AI_REQUEST_SEED: info.seed,
        semconv.GEN_AI_REQUEST_CHOICE_COUNT: None if info.choice_count == 1 else info.choice_count,
        semconv.GEN_AI_REQUEST_STOP_SEQUENCES: info.stop_sequences or None,
        semconv.SERVER_ADDRESS: info.server_address,
        semconv.SERVER_PORT: info.server_port,
    }
    return {key: value for key, value in attributes.items() if value is not None}


def _double(value: float | None) -> float | None:
    return None if value is None else float(value)  # a file's `temperature: 0` is an int, which OTLP would tell apart


def _message(message: Message) -> dict[str, Any]:
    """Give a message in the shape of `gen_ai.input.messages`."""
    return {"role": message.role, "parts": [{"type": "text", "content": message.content}]}


def _answer(reply: Reply) -> dict[str, Any]:
    """Give an answer in the shape of `gen_ai.output.messages`; why it ended is left out where nobody said."""
    answer = _message(Message("assistant", reply.text))
    return {**answer, "finish_reason": reply.finish_reasons[0]} if reply.finish_reasons else answer


def _encode(messages: list[dict[str, Any]]) -> str:
    try:
        return orjson.dumps(messages).decode()
    except TypeError:  # lone surrogates in a text
        for part in (part for message in messages for part in message["parts"]):
            part["content"] = part["content"].encode("utf-8", "replace").decode()
        return orjson.dumps(messages).decode()


def _usage(usage: Usage | None) -> dict[str, AttributeValue]:
    if usage is None:
        return {}
    details = {
        semconv.GEN_AI_USAGE_CACHE_READ: usage.cache_read_tokens,
        semconv.GEN_AI_USAGE_CACHE_WRITE: usage.cache_write_tokens,
        semconv.GEN_AI_USAGE_REASONING: usage.reasoning_tokens,
    }
    return {
        semconv.GEN_AI_USAGE_INPUT_TOKENS: usage.input_tokens,
        semconv.GEN_AI_USAGE_OUTPUT_TOKENS: usage.output_tokens,
        **{key: count for key, count in details.items() if count},
    }


def _cost(cost: Cost | None) -> dict[str, AttributeValue]:
    if cost is None:
        return {semconv.UNPRICED_CALLS: 1}
    price: dict[str, AttributeValue] = {semconv.COST_USD: float(cost.usd), semconv.PRICE_SOURCE: cost.source}
    if cost.version is not None:
        price[semconv.PRICE_VERSION] = cost.version
    return price
