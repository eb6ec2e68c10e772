"""A real, small language model on this machine, through llama.cpp: no account, no network, one processor core."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from pydantic import Field, ValidationError

from configurable_agents.config.schema import LLMConfig
from configurable_agents.errors import ModelSetupError
from configurable_agents.llm._engine import Answer, Engine, EngineSettings, shared_engine
from configurable_agents.llm.adapter import text_of
from configurable_agents.llm.base import ModelInfo
from configurable_agents.llm.parameters import read_parameters
from configurable_agents.llm.structured import answered_in_json
from configurable_agents.llm.weights import DEFAULT_MODEL, engine_folder, find_weights

DEFAULT_MAX_TOKENS: Final = 256
_ROLES: Final[Mapping[str, str]] = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
_SAMPLING: Final = (
    "temperature",
    "max_tokens",
    "repeat_penalty",
    "seed",
    "top_k",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "stop",
)


class LocalModelError(Exception):
    """The local model refused a request; asking the same again does not help."""

    retryable = False


class LocalChatModel(BaseChatModel):
    """Asks a GGUF model that runs on this machine. The same prompt gives the same answer.

    The fields below are what `llm.params` of a workflow file may hold, apart from `model`, `temperature` and
    `max_tokens`, which have keys of their own.
    """

    model: str | None = None
    """Path of a GGUF file; None for SmolLM2-135M-Instruct."""
    temperature: float = 0
    max_tokens: int = Field(default=DEFAULT_MAX_TOKENS, gt=0)
    n_ctx: int = Field(default=4096, ge=128, le=1_048_576)
    """Tokens of prompt and answer together."""
    n_threads: int = Field(default=1, ge=1, le=512)
    n_gpu_layers: int = Field(default=0, ge=-1)
    """Layers that run on a graphics processor, where the installed engine can; -1 as many as fit."""
    repeat_penalty: float = 1.2
    """Small models repeat themselves without end at temperature 0; 1 turns it off."""
    seed: int = 0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: list[str] | None = None

    @property
    def model_info(self) -> ModelInfo:
        """What the engine knows of it."""
        return ModelInfo(
            provider="local",
            model=self.model or DEFAULT_MODEL,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            in_process=True,
            **read_parameters(self),
        )

    @property
    def _llm_type(self) -> str:
        return "local"

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[Any, Any]:
        """Answer with JSON; the schema is enforced as a grammar, token by token."""
        if not isinstance(schema, Mapping):
            raise NotImplementedError("a local model takes a JSON Schema, not a class")
        return answered_in_json(self.bind(schema=dict(schema)), schema, include_raw=include_raw)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        engine, number, answer = self._submit(messages, stop, kwargs.get("schema"))
        try:
            return self._result(answer.result())
        finally:
            engine.cancel(number)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        engine, number, answer = self._submit(messages, stop, kwargs.get("schema"))
        try:
            return self._result(await asyncio.wrap_future(answer))
        finally:
            engine.cancel(number)  # nothing to cancel, unless we are leaving without the answer

    def _submit(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, schema: Mapping[str, Any] | None
    ) -> tuple[Engine, int, Future[Answer]]:
        engine = shared_engine(self._settings())
        number, answer = engine.submit(self._request(messages, stop, schema))
        return engine, number, answer

    def _settings(self) -> EngineSettings:
        path, sha256 = find_weights(self.model)
        return EngineSettings(str(path), sha256, self.n_ctx, self.n_threads, self.n_gpu_layers)

    def _request(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, schema: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        request: dict[str, Any] = {key: getattr(self, key) for key in _SAMPLING if getattr(self, key) is not None}
        request["messages"] = [
            {"role": _ROLES.get(message.type, "user"), "content": text_of(message.content)} for message in messages
        ]
        if stop:
            request["stop"] = [*(self.stop or ()), *stop]
        if schema is not None:
            request["response_format"] = {"type": "json_schema", "json_schema": {"schema": dict(schema)}}
        return request

    def _result(self, answer: Answer) -> ChatResult:
        problem = answer.get("error")
        if problem is not None:
            raise LocalModelError(_explain(problem))
        message = AIMessage(
            content=answer.get("text", ""),
            usage_metadata=_usage(answer.get("usage") or {}),
            response_metadata={
                "model_name": self.model_info.model,
                "finish_reason": answer.get("finish_reason") or "stop",
                "id": answer.get("id"),
            },
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


def open_local(llm: LLMConfig) -> LocalChatModel:
    """Make the local model of an `llm` block; nothing is loaded yet.

    Raises:
        ModelSetupError: The engine, the weights or the file are missing, or a setting is wrong.
    """
    allowed = set(LocalChatModel.__annotations__) - {"model", "temperature", "max_tokens"}
    strange = sorted(set(llm.params) - allowed)
    if strange:
        raise ModelSetupError(
            f"llm.params.{strange[0]}: a local model has no such parameter; it has {', '.join(sorted(allowed))}"
        )
    given = {"temperature": llm.temperature, "max_tokens": llm.max_tokens}
    model = None if llm.model is None or llm.model.lower() == DEFAULT_MODEL else llm.model
    try:
        made = LocalChatModel(model=model, **{k: v for k, v in given.items() if v is not None}, **llm.params)
    except ValidationError as error:
        reasons = (f"llm.params.{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ModelSetupError("; ".join(reasons)) from None
    find_weights(model)
    engine_folder()
    return made


def _explain(problem: Mapping[str, Any]) -> str:
    if problem.get("type") == "exceed_context_size_error":
        return (
            f"the prompt has {problem.get('n_prompt_tokens')} tokens, more than the context of {problem.get('n_ctx')}: "
            "shorten it, or raise llm.params.n_ctx as far as the model allows"
        )
    return f"the local model refused the request: {problem.get('message')}"


def _usage(told: Mapping[str, Any]) -> Any:
    if "prompt_tokens" not in told:
        return None
    tokens_in, tokens_out = told["prompt_tokens"], told.get("completion_tokens", 0)
    # Its own cache is left out: nothing is cheaper for it here, and it is off.
    return {"input_tokens": tokens_in, "output_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
