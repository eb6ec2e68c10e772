"""What of a span may leave this machine: filtered, and small enough."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags

from configurable_agents import semconv
from configurable_agents.observability.content import (
    MAX_ITEMS,
    MAX_REQUEST_BYTES,
    ShippedSpan,
    ShipRules,
    approximate_bytes,
    ship_rules,
    shippable,
)

CANARY = "canary-4711"
RESOURCE = Resource({"service.name": "test"})
CONTEXT = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))

CONTENT = {
    semconv.CONTENT_INPUTS: f'{{"topic": "{CANARY}"}}',
    semconv.CONTENT_OUTPUTS: f'{{"answer": "{CANARY}"}}',
    semconv.CONTENT_DEFAULTS: f'{{"style": "{CANARY}"}}',
    semconv.CONTENT_CONFIG: f"flow: {CANARY}",
    semconv.CONTENT_INPUT_MESSAGES: f'[{{"role": "user", "parts": ["{CANARY}"]}}]',
    semconv.CONTENT_OUTPUT_MESSAGES: f'[{{"role": "assistant", "parts": ["{CANARY}"]}}]',
    f"{semconv.CONTENT_PREFIX}of_a_later_version": CANARY,
    semconv.RESOURCE: f'{{"host.name": "{CANARY}"}}',
}


def span(
    attributes: Mapping[str, Any] | None = None,
    *,
    events: list[Event] | None = None,
    links: list[Link] | None = None,
    status: Status | None = None,
    name: str = "execute_node a",
) -> ReadableSpan:
    """Give a finished span."""
    return ReadableSpan(
        name,
        CONTEXT,
        attributes=attributes or {},
        events=events or [],
        links=links or [],
        status=status or Status(StatusCode.OK),
        start_time=1,
        end_time=2,
    )


def ship(made: ReadableSpan, rules: ShipRules | None = None, *, kept: bool = True) -> ShippedSpan:
    """Make the copy that leaves."""
    return shippable(made, rules or ShipRules(), RESOURCE, kept=kept)


def on_the_wire(shipped: ReadableSpan) -> bytes:
    """Encode a span as it is sent."""
    encoded: bytes = encode_spans([shipped]).SerializeToString()
    return encoded


@pytest.mark.parametrize("operation", ["invoke_workflow", "execute_node", "chat", None])
def test_no_content_leaves_unless_it_is_asked_for(operation: str | None) -> None:
    """Inputs, prompts and answers are what people trust us with."""
    whole = span({**CONTENT, semconv.GEN_AI_OPERATION_NAME: operation or "other", semconv.SEQ: 3})
    shipped = ship(whole)
    assert shipped.attributes == {semconv.GEN_AI_OPERATION_NAME: operation or "other", semconv.SEQ: 3}
    assert CANARY.encode() not in on_the_wire(shipped)
    assert CANARY in str(whole.attributes), "the store still has the whole"


@pytest.mark.parametrize(
    ("operation", "names"),
    [
        ("chat", {"gen_ai.input.messages", "gen_ai.output.messages", "input.value", "output.value"}),
        ("execute_node", {"input.value", "output.value"}),
        ("invoke_workflow", {"input.value"}),
    ],
)
def test_captured_content_leaves_under_the_names_that_backends_know(operation: str, names: set[str]) -> None:
    """And nothing else of it: not the file's text, not the defaults, not our own names."""
    shipped = ship(span({**CONTENT, semconv.GEN_AI_OPERATION_NAME: operation}), ShipRules(capture_content=True))
    found = shipped.attributes or {}
    assert {name for name, value in found.items() if CANARY in str(value)} == names
    mime_types = {name for name in found if name.endswith("mime_type")}
    assert mime_types == {f"{name.split('.')[0]}.mime_type" for name in names if name.endswith(".value")}


@pytest.mark.parametrize("value", ["true", "TRUE", "1", "span_only", "Span_And_Event"])
def test_capture_is_asked_for_as_other_instrumentations_are_asked(value: str) -> None:
    """One variable for all of them."""
    assert ship_rules({"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": value}).capture_content


@pytest.mark.parametrize("value", ["", "false", "0", "no", "event_only", "no_content", "yes please"])
def test_anything_else_asks_for_no_content(value: str) -> None:
    """What is not understood keeps content here; `event_only` asks for log events, which we do not make."""
    assert not ship_rules({"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": value}).capture_content


def failed(kind: str, message: str, *, stacktrace: str | None = None) -> ReadableSpan:
    """Give the span of a node that failed."""
    trace = f'  File "a.py", line 1, in f\n    return g()\n{kind}: {message}' if stacktrace is None else stacktrace
    event = {"exception.type": kind, "exception.message": message, "exception.stacktrace": trace}
    attributes = {semconv.ERROR_TYPE: kind, semconv.ERROR_MESSAGE: message, semconv.STATUS: "failed"}
    return span(attributes, events=[Event("exception", event, 1)], status=Status(StatusCode.ERROR, message))


