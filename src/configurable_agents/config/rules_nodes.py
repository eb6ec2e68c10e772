"""Rules of nodes: ids, outputs and their types, templates and what they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword

from configurable_agents.config.draft import Draft
from configurable_agents.config.findings import Findings, did_you_mean, listed, quoted, repeated
from configurable_agents.config.outputs import TEXT_TYPE, schema_types, types_of, write_type
from configurable_agents.config.positions import Fragment, Path
from configurable_agents.config.rules_fields import Types, add_type_errors, check_parts
from configurable_agents.config.schema import END, START, ModelNode, Node, OutputSchema, StateField
from configurable_agents.config.shapes import Shape
from configurable_agents.config.templates import (
    STATE,
    Placeholder,
    TemplateSyntaxError,
    parse_template,
    scan_template,
    texts,
)
from configurable_agents.config.types import TypeSyntaxError, ValueType

_INDEX = ValueType(Shape("int"))


@dataclass(frozen=True)
class NodeCheck:
    """One node with all that its rules look at."""

    draft: Draft
    types: Types
    """Of the state fields."""
    findings: Findings
    path: Path
    node: Node

    @property
    def is_map_target(self) -> bool:
        """Whether a `parallel` edge runs this node."""
        return self.node.id in self.draft.map_edges

    def add(self, key: Path, message: str, remedy: str = "") -> None:
        """Tell what is wrong at a key of the node."""
        self.findings.add((*self.path, *key), message, remedy)


def check_nodes(draft: Draft, types: Types, findings: Findings) -> Mapping[str, Mapping[str, ValueType]]:
    """Check every node and give the types of what each gives, by node and output, as far as they are known."""
    given: dict[str, Mapping[str, ValueType]] = {}
    _check_ids(draft, findings)
    for index, (name, node) in enumerate(draft.nodes):
        if node is not None:
            check = NodeCheck(draft, types, findings, ("nodes", index), node)
            given[name] = _check_outputs(check)
            _check_templates(check)
    return given


def _check_ids(draft: Draft, findings: Findings) -> None:
    first: dict[str, int] = {}
    for index, (name, _) in enumerate(draft.nodes):
        path: Path = ("nodes", index, "id")
        if not name:
            continue
        if name in {START, END}:
            findings.add(path, f"{name!r} is no id for a node: it is where a run {_MEANING[name]}")
        elif not name.isidentifier() or iskeyword(name):
            remedy = "An id has letters, digits and '_', does not begin with a digit, and is no Python keyword."
            findings.add(path, f"{quoted(name)} is no id for a node", remedy)
        if name in first:
            findings.add(path, f"the id {quoted(name)} is given twice", f"nodes[{first[name]}] has it already.")
        first.setdefault(name, index)


_MEANING = {START: "begins", END: "ends"}


# --- outputs -----------------------------------------------------------------------------------------------------------


def _check_outputs(check: NodeCheck) -> Mapping[str, ValueType]:
    node = check.node
    if not node.outputs and (isinstance(node, ModelNode) or check.is_map_target):
        why = (
            "a map collects what its target gives"
            if check.is_map_target
            else "a node that asks a model writes its answer"
        )
        check.add(("outputs",), f"{why}: at least one output is needed", "Add 'outputs: [name of a state field]'.")
    for index, name in repeated(node.outputs):
        check.add(("outputs", index), f"the output {quoted(name)} is named twice", "Remove one.")
    for index, name in enumerate(node.outputs):
        _check_output_name(check, index, name)
    if node.output_schema is not None:
        _check_schema(check, node.output_schema)
    try:
        given = types_of(node, check.draft.fields, _collected(check))
    except TypeSyntaxError as error:
        given = _tell_type_errors(check, error)
    if not check.is_map_target:
        _check_fit(check, given)
    return given


def _collected(check: NodeCheck) -> StateField | None:
    edge = check.draft.map_edges.get(check.node.id)
    parallel = edge[1].parallel if edge else None
    return check.draft.fields.get(parallel.collect_field) if parallel else None


def _check_output_name(check: NodeCheck, index: int, name: str) -> None:
    draft = check.draft
    if check.is_map_target or name in draft.fields or not draft.fields_known:
        return
    known = "The fields are {names}. Outputs are written to the state: add a field for it."
    remedy = did_you_mean(name, draft.field_names, known)
    check.findings.add((*check.path, "outputs", index), f"no state field is called {quoted(name)}", remedy)


def _check_schema(check: NodeCheck, schema: OutputSchema) -> None:
    path = ("output_schema",)
    if schema.fields is None:
        _check_simple_schema(check, schema)
        return
    if schema.type != "object":
        check.add((*path, "type"), f"'fields' belong to 'type: object', and this is {quoted(schema.type)}")
    names = [field.name for field in schema.fields]
    for index, name in repeated(names):
        check.add((*path, "fields", index, "name"), f"the field {quoted(name)} is given twice", "Remove one.")
    given, wanted = set(names), set(check.node.outputs)
    for index, name in enumerate(names):
        if name not in wanted:
            remedy = "The fields of an output_schema are the node's outputs: name it there, or remove it."
            check.add((*path, "fields", index, "name"), f"{quoted(name)} is not among the node's outputs", remedy)
    for index, name in enumerate(check.node.outputs):
        if name not in given:
            check.add(("outputs", index), f"the output_schema has no field {quoted(name)}", "Add it there.")


def _check_simple_schema(check: NodeCheck, schema: OutputSchema) -> None:
    if schema.type == "object" and schema.schema_ is None:
        check.add(("output_schema",), "an object has 'fields', one for each output", "Add 'fields: [{name, type}]'.")
    elif len(check.node.outputs) > 1:
        remedy = "Write 'type: object' with 'fields', one for each output."
        message = f"one {schema.type} cannot be {len(check.node.outputs)} outputs"
        check.add(("output_schema", "type"), message, remedy)


def _tell_type_errors(check: NodeCheck, error: TypeSyntaxError) -> dict[str, ValueType]:
    """Look at each field of an `output_schema` by itself, so that all that is wrong is told; give what is right."""
    schema = check.node.output_schema
    given: dict[str, ValueType] = {}
    if schema is None:
        return {}  # the state field's own problem, told there
    if schema.fields is None and not (schema.type == "object" and schema.schema_ is None):
        add_type_errors(error, (*check.path, "output_schema"), check.findings)
    for index, field in enumerate(schema.fields or ()):
        try:
            given |= schema_types(schema.model_copy(update={"fields": (field,)}), ())
        except TypeSyntaxError as found:
            add_type_errors(found, (*check.path, "output_schema", "fields", index), check.findings)
    return given


def _check_fit(check: NodeCheck, given: Mapping[str, ValueType]) -> None:
    schema = check.node.output_schema
    if schema is None:
        return
    names = [field.name for field in schema.fields or ()]
    for name, made in given.items():
        field = check.draft.fields.get(name)
        if field is None or check.types.get(name) is None:
            continue
        wanted = write_type(field)
        if not wanted.accepts(made):
            at: Path = ("output_schema", "fields", names.index(name), "type") if names else ("output_schema", "type")
            check.add(at, *misfit(name, made, name, wanted))


def misfit(output: str, made: ValueType, field: str, wanted: ValueType) -> tuple[str, str]:
    """Say that an output's type does not fit a field's, and what to do."""
    if made.text == wanted.text and wanted.shape.enum is not None:
        return (
            f"the output {quoted(output)} may have values that state field {quoted(field)} does not allow",
            f"Write the same 'enum' in both; the field allows {listed([str(v) for v in wanted.shape.enum])}.",
        )
    if made.text == wanted.text:
        return f"the output {quoted(output)} does not fit state field {quoted(field)}", "Write the same type in both."
    return (
        f"the output {quoted(output)} is {made.text}, and state field {quoted(field)} is {wanted.text}",
        "Write the same type in both.",
    )


# --- templates ---------------------------------------------------------------------------------------------------------


def _check_templates(check: NodeCheck) -> None:
    node = check.node
    outer = _outer_locals(check)
    local = dict(outer)
    for name, value in node.inputs.items():
        if not name.isidentifier() or name == STATE:
            message = f"{quoted(name)} is no name for an input"
            remedy = "It has letters, digits and '_', does not begin with a digit, and is not 'state'."
            check.findings.add((*check.path, "inputs", name), message, remedy, on_key=True)
        for below, text in texts(value):
            _check_template(check, ("inputs", name, *below), text, outer)
        local[name] = _input_type(check, value, outer)
    if isinstance(node, ModelNode):
        _check_template(check, ("prompt",), node.prompt, local)
        if node.system is not None:
            _check_template(check, ("system",), node.system, local)


def _outer_locals(check: NodeCheck) -> Types:
    edge = check.draft.map_edges.get(check.node.id)
    if edge is None or edge[1].parallel is None:
        return {}
    items = check.types.get(edge[1].parallel.items_field)
    return {"item": items.element if items else None, "index": _INDEX}


def _input_type(check: NodeCheck, value: object, outer: Types) -> ValueType | None:
    if not isinstance(value, str):
        return None
    try:
        only = parse_template(value).only
    except TemplateSyntaxError:
        return None
    if only is None:
        return TEXT_TYPE
    found, made, parts = _root(check, only, outer)
    for part in parts:
        made = made.child(part) if made is not None else None
    return made if found else None


def _root(check: NodeCheck, placeholder: Placeholder, local: Types) -> tuple[bool, ValueType | None, Sequence[str]]:
    """Find what a placeholder's first name is: whether it is known, its type, and the parts that follow."""
    first, *rest = placeholder.path
    if first == STATE:
        return rest[0] in check.types, check.types.get(rest[0]), rest[1:]
    if first in local:
        return True, local[first], rest
    return first in check.types, check.types.get(first), rest


