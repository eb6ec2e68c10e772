"""A langchain-core chat model as the engine's `ChatModel`: messages in, one request, the reply out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from configurable_agents.llm.base import Cost, Message, ModelInfo, Reply, Usage
from configurable_agents.llm.parameters import number, read_parameters, whole
from configurable_agents.llm.prices import Pricing
from configurable_agents.llm.retries import is_retryable
from configurable_agents.llm.structured import ask_structured, read_json
from configurable_agents.llm.usage import read_usage

if TYPE_CHECKING:
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import BaseMessage

PROVIDER_NAMES: Final[Mapping[str, str]] = {
    "amazon_bedrock": "aws.bedrock",
    "azure": "azure.ai.openai",
    "azure_openai": "azure.ai.openai",
    "google": "gcp.gemini",
    "google_genai": "gcp.gemini",
    "google_vertexai": "gcp.vertex_ai",
    "ibm": "ibm.watsonx.ai",
    "mistral": "mistral_ai",
    "mistralai": "mistral_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""langchain-core's names where OpenTelemetry has another; the rest are the same, or have none there."""

DEFAULT_HOSTS: Final[Mapping[str, str]] = {
    "anthropic": "https://api.anthropic.com",
    "gcp.gemini": "https://generativelanguage.googleapis.com",
    "ollama": "http://localhost:11434",
    "openai": "https://api.openai.com",
}

CLOSE_AFTER_USE: Final[Mapping[str, str]] = {"Connection": "close"}

_URL_ATTRIBUTES: Final = ("openai_api_base", "anthropic_api_url", "azure_endpoint", "base_url", "api_base", "endpoint")


@dataclass(frozen=True, slots=True)
class LangchainModel:
    """Implements `ChatModel` over any langchain-core chat model."""

    model: BaseChatModel
    info: ModelInfo
    pricing: Pricing
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Values that no error may show."""

    async def ask(self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None) -> Reply:
        """Ask once, as `ChatModel.ask` says."""
        conversation = [to_langchain(message) for message in messages]
        try:
            if schema is None:
                return to_reply(await self.model.ainvoke(conversation))
            return to_structured_reply(await ask_structured(self.model, conversation, schema), schema)
        except Exception as error:
            cut = _cut_off(error)
            if cut is not None:
                return cut
            mask(error, self.secrets)
            raise

    def price(self, usage: Usage, *, model: str | None, at_unix_nano: int) -> Cost | None:
        """Price a call, by the answering model's name first; None if the price is unknown."""
        return self.pricing.cost(usage, (model, self.info.model), at_unix_nano=at_unix_nano)

    def is_retryable(self, error: Exception) -> bool:
        """Tell whether asking again may help."""
        return is_retryable(error)


def to_langchain(message: Message) -> BaseMessage:
    """Convert one of our messages."""
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

    kinds: dict[str, type[BaseMessage]] = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}
    return kinds[message.role](content=message.content)


def to_reply(answer: Any) -> Reply:
    """Convert a model's answer to plain text and what it says of itself."""
    metadata: Mapping[str, Any] = getattr(answer, "response_metadata", None) or {}
    return Reply(
        text=text_of(getattr(answer, "content", answer)),
        usage=read_usage(getattr(answer, "usage_metadata", None)),
        model=_first_text(metadata, ("model_name", "model", "model_id")),
        response_id=_response_id(answer, metadata),
        finish_reasons=_finish_reasons(metadata),
    )


def to_structured_reply(answer: Any, schema: Mapping[str, Any]) -> Reply:
    """Convert an answer that should be JSON: from its tool call if it made one, else from its text."""
    if not hasattr(answer, "content"):
        return _from_value(answer)
    reply = to_reply(answer)
    for call in getattr(answer, "tool_calls", None) or ():
        return _with_value(reply, call.get("args"))
    text = reply.text or next(
        (str(call.get("args") or "") for call in getattr(answer, "invalid_tool_calls", None) or ()), ""
    )
    value, problem = read_json(text, schema)
    if problem is not None and {"length", "max_tokens", "MAX_TOKENS"} & set(reply.finish_reasons):
        problem = f"the answer was cut off by the limit of tokens; answer more briefly ({problem})"
    return replace(reply, text=text, value=value, parse_error=problem)


