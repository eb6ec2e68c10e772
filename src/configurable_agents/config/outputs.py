"""What state fields hold and nodes give: the types that writes are checked against and models are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from configurable_agents.config.schema import ModelNode, Node, OutputSchema, StateField, WorkflowConfig
from configurable_agents.config.shapes import Part, Shape
from configurable_agents.config.types import ANY_TYPE, ValueType, object_schema, parse_type

TEXT_TYPE = ValueType(Shape("str"))


def state_type(field: StateField) -> ValueType:
    """Give the type of a state field's value; null is one if the field is neither required nor defaulted.

    Raises:
        TypeSyntaxError: The field's type is none (a loaded workflow has no such field).
    """
    made = replace(parse_type(field.type, schema=field.schema_, enum=field.enum), description=field.description)
    starts_null = not field.required and field.default is None
    return made.or_null() if starts_null else made


def write_type(field: StateField) -> ValueType:
    """Give the type of what a node may write to a field, before `reduce` combines it with what is there.

    A field that appends takes a list, whose elements are appended, or one element (unless the elements are lists
    themselves, or of no stated type); an object that is merged takes any part of its fields.
    """
    made = state_type(field)
    if field.reduce == "append" and made.shape.kind == "list":
        return replace(made, shape=Shape("append", element=replace(made.shape, nullable=False), nullable=made.nullable))
    if field.reduce == "merge" and made.shape.kind == "object":
        return replace(made, shape=replace(made.shape, partial=True))
    return made


def output_types(node: Node, config: WorkflowConfig) -> Mapping[str, ValueType]:
    """Give the type of each of a node's `outputs`, in their order.

    They come from `output_schema`; without one from the state fields, and for a map's target from the elements of the
    collected list. A model never gives null where a whole output is asked for.
    """
    edge = next((e.parallel for e in config.edges if e.parallel and e.parallel.target_node == node.id), None)
    collected = config.state.fields.get(edge.collect_field) if edge else None
    return types_of(node, config.state.fields, collected)


def types_of(node: Node, fields: Mapping[str, StateField | None], collected: StateField | None) -> dict[str, ValueType]:
    """Do the work of `output_types` on parts of a workflow; an output whose type cannot be known is left out.

    Args:
        collected: The field that collects what the node gives, if it is a map's target.

    Raises:
        TypeSyntaxError: A type is none.
    """
    if node.output_schema is not None:
        return schema_types(node.output_schema, node.outputs)
    if collected is not None:
        return _collected_types(node, fields, collected)
    known = {name: fields.get(name) for name in node.outputs}
    return {name: _given_by(node, write_type(field)) for name, field in known.items() if field is not None}


def schema_types(schema: OutputSchema, outputs: tuple[str, ...]) -> dict[str, ValueType]:
    """Give the types that an `output_schema` states.

    Raises:
        TypeSyntaxError: A type is none; the path is below `output_schema`.
    """
    if schema.fields is not None:
        return {
            field.name: replace(
                parse_type(field.type, schema=field.schema_, enum=field.enum), description=field.description
            )
            for field in schema.fields
        }
    made = parse_type(schema.type, schema=schema.schema_, enum=schema.enum)
    return {name: replace(made, description=schema.description) for name in outputs[:1]}


def _collected_types(
    node: Node, fields: Mapping[str, StateField | None], collected: StateField
) -> dict[str, ValueType]:
    element = state_type(collected).element or ANY_TYPE
    types = {}
    for name in node.outputs:
        made = element if len(node.outputs) == 1 else element.child(name)
        field = fields.get(name)
        if made is not None and made.shape.kind == "any":
            untyped = TEXT_TYPE if isinstance(node, ModelNode) else ANY_TYPE
            made = state_type(field) if field is not None else untyped
        if made is not None:
            types[name] = _given_by(node, made)
    return types


def _given_by(node: Node, made: ValueType) -> ValueType:
    return replace(made, shape=replace(made.shape, nullable=False)) if isinstance(node, ModelNode) else made


def collected_type(types: Mapping[str, ValueType]) -> ValueType:
    """Give the type of what one execution of a map's target adds: its single output, or an object of several."""
    if len(types) == 1:
        return next(iter(types.values()))
    return object_of(types)


def object_of(types: Mapping[str, ValueType]) -> ValueType:
    """Give the type of an object with exactly these fields."""
    return ValueType(Shape("object", fields={name: Part(made.shape) for name, made in types.items()}))


def answer_schema(node: Node, config: WorkflowConfig) -> dict[str, Any] | None:
    """Give the JSON Schema of a model's answer: an object with one property for each output, by its name.

    It is an object for a single output too, as providers demand: the value of output `x` is always `answer["x"]`.

    Returns:
        None for a single plain `str`: the model is then asked for text, which is the output's value as it is.
    """
    types = output_types(node, config)
    only = next(iter(types.values())).shape if len(types) == 1 else None
    if only is not None and only.kind == "str" and only.enum is None:
        return None
    schema = object_schema({name: made.json_schema() for name, made in types.items()})
    described = node.output_schema.description if node.output_schema and node.output_schema.fields else None
    return {"title": node.id, **({"description": described} if described else {}), **schema}