def _check_template(check: NodeCheck, key: Path, text: str, local: Types) -> None:
    path = (*check.path, *key)
    template, errors = scan_template(text)
    for error in errors:
        fragment = Fragment(text, error.offset, error.fragment)
        check.findings.add(path, error.message, error.remedy, fragment=fragment)
    seen: set[tuple[str, ...]] = set()
    for placeholder in template.placeholders:
        if placeholder.path not in seen:
            seen.add(placeholder.path)
            _check_placeholder(check, path, text, placeholder, local)


def _check_placeholder(check: NodeCheck, path: Path, text: str, placeholder: Placeholder, local: Types) -> None:
    fragment = Fragment(text, placeholder.offset, placeholder.text)
    found, made, rest = _root(check, placeholder, local)
    if found:
        where = ".".join(placeholder.path[: len(placeholder.path) - len(rest)])
        check_parts(rest, made, where=where, path=path, fragment=fragment, findings=check.findings)
    elif check.draft.fields_known:
        _tell_unknown(check, path, placeholder, fragment, local)


def _tell_unknown(check: NodeCheck, path: Path, placeholder: Placeholder, fragment: Fragment, local: Types) -> None:
    name = placeholder.path[0]
    if name == STATE:
        name = placeholder.path[1]
        message, names = f"no state field is called {quoted(name)}", check.draft.field_names
    else:
        message, names = (
            f"nothing is called {quoted(name)} here",
            (*local, *check.draft.field_names, *([STATE] if placeholder.path[1:] else [])),
        )
    known = "Known here are {names}."
    if name in {"item", "index"} and not check.is_map_target:
        known = f"Only the target of a 'parallel' edge has {{{name}}}."
    check.findings.add(path, message, did_you_mean(name, names, known), fragment=fragment)
