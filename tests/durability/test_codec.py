"""Records as bytes and back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from _odd_records import node_records, run_records, span_records
from _records import node_record, run_record, span_record
from configurable_agents import semconv
from configurable_agents.semconv import Status
from configurable_agents.storage.codec import OpenSpan, decode_record, encode_record
from configurable_agents.storage.records import ExecutionStateRecord, NodeStart, Record, RunId

records: st.SearchStrategy[Record] = run_records | node_records | span_records


@given(record=records)
def test_every_record_comes_back_as_it_was(record: Record) -> None:
    assert decode_record(encode_record(record)) == record


@given(record=records, name=st.text(min_size=1).map("later_".__add__), value=st.integers() | st.text() | st.none())
def test_a_field_of_a_later_version_is_left_out(record: Record, name: str, value: object) -> None:
    """Two versions may share a store while a service is rolled out."""
    values = {**orjson.loads(encode_record(record)), name: value}
    assert decode_record(json.dumps(values).encode()) == record


@given(text=st.text(st.characters(exclude_categories=())))
def test_any_text_becomes_bytes_that_every_parser_reads(text: str) -> None:
    data = encode_record(span_record(name=text, status_message=text))
    data.decode("utf-8")
    assert isinstance(json.loads(data)["name"], str)
    decode_record(data)


@pytest.mark.parametrize("number", [2**64, -(2**70), 10**400])
def test_a_number_that_no_database_holds_does_not_stop_a_run(number: int) -> None:
    record = span_record(input_tokens=number)
    assert decode_record(encode_record(record)) == replace(record, input_tokens=None)


def node_start(**more: object) -> NodeStart:
    """Give the start of the node execution of `started`."""
    span = {"trace_id": "1" * 32, "span_id": "2" * 16, "parent_span_id": "3" * 16, "name": "execute_node draft"}
    attributes = {
        semconv.GEN_AI_OPERATION_NAME: semconv.Operation.EXECUTE_NODE.value,
        semconv.RUN_ID: "a run",
        semconv.NODE_ID: "draft",
        semconv.NODE_KIND: "model",
        semconv.SEQ: 4,
        semconv.READS_FROM: (1, 3),
    }
    return NodeStart({**span, "start_time_unix_nano": 7, "trace_flags": 1, **more}, attributes)


def started(**more: object) -> ExecutionStateRecord:
    """Give the record of a node execution that goes on."""
    known: dict[str, Any] = {**node_start(**more).span, "run_id": RunId("a run"), "seq": 4, "node_id": "draft"}
    return ExecutionStateRecord(**known, node_kind="model", reads_from_json="[1,3]", status=Status.RUNNING.value)


def test_the_start_of_a_node_comes_back_as_its_record() -> None:
    assert decode_record(encode_record(node_start())) == started()
    assert decode_record(encode_record(node_start(later="x"))) == started()


@given(text=st.text(st.characters(exclude_categories=())))
def test_the_start_of_a_node_with_any_name_comes_back(text: str) -> None:
    readable = text.encode("utf-8", "backslashreplace").decode()
    assert decode_record(encode_record(node_start(name=text))) == started(name=readable)


@given(data=st.binary(max_size=60))
def test_what_is_no_record_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(ValueError, match="no record"):
        decode_record(data)


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "7", '"open"', "[]", '["open"]', "{}", '{"open": "run"}', '{"record": []}'),
        *('{"started": "node"}', '{"started": "node", "span": [], "attributes": {}}'),
        '{"started": "node", "span": {}, "attributes": {"configurable_agents.run.id": 1}}',
    ],
)
def test_json_that_is_no_record_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match="no record"):
        decode_record(text.encode())


def test_what_is_still_open_comes_back_too() -> None:
    span = OpenSpan("node", "a run", "ab" * 8, "cd" * 16)
    assert decode_record(encode_record(span)) == span


def test_what_an_older_version_noted_as_still_open_comes_back_without_its_run() -> None:
    """It may have died, and an upgraded version takes its journal up."""
    note = b'{"open":"node","span_id":"2222","trace_id":"3333"}'
    assert decode_record(note) == OpenSpan("node", "", "2222", "3333")


def test_a_status_may_be_a_member_of_the_enum_or_its_text() -> None:
    for record in (run_record(status=Status.FAILED), node_record(status=Status.FAILED)):
        assert decode_record(encode_record(record)) == replace(record, status="failed")
