"""What nodes give: the types that are checked, and what a model is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from configurable_agents.config.loader import parse_config
from configurable_agents.config.outputs import answer_schema, output_types, state_type, write_type
from configurable_agents.config.schema import StateField, WorkflowConfig

FIELDS = """
    name: {type: str}
    urgency: {type: str, enum: [low, high], description: How soon}
    count: {type: int, default: 0}
    notes: {type: 'list[str]', reduce: append, default: []}
    items: {type: 'list[str]', default: []}
    rows: {type: 'list[object]', schema: {a: int, b: str}, default: []}
    words: {type: 'list[str]', default: []}
    any: {type: list, default: []}
"""


def workflow(node: str, edge: str = "{from: START, to: n}") -> WorkflowConfig:
    text = f'schema_version: "1.0"\nflow: {{name: t}}\nstate:\n  fields:{FIELDS}nodes:\n- {node}\n'
    return parse_config(f"{text}edges:\n- {edge}\n- {{from: n, to: END}}\n").config


def mapped(collect: str) -> str:
    return f"{{from: START, parallel: {{items_field: items, target_node: n, collect_field: {collect}}}}}"


def texts_of(config: WorkflowConfig) -> dict[str, str]:
    return {name: made.text for name, made in output_types(config.nodes[0], config).items()}


def answer(node: str, edge: str = "{from: START, to: n}") -> dict[str, Any] | None:
    config = workflow(node, edge)
    return answer_schema(config.nodes[0], config)


@pytest.mark.parametrize(
    "node",
    [
        "{id: n, prompt: x, outputs: [name]}",
        "{id: n, prompt: x, outputs: [name], output_schema: {type: str, description: A name}}",
        "{id: n, prompt: x, outputs: [name], output_schema: {type: object, fields: [{name: name, type: str}]}}",
    ],
)
def test_a_single_plain_text_is_asked_for_as_text(node: str) -> None:
    """JSON around one text costs tokens and goes wrong with small models."""
    assert answer(node) is None


def test_every_other_answer_is_an_object_by_the_outputs_names() -> None:
    """Providers take objects only; a single output stands in one too."""
    assert answer("{id: n, prompt: x, outputs: [urgency]}") == {
        "title": "n",
        "type": "object",
        "properties": {"urgency": {"type": "string", "enum": ["low", "high"], "description": "How soon"}},
        "required": ["urgency"],
        "additionalProperties": False,
    }
    schema = answer("{id: n, prompt: x, outputs: [count, notes]}")
    assert schema is not None
    assert schema["properties"] == {
        "count": {"type": "integer"},
        "notes": {"type": "array", "items": {"type": "string"}},
    }


def test_a_models_output_is_never_null_though_its_field_may_be() -> None:
    """Null is where a field begins, no answer."""
    config = workflow("{id: n, prompt: x, outputs: [urgency]}")
    assert not output_types(config.nodes[0], config)["urgency"].nullable
    config = workflow("{id: n, function: f, outputs: [urgency]}")
    assert output_types(config.nodes[0], config)["urgency"].nullable


def test_a_maps_target_gives_elements_of_what_is_collected() -> None:
    """Its outputs need no state fields of their own."""
    assert texts_of(workflow("{id: n, prompt: x, outputs: [word]}", mapped("words"))) == {"word": "str"}
    assert texts_of(workflow("{id: n, prompt: x, outputs: [a, b]}", mapped("rows"))) == {"a": "int", "b": "str"}
    assert texts_of(workflow("{id: n, prompt: x, outputs: [row]}", mapped("rows"))) == {"row": "object"}
    assert texts_of(workflow("{id: n, prompt: x, outputs: [word]}", mapped("any"))) == {"word": "str"}
    assert texts_of(workflow("{id: n, function: f, outputs: [word]}", mapped("any"))) == {"word": "any"}


def test_a_field_that_appends_takes_a_list_or_one_element() -> None:
    """Both are what people write; where the two could be mistaken for each other, it is a list."""
    notes = write_type(StateField(type="list[str]", reduce="append"))
    assert notes.validate("one") == "one"
    assert notes.validate(["one", "two"]) == ["one", "two"]
    with pytest.raises(ValueError, match="expected str, got int 5"):
        notes.validate(5)
    for text in ("list[list[int]]", "list"):
        with pytest.raises(ValueError, match="expected a list"):
            write_type(StateField(type=text, reduce="append")).validate("one")


def test_an_object_that_is_merged_takes_any_part() -> None:
    """Else a branch that knows one field would overwrite what the other wrote."""
    field = StateField(type="object", schema_={"a": "int", "b": {"type": "str", "required": False}}, reduce="merge")
    assert write_type(field).validate({"a": "1"}) == {"a": 1}
    assert state_type(field).validate({"a": "1"}) == {"a": 1, "b": None}


@pytest.mark.parametrize(
    ("field", "nullable"),
    [
        (StateField(type="str"), True),
        (StateField(type="str", default=None), True),
        (StateField(type="str", default="x"), False),
        (StateField(type="str", required=True), False),
    ],
)
def test_a_field_without_a_value_at_the_start_may_be_null(field: StateField, nullable: bool) -> None:
    """A field that is neither required nor defaulted starts as null."""
    assert state_type(field).nullable is nullable
