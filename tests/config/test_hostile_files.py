"""A file is data: nothing in it runs, and every breach of its limits is answered within a second."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from _timing import cpu_seconds
from configurable_agents import ConfigError
from configurable_agents.config.loader import parse_config

MIB = 1024 * 1024
HEAD = 'schema_version: "1.0"\nflow: {name: t}\n'
STATE = "state: {fields: {a: {type: str}}}\n"
NODE = "nodes: [{id: n, prompt: x, outputs: [a]}]\n"
EDGES = "edges: [{from: START, to: n}, {from: n, to: END}]\n"


def many(count: int, make: Callable[[int], str], join: str = ",") -> str:
    return join.join(make(index) for index in range(count))


def prompt(text: str) -> str:
    return f"{HEAD}{STATE}nodes: [{{id: n, prompt: '{text}', outputs: [a]}}]\n{EDGES}"


HOSTILE: dict[str, str] = {
    "brackets": "[" * MIB,
    "braces": "{" * MIB,
    "question marks": "? " * (MIB // 2),
    "braces and question marks": "{? " * (MIB // 3),
    "dashes": "- " * (MIB // 2),
    "a hundred thousand keys": many(100_000, lambda i: f"k{i}: 1", "\n"),
    "many unknown keys": many(9_500, lambda i: f"k{i}: 1", "\n"),
    "many values": "[" + "1," * 500_000 + "]",
    "a number of a million digits": "a: " + "9" * (MIB - 10),
    "an exponent of a million digits": "a: 1e" + "9" * (MIB - 10),
    "a text without an end": '"' + "a" * (MIB - 1),
    "a key of a million letters": "a" * (MIB - 5) + ": 1",
    "a large file": "#" * (MIB + 1),
    "one key again and again": "a: 1\n" * 9_500,
    "aliases": "a: &x 1\n" + many(9_500, lambda i: f"b{i}: *x", "\n"),
    "laughs": "a: &a [x]\n" + many(20, lambda i: f"b{i}: &b{i} [*a,*a,*a,*a]", "\n"),
    "tags": many(9_500, lambda i: f"b{i}: !!python/object/apply:os.system [id]", "\n")[:MIB],
    "many nodes": f"{HEAD}{STATE}nodes: [{many(2_400, lambda i: f'{{id: n{i}, promt: x}}')}]\n{EDGES}",
    "many nodes that are none": f"{HEAD}{STATE}nodes: [{many(19_000, lambda i: '5')}]\n{EDGES}",
    "many edges": f"{HEAD}{STATE}{NODE}edges: [{many(1_900, lambda i: f'{{from: x{i}, to: y}}')}]",
    "many edges that are wrong": f"{HEAD}{STATE}{NODE}edges: [{many(2_400, lambda i: '{from: 1, to: 5, z: 1}')}]",
    "many outputs": f"{HEAD}{STATE}nodes: [{{id: n, prompt: x, outputs: [{many(19_000, lambda i: f'x{i}')}]}}]\n{EDGES}",
    "a wide fan-out": f"{HEAD}{STATE}{NODE}edges: [{{from: START, to: [{many(19_000, lambda i: f'x{i}')}]}}]",
    "many routes": f"{HEAD}{STATE}{NODE}edges: [{{from: START, routes: ["
    + many(2_800, lambda i: f"{{condition: {{logic: 'state.b{i}'}}, to: x}}")
    + "]}]",
    "a large object": f"{HEAD}state: {{fields: {{a: {{type: object, schema: {{{many(9_500, lambda i: f'x{i}: zz')}}}}}}}}}\n"
    + NODE
    + EDGES,
    "a large enum": f"{HEAD}state: {{fields: {{a: {{type: str, enum: [{many(19_000, lambda i: f'x{i}')}], default: y}}}}}}\n"
    + NODE
    + EDGES,
    "many fields": f"{HEAD}state: {{fields: {{{many(900, lambda i: f'a{i}: {{type: float, default: x}}')}}}}}\n{NODE}{EDGES}",
    "everything at once and into one field": f"{HEAD}{STATE}nodes: ["
    + many(500, lambda i: f"{{id: n{i}, prompt: x, outputs: [a]}}")
    + f"]\nedges: [{{from: START, to: [{many(500, lambda i: f'n{i}')}]}},"
    + many(500, lambda i: f"{{from: n{i}, to: END}}")
    + "]",
    "unknown names in a prompt": prompt(many(1_900, lambda i: f"{{x{i}}}", "")),
    "too many names in a prompt": prompt("{a}" * 300_000),
    "braces in a prompt": prompt("{" * 900_001),
    "a long path in a prompt": prompt("{a" + ".a" * 400_000 + "}"),
    "unknown names in inputs": f"{HEAD}{STATE}nodes: [{{id: n, function: f, inputs: {{"
    + many(9_500, lambda i: f"b{i}: '{{z}} {{y}}'")
    + "}}]\n"
    + EDGES,
    "references without an end": HEAD + STATE + NODE + EDGES + "config: {llm: {model: '" + "${" * 400_000 + "'}}",
    "an unpaired surrogate": "a: \ud800",
    "a null character": "a: \0",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_every_breach_is_answered_within_a_second(name: str) -> None:
    """A service that takes files from people must not stand still for one of them."""
    refusals: list[ConfigError] = []
    seconds = cpu_seconds(lambda: refusals.append(_refused(HOSTILE[name])), limit=1.0)
    assert 1 <= len(refusals[0].problems) <= 101
    assert len(str(refusals[0])) < 100_000, "what is wrong is told in lines that people can read"
    assert seconds < 1.0, f"{seconds:.2f} s of CPU time"


def test_tags_make_no_objects(tmp_path: object) -> None:
    """YAML's tags can name Python functions to call."""
    text = f"{HEAD}{STATE}{NODE}{EDGES}config: {{llm: {{model: !!python/object/apply:os.getcwd []}}}}"
    with pytest.raises(ConfigError, match="tags are not read"):
        parse_config(text)


def test_many_problems_are_cut_with_their_number() -> None:
    """The first hundred are enough to begin with."""
    with pytest.raises(ConfigError) as caught:
        parse_config(HOSTILE["many unknown keys"])
    assert len(caught.value.problems) == 101
    assert re.fullmatch(r"and at least \d{3,} more problems", caught.value.problems[-1].message)


def _refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    return caught.value
