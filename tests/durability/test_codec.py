"""Records as bytes and back."""

from __future__ import annotations

import json
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from _odd_records import node_records, run_records, span_records
from _records import node_record, run_record, span_record
from configurable_agents.semconv import Status
from configurable_agents.storage.codec import OpenSpan, decode_record, encode_record
from configurable_agents.storage.records import Record

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


@given(data=st.binary(max_size=60))
def test_what_is_no_record_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(ValueError, match="no record"):
        decode_record(data)


@pytest.mark.parametrize(
    "text", ["", "null", "7", '"open"', "[]", '["open"]', "{}", '{"open": "run"}', '{"record": []}']
)
def test_json_that_is_no_record_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match="no record"):
        decode_record(text.encode())


def test_what_is_still_open_comes_back_too() -> None:
    span = OpenSpan("node", "ab" * 8, "cd" * 16)
    assert decode_record(encode_record(span)) == span


def test_a_status_may_be_a_member_of_the_enum_or_its_text() -> None:
    for record in (run_record(status=Status.FAILED), node_record(status=Status.FAILED)):
        assert decode_record(encode_record(record)) == replace(record, status="failed")