@pytest.mark.parametrize(
    "stacktrace",
    [
        None,
        f"Traceback\nKeyError: '{CANARY}'\n\nThe above exception was the direct cause\n\nValueError: no {CANARY}\n",
        f"{CANARY}: something of somebody's own",
        "",
    ],
    ids=["ours", "with its causes", "foreign", "empty"],
)
def test_texts_of_errors_stay_here_because_they_repeat_values(stacktrace: str | None) -> None:
    """`could not parse 'my secret'`: what is left is which error it was, and where."""
    shipped = ship(failed("ValueError", f"no {CANARY}", stacktrace=stacktrace))
    assert CANARY.encode() not in on_the_wire(shipped)
    assert shipped.status.description == "ValueError"
    assert shipped.status.status_code is StatusCode.ERROR
    found = shipped.attributes or {}
    assert (found[semconv.ERROR_TYPE], found[semconv.ERROR_MESSAGE]) == ("ValueError", "ValueError")
    event = shipped.events[0].attributes or {}
    assert event["exception.type"] == "ValueError"
    if stacktrace is None:
        assert event["exception.stacktrace"] == '  File "a.py", line 1, in f\n    return g()\nValueError: ValueError'


def test_texts_of_our_own_errors_leave_because_they_hold_no_value() -> None:
    """A person who looks at Jaeger shall see that it was the time-out, and which."""
    made = failed("configurable_agents.errors.NodeTimeoutError", "node 'a' took longer than its timeout of 5 s")
    shipped = ship(made)
    assert shipped.status.description == "node 'a' took longer than its timeout of 5 s"
    assert (shipped.events[0].attributes or {})["exception.stacktrace"].__str__().endswith("of 5 s")


def test_texts_of_errors_leave_where_content_does() -> None:
    """Capture is one switch, not two."""
    shipped = ship(failed("ValueError", f"no {CANARY}"), ShipRules(capture_content=True))
    assert (shipped.attributes or {})[semconv.ERROR_MESSAGE] == f"no {CANARY}"
    assert shipped.status.description == f"no {CANARY}"


@pytest.mark.parametrize(("operation", "expected"), [("chat", 0.25), ("execute_node", None), ("invoke_workflow", None)])
def test_cost_stands_under_other_names_on_model_calls_only(operation: str, expected: float | None) -> None:
    """A backend that sums them up must not count a run three times."""
    rules = ship_rules({"CONFIGURABLE_AGENTS_COST_ATTRIBUTES": "true"})
    shipped = ship(span({semconv.GEN_AI_OPERATION_NAME: operation, semconv.COST_USD: 0.25}), rules)
    found = shipped.attributes or {}
    assert (found.get("gen_ai.usage.cost"), found.get("llm.cost.total")) == (expected, expected)
    assert ship(span({semconv.GEN_AI_OPERATION_NAME: "chat", semconv.COST_USD: 0.25})).attributes == {
        semconv.GEN_AI_OPERATION_NAME: "chat",
        semconv.COST_USD: 0.25,
    }


@pytest.mark.parametrize("sign", ["x", "ü", '"', "🦊"])
@pytest.mark.parametrize("count", [1, 3, 200])
def test_long_messages_stay_json_because_backends_show_them_as_a_conversation(sign: str, count: int) -> None:
    """A cut in the middle would leave a text that no backend can read."""
    messages = [{"role": "user", "parts": [{"type": "text", "content": sign * 20_000}]} for _ in range(count)]
    made = span({semconv.GEN_AI_OPERATION_NAME: "chat", semconv.CONTENT_INPUT_MESSAGES: json.dumps(messages)})
    found = str((ship(made, ShipRules(capture_content=True)).attributes or {})["gen_ai.input.messages"])
    assert len(found.encode()) <= 8192
    if count < 200:  # with so many, the names alone are too long
        assert [message["role"] for message in json.loads(found)] == ["user"] * count
        assert json.loads(found)[0]["parts"][0]["content"].endswith("…")


@pytest.mark.parametrize("text", ["{}", "[1]", "[{}]", '[{"parts": 3}]', '{"$too_large": {"bytes": 1}}', "[", "null"])
def test_messages_of_another_shape_are_cut_like_any_text(text: str) -> None:
    """What was too large to be kept stands there as a note of how large it was."""
    long = text + " " * 9000
    made = span({semconv.GEN_AI_OPERATION_NAME: "chat", semconv.CONTENT_INPUT_MESSAGES: long})
    found = str((ship(made, ShipRules(capture_content=True)).attributes or {})["gen_ai.input.messages"])
    assert len(found.encode()) <= 8192


