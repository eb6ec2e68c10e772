"""Runs in files of OTLP JSON: written without loss, and read back into records that are fit for a store."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import NoneType, UnionType
from typing import Any, Final, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import orjson
from opentelemetry.sdk.trace import ReadableSpan

from configurable_agents import semconv
from configurable_agents.errors import TraceFileError
from configurable_agents.observability.content import ShippedSpan, ShipRules, approximate_bytes, shippable
from configurable_agents.observability.otlp_json import encode
from configurable_agents.observability.otlp_json_reader import decode
from configurable_agents.observability.records import to_record
from configurable_agents.observability.replay import changed, ended, to_spans
from configurable_agents.observability.resource import resource_text
from configurable_agents.semconv import Status
from configurable_agents.storage.records import ExecutionStateRecord, Record, RunId, SpanRecord, WorkflowRunRecord

LINE_BYTES: Final = 400_000
"""About so many bytes of spans stand in one line, if there are many runs: the Collector's reader of such files takes lines of 1 MiB."""
_MAX_ID: Final = 200
_KINDS: Final[Mapping[str, type[Record]]] = {
    "run": WorkflowRunRecord,
    "node": ExecutionStateRecord,
    "span": SpanRecord,
}


@dataclass(frozen=True)
class StoredRun:
    """A run with all that is kept of it."""

    run: WorkflowRunRecord
    """With its config text."""
    nodes: Sequence[ExecutionStateRecord]
    spans: Sequence[SpanRecord]

    @property
    def run_id(self) -> RunId:
        """The run's id."""
        return self.run.run_id


# --- writing -------------------------------------------------------------------------------------------------------------


def whole(stored: StoredRun) -> list[ReadableSpan]:
    """Give the spans of a run with everything that is kept; of them the same records can be made."""
    records: list[Record] = [stored.run, *stored.nodes, *stored.spans]
    spans = ended(to_spans(stored.run, stored.nodes, stored.spans))
    return [_with_rest(record, span) for record, span in zip(records, spans, strict=True)]


def shipped(stored: StoredRun, rules: ShipRules) -> list[ShippedSpan]:
    """Give the spans of a run as they would be shipped."""
    spans = ended(to_spans(stored.run, stored.nodes, stored.spans))
    return [shippable(span, rules, span.resource, kept=True) for span in spans]


def request(spans: Sequence[ReadableSpan]) -> bytes:
    """Give spans as one request, in one line."""
    return encode(spans) + b"\n"


def lines(spans: Sequence[ReadableSpan]) -> Iterator[bytes]:
    """Give spans as requests of moderate size, one a line."""
    batch: list[ReadableSpan] = []
    size = 0
    for span in spans:
        span_bytes = approximate_bytes(span)
        if batch and size + span_bytes > LINE_BYTES:
            yield request(batch)
            batch, size = [], 0
        batch.append(span)
        size += span_bytes
    if batch:
        yield request(batch)


def _with_rest(record: Record, span: ReadableSpan) -> ReadableSpan:
    """Add what a span does not tell of its record: of one that was made by hand, say."""
    told = _told(span)
    if told == record and semconv.RECORD not in (span.attributes or {}):
        return span
    untold = {
        field.name: getattr(record, field.name)
        for field in fields(record)
        if type(told) is not type(record) or getattr(told, field.name) != getattr(record, field.name)
    }
    # Should a span have such an attribute of its own, it stands in there as well.
    untold["attributes_json"] = record.attributes_json
    kind = next(name for name, kind in _KINDS.items() if kind is type(record))
    rest = orjson.dumps({"kind": kind, "fields": untold}).decode()
    return changed(span, attributes={**(span.attributes or {}), semconv.RECORD: rest})


def _told(span: ReadableSpan) -> Record:
    # In OTLP an end of 0 is none.
    record = to_record(span if span.end_time else changed(span, end_time=None))
    if isinstance(record, WorkflowRunRecord):
        return replace(record, resource_json=resource_text(span.resource))
    return record


# --- reading -------------------------------------------------------------------------------------------------------------


def read_records(file: Iterable[bytes]) -> Iterator[Record]:
    """Give the records of all spans in a file: of one JSON document, or of one on each line.

    A run that has not ended in the file is `interrupted`: nobody will tell its end here.

    Raises:
        TraceFileError: The file is none of spans; the message begins with the line.
    """
    rest = iter(file)
    first = next(rest, b"")
    try:
        documents = _numbered(first, rest) if _is_whole(first) else iter([(0, orjson.loads(first + b"".join(rest)))])
    except orjson.JSONDecodeError as error:
        raise TraceFileError(f"line {error.lineno}, column {error.colno}: this is no JSON: {error.msg}") from error
    for number, document in documents:
        place = f"line {number}: " if number else ""
        try:
            for span in decode(document):
                yield record_of(span)
        except TraceFileError as error:
            raise TraceFileError(f"{place}{error}") from error


