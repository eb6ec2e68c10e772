"""Makes models: `open_model` from an `llm` block, `wrap_model` from a program's own langchain-core chat model.

A provider's package is imported when a model of its is opened, and at no other time.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from configurable_agents.config.schema import LLMConfig, PriceConfig
from configurable_agents.errors import ModelSetupError
from configurable_agents.llm.base import ChatModel, ModelInfo
from configurable_agents.llm.selection import (
    CHOICES,
    PROVIDERS,
    is_import_path,
    merge_llm,
    parse_model_name,
    provider_of,
)
from configurable_agents.llm.trace_headers import TraceHeaders, add_trace_headers

if TYPE_CHECKING:
    from langchain_core.language_models.chat_models import BaseChatModel

__all__ = ["PROVIDERS", "is_import_path", "merge_llm", "open_model", "parse_model_name", "provider_of", "wrap_model"]


@dataclass(frozen=True, slots=True)
class _Provider:
    """How a provider's chat model is made."""

    module: str
    name: str
    extra: str
    key_variables: tuple[str, ...] = ()
    """Environment variables that usually hold its key, the first found wins."""
    api_base: str | None = None
    """Its own address, always passed: the packages would take another one from the environment, and the key with it."""
    retries: int = 0


_PROVIDERS: Final[Mapping[str, _Provider]] = {
    "openai": _Provider("langchain_openai", "ChatOpenAI", "openai", ("OPENAI_API_KEY",), "https://api.openai.com/v1"),
    "anthropic": _Provider(
        "langchain_anthropic", "ChatAnthropic", "anthropic", ("ANTHROPIC_API_KEY",), "https://api.anthropic.com"
    ),
    "google": _Provider(
        "langchain_google_genai",
        "ChatGoogleGenerativeAI",
        "google",
        ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
        "https://generativelanguage.googleapis.com",
        retries=1,  # google-genai counts tries, and takes 0 for "not said"
    ),
    "ollama": _Provider("langchain_ollama", "ChatOllama", "ollama"),
    "openai_compatible": _Provider("langchain_openai", "ChatOpenAI", "openai"),
}

KEY_VARIABLES: Final = frozenset(name for provider in _PROVIDERS.values() for name in provider.key_variables)
"""Where keys usually are; their values are hidden in what is kept."""

_RESERVED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("model", "model_name"), "llm.model"),
    "temperature": "llm.temperature",
    **dict.fromkeys(
        ("max_tokens", "max_output_tokens", "max_completion_tokens", "max_tokens_to_sample", "num_predict"),
        "llm.max_tokens",
    ),
    **dict.fromkeys(("api_key", "openai_api_key", "anthropic_api_key", "google_api_key"), "llm.api_key_env"),
    **dict.fromkeys(
        ("base_url", "api_base", "endpoint", "openai_api_base", "anthropic_api_url", "client_options"), "llm.api_base"
    ),
    **dict.fromkeys(("max_retries", "retries"), "config.execution.max_retries"),
}
"""Parameters that `params` may not hold, and where they are set: a key's host must stand where it is checked."""

_ROUTES: Final = frozenset(
    {"openai_proxy", "anthropic_proxy", "http_client", "http_async_client", "client", "async_client", "client_args"}
    | {"client_kwargs", "async_client_kwargs", "sync_client_kwargs", "root_client", "root_async_client", "callbacks"}
)
"""Parameters that would send requests elsewhere, or cannot be written in a file."""


def open_model(llm: LLMConfig, *, environ: Mapping[str, str], trust: bool = True) -> ChatModel:
    """Make the model that a merged `llm` block describes; nothing is sent.

    Args:
        environ: Where keys are looked up.
        trust: Whether `provider` may name a class, which is then imported.

    Raises:
        ModelSetupError: A package, key or name is missing or wrong; the message says what to do and holds no key.
    """
    provider = provider_of(llm)
    if provider == "scripted":
        return _open_scripted(llm)
    if provider == "local":
        return _open_local(llm)
    if provider in _PROVIDERS:
        return _open_known(provider, _PROVIDERS[provider], llm, environ)
    if not trust:
        raise ModelSetupError(
            f"provider {provider!r} names a class, and this file is not trusted to import one. {CHOICES}"
        )
    return _open_class(provider, llm, environ)


def wrap_model(model: BaseChatModel, *, price: PriceConfig | None = None) -> ChatModel:
    """Make the engine's model from a langchain-core chat model, which is used as it is.

    Args:
        price: Overrides the price list.

    Raises:
        ModelSetupError: `model` is no langchain-core chat model.
    """
    from langchain_core.language_models.chat_models import BaseChatModel

    from configurable_agents.llm.adapter import LangchainModel, model_info, without_kept_connections
    from configurable_agents.llm.prices import LISTED_PROVIDERS, Pricing

    if not isinstance(model, BaseChatModel):
        raise ModelSetupError(f"a model must be a langchain-core chat model, not {type(model).__name__}")
    own = getattr(model, "model_info", None)
    info = own if isinstance(own, ModelInfo) else model_info(model)
    free = isinstance(own, ModelInfo) and own.provider in {"local", "scripted"}
    pricing = Pricing(price, free, LISTED_PROVIDERS.get(info.provider))
    return LangchainModel(without_kept_connections(model), info, pricing)


