"""Records as bytes, for the journal: named fields, so that a journal can be read by another version than wrote it.

What is written at once is one payload: a JSON object for each record, one a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson

from configurable_agents.storage.attributes import started_node
from configurable_agents.storage.records import (
    AnyRecord,
    DeliveryRecord,
    ExecutionStateRecord,
    NodeStart,
    SpanRecord,
    WorkflowRunRecord,
    sparse,
)

LINE_BREAK: Final = b"\n"


class OpenSpan(NamedTuple):
    """Says that a run or node execution, whose start stands in an earlier segment, is still running."""

    kind: str
    """`run` or `node`."""
    run_id: str
    """Empty in a note of a version that did not say it."""
    span_id: str
    trace_id: str


_KINDS: Final[
    dict[str, type[WorkflowRunRecord] | type[ExecutionStateRecord] | type[SpanRecord] | type[DeliveryRecord]]
] = {
    "run": WorkflowRunRecord,
    "node": ExecutionStateRecord,
    "span": SpanRecord,
    "delivery": DeliveryRecord,
}
_BEGINNINGS: Final[dict[type, bytes]] = {kind: f'{{"record":"{name}",'.encode() for name, kind in _KINDS.items()}
"""Of an object that goes on with the fields: there are always some, and a dict made for one more costs as much as they do."""
_KNOWN: Final = {kind: frozenset(field.name for field in fields(kind)) for kind in _KINDS.values()}
_REQUIRED: Final = {
    kind: frozenset(field.name for field in fields(kind) if field.default is MISSING) for kind in _KINDS.values()
}


def encode_record(record: AnyRecord | NodeStart | OpenSpan) -> bytes:
    """Give the record as one JSON object; the content in it stays the JSON text that it is."""
    if isinstance(record, NodeStart):
        try:
            return orjson.dumps({"started": "node", "span": record.span, "attributes": record.attributes})
        except TypeError:
            return encode_record(started_node(record))
    beginning = _BEGINNINGS.get(type(record))
    if beginning is not None:
        values = record.__dict__
        try:
            if "config_text" in values:
                values = {**values, "config_text": _encoded(values["config_text"])}
            return orjson.dumps(values).replace(b"{", beginning, 1)
        except TypeError:  # half a surrogate pair, which is no UTF-8, or a number that no database holds
            cleaned = {name: _clean(value) for name, value in record.__dict__.items()}
            return orjson.dumps(cleaned).replace(b"{", beginning, 1)
    if isinstance(record, OpenSpan):
        what, run_id, span_id, trace_id = record
        return orjson.dumps({"open": what, "run_id": run_id, "span_id": span_id, "trace_id": trace_id})
    raise TypeError(f"no record: {type(record).__name__}")


@lru_cache(maxsize=16)
def _encoded(text: str) -> orjson.Fragment:
    # A workflow's text is the longest part of its runs' records, and the same in each.
    return orjson.Fragment(orjson.dumps(text))


join: Final = LINE_BREAK.join
"""Makes one payload of encoded records: JSON text holds no line break."""


def split(payload: bytes) -> list[bytes]:
    """Give the records in a payload, each for `decode_record`."""
    return payload.split(LINE_BREAK)


def offset_of(number: int, lines: Sequence[bytes]) -> int:
    """Say where in their payload the record of this number begins."""
    return sum(map(len, lines[:number])) + number


def decode_record(data: bytes) -> AnyRecord | OpenSpan:
    """Give the record that `encode_record` made the bytes of; fields of a later version are left out.

    Of a `NodeStart` that is the whole record.

    Raises:
        ValueError: The bytes are no record.
    """
    try:
        values = orjson.loads(data)
        if "open" in values:
            return OpenSpan(values["open"], values.get("run_id", ""), values["span_id"], values["trace_id"])
        if "started" in values:
            values = {"record": "node", **started_node(NodeStart(values["span"], values["attributes"])).__dict__}
        kind = _KINDS[values.pop("record")]
        if not values.keys() >= _REQUIRED[kind]:
            raise ValueError(f"no record: it lacks {sorted(_REQUIRED[kind] - values.keys())}")
        if not values.keys() <= _KNOWN[kind]:
            values = {name: value for name, value in values.items() if name in _KNOWN[kind]}
        return sparse(kind, values)
    except (KeyError, TypeError, AttributeError, orjson.JSONDecodeError) as error:
        raise ValueError(f"no record: {error}") from error


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return None if isinstance(value, int) and value.bit_length() > _BITS else value


_BITS: Final = 63
"""Of a whole number, without its sign; a bigger one becomes unknown."""
