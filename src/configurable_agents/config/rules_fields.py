"""Rules of state fields: names, types, defaults, and how writes are combined. Also how paths read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from configurable_agents.config.draft import Draft
from configurable_agents.config.findings import Findings, did_you_mean, listed, quoted
from configurable_agents.config.outputs import state_type
from configurable_agents.config.positions import Fragment, Path
from configurable_agents.config.schema import StateField
from configurable_agents.config.types import TypeSyntaxError, ValueType

Types = Mapping[str, ValueType | None]
"""Types by name; None where a name is known and its type is not."""

_REDUCIBLE: Final[Mapping[str, tuple[str, ...]]] = {
    "append": ("list",),
    "merge": ("dict", "object"),
    "sum": ("int", "float"),
    "min": ("int", "float"),
    "max": ("int", "float"),
}


def check_fields(draft: Draft, findings: Findings) -> Types:
    """Check every state field by itself and give the types of all."""
    return {name: _check_field(name, field, findings) for name, field in draft.fields.items()}


def _check_field(name: str, field: StateField | None, findings: Findings) -> ValueType | None:
    path: Path = ("state", "fields", name)
    if not name.isidentifier():
        remedy = "A name has letters, digits and '_', and does not begin with a digit."
        findings.add(path, f"{quoted(name)} is no name for a state field", remedy, on_key=True)
    if field is None:
        return None
    try:
        made = state_type(field)
    except TypeSyntaxError as error:
        add_type_errors(error, path, findings)
        return None
    _check_reduce(field, made, path, findings)
    _check_default(field, made, path, findings)
    return made


def add_type_errors(error: TypeSyntaxError, path: Path, findings: Findings) -> None:
    """Tell what is wrong with the type that stands in the mapping at `path`."""
    for one in (error, *error.others):
        findings.add((*path, *(one.path or ("type",))), one.message, one.remedy)


def _check_reduce(field: StateField, made: ValueType, path: Path, findings: Findings) -> None:
    fitting = _REDUCIBLE.get(field.reduce)
    if fitting is not None and made.shape.kind not in fitting:
        findings.add(
            (*path, "reduce"),
            f"{field.reduce!r} combines {listed(fitting)} values, and this field is {made.text}",
        )


def _check_default(field: StateField, made: ValueType, path: Path, findings: Findings) -> None:
    if field.default is None:
        return
    if field.required:
        remedy = "Remove one of the two."
        findings.add((*path, "default"), "a field is either required or has a default", remedy)
    try:
        made.validate(field.default)
    except ValueError as error:
        findings.add((*path, "default"), f"the default does not fit the type {made.text}: {error}")


def check_parts(
    parts: Sequence[str], made: ValueType | None, *, where: str, path: Path, fragment: Fragment, findings: Findings
) -> None:
    """Check that a dotted path below a value of the type `made` leads somewhere, as far as types tell.

    Args:
        where: The path so far, as messages name it.
    """
    for part in parts:
        if made is None:
            return
        child = made.child(part)
        if child is None:
            names = made.parts
            message = f"{quoted(where)} is {made.text} and has no {quoted(part)}"
            findings.add(path, message, did_you_mean(part, names, "Its fields are {names}."), fragment=fragment)
            return
        made, where = child, f"{where}.{part}"
