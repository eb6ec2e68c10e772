"""Rules of edges, each by itself: the nodes, fields and conditions that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from configurable_agents.config.conditions import ConditionSyntaxError, parse_condition
from configurable_agents.config.draft import Draft
from configurable_agents.config.findings import Findings, did_you_mean, listed, quoted, repeated
from configurable_agents.config.outputs import collected_type
from configurable_agents.config.positions import Fragment, Path
from configurable_agents.config.rules_fields import Types, check_parts
from configurable_agents.config.schema import END, START, Edge, Loop, Parallel, Route
from configurable_agents.config.types import ValueType


@dataclass(frozen=True)
class EdgeCheck:
    """All that the rules of edges look at."""

    draft: Draft
    types: Types
    given: Mapping[str, Mapping[str, ValueType]]
    """Types of what nodes give."""
    findings: Findings


def check_edges(check: EdgeCheck) -> bool:
    """Check every edge and tell whether all of them name nodes that there are."""
    sound = [_check_edge(check, ("edges", index), edge) for index, edge in enumerate(check.draft.edges) if edge]
    return all(sound)  # of a list, so that every edge is checked


def _check_edge(check: EdgeCheck, path: Path, edge: Edge) -> bool:
    sound = _check_node(check, (*path, "from"), edge.from_, wrong=END, why="nothing goes on after it")
    if edge.to is not None:
        sound &= _check_targets(check, (*path, "to"), edge.to)
    if edge.routes is not None:
        sound &= _check_routes(check, (*path, "routes"), edge.routes)
    if edge.loop is not None:
        sound &= _check_loop(check, (*path, "loop"), edge.from_, edge.loop)
    if edge.parallel is not None:
        sound &= _check_parallel(check, (*path, "parallel"), edge.from_, edge.parallel)
    return sound


def _check_node(check: EdgeCheck, path: Path, name: str, *, wrong: str, why: str) -> bool:
    if name == wrong:
        check.findings.add(path, f"{name} cannot stand here: {why}")
        return False
    if name in check.draft.known:
        return True
    if check.draft.nodes_known:
        remedy = did_you_mean(name, check.draft.targets, "Known are {names}.")
        check.findings.add(path, f"no node is called {quoted(name)}", remedy)
    return False


def _check_target(check: EdgeCheck, path: Path, name: str) -> bool:
    return _check_node(check, path, name, wrong=START, why="a run only begins there")


def _check_targets(check: EdgeCheck, path: Path, to: str | Sequence[str]) -> bool:
    if isinstance(to, str):
        return _check_target(check, path, to)
    if not to:
        check.findings.add(path, "expected at least one node", "Write 'to: END' to finish the run.")
    for index, name in repeated(to):
        check.findings.add((*path, index), f"{quoted(name)} is named twice", "A fan-out runs each node once.")
    sound = [_check_target(check, (*path, index), name) for index, name in enumerate(to)]
    return bool(sound) and all(sound)


def _check_routes(check: EdgeCheck, path: Path, routes: Sequence[Route]) -> bool:
    defaults = [index for index, route in enumerate(routes) if route.condition.is_default]
    if not defaults:
        remedy = "Add '- {condition: {logic: default}, to: …}': where the run goes when no condition holds."
        check.findings.add(path, "there is no default route", remedy)
    for index in defaults[1:]:
        message = f"there is a default route already: routes[{defaults[0]}]"
        check.findings.add((*path, index, "condition", "logic"), message, "Exactly one route is the default.")
    for index, route in enumerate(routes):
        if index not in defaults:
            _check_condition(check, (*path, index, "condition", "logic"), route.condition.logic)
    sound = [_check_target(check, (*path, index, "to"), route.to) for index, route in enumerate(routes)]
    return all(sound)


def _check_condition(check: EdgeCheck, path: Path, logic: str) -> None:
    try:
        parsed = parse_condition(logic)
    except ConditionSyntaxError as error:
        fragment = Fragment(logic, error.offset, error.fragment)
        check.findings.add(path, error.message, error.remedy, fragment=fragment)
        return
    for found in parsed.paths:
        name, *rest = found.parts
        fragment = Fragment(logic, logic.index(found.text, found.offset), found.text)
        if name in check.types:
            made = check.types[name]
            where = f"state.{name}"
            check_parts(rest, made, where=where, path=path, fragment=fragment, findings=check.findings)
        else:
            _tell_unknown_field(check, path, name, fragment)


def _tell_unknown_field(check: EdgeCheck, path: Path, name: str, fragment: Fragment | None = None) -> None:
    if check.draft.fields_known:
        remedy = did_you_mean(name, check.draft.field_names, "The fields are {names}.")
        check.findings.add(path, f"no state field is called {quoted(name)}", remedy, fragment=fragment)


# --- loops and maps ----------------------------------------------------------------------------------------------------


def _check_loop(check: EdgeCheck, path: Path, source: str, loop: Loop) -> bool:
    if loop.condition_field is not None:
        _check_kind(check, (*path, "condition_field"), loop.condition_field, "bool", "the loop ends when it is true")
    if loop.condition is not None:
        _check_condition(check, (*path, "condition", "logic"), loop.condition.logic)
    sound = _check_target(check, (*path, "exit_to"), loop.exit_to)
    if source == START:
        check.findings.add(path, "a loop goes back to a node, and START is none", "Write 'to' from START.")
        sound = False
    if loop.restart_at is not None:
        at = (*path, "restart_at")
        sound &= _check_target(check, at, loop.restart_at)
        if loop.restart_at == END:
            check.findings.add(at, "END cannot stand here: a loop goes back to a node")
            sound = False
    return sound


def _check_kind(check: EdgeCheck, path: Path, name: str, kind: str, why: str) -> ValueType | None:
    if name not in check.types:
        _tell_unknown_field(check, path, name)
        return None
    made = check.types[name]
    if made is None:
        return None
    if made.shape.kind != kind:
        check.findings.add(path, f"state field {quoted(name)} is {made.text}, and {why}: expected {kind}")
        return None
    return made


def _check_parallel(check: EdgeCheck, path: Path, source: str, parallel: Parallel) -> bool:
    _check_kind(check, (*path, "items_field"), parallel.items_field, "list", "a map goes over a list")
    collected = _check_kind(check, (*path, "collect_field"), parallel.collect_field, "list", "a map collects a list")
    target, at = parallel.target_node, (*path, "target_node")
    sound = _check_target(check, at, target)
    if target in {END, source}:
        what = "END runs nothing" if target == END else "a node cannot run itself for each item"
        check.findings.add(at, f"{quoted(target)} cannot be a map's target: {what}")
        return False
    if collected is not None:
        _check_collected(check, path, parallel, collected)
    return sound


def _check_collected(check: EdgeCheck, path: Path, parallel: Parallel, collected: ValueType) -> None:
    at, name = (*path, "collect_field"), parallel.collect_field
    field = check.draft.fields.get(name)
    if field is not None and field.reduce != "replace":
        remedy = "Give the map a field of its own to collect in."
        check.findings.add(
            at, f"a map sets the whole list, so that 'reduce: {field.reduce}' means nothing here", remedy
        )
    node = next((node for name_, node in check.draft.nodes if name_ == parallel.target_node), None)
    given = check.given.get(parallel.target_node)
    if node is None or given is None:
        return
    lost = [output for output in node.outputs if output not in given]
    if lost and node.output_schema is None:
        _tell_untyped(check, at, name, collected, lost)
    elif given and not lost:
        _check_element(check, at, name, collected, collected_type(given))


def _check_element(check: EdgeCheck, path: Path, name: str, collected: ValueType, made: ValueType) -> None:
    element = collected.element
    if element is not None and not element.accepts(made):
        message = f"the target gives {made.text}, and state field {quoted(name)} is {collected.text}"
        check.findings.add(path, message, "Write a list of what one execution of the target gives.")


def _tell_untyped(check: EdgeCheck, path: Path, name: str, collected: ValueType, lost: Sequence[str]) -> None:
    message = f"{quoted(name)} is {collected.text}: its elements have no {listed([quoted(output) for output in lost])}"
    check.findings.add(path, message, "The target's outputs are the fields of what is collected.")
