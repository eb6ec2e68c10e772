"""Finds the model of each node: the caller's own, the caller's word, or what the file says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

from configurable_agents.config.schema import LLMConfig, RuntimeConfig
from configurable_agents.errors import ModelSetupError
from configurable_agents.llm.base import ChatModel
from configurable_agents.llm.providers import KEY_VARIABLES, open_model, wrap_model
from configurable_agents.llm.selection import merge_llm, parse_model_name
from configurable_agents.runtime.workflow import Workflow

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    ModelChoice: TypeAlias = "str | LLMConfig | BaseChatModel"

DEFAULT: Final = "default"
"""The key of `models=` that stands for every node without one of its own."""


def open_models(
    workflow: Workflow,
    config: RuntimeConfig,
    choices: Mapping[str, ModelChoice],
    *,
    environ: Mapping[str, str],
    trust: bool,
) -> dict[str, ChatModel]:
    """Give each model node its model, by node id. Nodes with the same settings share one.

    Args:
        config: The file's `config` with its variables filled in.
        choices: By node id or `default`: `provider:model`, or a langchain-core chat model.

    Raises:
        ModelSetupError: A model cannot be made, or a choice is for no node.
    """
    known = workflow.model_nodes
    if choices and (strangers := choices.keys() - known.keys() - {DEFAULT}):
        raise ModelSetupError(
            f"models= names {', '.join(map(repr, sorted(strangers)))}, but the nodes that ask a model are "
            f"{', '.join(sorted(known)) or 'none'}; {DEFAULT!r} stands for all of them"
        )
    opened: dict[str, ChatModel] = {}
    models: dict[str, ChatModel] = {}
    for node in known.values():
        llm = merge_llm(config.llm, node.llm)
        choice = choices.get(node.id, choices.get(DEFAULT))
        if choice is not None and not isinstance(choice, str | LLMConfig):
            models[node.id] = wrap_model(choice, price=llm.price)
            continue
        if choice is not None:
            llm = merge_llm(llm, parse_model_name(choice) if isinstance(choice, str) else choice)
        key = llm.model_dump_json()
        if key not in opened:
            opened[key] = _opened(node.id, llm, environ=environ, trust=trust)
        models[node.id] = opened[key]
    return models


def key_values(workflow: Workflow, config: RuntimeConfig, environ: Mapping[str, str]) -> frozenset[str]:
    """Give the keys that the models of a workflow may have been given, so that they can be hidden in what is kept."""
    llms = (config.llm, *(node.llm for node in workflow.model_nodes.values()))
    named = [llm.api_key_env for llm in llms if llm is not None and llm.api_key_env is not None]
    return frozenset(filter(None, map(environ.get, KEY_VARIABLES.union(named))))


def _opened(node_id: str, llm: LLMConfig, *, environ: Mapping[str, str], trust: bool) -> ChatModel:
    try:
        return open_model(llm, environ=environ, trust=trust)
    except ModelSetupError as error:
        raise ModelSetupError(f"node {node_id!r}: {error}") from error