def _open_scripted(llm: LLMConfig) -> ChatModel:
    from configurable_agents.llm.scripted import open_scripted

    return wrap_model(open_scripted(llm), price=llm.price)


def _open_local(llm: LLMConfig) -> ChatModel:
    from configurable_agents.llm.local import open_local

    return wrap_model(open_local(llm), price=llm.price)


def _open_known(name: str, provider: _Provider, llm: LLMConfig, environ: Mapping[str, str]) -> ChatModel:
    from configurable_agents.llm.adapter import LangchainModel, model_info
    from configurable_agents.llm.prices import LISTED_PROVIDERS, Pricing

    if llm.model is None:
        raise ModelSetupError(f"provider {name!r} needs llm.model: the name of one of its models")
    if name == "openai_compatible" and llm.api_base is None:
        raise ModelSetupError("provider 'openai_compatible' needs llm.api_base, as http://localhost:8000/v1")
    key = _key(name, provider, llm, environ)
    kind = _import(provider.module, provider.name, f'pip install "configurable-agents[{provider.extra}]"')
    options = _options(kind, llm, key=key, api_base=llm.api_base or provider.api_base, retries=provider.retries)
    if name == "openai_compatible":
        options = _as_any_server_takes_it(options, llm)
    if llm.api_base is not None and not _is_public(llm.api_base):
        options = _continuing_the_trace(kind, options)
    model = _construct(kind, name, options, key)
    told = model_info(model, provider=None if name != "openai_compatible" else name, in_process=False)
    info = replace(told, model=llm.model, temperature=llm.temperature, max_tokens=llm.max_tokens or told.max_tokens)
    listed = LISTED_PROVIDERS.get(info.provider)
    pricing = Pricing(llm.price, listed_provider=listed, api_url=llm.api_base if name == "openai_compatible" else None)
    return LangchainModel(model, info, pricing, (key,) if key else ())


def _open_class(path: str, llm: LLMConfig, environ: Mapping[str, str]) -> ChatModel:
    module, _, name = path.partition(":")
    kind = _import(module, name, f"install the package that holds {module!r}")
    key = _named_key(llm, environ) if llm.api_key_env else None
    options = _options(kind, llm, key=key, api_base=llm.api_base, retries=0)
    wrapped = wrap_model(_construct(kind, path, options, key), price=llm.price)
    return replace(wrapped, secrets=(key,)) if key else wrapped  # type: ignore[type-var]  # wrap_model made a dataclass


# --- keys --------------------------------------------------------------------------------------------------------------


def _key(name: str, provider: _Provider, llm: LLMConfig, environ: Mapping[str, str]) -> str | None:
    """Find the key; a provider's usual key goes only to that provider's own host."""
    if llm.api_key_env:
        return _named_key(llm, environ)
    if not provider.key_variables:
        return None
    own_host = urlsplit(provider.api_base or "").hostname
    if llm.api_base is not None and not _is_own(llm.api_base, own_host):
        raise ModelSetupError(
            f"llm.api_base is not {name}'s own host ({own_host}), so its usual key is not sent there: name the variable "
            f"that holds the key for {urlsplit(llm.api_base).hostname!r} in llm.api_key_env, "
            "or use provider openai_compatible for a server that needs none"
        )
    found = next((environ[variable] for variable in provider.key_variables if environ.get(variable)), None)
    if found is None:
        raise ModelSetupError(
            f"provider {name!r} needs a key: set the environment variable {' or '.join(provider.key_variables)}, "
            "or name another one in llm.api_key_env"
        )
    return found


def _is_own(api_base: str, own_host: str | None) -> bool:
    parts = urlsplit(api_base)
    return parts.scheme == "https" and parts.hostname == own_host


def _named_key(llm: LLMConfig, environ: Mapping[str, str]) -> str:
    value = environ.get(llm.api_key_env or "")
    if not value:
        raise ModelSetupError(f"llm.api_key_env names {llm.api_key_env!r}, but that environment variable is not set")
    return value


# --- construction ------------------------------------------------------------------------------------------------------


def _import(module: str, name: str, remedy: str) -> Any:
    from langchain_core.language_models.chat_models import BaseChatModel

    try:
        kind = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ModelSetupError(f"{module}:{name} cannot be imported ({error}): {remedy}") from error
    if not (isinstance(kind, type) and issubclass(kind, BaseChatModel)):
        raise ModelSetupError(f"{module}:{name} is no langchain-core chat model class")
    return kind


