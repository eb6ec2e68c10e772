"""A workflow that has been read, checked and compiled: ready to run as often as one likes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from opentelemetry.util.types import AttributeValue

from configurable_agents import semconv
from configurable_agents.config.environment import Filled, references
from configurable_agents.config.loader import LoadedConfig, config_from_mapping, load_config
from configurable_agents.config.schema import FunctionNode, ModelNode, WorkflowConfig
from configurable_agents.core.graph import Plan, compile_plan
from configurable_agents.core.inputs import InputTypes
from configurable_agents.core.nodes import CompiledNode, compile_nodes
from configurable_agents.once import Once
from configurable_agents.semconv import Operation


@dataclass(frozen=True)
class Workflow:
    """A compiled workflow. It never changes, and many runs may share it."""

    loaded: LoadedConfig
    """The file as it was read: its text and hash, its models, its warnings."""
    plan: Plan = field(repr=False)
    nodes: Mapping[str, CompiledNode] = field(repr=False)
    inputs: InputTypes = field(repr=False)

    @Once
    def config(self) -> WorkflowConfig:
        """What the file says."""
        return self.loaded.config

    @Once
    def name(self) -> str:
        """The workflow's name."""
        return self.config.flow.name

    @Once
    def span_name(self) -> str:
        """The name of each run's span."""
        return f"invoke_workflow {self.name}"

    @Once
    def attributes(self) -> dict[str, AttributeValue]:
        """What each run's span has from the start."""
        attributes: dict[str, AttributeValue] = {
            semconv.GEN_AI_OPERATION_NAME: Operation.INVOKE_WORKFLOW.value,
            semconv.OPENINFERENCE_SPAN_KIND: semconv.CHAIN,
            semconv.GEN_AI_WORKFLOW_NAME: self.name,
            semconv.CONFIG_SHA256: self.loaded.sha256,
            semconv.CONTENT_CONFIG: self.loaded.text,
        }
        if self.config.flow.version is not None:
            attributes[semconv.WORKFLOW_VERSION] = self.config.flow.version
        if self.plan.reducers:
            attributes[semconv.STATE_REDUCERS] = orjson.dumps(dict(self.plan.reducers)).decode()
        return attributes

    @Once
    def function_names(self) -> frozenset[str]:
        """The functions that its nodes call."""
        return frozenset(node.function for node in self.config.nodes if isinstance(node, FunctionNode))

    @Once
    def filled(self) -> Filled | None:
        """The file's `config` for every run; None where `${env:…}` in it is to be filled in for each."""
        config = self.config.config
        return None if references(config) else Filled(config, frozenset())

    @Once
    def model_nodes(self) -> Mapping[str, ModelNode]:
        """The nodes that ask a model, by their id."""
        return {node.id: node for node in self.config.nodes if isinstance(node, ModelNode)}


def load_workflow(path: str | Path) -> Workflow:
    """Read a workflow file, check it and compile it.

    Raises:
        ConfigError: The file is wrong; all its problems come together, each with its place and remedy.
    """
    return compile_workflow(load_config(path))


def workflow_from_config(config: WorkflowConfig | Mapping[str, Any]) -> Workflow:
    """Check and compile a workflow that a program has put together.

    Raises:
        ConfigError: It is wrong; problems have a path and no line.
    """
    mapping = (
        config.model_dump(mode="json", by_alias=True, exclude_unset=True)
        if isinstance(config, WorkflowConfig)
        else config
    )
    return compile_workflow(config_from_mapping(mapping))


def compile_workflow(loaded: LoadedConfig) -> Workflow:
    """Compile a file that has been read and checked."""
    config = loaded.config
    return Workflow(loaded, compile_plan(config), compile_nodes(config), InputTypes.of(config))
