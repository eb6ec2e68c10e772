"""Turns a span into its record: typed fields for what people query, the rest kept as it is. Pure."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

import orjson
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode

from configurable_agents import semconv
from configurable_agents.observability.resource import resource_text
from configurable_agents.observability.spans import PARENT_IS_REMOTE, RunSpan
from configurable_agents.semconv import Operation
from configurable_agents.storage.records import (
    ExecutionStateRecord,
    Record,
    RunId,
    SpanRecord,
    WorkflowRunRecord,
    sparse,
)


def to_record(span: ReadableSpan) -> Record:
    """Make the record of a span: of a running one what is known so far."""
    if type(span) is RunSpan and span.is_plain:  # as nearly every node, twice: nothing is looked at that it has not
        values, attributes = span.record_fields(), span.known_attributes
    else:
        values, attributes = _shared(span), span.attributes or {}
    kind = _KINDS.get(attributes.get(_OPERATION)) if _RUN_ID in attributes else None
    if kind is None:
        return _other(span, values)
    form = _form(kind, tuple(attributes))
    values.update(zip(form.fields, form.read(attributes), strict=True))
    if not form.says_status:
        values["status"] = "interrupted" if "end_time_unix_nano" in values else "running"
    if kind.record is WorkflowRunRecord:  # with the version that ran it, which is not the one that may ship it later
        values["scope_json"] = _scope(span.instrumentation_scope)
    if form.lacks:
        _complete(kind, values)
    for field in form.lists:
        values[field] = _json(values[field])
    rest = form.rest
    if rest is _ONE_OF_EACH:
        values["attributes_json"] = _of_kind(attributes[_SPAN_KIND])
    elif rest:
        values["attributes_json"] = _json({name: attributes[name] for name in rest})
    return sparse(kind.record, values)


_OPERATION: Final = semconv.GEN_AI_OPERATION_NAME
_RUN_ID: Final = semconv.RUN_ID
_SPAN_KIND: Final = semconv.OPENINFERENCE_SPAN_KIND
_ONE_OF_EACH: Final = (_SPAN_KIND,)
"""What every span of ours has and no field holds."""


@lru_cache(maxsize=16, typed=True)
def _of_kind(kind: Any) -> str:
    return _json({_SPAN_KIND: kind})


@dataclass(frozen=True, slots=True, eq=False)
class _Kind:
    """A kind of record with a table of its own."""

    record: type[WorkflowRunRecord] | type[ExecutionStateRecord]
    fields: Mapping[str, str]
    """The field that holds each attribute."""
    needed: Mapping[str, Any]
    """What such a record needs, and what it is where the span does not say."""


@dataclass(frozen=True, slots=True)
class _Form:
    """How attributes of certain names become the fields of a record."""

    read: Callable[[Mapping[str, Any]], tuple[Any, ...]]
    """Gives the values of `fields`, in their order."""
    fields: tuple[str, ...]
    lists: tuple[str, ...]
    """Of the fields, those that hold a list as JSON."""
    rest: tuple[str, ...]
    """Names that have no field."""
    says_status: bool
    lacks: bool
    """Whether the record needs more than that and the attributes say."""


@lru_cache(maxsize=256)
def _form(kind: _Kind, names: tuple[str, ...]) -> _Form:
    # The nodes of a workflow have the same few sets of attributes again and again: a look at each name costs more than
    # all else that is done with them.
    known = {name: kind.fields[name] for name in names if name in kind.fields}
    said = set(known.values())
    rest = tuple(name for name in names if name not in known and name != _OPERATION)
    return _Form(
        read=itemgetter(*known, semconv.RUN_ID),  # one more, so that there are two at least
        fields=(*known.values(), "run_id"),
        lists=tuple(field for field in known.values() if field in _LISTS),
        rest=_ONE_OF_EACH if rest == _ONE_OF_EACH else rest,
        says_status="status" in said,
        lacks=not set(kind.needed) <= said or ("model_calls" in said and "cost_usd" not in said),
    )


_OUTCOME: Final = {
    semconv.STATUS: "status",
    semconv.DURATION_SECONDS: "duration_seconds",
    semconv.ERROR_TYPE: "error_type",
    semconv.ERROR_MESSAGE: "error_message",
}
_TOTALS: Final = {
    semconv.MODEL_CALLS: "model_calls",
    semconv.INPUT_TOKENS: "input_tokens",
    semconv.OUTPUT_TOKENS: "output_tokens",
    semconv.CACHE_READ_TOKENS: "cache_read_tokens",
    semconv.CACHE_WRITE_TOKENS: "cache_write_tokens",
    semconv.REASONING_TOKENS: "reasoning_tokens",
    semconv.COST_USD: "cost_usd",
    semconv.PRICED_COST_USD: "priced_cost_usd",
    semconv.UNPRICED_CALLS: "unpriced_calls",
}
_RUN: Final = _OUTCOME | _TOTALS | {
    semconv.RUN_ID: "run_id",
    semconv.GEN_AI_WORKFLOW_NAME: "workflow_name",
    semconv.WORKFLOW_VERSION: "workflow_version",
    semconv.CONFIG_SHA256: "config_sha256",
    semconv.CONTENT_CONFIG: "config_text",
    semconv.CONTENT_INPUTS: "inputs_json",
    semconv.CONTENT_DEFAULTS: "defaults_json",
    semconv.STATE_REDUCERS: "reducers_json",
    semconv.READS_FROM: "reads_from_json",
    semconv.NODE_EXECUTIONS: "node_executions",
    semconv.RESOURCE: "resource_json",
}  # fmt: skip
_NODE: Final = _OUTCOME | _TOTALS | {
    semconv.RUN_ID: "run_id",
    semconv.SEQ: "seq",
    semconv.NODE_ID: "node_id",
    semconv.NODE_KIND: "node_kind",
    semconv.READS_FROM: "reads_from_json",
    semconv.BRANCH: "branch",
    semconv.MAP_INDEX: "map_index",
    semconv.ATTEMPTS: "attempts",
    semconv.EDGE: "edge",
    semconv.PROVIDER: "provider",
    semconv.MODEL: "model",
    semconv.MODELS: "models_json",
    semconv.CONTENT_INPUTS: "inputs_json",
    semconv.CONTENT_OUTPUTS: "outputs_json",
}  # fmt: skip
_LISTS: Final = ("reads_from_json", "models_json")
_KINDS: Final[Mapping[object, _Kind]] = {
    Operation.INVOKE_WORKFLOW: _Kind(WorkflowRunRecord, _RUN, {"workflow_name": ""}),
    Operation.EXECUTE_NODE: _Kind(ExecutionStateRecord, _NODE, {"seq": 0, "node_id": "", "node_kind": ""}),
}
"""The operations with a table of their own."""


def _complete(kind: _Kind, values: dict[str, Any]) -> None:
    """Fill in what a record needs and the span does not say."""
    for field, value in kind.needed.items():
        values.setdefault(field, value)
    if values.get("model_calls") and "cost_usd" not in values:
        values["cost_usd"] = None


def _other(span: ReadableSpan, values: dict[str, Any]) -> SpanRecord:
    rest: dict[str, Any] = dict(span.attributes or {})
    run_id = rest.pop(semconv.RUN_ID, None)
    # The model that answered stands in the typed field; where the answer names none, the one asked for.
    asked = rest.get(semconv.GEN_AI_REQUEST_MODEL)
    return SpanRecord(
        run_id=RunId(run_id) if isinstance(run_id, str) else None,
        operation=_text(rest.get(semconv.GEN_AI_OPERATION_NAME)),
        provider=_text(rest.get(semconv.GEN_AI_PROVIDER_NAME)),
        model=_text(rest.get(semconv.GEN_AI_RESPONSE_MODEL, asked)),
        input_tokens=_int(rest.get(semconv.GEN_AI_USAGE_INPUT_TOKENS)),
        output_tokens=_int(rest.get(semconv.GEN_AI_USAGE_OUTPUT_TOKENS)),
        cache_read_tokens=_int(rest.get(semconv.GEN_AI_USAGE_CACHE_READ)),
        cache_write_tokens=_int(rest.get(semconv.GEN_AI_USAGE_CACHE_WRITE)),
        reasoning_tokens=_int(rest.get(semconv.GEN_AI_USAGE_REASONING)),
        cost_usd=rest.pop(semconv.COST_USD, None),
        duration_seconds=rest.pop(semconv.DURATION_SECONDS, wall_seconds(span)),
        error_type=_text(rest.get(semconv.ERROR_TYPE)),
        resource_json=resource_text(span.resource) if run_id is None else None,
        attributes_json=_json(rest) if rest else "{}",
        **values,
    )


_KIND_NAMES: Final = {kind: kind.name for kind in SpanKind}
_CODE_NAMES: Final = {code: code.name for code in StatusCode}


def _shared(span: ReadableSpan) -> dict[str, Any]:
    """Give the fields that every record has, as far as they are not at their defaults."""
    context, parent, status = span.get_span_context(), span.parent, span.status
    if context is None or span.start_time is None:
        raise ValueError(f"the span {span.name!r} has not been started")
    values: dict[str, Any] = {
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "name": span.name,
        "start_time_unix_nano": span.start_time,
        "trace_flags": int(context.trace_flags),
    }
    if parent is not None:
        values["parent_span_id"] = f"{parent.span_id:016x}"
        if parent.is_remote:
            values["trace_flags"] |= PARENT_IS_REMOTE
    if span.end_time is not None:
        values["end_time_unix_nano"] = span.end_time
    if status.status_code is not StatusCode.UNSET:
        values["status_code"] = _CODE_NAMES[status.status_code]
        values["status_message"] = status.description
    if span.kind is not SpanKind.INTERNAL:
        values["kind"] = _KIND_NAMES[span.kind]
    state, scope, events, links = context.trace_state, span.instrumentation_scope, span.events, span.links
    if state:
        values["trace_state"] = state.to_header()
    if scope is not None and scope.name != semconv.SCOPE_NAME:
        values["scope_json"] = _scope(scope)
    if events:
        values["events_json"] = _events(events)
    if links:
        values["links_json"] = _links(links)
    return values


def _scope(scope: InstrumentationScope | None) -> str | None:
    if scope is None:
        return None
    more = {"schema_url": scope.schema_url, "attributes": dict(scope.attributes or {})}
    return _json({"name": scope.name, "version": scope.version, **{key: value for key, value in more.items() if value}})


def _events(events: Sequence[Event]) -> str:
    return _json(
        [{"name": e.name, "time_unix_nano": e.timestamp, "attributes": dict(e.attributes or {})} for e in events]
    )


def _links(links: Sequence[Link]) -> str:
    return _json(
        [{**_ids(link.context), "attributes": dict(link.attributes or {}), **_more(link.context)} for link in links]
    )


def _ids(context: SpanContext) -> dict[str, str]:
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def _more(context: SpanContext) -> dict[str, Any]:
    flags = context.trace_flags | (PARENT_IS_REMOTE if context.is_remote else 0)
    more = {"flags": flags, "trace_state": context.trace_state.to_header() if context.trace_state else None}
    return {key: value for key, value in more.items() if value}


def _json(value: Any) -> str:
    try:
        text = orjson.dumps(value, default=_foreign)
    except (TypeError, ValueError):  # a lone surrogate, or an integer beyond 64 bits, in a foreign span
        text = b"null"
    # JSON has no word for a number that is none, and `null` would not come back as one.
    return (orjson.dumps(_printable(value)) if b"null" in text else text).decode()


def _foreign(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def _printable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_printable(str(key)): _printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$double": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, bytes):
        return _foreign(value)
    if isinstance(value, bool | float | None):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else {"$int": str(value)}
    text = value if isinstance(value, str) else str(value)
    return text.encode("utf-8", "backslashreplace").decode()


def wall_seconds(span: ReadableSpan) -> float | None:
    """Give how long a span lasted by the wall clock, which is all that a foreign one says; None while it goes on."""
    if span.end_time is None or span.start_time is None:
        return None
    return (span.end_time - span.start_time) / 1e9


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) else None
