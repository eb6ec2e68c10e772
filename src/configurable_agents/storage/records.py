"""The records of a run. Nothing here knows a database.

One finished span is one record: a run span a `WorkflowRunRecord`, a node span an `ExecutionStateRecord`, every other
span a `SpanRecord`. What people query stands in typed fields; the rest of the span is kept beside it without loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NewType, TypeVar

import orjson

from configurable_agents.deltas import Delta
from configurable_agents.once import Once
from configurable_agents.semconv import RUN_ID, Status

RunId = NewType("RunId", str)
"""UUIDv7, 36 characters: its text sorts by time."""


def status_rank(status: str) -> int:
    """Give the rank of a status in upserts: a record never replaces one of a higher rank."""
    return {Status.RUNNING: 0, Status.INTERRUPTED: 1}.get(Status(status), 2)


# The parts of records are never made alone: methods for them would be a third of what this module takes to load.
@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class _Span:
    """What every record keeps of its span, so that it can be shipped as OTLP later."""

    trace_id: str
    """32 lower-case hex digits."""
    span_id: str
    """16 lower-case hex digits."""
    parent_span_id: str | None = None
    # Children end before their parents, so a record may come before its parent's: no foreign key.
    name: str
    kind: Literal["INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"] = "INTERNAL"
    start_time_unix_nano: int
    end_time_unix_nano: int | None = None
    status_code: Literal["UNSET", "OK", "ERROR"] = "UNSET"
    status_message: str | None = None
    attributes_json: str = "{}"
    """The attributes that have no field of their own, as a JSON object."""
    events_json: str | None = None
    """JSON array of `{name, time_unix_nano, attributes}`; None if there are none."""
    links_json: str | None = None
    """JSON array of `{trace_id, span_id, attributes}`, and of what else a link has; None if there are none."""
    scope_json: str | None = None
    """JSON object `{name, version}` of the instrumentation scope; None for ours (of a run: in its present version)."""
    trace_flags: int = 0
    """OTLP's span flags: bit 0 (W3C) says that the span was sampled, and so shipped, bit 9 that its parent is remote."""
    trace_state: str | None = None
    """W3C tracestate, as its header says it."""


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class _Totals:
    """What model calls used and cost; on a run the sums over its node executions."""

    model_calls: int = 0
    input_tokens: int = 0
    """Includes cached tokens."""
    output_tokens: int = 0
    """Includes reasoning tokens."""
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float | None = 0.0
    """None if the price of any call is unknown."""
    priced_cost_usd: float = 0.0
    """The part of the cost that is known."""
    unpriced_calls: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class _Outcome:
    """What became of a run or a node execution."""

    status: str
    """`running`, `interrupted`, `completed`, `failed` or `cancelled`."""
    duration_seconds: float | None = None
    """On the monotonic clock; None while running."""
    error_type: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, kw_only=True)
class WorkflowRunRecord(_Span, _Totals, _Outcome):
    """One execution of a workflow: its root span."""

    run_id: RunId
    workflow_name: str
    workflow_version: str | None = None
    config_sha256: str | None = None
    config_text: str | None = None
    """The workflow file; kept once for all runs with the same `config_sha256`. None on records read in lists."""
    inputs_json: str | None = None
    defaults_json: str | None = None
    """The state fields that were not given as inputs, as the run began; with the inputs, the state before any node."""
    reducers_json: str | None = None
    reads_from_json: str | None = None
    """Of a run that ended: seqs of the node executions whose states together are its result."""
    node_executions: int = 0
    resource_json: str | None = None
    """JSON object of what its resource has other than our default; of all spans of the run. None if that is nothing."""

    @Once
    def inputs(self) -> dict[str, Any]:
        """The inputs given; empty if content is not kept."""
        return _object(self.inputs_json)

    @Once
    def initial_state(self) -> dict[str, Any]:
        """The state before any node."""
        return {**_object(self.defaults_json), **self.inputs}

    @Once
    def reducers(self) -> dict[str, str]:
        """The state fields whose `reduce` is not `replace`."""
        return _object(self.reducers_json)

    @Once
    def reads_from(self) -> tuple[int, ...]:
        """Seqs of the node executions whose states together are the result."""
        return tuple(orjson.loads(self.reads_from_json)) if self.reads_from_json else ()


