"""The pages on telemetry and on what leaves the machine, compared with what runs really make."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from _documents import code_in, rows_below
from _openai_server import openai_server
from _runs import asks, chain, field
from _source import ROOT, SOURCE
from _workflows import Spans, make, workflow
from configurable_agents import NodeExecutionError, run_workflow, semconv
from configurable_agents.observability.caps import MAX_DEPTH
from configurable_agents.observability.content import MAX_REQUEST_BYTES, ShipRules, shippable
from configurable_agents.observability.exits import EXIT_SECONDS
from configurable_agents.observability.measurements import INSTRUMENTS, measurements
from configurable_agents.observability.shipper import BATCH_SPANS, QUEUE_BYTES
from configurable_agents.observability.telemetry import LOAD_SECONDS

TELEMETRY, PRIVACY = ROOT / "docs" / "telemetry.md", ROOT / "docs" / "privacy.md"

OPERATIONS = {"run": "invoke_workflow", "node": "execute_node", "chat": "chat"}
TYPES = {str: "string", int: "int", float: "double", bool: "boolean"}
ASKED = ShipRules(capture_content=True, cost_attributes=True)

EVERYTHING = """
schema_version: "1.0"
flow: {name: everything, version: "2"}
state:
  fields:
    topics: {type: "list[str]", default: [a, b]}
    notes: {type: "list[str]"}
    left: {type: int}
    right: {type: int}
    total: {type: int, default: 0, reduce: sum}
    done: {type: bool, default: false}
    text: {type: str}
    more: {type: int}
nodes:
  - {id: note, function: note, inputs: {topic: "{item}"}, outputs: [notes]}
  - {id: left, function: one, outputs: [left]}
  - {id: right, function: one, outputs: [right]}
  - {id: add, function: add, outputs: [total]}
  - {id: try_again, function: try_again, outputs: [done], retry: {max_attempts: 2, initial_delay: 0}}
  - {id: ask, prompt: "ask", outputs: [text]}
  - {id: reply, prompt: "reply", outputs: [more], output_schema: {type: int}}
edges:
  - {from: START, parallel: {items_field: topics, target_node: note, collect_field: notes}}
  - {from: note, to: [left, right]}
  - {from: left, to: add}
  - {from: right, to: add}
  - {from: add, to: try_again}
  - {from: try_again, loop: {condition_field: done, max_iterations: 2, exit_to: ask}}
  - {from: ask, to: reply}
  - {from: reply, to: END}
config:
  llm:
    provider: scripted
    price: {input_per_mtok: 1, output_per_mtok: 1}
    params:
      replies:
        - {text: hello, usage: {input_tokens: 9, output_tokens: 3, cache_read_tokens: 1, cache_write_tokens: 1, reasoning_tokens: 1}}
        - {text: no number, model: one, usage: null}
        - {value: {more: 3}, model: other}
