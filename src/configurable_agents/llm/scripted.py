"""A chat model that is none: replies from a script, for tests, examples and trying a workflow out without an account."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import Field, PrivateAttr

from configurable_agents.config.schema import LLMConfig
from configurable_agents.llm.adapter import text_of
from configurable_agents.llm.base import ModelInfo
from configurable_agents.llm.script import ScriptedError, ScriptedReply, ScriptedUsage, Turns, parse_script
from configurable_agents.llm.smallest import smallest_instance
from configurable_agents.llm.structured import answered_in_json

NAME: Final = "scripted"

_ERRORS: Final[Mapping[str, type[Exception]]] = {
    "ConnectionError": ConnectionError,
    "RuntimeError": RuntimeError,
    "TimeoutError": TimeoutError,
    "ValueError": ValueError,
}


class ScriptedModelError(Exception):
    """An error that the script asked for."""

    def __init__(self, message: str, *, status_code: int | None = None) -> None:
        self.status_code = status_code
        super().__init__(message)


class ScriptedChatModel(BaseChatModel):
    """Answers from a script, in the order of the calls.

    `llm.params` of a workflow file (and the arguments of this class):

    replies: A list, taken in turn; the last one repeats. A reply is
        * a text;
        * a JSON answer, for structured output: a mapping, list or number (`{category: billing}`);
        * a mapping of
            text, or value (a JSON answer, whatever its keys);
            match: the reply is for prompts that hold this text (a list: all of these texts). Such replies are taken
                in turn among those of the same `match`, before the replies without one: what a branch gets then does
                not depend on which branch asks first;
            usage: input_tokens (cached ones included), output_tokens (reasoning included), cache_read_tokens,
                cache_write_tokens, reasoning_tokens; what is left out is counted: one token for each word between
                spaces, of all messages and of the answer. null: nothing is said of usage;
            delay_seconds: waited before the answer (before the error);
            error: message, status_code, type (ScriptedModelError, ConnectionError, TimeoutError, ValueError,
                RuntimeError), retryable (true or false overrides what the status or type says);
            finish_reason (`stop`, with tool calls `tool_calls`), model (who says it answered; `scripted`),
            tool_calls: a list of name, args, id.
    delay_seconds: Before every reply without a delay of its own.

    Without a reply for a prompt, or with one that says neither text, value, error nor tool_calls: the smallest instance of the schema asked for, else the last user message, echoed.
    """

    replies: list[Any] = Field(default_factory=list)
    delay_seconds: float = 0
    model: str | None = None
    """A name to tell scripted models apart; shown as `scripted/{model}`, so that it never passes for a model's."""

    _turns: Turns = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Check the script.

        Raises:
            ModelSetupError: It is malformed.
        """
        super().model_post_init(context)
        script = parse_script({"replies": self.replies, "delay_seconds": self.delay_seconds})
        self._turns = Turns(script.replies)

    @property
    def model_info(self) -> ModelInfo:
        """What the engine knows of it: no provider's name, no model's name."""
        return ModelInfo(provider=NAME, model=f"{NAME}/{self.model}" if self.model else NAME, in_process=True)

    @property
    def _llm_type(self) -> str:
        return NAME

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[Any, AIMessage]:
        """Take tools and answer as the script says."""
        return self.bind(**kwargs)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[Any, Any]:
        """Answer with the script's JSON, else with the smallest instance of the schema."""
        if not isinstance(schema, Mapping):
            raise NotImplementedError("a scripted model takes a JSON Schema, not a class")
        return answered_in_json(self.bind(schema=dict(schema)), schema, include_raw=include_raw)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        reply = self._next(messages, kwargs.get("schema"))
        time.sleep(self._delay(reply))
        return ChatResult(generations=[ChatGeneration(message=to_message(reply, messages))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        reply = self._next(messages, kwargs.get("schema"))
        await asyncio.sleep(self._delay(reply))
        return ChatResult(generations=[ChatGeneration(message=to_message(reply, messages))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        reply = self._next(messages, kwargs.get("schema"))
        time.sleep(self._delay(reply))
        yield from to_chunks(to_message(reply, messages))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        reply = self._next(messages, kwargs.get("schema"))
        await asyncio.sleep(self._delay(reply))
        for chunk in to_chunks(to_message(reply, messages)):
            yield chunk

    def _next(self, messages: Sequence[BaseMessage], schema: Mapping[str, Any] | None) -> ScriptedReply:
        prompt = "\n".join(text_of(message.content) for message in messages)
        reply = self._turns.next(prompt) or ScriptedReply()
        if reply.answers:
            return reply
        default = {"text": _echo(messages)} if schema is None else {"value": smallest_instance(schema)}
        return reply.model_copy(update=default)

    def _delay(self, reply: ScriptedReply) -> float:
        return self.delay_seconds if reply.delay_seconds is None else reply.delay_seconds


def open_scripted(llm: LLMConfig) -> ScriptedChatModel:
    """Make the scripted model of an `llm` block.

    Raises:
        ModelSetupError: `params` hold no script, or a malformed one.
    """
    parse_script(llm.params)  # names keys that are no part of a script; the class would swallow them
    return ScriptedChatModel(model=llm.model, **llm.params)


def to_message(reply: ScriptedReply, messages: Sequence[BaseMessage]) -> AIMessage:
    """Make the message of a reply.

    Raises:
        Exception: The one that the reply asks for.
    """
    if reply.error is not None:
        raise _error(reply.error)
    text = reply.text
    if text is None:
        text = "" if reply.value is None and reply.tool_calls else json.dumps(reply.value, ensure_ascii=False)
    message = AIMessage(
        content=text,
        tool_calls=[
            {"name": call.name, "args": call.args, "id": call.id or f"call_{at}", "type": "tool_call"}
            for at, call in enumerate(reply.tool_calls)
        ],
        response_metadata={
            "model_name": reply.model or NAME,
            "finish_reason": reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop"),
        },
    )
    if reply.usage is not None:
        message.usage_metadata = _usage(reply.usage, messages, text)
    return message


def to_chunks(message: AIMessage) -> Iterator[ChatGenerationChunk]:
    """Cut a message into chunks of a word each; the last one carries what is said of the whole."""
    words = _pieces(text_of(message.content))
    for word in words[:-1]:
        yield ChatGenerationChunk(message=AIMessageChunk(content=word))
    last = AIMessageChunk(
        content=words[-1],
        tool_calls=message.tool_calls,
        usage_metadata=message.usage_metadata,
        response_metadata=message.response_metadata,
    )
    yield ChatGenerationChunk(message=last)


def _pieces(text: str) -> list[str]:
    spaced = text.split(" ")
    return [*(f"{word} " for word in spaced[:-1]), spaced[-1]]


def _error(wanted: ScriptedError) -> Exception:
    own = _ERRORS.get(wanted.type)
    error = ScriptedModelError(wanted.message, status_code=wanted.status_code) if own is None else own(wanted.message)
    if wanted.retryable is not None:
        vars(error)["retryable"] = wanted.retryable  # read by is_retryable
    return error


def _usage(given: ScriptedUsage, messages: Sequence[BaseMessage], text: str) -> Any:
    words_in = sum(len(text_of(message.content).split()) for message in messages)
    cached = given.cache_read_tokens + given.cache_write_tokens
    tokens_in = max(words_in, cached) if given.input_tokens is None else given.input_tokens
    tokens_out = max(len(text.split()), given.reasoning_tokens) if given.output_tokens is None else given.output_tokens
    return {
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        "input_token_details": {"cache_read": given.cache_read_tokens, "cache_creation": given.cache_write_tokens},
        "output_token_details": {"reasoning": given.reasoning_tokens},
    }


def _echo(messages: Sequence[BaseMessage]) -> str:
    said = [message for message in messages if message.type == "human"] or list(messages)
    return text_of(said[-1].content) if said else ""
