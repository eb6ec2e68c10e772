"""What a node needs to be executed, compiled once for all runs: its templates, its output types, its answer schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.util.types import AttributeValue

from configurable_agents import semconv
from configurable_agents.config.outputs import answer_schema, output_types
from configurable_agents.config.schema import FunctionNode, ModelNode, NodeConfig, Parallel, WorkflowConfig
from configurable_agents.config.templates import STATE, Template, TemplateValue, parse_template, parse_value
from configurable_agents.config.types import ValueType
from configurable_agents.core.encoding import copy_plain
from configurable_agents.core.functions import VALUES, named_outputs
from configurable_agents.core.templates import Scope, resolve_value
from configurable_agents.errors import OutputError
from configurable_agents.semconv import Operation


@dataclass(frozen=True, slots=True)
class CompiledNode:
    """A node, ready to be executed."""

    id: str
    kind: str
    """`model` or `function`."""
    config: NodeConfig
    span_name: str
    inputs: Mapping[str, TemplateValue] = field(repr=False)
    """Local names and what they are made from: templates, also inside of lists and dicts."""
    prompt: Template | None
    system: Template | None
    outputs: Mapping[str, ValueType] = field(repr=False)
    answer_schema: Mapping[str, Any] | None = field(repr=False)
    """JSON Schema that a model is asked to answer by; None for plain text."""
    attributes: dict[str, AttributeValue] = field(repr=False)
    """What each of its spans has from the start, in order; the run's id and the number of the execution are put in there."""
    fields: Mapping[str, str] | None = field(repr=False)
    """Where each of the inputs is just a field of the state, as `{text}`: which one."""
    is_called_once: bool
    """Whether it is a function without retries and time-out."""
    output_names: tuple[str, ...]
    only_output: tuple[str, ValueType] | None = field(repr=False)
    """Its output, where it has just one."""
    function: str
    """The name of its callable; empty for a model."""
    timeout: float | None
    captures: bool
    """Whether its content may be kept. (These four stand in `config`, too; a look into a pydantic model takes longer.)"""

    def resolve_inputs(self, state: Mapping[str, Any], item: Item | None) -> dict[str, Any]:
        """Give the values of the local names; copies, so that nobody can change the state through them.

        Raises:
            TemplateError: A path leads nowhere.
        """
        values: dict[str, Any] = {}
        if self.fields is not None and item is None:
            try:
                for name, field_name in self.fields.items():
                    values[name] = copy_plain(state[field_name])
                return values
            except KeyError:
                pass  # what is missing is said below
        scope = Scope(state, item.locals if item else {})
        for name, source in self.inputs.items():
            values[name] = copy_plain(resolve_value(source, scope))
        return values

    def written(self, result: Any) -> dict[str, Any]:
        """Sort what a function gave back by output name (`named_outputs`), and coerce it to the outputs' types.

        Raises:
            OutputError: It does not have the names, or a value does not fit; all that do not fit are named.
        """
        if self.only_output is not None and type(result) in VALUES:
            name, value_type = self.only_output
            try:
                return {name: value_type.validate(result)}
            except ValueError:
                pass  # what does not fit is said below
        return self.checked(named_outputs(result, self.output_names))

    def checked(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Coerce output values to their types.

        Raises:
            OutputError: A value does not fit; all that do not fit are named.
        """
        result, problems = {}, []
        for name, value_type in self.outputs.items():
            try:
                result[name] = value_type.validate(values[name])
            except ValueError as error:
                problems.append(f"output {name!r}: {error}")
        if problems:
            raise OutputError("; ".join(problems))
        return result


def compile_nodes(config: WorkflowConfig) -> dict[str, CompiledNode]:
    """Compile the nodes of a workflow that the validator has passed."""
    return {node.id: _compiled(node, config) for node in config.nodes}


def _compiled(node: NodeConfig, config: WorkflowConfig) -> CompiledNode:
    model = node if isinstance(node, ModelNode) else None
    if model is None and not isinstance(node, FunctionNode):
        raise TypeError(f"a node of type {type(node).__name__} passed the validator")  # it refuses what we do not run
    inputs = {name: parse_value(value) for name, value in node.inputs.items()}
    outputs = output_types(node, config)
    return CompiledNode(
        id=node.id,
        kind="model" if model else "function",
        config=node,
        span_name=f"execute_node {node.id}",
        inputs=inputs,
        prompt=parse_template(model.prompt) if model else None,
        system=parse_template(model.system) if model and model.system else None,
        outputs=outputs,
        output_names=tuple(node.outputs),
        only_output=next(iter(outputs.items())) if len(outputs) == len(node.outputs) == 1 else None,
        answer_schema=answer_schema(node, config) if model else None,
        attributes={
            semconv.RUN_ID: "",
            semconv.GEN_AI_OPERATION_NAME: Operation.EXECUTE_NODE.value,
            semconv.OPENINFERENCE_SPAN_KIND: semconv.CHAIN,
            semconv.NODE_ID: node.id,
            semconv.NODE_KIND: "model" if model else "function",
            semconv.SEQ: 0,
        },
        fields=_fields(inputs),
        is_called_once=model is None and node.timeout is None and node.retry.max_attempts == 1,
        function=node.function if isinstance(node, FunctionNode) else "",
        timeout=node.timeout,
        captures=node.capture_content,
    )


def _fields(inputs: Mapping[str, TemplateValue]) -> Mapping[str, str] | None:
    found = {name: value.only.path for name, value in inputs.items() if isinstance(value, Template) and value.only}
    are_all = len(found) == len(inputs) and all(len(path) == 1 and path[0] != STATE for path in found.values())
    return {name: path[0] for name, path in found.items()} if are_all else None


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a map."""

    index: int
    value: Any
    parallel: Parallel

    @property
    def locals(self) -> dict[str, Any]:
        """The names that templates of a map's target see besides the state."""
        return {"item": self.value, "index": self.index}


def collected(writes: Mapping[str, Any], outputs: Sequence[str]) -> Any:
    """Give what an item adds to the collected list: the value of a single output, an object of several."""
    return writes[outputs[0]] if len(outputs) == 1 else dict(writes)