@dataclass(frozen=True, kw_only=True)
class ExecutionStateRecord(_Span, _Totals, _Outcome):
    """One execution of a node in a run, with what it wrote."""

    run_id: RunId
    seq: int
    """From 1, in the order in which executions were scheduled."""
    node_id: str
    node_kind: str
    reads_from_json: str = "[]"
    branch: str | None = None
    map_index: int | None = None
    attempts: int = 1
    edge: str | None = None
    """Where the run went on to."""
    provider: str | None = None
    model: str | None = None
    """The model that answered last; None where none was asked."""
    models_json: str | None = None
    """JSON array of all models that answered, if more than one."""
    inputs_json: str | None = None
    outputs_json: str | None = None
    """JSON object of the state fields written; None if content is not kept."""

    @Once
    def inputs(self) -> dict[str, Any]:
        """The resolved inputs."""
        return _object(self.inputs_json)

    @Once
    def outputs(self) -> dict[str, Any]:
        """The state fields written, whole."""
        return _object(self.outputs_json)

    @Once
    def reads_from(self) -> tuple[int, ...]:
        """Seqs of the node executions that this one reads from."""
        return tuple(orjson.loads(self.reads_from_json))

    @property
    def delta(self) -> Delta:
        """What this execution contributes to the state."""
        return Delta(self.seq, self.reads_from, self.outputs, self.map_index)

    @property
    def state_data(self) -> dict[str, Any]:
        """What happened in this execution, in the words that reports use. Computed, not stored."""
        return {
            "node_id": self.node_id,
            "status": self.status,
            "duration_seconds": self.duration_seconds,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "total_tokens": self.total_tokens,
            "model": self.model,
            "cost_usd": self.cost_usd,
            "outputs": self.outputs,
            "error": self.error_message,
        }


@dataclass(frozen=True, kw_only=True)
class SpanRecord(_Span):
    """Any other span: a model call, a tool call, or a span that is not ours."""

    run_id: RunId | None = None
    """None for a span of a foreign program."""
    operation: str | None = None
    """`gen_ai.operation.name`, as `chat`."""
    provider: str | None = None
    model: str | None = None
    """The model that answered, else the one that was asked for."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: float | None = None
    """None where unknown, never 0 for that."""
    duration_seconds: float | None = None
    error_type: str | None = None
    resource_json: str | None = None
    """Of a foreign span, as `WorkflowRunRecord.resource_json`; one of a run has the run's."""


Record = WorkflowRunRecord | ExecutionStateRecord | SpanRecord


@dataclass(frozen=True, kw_only=True)
class DeliveryRecord:
    """A mark: a run, with every span of it, has been delivered to a destination."""

    run_id: RunId
    destination: str
    """As people may see it: an endpoint without credentials, or an exporter's name."""
    delivered_at_unix_nano: int


@dataclass(slots=True)  # nobody changes one; making a frozen one takes three times as long
class NodeStart:
    """The start of a node execution as its span has it, for the journal: of most no record is ever made."""

    span: dict[str, Any]
    """The fields of its record that are no attribute of the span."""
    attributes: Mapping[str, Any]
    """Of kinds that JSON knows, or tuples of them."""

    @property
    def run_id(self) -> str:
        """The run that it is part of."""
        return self.attributes[RUN_ID]  # type: ignore[no-any-return]


AnyRecord = Record | DeliveryRecord


_Kind = TypeVar("_Kind", bound=AnyRecord)


def sparse(kind: type[_Kind], values: dict[str, Any]) -> _Kind:
    """Make a record of just the fields that are not at their defaults, which stay those of its class.

    The same record as by calling its class, at a tenth of the price: `__init__` of a frozen dataclass sets each of
    45 fields through a function, and whoever writes the record out then has 45 to look at.

    Args:
        values: Every field without a default, and any others; the record takes the dict over.
    """
    record = object.__new__(kind)
    object.__setattr__(record, "__dict__", values)
    return record


class SpanKey(NamedTuple):
    """What a run or node execution is known by."""

    run_id: str
    """Empty where a journal of an older version does not say it: then its row is searched for."""
    span_id: str
    trace_id: str


def _object(text: str | None) -> dict[str, Any]:
    value: Any = orjson.loads(text) if text else {}
    return value if isinstance(value, dict) else {}


def by_kind(
    records: Sequence[AnyRecord],
) -> tuple[list[WorkflowRunRecord], list[ExecutionStateRecord], list[SpanRecord], list[DeliveryRecord]]:
    """Sort records into runs, node executions, other spans and marks, each in the order given."""
    runs: list[WorkflowRunRecord] = []
    states: list[ExecutionStateRecord] = []
    spans: list[SpanRecord] = []
    marks: list[DeliveryRecord] = []
    for record in records:
        if isinstance(record, ExecutionStateRecord):  # most are
            states.append(record)
        elif isinstance(record, WorkflowRunRecord):
            runs.append(record)
        elif isinstance(record, SpanRecord):
            spans.append(record)
        else:
            marks.append(record)
    return runs, states, spans, marks
