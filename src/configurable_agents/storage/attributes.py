"""Turns the attributes of a run's or node's span into the typed fields of its record. Pure.

Here, and not where spans are known, since a journal has the start of a node as its span had it (`NodeStart`).
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

import orjson

from configurable_agents import semconv
from configurable_agents.semconv import Operation
from configurable_agents.storage.records import ExecutionStateRecord, NodeStart, WorkflowRunRecord, sparse


def typed_record(
    values: dict[str, Any], attributes: Mapping[str, Any]
) -> WorkflowRunRecord | ExecutionStateRecord | None:
    """Make the record of a run or node execution; None where the span is that of neither.

    Args:
        values: What it has of its span beside the attributes; the record takes the dict over.
    """
    kind = _KINDS.get(attributes.get(_OPERATION))
    if kind is None or _RUN_ID not in attributes:
        return None
    form = _form(kind, tuple(attributes))
    values.update(zip(form.fields, form.read(attributes)))  # noqa: B905 - `strict` would double its price
    for field, text_of in form.texts:
        values[field] = text_of(values[field])
    if form.rest:
        values["attributes_json"] = json_text({name: attributes[name] for name in form.rest})
    if form.lacks:
        _complete(kind, values)
    return sparse(kind.record, values)


def started_node(start: NodeStart) -> ExecutionStateRecord:
    """Make the record of a node execution that goes on."""
    record = typed_record({**start.span}, start.attributes)
    if not isinstance(record, ExecutionStateRecord):
        raise TypeError("no node execution")
    return record


_OPERATION: Final = semconv.GEN_AI_OPERATION_NAME
_RUN_ID: Final = semconv.RUN_ID
_SPAN_KIND: Final = semconv.OPENINFERENCE_SPAN_KIND


@lru_cache(maxsize=16, typed=True)
def _of_kind(kind: Any) -> str:
    return json_text({_SPAN_KIND: kind})


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
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
    """Gives the values of `fields`, in their order, and one more."""
    fields: tuple[str, ...]
    texts: tuple[tuple[str, Callable[[Any], str]], ...]
    """Of the fields, those that hold JSON, with what makes it of the value."""
    rest: tuple[str, ...]
    """Names that have no field."""
    lacks: bool
    """Whether the record needs more than that and the attributes say."""


@lru_cache(maxsize=256)
def _form(kind: Kind, names: tuple[str, ...]) -> _Form:
    # The nodes of a workflow have the same few sets of attributes again and again: a look at each name costs more than
    # all else that is done with them.
    known = {name: kind.fields[name] for name in names if name in kind.fields}
    rest = tuple(name for name in names if name not in known and name != _OPERATION)
    if rest == (_SPAN_KIND,):  # what every span of ours has and no field holds
        known[_SPAN_KIND], rest = "attributes_json", ()
    said = set(known.values())
    return _Form(
        read=itemgetter(*known, semconv.RUN_ID),  # one more, so that there are two at least
        fields=tuple(known.values()),
        texts=tuple((field, _TEXTS[field]) for field in known.values() if field in _TEXTS),
        rest=rest,
        lacks=not {"status", *kind.needed} <= said or ("model_calls" in said and "cost_usd" not in said),
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
_KINDS: Final[Mapping[object, Kind]] = {
    Operation.INVOKE_WORKFLOW: Kind(WorkflowRunRecord, _RUN, {"workflow_name": ""}),
    Operation.EXECUTE_NODE: Kind(ExecutionStateRecord, _NODE, {"seq": 0, "node_id": "", "node_kind": ""}),
}
"""The operations with a table of their own."""


def _complete(kind: Kind, values: dict[str, Any]) -> None:
    """Fill in what a record needs and the span does not say."""
    for field, value in kind.needed.items():
        values.setdefault(field, value)
    values.setdefault("status", "interrupted" if "end_time_unix_nano" in values else "running")
    if values.get("model_calls") and "cost_usd" not in values:
        values["cost_usd"] = None


def json_text(value: Any) -> str:
    """Give the JSON text of an attribute's value, or of several; what JSON cannot hold becomes an object with one key."""
    try:
        text = orjson.dumps(value, default=_foreign)
    except (TypeError, ValueError):  # a lone surrogate, an integer beyond 64 bits, or too many values in values
        text = b"null"
    # JSON has no word for a number that is none, and `null` would not come back as one.
    return (orjson.dumps(_printable(value)) if text.find(b"null") >= 0 else text).decode()


_TEXTS: Final[Mapping[str, Callable[[Any], str]]] = {
    "reads_from_json": json_text,
    "models_json": json_text,
    "attributes_json": _of_kind,
}
_MAX_DEPTH: Final = 200
"""Of values in values; orjson writes 254."""


def _foreign(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def _printable(value: Any, depth: int = _MAX_DEPTH) -> Any:
    if isinstance(value, Mapping | list | tuple) and not depth:
        return "…"
    if isinstance(value, Mapping):
        return {_printable(str(key)): _printable(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(item, depth - 1) for item in value]
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
