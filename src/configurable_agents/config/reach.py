"""What a file reaches outside of itself: hosts, environment variables, paths and Python modules that it names.

`validate` lists it; a file that is not trusted may reach only what the caller allows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from configurable_agents.config.environment import references
from configurable_agents.config.positions import Path, text_of
from configurable_agents.config.schema import LLMConfig, ModelNode, StorageConfig, WorkflowConfig
from configurable_agents.errors import ConfigError, Problem

SAMPLING_PARAMS: Final = frozenset(
    {
        "frequency_penalty", "logit_bias", "logprobs", "max_output_tokens", "max_tokens", "min_p", "n_ctx", "n_predict",
        "num_ctx", "num_predict", "presence_penalty", "reasoning_effort", "repeat_penalty", "seed", "stop",
        "stop_sequences", "temperature", "top_k", "top_logprobs", "top_p",
    }
)  # fmt: skip
"""`llm.params` that only say how a model chooses its words. Any other may name a host, a proxy, a header or a file,
under whatever name a provider's class gives it, so that a file that is not trusted may use none."""


class Named(NamedTuple):
    """One thing that a file names, and where."""

    value: str
    path: str


@dataclass(frozen=True)
class Reach:
    """Everything that a file names outside of itself."""

    hosts: tuple[Named, ...] = ()
    """Of `api_base`, of URLs in `params`, of a database URL, of an OTLP endpoint."""
    environment: tuple[Named, ...] = ()
    """Variables named by `${env:…}`, `api_key_env`, `headers_env`."""
    paths: tuple[Named, ...] = ()
    """Of the store, and of a local model."""
    modules: tuple[Named, ...] = ()
    """`package.module:Class` as a provider."""
    params: tuple[Named, ...] = ()
    """Keys of `params` that do more than choose words."""


def reach(config: WorkflowConfig) -> Reach:
    """List what a workflow names, each with its path in the file; nothing is looked up or connected to."""
    found: dict[str, list[Named]] = {"hosts": [], "environment": [], "paths": [], "modules": [], "params": []}
    for kind, value, path in _all(config):
        found[kind].append(Named(value, text_of(path)))
    return Reach(**{kind: tuple(dict.fromkeys(named)) for kind, named in found.items()})


_Found = tuple[str, str, Path]


def _all(config: WorkflowConfig) -> Iterator[_Found]:
    yield from _of_llm(config.config.llm, ("config", "llm"), config.config.llm.provider)
    for index, node in enumerate(config.nodes):
        if isinstance(node, ModelNode) and node.llm is not None:
            provider = node.llm.provider or config.config.llm.provider
            yield from _of_llm(node.llm, ("nodes", index, "llm"), provider)
    if config.config.storage is not None:
        yield from _of_storage(config.config.storage, ("config", "storage"))
    otlp = config.config.observability.otlp
    if otlp is not None:
        path: Path = ("config", "observability", "otlp")
        yield "hosts", host_of(otlp.endpoint), (*path, "endpoint")
        if otlp.headers_env is not None:
            yield "environment", otlp.headers_env, (*path, "headers_env")
    for reference in references(config.config):
        yield "environment", reference.name, reference.path


def _of_llm(llm: LLMConfig, path: Path, provider: str | None) -> Iterator[_Found]:
    if llm.provider is not None and ":" in llm.provider:
        yield "modules", llm.provider, (*path, "provider")
    if llm.api_base is not None:
        yield "hosts", host_of(llm.api_base), (*path, "api_base")
    if llm.api_key_env is not None:
        yield "environment", llm.api_key_env, (*path, "api_key_env")
    if llm.model is not None and _is_file(llm.model, provider):
        yield "paths", llm.model, (*path, "model")
    for key, value in llm.params.items():
        if key not in SAMPLING_PARAMS and provider != "scripted":
            yield "params", key, (*path, "params", key)
            yield from _urls(value, (*path, "params", key))


def _is_file(model: str, provider: str | None) -> bool:
    named = model.removeprefix("local:")
    local = provider == "local" or named != model
    return named.lower().endswith(".gguf") or (local and any(sign in named for sign in "/\\"))


def _urls(value: Any, path: Path) -> Iterator[_Found]:
    if isinstance(value, str) and "://" in value:
        yield "hosts", host_of(value), path
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _urls(item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _urls(item, (*path, index))


def _of_storage(storage: StorageConfig, path: Path) -> Iterator[_Found]:
    for key in ("backend", "path"):
        text = getattr(storage, key)
        if "://" in text:
            local = text.startswith("sqlite")
            yield ("paths" if local else "hosts"), (text.split("://", 1)[1] if local else host_of(text)), (*path, key)
    if storage.backend == "sqlite" and "path" in storage.model_fields_set and "://" not in storage.path:
        yield "paths", storage.path, (*path, "path")


def host_of(url: str) -> str:
    """Give host and port of a URL, without user, password, path and query; a text that is no URL as it is."""
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return url
    if not host or "$" in parts.netloc:
        return url.rsplit("@", 1)[-1]
    return f"{host}:{port}" if port else host


def refuse_untrusted(
    config: WorkflowConfig,
    *,
    hosts: Collection[str] = (),
    environment: Collection[str] = (),
    paths: Collection[str] = (),
) -> None:
    """Refuse whatever a file that is not trusted names outside of itself, except for what the caller allows.

    Args:
        hosts: Hosts, with a port where the file gives one.
        environment: Names of environment variables.
        paths: Paths as the file writes them.

    Raises:
        ConfigError: It names something else, or a Python class as provider, or `params` that may name a host or a file.
    """
    named = reach(config)
    refused = [
        *_refused(named.hosts, hosts, "the host", "Name it on the command line, or remove it."),
        *_refused(named.environment, environment, "the environment variable", "Remove it."),
        *_refused(named.paths, paths, "the path", "Name it on the command line, or remove it."),
        *_refused(named.modules, (), "the Python class", "Use a provider by name."),
        *_refused(named.params, (), "the parameter", f"Allowed are {', '.join(sorted(SAMPLING_PARAMS))}."),
    ]
    if refused:
        raise ConfigError(refused)


def _refused(named: Collection[Named], allowed: Collection[str], what: str, remedy: str) -> Iterator[Problem]:
    for value, path in named:
        if value not in allowed:
            yield Problem(f"a file that is not trusted may not use {what} {value[:100]!r}", path, remedy)
