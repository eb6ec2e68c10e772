"""Files of OTLP JSON: nothing of a run is lost on the way, others read what we write, and we read what others write."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]  # it publishes no types
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from _odd_records import node_records, run_records, span_records
from _otlp_decode import ReceivedSpan, spans_of
from _records import node_record, run_record, span_record
from configurable_agents import semconv
from configurable_agents.errors import TraceFileError
from configurable_agents.observability.archive import StoredRun, lines, read_records, request, shipped, whole
from configurable_agents.observability.content import ShipRules
from configurable_agents.observability.records import to_record
from configurable_agents.observability.replay import to_span, to_spans
from configurable_agents.observability.resource import resource_of, resource_text
from configurable_agents.storage.records import ExecutionStateRecord, Record, SpanRecord, WorkflowRunRecord

many = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def stored_run() -> StoredRun:
    """A run with a bit of everything."""
    used: dict[str, Any] = {"model_calls": 1, "input_tokens": 10, "output_tokens": 5, "cost_usd": 0.25}
    used["priced_cost_usd"] = 0.25
    run = run_record(
        config_text="flow: {name: support}\n",
        inputs_json='{"topic": "ü \\u0000"}',
        reads_from_json="[1]",
        node_executions=1,
        end_time_unix_nano=run_record().start_time_unix_nano + 2**60,
        status_code="OK",
        trace_flags=0x201,
        parent_span_id="ab" * 8,
        trace_state="vendor=1",
        resource_json='{"service.name":"shop","host.name":"a"}',
        scope_json='{"name":"configurable_agents","version":"1.2.3"}',
        **used,
    )
    event = '[{"name":"exception","time_unix_nano":1760000000000000000,"attributes":{"exception.type":"ValueError"}}]'
    node = node_record(status="failed", status_code="ERROR", status_message="no", events_json=event, **used)
    link = f'[{{"trace_id":"{"12" * 16}","span_id":"{"34" * 8}","attributes":{{"why":[1,2]}},"flags":513}}]'
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 10, "list": [1.5, 2.0], "big": 2**62}
    span = span_record(links_json=link, attributes_json=json.dumps(attributes), parent_span_id=node.span_id)
    return StoredRun(run, [node], [span])


def as_taken_in(record: Record) -> Record:
    if not isinstance(record, SpanRecord) and record.status == "running":
        return replace(record, status="interrupted")
    return record


def back(documents: Iterable[bytes]) -> list[Record]:
    return list(read_records(documents))


# --- nothing is lost -----------------------------------------------------------------------------------------------------


@given(run=run_records, nodes=st.lists(node_records, max_size=3), spans=st.lists(span_records, max_size=3))
@many
def test_whatever_a_store_holds_comes_back_from_a_file_as_it_was(
    run: WorkflowRunRecord, nodes: list[ExecutionStateRecord], spans: list[SpanRecord]
) -> None:
    found = back(lines(whole(StoredRun(run, nodes, spans))))
    assert found == [as_taken_in(record) for record in (run, *nodes, *spans)]  # type: ignore[arg-type]


def test_a_span_with_an_attribute_like_the_one_that_a_file_adds_comes_back_too() -> None:
    stored = stored_run()
    odd = replace(stored.spans[0], attributes_json=f'{{"{semconv.RECORD}":"theirs"}}')
    assert back([request(whole(replace(stored, spans=[odd])))])[-1] == odd


def test_one_run_is_one_document_and_many_lines_are_small() -> None:
    stored = stored_run()
    big = replace(stored, nodes=[node_record(seq, outputs={"x": "y" * 100_000}) for seq in range(1, 31)])
    (document,) = [request(whole(big))]
    assert len(back([document])) == 32
    found = list(lines(whole(big)))
    assert len(found) > 3
    assert max(len(line) for line in found) < 1_000_000
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in found)
    assert back(found) == back([document])


_values = st.recursive(
    st.text(max_size=10) | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.binary(max_size=10),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_attributes = st.dictionaries(st.text(max_size=5), _values, max_size=5)
_ids = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.integers(0, 255).map(TraceFlags),
    st.sampled_from([None, TraceState([("a", "b")]), TraceState([("a", "b"), ("c@d", "e")])]),
)


@given(
    attributes=_attributes,
    events=st.lists(st.builds(Event, st.text(max_size=5), _attributes, st.integers(0, 2**63 - 1)), max_size=2),
    links=st.lists(st.builds(Link, _ids, _attributes), max_size=2),
    context=_ids,
    kind=st.sampled_from(list(SpanKind)),
    code=st.sampled_from(list(StatusCode)),
    resource=st.dictionaries(st.sampled_from(["service.name", "telemetry.sdk.language", "x"]), st.text(max_size=5)),
    scope=st.builds(
        InstrumentationScope, st.text(max_size=5), st.none() | st.just("1"), st.sampled_from(["", "http://s"])
    ),
)
@many
def test_a_foreign_span_survives_the_store_and_a_file(
    attributes: dict[str, Any],
    events: list[Event],
    links: list[Link],
    context: SpanContext,
    kind: SpanKind,
    code: StatusCode,
    resource: dict[str, str],
    scope: InstrumentationScope,
) -> None:
    """Whatever an SDK takes for a value: bytes, numbers that are none, integers that no database holds."""
    span = ReadableSpan(
        "foreign",
        context,
        parent=SpanContext(context.trace_id, 7, True),
        resource=Resource(resource),
        attributes=attributes,
        events=events,
        links=links,
        kind=kind,
        status=Status(code, "why" if code is StatusCode.ERROR else None),
        start_time=5,
        end_time=2**62,
        instrumentation_scope=scope,
    )
    record = to_record(span)
    assert isinstance(record, SpanRecord)
    again = to_span(record, resource_of(record.resource_json), None)
    assert to_record(again) == record
    assert again.resource == span.resource
    assert back([request([again])]) == [replace(record, **_beyond_otlp(record, again))]


def _beyond_otlp(record: SpanRecord, span: ReadableSpan) -> dict[str, Any]:
    """What OTLP has no number for is text in a file; that is all that may differ."""
    if not any(abs(value) >= 2**63 - 1 for value in _integers([span.attributes, *_rest(span)])):
        return {}
    (found,) = back([request([span])])
    return {name: getattr(found, name) for name in ("attributes_json", "events_json", "links_json")}


def _rest(span: ReadableSpan) -> list[Any]:
    return [one.attributes for one in span.events] + [one.attributes for one in span.links]


def _integers(value: Any) -> list[int]:
    if isinstance(value, int):
        return [value]
    if hasattr(value, "values"):
        return [number for item in value.values() for number in _integers(item)]
    return [number for item in value for number in _integers(item)] if isinstance(value, tuple | list) else []


def test_numbers_that_are_none_stay_numbers() -> None:
    span = to_span(
        span_record(run_id=None, attributes_json='{"a":{"$double":"NaN"},"b":[{"$double":"-Infinity"},1.0]}'),
        Resource({}),
        None,
    )
    assert span.attributes is not None
    assert math.isnan(span.attributes["a"])  # type: ignore[arg-type]  # it is a float
    assert span.attributes["b"] == (-math.inf, 1.0)
    assert json.loads(request([span]))["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"][-2:] == [
        {"key": "a", "value": {"doubleValue": "NaN"}},
        {"key": "b", "value": {"arrayValue": {"values": [{"doubleValue": "-Infinity"}, {"doubleValue": 1.0}]}}},
    ]


@given(
    st.dictionaries(st.sampled_from(["service.name", "telemetry.sdk.name", "a", "b"]), st.text(max_size=5)), st.text()
)
@many
def test_a_resource_survives_its_text(attributes: dict[str, str], schema_url: str) -> None:
    resource = Resource(attributes, schema_url)
    assert resource_of(resource_text(resource)) == resource


# --- others read what we write -------------------------------------------------------------------------------------------


def parsed(line: bytes) -> list[ReceivedSpan]:
    """Read a line as protobuf's own JSON reader does, which knows every name and type; ids are base64 there, not hex."""

    def with_base64(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: base64.b64encode(bytes.fromhex(item)).decode()
                if key in {"traceId", "spanId", "parentSpanId"}
                else with_base64(item)
                for key, item in value.items()
            }
        return [with_base64(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(with_base64(json.loads(line)))
    return list(spans_of(json_format.Parse(text, ExportTraceServiceRequest())))


def test_a_file_says_in_the_words_of_opentelemetrys_protobuf_what_would_be_on_the_wire() -> None:
    """Only the flags of sampling stand in a file and not in what the SDK sends."""
    stored = stored_run()
    spans = to_spans(stored.run, stored.nodes, stored.spans)
    on_the_wire = [replace(span, flags=span.flags & 0x300) for span in parsed(request(spans))]
    assert on_the_wire == list(spans_of(encode_spans(spans)))
    assert [span.flags for span in parsed(request(spans))] == [0x301, 0x100, 0x100]
    assert {span.resource["service.name"] for span in on_the_wire} == {"shop"}
    assert {span.scope_version for span in on_the_wire} == {"1.2.3"}
    assert on_the_wire[0].trace_state == "vendor=1"


def test_json_is_as_otlp_has_it() -> None:
    """Hex ids, 64-bit integers as text, enumerations as numbers, lowerCamelCase."""
    stored = stored_run()
    spans = [
        span
        for of_scope in json.loads(request(whole(stored)))["resourceSpans"][0]["scopeSpans"]
        for span in of_scope["spans"]
    ]
    run, node, chat = spans
    assert (run["traceId"], run["spanId"], run["parentSpanId"]) == (stored.run.trace_id, stored.run.span_id, "ab" * 8)
    assert run["startTimeUnixNano"] == str(stored.run.start_time_unix_nano)
    assert (run["kind"], chat["kind"], node["status"]) == (1, 3, {"code": 2, "message": "no"})
    assert {"key": "big", "value": {"intValue": str(2**62)}} in chat["attributes"]
    assert node["events"][0]["timeUnixNano"] == "1760000000000000000"
    assert "parentSpanId" in node


def test_what_never_ended_has_an_end_in_a_file_and_none_when_it_is_taken_in() -> None:
    """A viewer takes a span without an end for one of negative duration."""
    stored = stored_run()
    killed = replace(
        stored, run=replace(stored.run, status="interrupted", end_time_unix_nano=None, status_code="UNSET")
    )
    document = request(whole(killed))
    run, node, _ = parsed(document)
    assert run.end_time_unix_nano >= node.end_time_unix_nano
    assert (run.status, run.status_message) == ("ERROR", "interrupted")
    assert back([document])[0] == killed.run


def test_a_file_without_content_holds_none() -> None:
    stored = stored_run()
    text = request(shipped(stored, ShipRules())).decode()
    assert "topic" not in text
    assert "answer" not in text
    assert "flow: " not in text
    run = back([text.encode()])[0]
    assert isinstance(run, WorkflowRunRecord)
    assert (run.run_id, run.inputs_json, run.config_text) == (stored.run.run_id, None, None)
    assert (run.cost_usd, run.resource_json) == (stored.run.cost_usd, stored.run.resource_json)


# --- we read what others write -------------------------------------------------------------------------------------------


def span(**values: Any) -> dict[str, Any]:
    given = {"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "name": "GET /", "kind": 2}
    return {**given, "startTimeUnixNano": "1544712660000000000", "endTimeUnixNano": "1544712661000000000", **values}


def document(*spans: dict[str, Any], **more: Any) -> bytes:
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
    return json.dumps(
        {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": list(spans)}], **more}]}
    ).encode()


def test_spans_of_a_java_service_as_the_collector_writes_them_are_kept_beside_the_runs() -> None:
    line = (
        '{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"cart"}},{"key":'
        '"telemetry.sdk.language","value":{"stringValue":"java"}}]},"scopeSpans":[{"scope":{"name":"io.otel.http",'
        '"version":"2.0"},"spans":[{"traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"EEE19B7EC3C1B174",'
        '"parentSpanId":"EEE19B7EC3C1B173","flags":769,"traceState":"rojo=1","name":"GET /cart","kind":3,'
        '"startTimeUnixNano":"1544712660000000000","endTimeUnixNano":"1544712661500000000","attributes":[{"key":'
        '"http.status_code","value":{"intValue":"200"}}],"droppedAttributesCount":1,"status":{"code":2,"message":"late"},'
        '"links":[{"traceId":"5b8efff798038103d269b633813fc60d","spanId":"eee19b7ec3c1b175"}]}],"schemaUrl":"http://x"}]}]}'
    )
    (record,) = back([line.encode()])
    assert isinstance(record, SpanRecord)
    assert (record.run_id, record.name, record.kind, record.duration_seconds) == (None, "GET /cart", "CLIENT", 1.5)
    assert (record.trace_id, record.parent_span_id) == ("5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b173")
    assert (record.trace_flags, record.trace_state) == (0x201, "rojo=1")
    assert json.loads(record.attributes_json) == {"http.status_code": 200}
    assert (record.status_code, record.status_message) == ("ERROR", "late")
    assert record.resource_json is not None
    assert resource_of(record.resource_json).attributes["telemetry.sdk.language"] == "java"
    assert json.loads(record.scope_json or "")["schema_url"] == "http://x"


@pytest.mark.parametrize(
    "file",
    [
        document(span()),
        json.dumps(json.loads(document(span())), indent=2).encode(),
        b'{"resourceLogs": []}\n' + document(span()) + b'\n\n{"resourceMetrics": []}\n',
        b'{"result": ' + document(span()) + b"}",
        document(
            span(kind="SPAN_KIND_SERVER", startTimeUnixNano=1544712660000000000, status={"code": "STATUS_CODE_UNSET"})
        ),
        document(span(traceId="W47/95gDgQPSabYzgT/GDA==", spanId="7uGbfsPBsXQ=")),
        document(span(parentSpanId="", status=None, attributes=None, unknown={"later": 1})),
    ],
    ids=["line", "pretty", "beside other signals", "Jaeger's answer", "words and numbers", "base64", "empty fields"],
)
def test_other_spellings_of_the_same_are_read(file: bytes) -> None:
    (record,) = back(file.splitlines(keepends=True))
    assert (record.name, record.kind, record.start_time_unix_nano) == ("GET /", "SERVER", 1544712660000000000)
    assert (record.trace_id, record.span_id) == ("5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174")
    assert record.parent_span_id is None


def _ours(**attributes: Any) -> bytes:
    (found,) = json.loads(request(whole(replace(stored_run(), nodes=[], spans=[]))))["resourceSpans"][0]["scopeSpans"]
    (run,) = found["spans"]
    for key, value in attributes.items():
        name = f"configurable_agents.{key}"
        run["attributes"] = [pair for pair in run["attributes"] if pair["key"] != name] + [
            {"key": name, "value": value}
        ]
    return document(run)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (b'{"resourceSpans": [}', "line 1, column 20: this is no JSON"),
        (document(span()) + b"\n" + document(span())[:-9], "line 2, column"),
        (b"[1, 2]", "line 1: this is no OTLP JSON"),
        (b'{"data": [{"traceID": "1"}]}', "it has no resourceSpans"),
        (b"", "this is no JSON"),
        (b'{"resourceSpans": 7}', "line 1: resourceSpans: no list"),
        (
            document(span(), span(traceId="xyz")),
            "resourceSpans[0].scopeSpans[0].spans[1].traceId: no id of 32 hex digits",
        ),
        (document(span(spanId="0" * 16)), "spans[0].spanId: no id of 16 hex digits"),
        (document(span(startTimeUnixNano="soon")), "spans[0].startTimeUnixNano: no integer of 64 bits"),
        (document(span(startTimeUnixNano=str(2**63))), "spans[0].startTimeUnixNano: no integer of 64 bits"),
        (document(span(kind=9)), "spans[0].kind: no kind of OTLP"),
        (document(span(attributes=[{"key": "a", "value": {"intValue": "x"}}])), "attributes[0].value.intValue"),
        (document(span(attributes=[{"key": 1}])), "attributes[0].key: no text"),
        (document(span(attributes=[{"key": "a", "value": {"bytesValue": "?"}}])), "bytesValue: no base64"),
        (_ours(status={"stringValue": "fine"}), "status is not what it should be"),
        (_ours(node_executions={"stringValue": "7"}), "node_executions is not what it should be"),
        (_ours(**{"run.id": {}}), "run_id is not what it should be"),
        (_ours(**{"run.id": {"stringValue": "\x1b[2J"}}), "run_id is not what it should be"),
        (_ours(**{"content.inputs": {"stringValue": "{"}}), "inputs_json is not what it should be"),
        (_ours(**{"node.reads_from": {"intValue": "7"}}), "reads_from_json is not what it should be"),
        (_ours(record={"stringValue": "[]"}), "not those of a span of ours"),
        (_ours(**{"workflow.config_sha256": {"stringValue": "ab" * 32}}), "does not have the hash"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_place(file: bytes, said: str) -> None:
    """And is never found out later, by somebody who reads the store."""
    with pytest.raises(TraceFileError) as error:
        back(file.splitlines(keepends=True))
    assert said in str(error.value)


def test_a_link_that_leads_nowhere_keeps_what_it_says() -> None:
    """The SDK keeps such a link for its attributes; a file with one can be read back."""
    link = {"traceId": "0" * 32, "spanId": "0" * 16, "attributes": [{"key": "why", "value": {"stringValue": "lost"}}]}
    (record,) = back([document(span(links=[link]))])
    assert '"why":"lost"' in str(record.links_json)


def test_values_in_values_have_an_end() -> None:
    value: dict[str, Any] = {"stringValue": "x"}
    for _ in range(100):
        value = {"arrayValue": {"values": [value]}}
    with pytest.raises(TraceFileError, match="too deep"):
        back([document(span(attributes=[{"key": "a", "value": value}]))])


def test_the_record_that_a_file_adds_never_stays_among_the_attributes(tmp_path: Path) -> None:
    for record in back([request(whole(stored_run()))]):
        assert semconv.RECORD not in record.attributes_json