class LongText(str):
    """A text of so many copies of a sign, which shows itself short."""

    __slots__ = ()

    def __str__(self) -> str:
        return self[:] * 9000


@given(st.text(max_size=50), st.integers(min_value=0, max_value=5000), st.integers(min_value=8, max_value=9000))
def test_a_long_text_is_cut_between_two_characters(piece: str, times: int, limit: int) -> None:
    """Backends refuse or truncate long values, each in its own way."""
    text = piece * times
    shipped = ship(span({"a": text}), ShipRules(max_value_bytes=limit))
    found = str((shipped.attributes or {})["a"])
    plain = text.encode("utf-8", "backslashreplace")
    encoded = found.encode()
    assert len(encoded) <= limit
    assert encoded == plain if len(plain) <= limit else found.endswith("…") and plain.startswith(encoded[:-3])


VALUES = st.one_of(
    st.text(max_size=300),
    st.sampled_from(["x", "ü", "🦊"]).map(LongText),
    st.integers(),
    st.floats(allow_nan=False),
    st.booleans(),
    st.lists(st.text(max_size=100), max_size=20),
    st.binary(max_size=100),
    st.dictionaries(st.text(max_size=10), st.text(max_size=50), max_size=3),
    st.just({"a": "ü" * 9000, "b": [1, "x"]}),
)


@given(st.dictionaries(st.text(min_size=1, max_size=20), VALUES, max_size=140), st.integers(min_value=0, max_value=150))
@settings(max_examples=50, deadline=None)
def test_whatever_a_span_holds_it_fits_into_one_request(found: dict[str, Any], number: int) -> None:
    """A node's own code may put anything on its span; no size and no value may stop the others' way."""
    attributes = {key: str(value) if isinstance(value, LongText) else value for key, value in found.items()}
    events = [Event(f"e{index}", attributes, 1) for index in range(number)]
    shipped = ship(span(attributes, events=events, links=[Link(CONTEXT, attributes)] * (number // 10)))
    wire = on_the_wire(shipped)
    assert len(wire) <= MAX_REQUEST_BYTES
    assert len(wire) <= approximate_bytes(shipped) + 200, "the estimate is from above"
    assert len(shipped.attributes or {}) <= MAX_ITEMS >= len(shipped.events)
    assert shipped.dropped_events == max(0, number - MAX_ITEMS)
    assert shipped.dropped_attributes == max(0, len(attributes) - MAX_ITEMS)


@pytest.mark.parametrize("nest", [lambda value: {"k": value}, lambda value: [value], lambda value: [{"k": value}]])
def test_values_in_values_are_cut_where_no_backend_would_read_them(nest: Callable[[Any], Any]) -> None:
    """Of protobuf nested 100 deep a reader takes nothing at all: not the span, and none of those beside it."""
    value: Any = "x"
    for _ in range(200):
        value = nest(value)
    shipped = ship(span({"deep": value, "flat": [1, "x"], semconv.SEQ: 1}))
    (found,) = ExportTraceServiceRequest.FromString(on_the_wire(shipped)).resource_spans[0].scope_spans[0].spans
    assert [attribute.key for attribute in found.attributes] == ["deep", "flat", semconv.SEQ]
    assert (shipped.attributes or {})["flat"] == (1, "x")


def test_a_megabyte_of_names_stops_nobody() -> None:
    """Names are not cut: what they would then mean, nobody knows."""
    shipped = ship(span({semconv.SEQ: 1, "n" * 1_000_000: 1}, events=[Event("e", {"m" * 1_000_000: 1}, 1)]))
    assert len(on_the_wire(shipped)) < 1000
    assert shipped.attributes == {semconv.SEQ: 1}


def test_a_copy_says_whether_a_store_has_the_whole() -> None:
    """So that no store keeps the filtered copy in its place."""
    assert ship(span(), kept=True).kept
    assert not ship(span(), kept=False).kept


def test_the_copy_has_everything_else() -> None:
    """Ids, times, kind, scope and the host's resource are what makes it a trace."""
    made = span({"a": (1, 2)}, links=[Link(CONTEXT, {"b": 1})], events=[Event("retry", {"c": True}, 7)])
    shipped = ship(made)
    assert shipped.get_span_context() == CONTEXT
    assert (shipped.name, shipped.start_time, shipped.end_time, shipped.kind) == (made.name, 1, 2, made.kind)
    assert shipped.resource is RESOURCE
    assert [(e.name, dict(e.attributes or {}), e.timestamp) for e in shipped.events] == [("retry", {"c": True}, 7)]
    assert [(link.context, dict(link.attributes or {})) for link in shipped.links] == [(CONTEXT, {"b": 1})]
    assert shipped.attributes == {"a": (1, 2)}
