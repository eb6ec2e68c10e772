"""Which model is meant: names as people write them, and one `llm` block laid over another."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any, Final

from configurable_agents.config.schema import LLMConfig
from configurable_agents.errors import ModelSetupError

PROVIDERS: Final = ("openai", "anthropic", "google", "ollama", "openai_compatible", "local", "scripted")

CHOICES: Final = (
    "The providers are openai, anthropic, google, ollama, openai_compatible, local (a small model on this machine) and "
    "scripted (no model: replies from the file); or package.module:ChatModelClass."
)

_BY_NAME: Final = (
    (re.compile(r"(models/)?gemini-", re.IGNORECASE), "google"),
    (re.compile(r"(gpt-|chatgpt-|o\d)", re.IGNORECASE), "openai"),
    (re.compile(r"claude-", re.IGNORECASE), "anthropic"),
    (re.compile(r".*\.gguf$", re.IGNORECASE), "local"),
    (re.compile(r"smollm2-135m-instruct$", re.IGNORECASE), "local"),
)
_IMPORT_PATH: Final = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)$")


def is_import_path(provider: str) -> bool:
    """Tell whether a provider names a class, as `package.module:ChatModelClass`."""
    return _IMPORT_PATH.match(provider) is not None


def provider_of(llm: LLMConfig) -> str:
    """Name the provider: the one given, else the one that the model's name tells.

    Raises:
        ModelSetupError: Neither tells it, or there is no such provider.
    """
    if llm.provider is not None:
        if llm.provider in PROVIDERS or is_import_path(llm.provider):
            return llm.provider
        raise ModelSetupError(f"unknown provider {llm.provider!r}. {_hint(llm.provider)}{CHOICES}")
    if llm.model is None:
        raise ModelSetupError(f"no model is named: set llm.provider and llm.model. {CHOICES}")
    told = _told_by(llm.model)
    if told is None:
        raise ModelSetupError(f"the model {llm.model!r} does not tell its provider: set llm.provider. {CHOICES}")
    return told


def parse_model_name(text: str) -> LLMConfig:
    """Read `provider:model`, a provider that needs no model (`local`, `scripted`), or a model that tells its provider.

    Raises:
        ModelSetupError: It is none of these.
    """
    text = text.strip()
    head, colon, rest = text.partition(":")
    if head in PROVIDERS:
        return LLMConfig(provider=head, model=rest) if rest else LLMConfig(provider=head)
    if _told_by(text) is not None:
        return LLMConfig(provider=_told_by(text), model=text)
    if colon and _IMPORT_PATH.match(f"{head}:{rest.partition(':')[0]}") and ("." in head or rest[:1].isupper()):
        name, _, model = rest.partition(":")
        return LLMConfig(provider=f"{head}:{name}", model=model) if model else LLMConfig(provider=f"{head}:{name}")
    if colon:
        raise ModelSetupError(f"unknown provider {head!r} in {text!r}. {_hint(head)}{CHOICES}")
    raise ModelSetupError(f"{text!r} does not tell its provider: write provider:model. {_hint(text)}{CHOICES}")


def merge_llm(base: LLMConfig | None, over: LLMConfig | None) -> LLMConfig:
    """Lay one `llm` block over another: a key given in `over` wins, `params` are merged key by key.

    What belongs to a provider (model, address, key, params, price) does not pass to another one, nor a price to another
    model: else a key would go to a stranger, and a call would be priced by another model's price.
    """
    if base is None or over is None:
        return over or base or LLMConfig()
    kept = _given(base)
    before, after = _provider_or_none(base), _provider_or_none(over)
    if after is not None and before is not None and after != before:
        kept = {key: kept[key] for key in ("temperature", "max_tokens") if key in kept}
    elif over.model is not None and base.model is not None and over.model != base.model:
        kept.pop("price", None)
    params = {**kept.get("params", {}), **over.params}
    return LLMConfig(**{**kept, **_given(over), **({"params": params} if params else {})})


def _given(llm: LLMConfig) -> dict[str, Any]:
    return {key: getattr(llm, key) for key in llm.model_fields_set}


def _provider_or_none(llm: LLMConfig) -> str | None:
    return llm.provider or (_told_by(llm.model) if llm.model else None)


def _told_by(model: str) -> str | None:
    return next((provider for pattern, provider in _BY_NAME if pattern.match(model)), None)


def _hint(name: str) -> str:
    close = get_close_matches(name, PROVIDERS, n=1)
    return f"Did you mean {close[0]!r}? " if close else ""