def text_of(content: Any) -> str:
    """Join the text of a message's content, which may be a list of blocks (text, reasoning, images …)."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Iterable) or isinstance(content, Mapping):
        return "" if content is None else str(content)
    blocks = (block if isinstance(block, str) else _block_text(block) for block in content)
    return "".join(blocks)


def without_kept_connections(model: BaseChatModel) -> BaseChatModel:
    """Give a copy of an OpenAI model that closes each connection after use; any other model as it is.

    A connection kept open belongs to the event loop that opened it. Each blocking run has a loop of its own, and the
    next one would send its request into a connection whose answer nobody can read any more.
    """
    client: Any = getattr(model, "root_async_client", None)
    if not hasattr(client, "with_options"):
        return model
    closing = client.with_options(default_headers=CLOSE_AFTER_USE)
    return model.model_copy(update={"root_async_client": closing, "async_client": closing.chat.completions})


def model_info(model: BaseChatModel, *, provider: str | None = None, in_process: bool | None = None) -> ModelInfo:
    """Say what is known of a model before it is asked.

    Args:
        provider: Its provider, where the caller knows it; else langchain-core's own word, renamed as OpenTelemetry does.
    """
    told = _ls_params(model)
    name = provider or str(told.get("ls_provider") or type(model).__name__.lower())
    known = PROVIDER_NAMES.get(name, name)
    host, port = _server(model, known)
    return ModelInfo(
        provider=known,
        model=str(told.get("ls_model_name") or _attribute_text(model, ("model_name", "model")) or type(model).__name__),
        temperature=number(told.get("ls_temperature")),
        max_tokens=whole(told.get("ls_max_tokens")),
        **read_parameters(model),
        in_process=type(model).__module__.startswith("langchain_core.") if in_process is None else in_process,
        server_address=host,
        server_port=port,
    )


def mask(error: BaseException, secrets: Iterable[str]) -> None:
    """Take secrets out of an error's own texts: some servers repeat the key that they refuse."""
    errors = [one for one in (error, error.__cause__, error.__context__) if one is not None]
    for secret in secrets:
        for one in errors:
            one.args = tuple(_masked(value, secret) for value in one.args)
            for name, value in list(vars(one).items()):
                if _masked(value, secret) is not value:
                    setattr(one, name, _masked(value, secret))


def _masked(value: Any, secret: str) -> Any:
    if isinstance(value, str):
        return value.replace(secret, "***") if secret in value else value
    if isinstance(value, dict) and secret in str(value):
        return {key: _masked(inner, secret) for key, inner in value.items()}
    return value


def _cut_off(error: Exception) -> Reply | None:
    # The openai package raises where an answer in JSON was cut off; the tokens were spent, and asking again may help.
    completion = getattr(error, "completion", None)
    if type(error).__name__ != "LengthFinishReasonError" or completion is None:
        return None
    usage = getattr(completion, "usage", None)
    counted = {
        "input_tokens": getattr(usage, "prompt_tokens", None),
        "output_tokens": getattr(usage, "completion_tokens", None),
        "input_token_details": {
            "cache_read": getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", None)
        },
        "output_token_details": {
            "reasoning": getattr(getattr(usage, "completion_tokens_details", None), "reasoning_tokens", None)
        },
    }
    return Reply(
        text=str(getattr(completion.choices[0].message, "content", None) or "") if completion.choices else "",
        parse_error="the answer was cut off by the limit of tokens; answer more briefly",
        usage=read_usage(counted),
        model=getattr(completion, "model", None),
        response_id=getattr(completion, "id", None),
        finish_reasons=("length",),
    )


def _with_value(reply: Reply, value: Any) -> Reply:
    return replace(reply, value=value, text=json.dumps(value, ensure_ascii=False, default=str))


def _from_value(answer: Any) -> Reply:
    """Convert what a model gave in place of a message: a value that it parsed itself."""
    value = answer.model_dump(mode="json") if hasattr(answer, "model_dump") else answer
    if value is None:
        return Reply(text="", parse_error="the answer holds no JSON object")
    return _with_value(Reply(text=""), value)


def _block_text(block: Any) -> str:
    text = block.get("text") if isinstance(block, Mapping) and block.get("type") == "text" else None
    return text if isinstance(text, str) else ""


def _response_id(answer: Any, metadata: Mapping[str, Any]) -> str | None:
    own = _first_text(metadata, ("id", "response_id"))
    given = getattr(answer, "id", None)
    # langchain-core fills the place with an id of its own run where the provider gave none.
    return own or (given if isinstance(given, str) and not given.startswith(("run-", "lc_run-", "run--")) else None)


def _finish_reasons(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    said = _first_text(metadata, ("finish_reason", "stop_reason", "done_reason"))
    return () if said is None else (said,)


def _first_text(values: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    return next((value for key in keys if isinstance(value := values.get(key), str) and value), None)


def _attribute_text(model: Any, names: Iterable[str]) -> str | None:
    return next((value for name in names if isinstance(value := getattr(model, name, None), str) and value), None)


def _ls_params(model: BaseChatModel) -> Mapping[str, Any]:
    try:
        return dict(model._get_ls_params())  # noqa: SLF001 - the one place where every integration tells its name
    except Exception:  # noqa: BLE001 - an integration may fail here, and a name is not worth a run
        return {}


def _server(model: BaseChatModel, provider: str) -> tuple[str | None, int | None]:
    url = _attribute_text(model, _URL_ATTRIBUTES) or DEFAULT_HOSTS.get(provider)
    if url is None:
        return None, None
    try:
        parts = urlsplit(url)
        return parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        return None, None