def _options(kind: Any, llm: LLMConfig, *, key: str | None, api_base: str | None, retries: int) -> dict[str, Any]:
    """Give the constructor's arguments, by the names that this class knows them by."""
    from configurable_agents.llm.adapter import CLOSE_AFTER_USE

    taken = _parameters(kind)
    _refuse_params(kind, llm, taken)
    wanted: tuple[tuple[Any, str, tuple[str, ...]], ...] = (
        (llm.model, "model", ("model", "model_name")),
        (llm.temperature, "temperature", ("temperature",)),
        (llm.max_tokens, "max_tokens", ("max_tokens", "max_output_tokens", "num_predict")),
        (api_base, "api_base", ("base_url", "api_base", "endpoint_url", "endpoint")),
        (key, "api_key_env", ("api_key",)),
    )
    options = dict(llm.params)
    for value, key_name, names in wanted:
        if value is None:
            continue
        name = next((name for name in names if name in taken), None)
        if name is None and key_name == "api_base" and llm.api_base is None:
            continue  # a version whose address cannot be set has only its own
        if name is None:
            raise ModelSetupError(f"{kind.__name__} takes no llm.{key_name}")
        options[name] = value
    if "max_retries" in taken:
        options["max_retries"] = retries  # one `ask` is one request: the engine counts and repeats
    # A handshake costs little beside a model's answer; see `without_kept_connections`.
    if "default_headers" in taken:
        options["default_headers"] = {**CLOSE_AFTER_USE, **(options.get("default_headers") or {})}
    elif "client_kwargs" in taken:
        options["client_kwargs"] = {"headers": dict(CLOSE_AFTER_USE)}
    return options


def _parameters(kind: Any) -> frozenset[str]:
    fields = getattr(kind, "model_fields", {})
    aliases = {field.alias for field in fields.values() if isinstance(field.alias, str)}
    return frozenset(fields) | aliases


def _refuse_params(kind: Any, llm: LLMConfig, taken: frozenset[str]) -> None:
    for name in llm.params:
        if name in _RESERVED:
            raise ModelSetupError(f"llm.params.{name}: set it with {_RESERVED[name]}")
        if name in _ROUTES:
            raise ModelSetupError(f"llm.params.{name} cannot be set in a workflow file")
        if name not in taken and kind.model_config.get("extra") != "allow":
            close = get_close_matches(name, taken, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ModelSetupError(f"llm.params.{name}: {kind.__name__} has no such parameter.{hint}")


def _as_any_server_takes_it(options: dict[str, Any], llm: LLMConfig) -> dict[str, Any]:
    # Without a key langchain-openai would take OPENAI_API_KEY from the environment and send it to this host.
    options = {"api_key": "none", **options}
    if options.pop("max_tokens", None) is not None:
        # langchain-openai would send `max_completion_tokens`, which is OpenAI's own; `max_tokens` every server knows.
        options["extra_body"] = {"max_tokens": llm.max_tokens, **options.get("extra_body", {})}
    return options


def _is_public(api_base: str) -> bool:
    """Tell whether an address is a provider's own, or another of its domain (a region's, say)."""
    host = f".{urlsplit(api_base).hostname or ''}"
    own = (urlsplit(provider.api_base).hostname or "" for provider in _PROVIDERS.values() if provider.api_base)
    return any(host.endswith("." + ".".join(name.split(".")[-2:])) for name in own)


def _continuing_the_trace(kind: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Have the trace's id go with each request, so that the spans of the user's own gateway join it.

    Only to a server that the file itself names (LiteLLM and vLLM continue a trace). A provider's public host would not,
    and an id that ties a user's requests together is none of its business.
    """
    taken = _parameters(kind)
    if "async_client_kwargs" in taken:  # Ollama's
        return {"async_client_kwargs": {"event_hooks": {"request": [add_trace_headers]}}, **options}
    if "model_kwargs" in taken:  # OpenAI's and Anthropic's: handed to their packages with each request
        given = options.get("model_kwargs") or {}
        headers = TraceHeaders(given.get("extra_headers"))
        return {**options, "model_kwargs": {**given, "extra_headers": headers}}
    return options


def _construct(kind: Any, provider: str, options: Mapping[str, Any], key: str | None) -> BaseChatModel:
    from pydantic import ValidationError

    try:
        model: BaseChatModel = kind(**options)
    except ValidationError as error:
        # Only places and reasons: pydantic's own text shows the input, and with it the key.
        reasons = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False)
        )
        problem = reasons
    except Exception as error:  # noqa: BLE001 - whatever a provider's package raises, nothing has run yet
        problem = f"{type(error).__name__}: {error}"
    else:
        return model
    raise ModelSetupError(
        f"provider {provider!r} refused its settings: {problem.replace(key, '***') if key else problem}"
    )