def _is_whole(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _numbered(first: bytes, rest: Iterable[bytes]) -> Iterator[tuple[int, Any]]:
    yield 1, orjson.loads(first)
    for number, line in enumerate(rest, start=2):
        if not line.strip():
            continue
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise TraceFileError(f"line {number}, column {error.colno}: this is no JSON: {error.msg}") from error
        yield number, document


def record_of(span: ReadableSpan) -> Record:
    """Make the record of a span that comes from a file.

    Raises:
        TraceFileError: Its attributes are not what ours are, and readers of the store would stumble over them.
    """
    attributes = dict(span.attributes or {})
    rest = attributes.pop(semconv.RECORD, None)
    try:
        record = _told(changed(span, attributes=attributes))
        if isinstance(rest, str):
            record = _restored(record, orjson.loads(rest))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        _refuse(span, f"its attributes are not those of a span of ours: {error}")
    _check(record, span)
    if not isinstance(record, SpanRecord) and record.status == Status.RUNNING:
        return replace(record, status=Status.INTERRUPTED.value)
    return record


def _restored(record: Record, rest: Mapping[str, Any]) -> Record:
    kind, values = _KINDS[rest["kind"]], rest["fields"]
    return replace(record, **values) if isinstance(record, kind) else kind(**values)


def _check(record: Record, span: ReadableSpan) -> None:
    for name, fits in _CHECKS[type(record)]:
        if not fits(getattr(record, name)):
            _refuse(span, f"{name} is not what it should be")
    if isinstance(record, WorkflowRunRecord) and record.config_text is not None:
        # Texts are kept by their hashes: another text must not take the place of a true one.
        digest = hashlib.sha256(record.config_text.encode("utf-8", "surrogatepass")).hexdigest()
        if record.config_sha256 not in (None, digest):
            _refuse(span, "the workflow file's text does not have the hash that stands beside it")


def _refuse(span: ReadableSpan, why: str) -> NoReturn:
    span_id = span.context.span_id if span.context else 0
    raise TraceFileError(f"the span {span_id:016x} ({span.name[:100]!r}): {why}")


_Check = Callable[[Any], object]


def _by_type(name: str, hint: Any) -> _Check:
    """Say how a field is checked: by its type, and by what readers expect of its text."""
    if get_origin(hint) is Literal:
        return lambda value: value in get_args(hint)
    kinds: tuple[type, ...] = tuple(getattr(kind, "__supertype__", kind) for kind in _parts(hint))
    special: Callable[[Any], object] = _SPECIAL.get(name, _is_json if name.endswith("_json") else _any)

    def fits(value: Any) -> bool:
        if value is None:
            return NoneType in kinds
        if isinstance(value, bool):
            return False
        if isinstance(value, int):
            return (int in kinds or float in kinds) and -(2**63) <= value < 2**63
        return isinstance(value, kinds) and bool(special(value))

    return fits


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if isinstance(hint, UnionType) or get_origin(hint) is Union else (hint,)


def _any(_value: Any) -> bool:
    return True


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _is_run_id(text: str) -> bool:
    return 0 < len(text) <= _MAX_ID and text.isprintable()


def _is_status(text: str) -> bool:
    return text in tuple(Status)


def _are_numbers(text: str) -> bool:
    items = orjson.loads(text) if _is_json(text) else None
    return isinstance(items, list) and all(isinstance(item, int) for item in items)


def _is_hex(digits: int) -> _Check:
    return re.compile(f"[0-9a-f]{{{digits}}}").fullmatch


_SPECIAL: Final[Mapping[str, Callable[[str], object]]] = {
    "run_id": _is_run_id,
    "status": _is_status,
    "reads_from_json": _are_numbers,
    "trace_id": _is_hex(32),
    "span_id": _is_hex(16),
    "parent_span_id": _is_hex(16),
}
_CHECKS: Final[Mapping[type[Record], tuple[tuple[str, _Check], ...]]] = {
    kind: tuple((name, _by_type(name, hint)) for name, hint in get_type_hints(kind).items()) for kind in _KINDS.values()
}