"""


@functools.cache
def spans_of_every_kind() -> Sequence[ReadableSpan]:
    """Run workflows until every attribute that there is has been set somewhere."""
    spans, tries = Spans(), iter([1])

    def try_again() -> bool:
        if next(tries, None) is not None:
            raise RuntimeError("once")
        return False

    functions: dict[str, Any] = {"note": lambda topic: topic.upper(), "one": lambda: 1, "add": lambda: 2}
    functions["try_again"] = try_again
    with openai_server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("A_KEY", "secret")
        patch.setenv("OTEL_SERVICE_NAME", "somebody")
        run_workflow(workflow(EVERYTHING), functions=functions, store=False, observers=[spans])
        server.failures.append(500)
        run_workflow(make(*remote(server.url)), store=False, observers=[spans])
        server.failures.extend([400, 400])
        with pytest.raises(NodeExecutionError):
            run_workflow(make(*remote(server.url)), store=False, observers=[spans])
    return spans.ended


def remote(url: str) -> tuple[Any, ...]:
    """Give a workflow that asks a server with every parameter that there is."""
    params = {
        "top_p": 0.5,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.1,
        "seed": 7,
        "stop": ["x"],
        "n": 2,
        "extra_body": {"top_k": 3},
    }
    llm = {
        "provider": "openai",
        "model": "gpt-4o-mini",
        "api_base": url,
        "api_key_env": "A_KEY",
        "temperature": 0,
        "max_tokens": 5,
        "params": params,
    }
    return [asks("draft", "text")], chain("START draft END"), {"text": field("str")}, {"llm": llm}


# --- attributes ----------------------------------------------------------------------------------------------------------


def made(spans: Sequence[ReadableSpan]) -> dict[tuple[str, str], str]:
    """Give the types of the attributes on spans, by attribute and operation."""
    return {
        (key, str((span.attributes or {})[semconv.GEN_AI_OPERATION_NAME])): type_of(value)
        for span in spans
        for key, value in (span.attributes or {}).items()
    }


def type_of(value: Any) -> str:
    return f"{TYPES[type(value[0])]}[]" if isinstance(value, tuple) else TYPES[type(value)]


def shipped(span: ReadableSpan, rules: ShipRules) -> Mapping[str, Any]:
    return dict(shippable(span, rules, Resource({}), kept=True).attributes or {})


def tabled(*headings: str) -> Iterator[tuple[str, str, list[str]]]:
    """Give attribute, type and spans of each row."""
    for heading in headings:
        for name, kind, where, _what in rows_below(TELEMETRY, heading):
            yield code_in(name)[0], kind, [OPERATIONS[span] for span in where.split(", ")]


KEPT = ("By OpenTelemetry and OpenInference", "Ours", "Only in the store")


def test_the_page_names_each_attribute_with_its_type_where_it_is_made() -> None:
    """Nothing that is made is left out, nothing is promised that is not made."""
    page = {(name, span): kind for name, kind, spans in tabled(*KEPT) for span in spans}
    assert made(spans_of_every_kind()) == page


def test_the_page_names_each_attribute_that_leaves_only_where_asked_for() -> None:
    page = {(name, span): kind for name, kind, spans in tabled("Only where asked for") for span in spans}
    added = {}
    for span in spans_of_every_kind():
        operation = str((span.attributes or {})[semconv.GEN_AI_OPERATION_NAME])
        for name, value in shipped(span, ASKED).items():
            if name not in shipped(span, ShipRules()):
                added[name, operation] = type_of(value)
    assert added == page


def test_the_page_on_privacy_says_of_each_attribute_whether_it_leaves() -> None:
    """The whole promise, attribute by attribute, as the filter really does it."""
    said = {name: says for names, says in rows_below(PRIVACY, "By attribute") for name in code_in(names)}
    seen: dict[str, set[str]] = {}
    for span in spans_of_every_kind():
        for name, value in (span.attributes or {}).items():
            seen.setdefault(name, set()).add(fate(span, name, value))
    assert set(said) == set(seen)
    wrong = {name: (says, seen[name]) for name, says in said.items() if not seen[name] <= promised(says)}
    assert wrong == {}


def fate(span: ReadableSpan, name: str, value: Any) -> str:
    """Say what becomes of an attribute on its way out."""
    plain, asked = shipped(span, ShipRules()), shipped(span, ASKED)
    if plain.get(name) == value:
        return "yes"
    if name in plain:
        return "in its place" if asked[name] == value else "changed"
    names = sorted(key for key, other in asked.items() if other == value and key not in plain)
    return f"as {names}" if names else "never"


def promised(says: str) -> set[str]:
    if says.startswith("yes"):
        return {"yes"}
    if "in its place" in says:
        return {"in its place"}
    return {f"as {sorted(code_in(says))}"} if says.startswith("when asked") else {says.split(":")[0]}


# --- spans and events ----------------------------------------------------------------------------------------------------


def test_the_page_names_the_spans_and_their_events() -> None:
    for label, name, *_ in rows_below(TELEMETRY, "Spans")[:3]:
        begins = code_in(name)[0].partition("{")[0]
        spans = [span for span in spans_of_every_kind() if span.name.startswith(begins)]
        assert spans
        assert {(span.attributes or {})[semconv.GEN_AI_OPERATION_NAME] for span in spans} == {OPERATIONS[label]}
    events = {event.name: set(event.attributes or {}) for span in spans_of_every_kind() for event in span.events}
    assert events == {code_in(name)[0]: set(code_in(said)) for name, _, said in rows_below(TELEMETRY, "Spans")[3:]}


# --- metrics -------------------------------------------------------------------------------------------------------------


def test_the_page_names_each_metric_with_its_kind_unit_and_attributes() -> None:
    rows = rows_below(TELEMETRY, "Metrics")
    page = {code_in(name)[0]: (kind, code_in(unit)[0]) for name, kind, unit, _ in rows}
    assert page == {one.name: (one.kind, one.unit) for one in INSTRUMENTS}
    used: dict[str, set[str]] = {}
    for span in spans_of_every_kind():
        for found in measurements(span, "a workflow"):
            used.setdefault(found.instrument.name, set()).update(found.attributes)
    call = set(code_in(rows[0][3]))
    assert used == {
        "gen_ai.client.operation.duration": call,
        "gen_ai.client.token.usage": call - {"error.type"} | {"gen_ai.token.type"},
        "gen_ai.invoke_workflow.duration": set(code_in(rows[2][3])),
        "configurable_agents.runs": set(code_in(rows[3][3])),
        "configurable_agents.cost": call - {"error.type"},
        "configurable_agents.unpriced_calls": used["configurable_agents.unpriced_calls"],
    }
    assert used["configurable_agents.unpriced_calls"] <= call - {"error.type"}


# --- bounds --------------------------------------------------------------------------------------------------------------


def test_the_pages_name_the_bounds_that_the_code_has() -> None:
    page, privacy = TELEMETRY.read_text(encoding="utf-8"), PRIVACY.read_text(encoding="utf-8")
    assert f"at most {QUEUE_BYTES // 2**20} MiB" in page
    assert f"at most {MAX_REQUEST_BYTES / 1e6:g} MB and {BATCH_SPANS} spans" in page
    assert f"within {EXIT_SECONDS:g} s" in page
    assert f"waits for endpoints, {EXIT_SECONDS:g} by default" in page
    assert f"{LOAD_SECONDS:g} s at most" in page
    assert f"cut at {ShipRules().max_value_bytes // 1024} kB" in privacy
    assert f"nests deeper than {MAX_DEPTH}" in privacy


# --- variables -----------------------------------------------------------------------------------------------------------

A_VARIABLE = re.compile(r"(OTEL|CONFIGURABLE_AGENTS|JAEGER)_[A-Z_]+|TRACEPARENT|TRACESTATE")


def test_the_page_names_each_environment_variable_that_the_code_reads() -> None:
    read = {
        node.value
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and A_VARIABLE.fullmatch(node.value)
    }
    assert {code_in(name)[0] for name, _ in rows_below(TELEMETRY, "Environment variables")} == read
