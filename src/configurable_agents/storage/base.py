"""The records of a run and the interfaces of the repositories that keep them. Nothing here knows a database.

One finished span is one record: a run span a `WorkflowRunRecord`, a node span an `ExecutionStateRecord`, every other
span a `SpanRecord`. What people query stands in typed fields; the rest of the span is kept beside it without loss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, NewType, TypeVar

import orjson

from configurable_agents.deltas import Delta, fold_state
from configurable_agents.errors import StorageError
from configurable_agents.semconv import Status

RunId = NewType("RunId", str)
"""UUIDv7, 36 characters: its text sorts by time."""


def status_rank(status: str) -> int:
    """Give the rank of a status in upserts: a record never replaces one of a higher rank."""
    return {Status.RUNNING: 0, Status.INTERRUPTED: 1}.get(Status(status), 2)


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class _Outcome:
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

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """The inputs given; empty if content is not kept."""
        return _object(self.inputs_json)

    @cached_property
    def initial_state(self) -> dict[str, Any]:
        """The state before any node."""
        return {**_object(self.defaults_json), **self.inputs}

    @cached_property
    def reducers(self) -> dict[str, str]:
        """The state fields whose `reduce` is not `replace`."""
        return _object(self.reducers_json)

    @cached_property
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

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """The resolved inputs."""
        return _object(self.inputs_json)

    @cached_property
    def outputs(self) -> dict[str, Any]:
        """The state fields written, whole."""
        return _object(self.outputs_json)

    @cached_property
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


class ModelUsage(NamedTuple):
    """What the calls of one model used and cost on one day."""

    day: date
    """On which the calls began, in UTC."""
    provider: str | None
    model: str | None
    """The model that answered, else the one that was asked for; None where nobody said, as with `provider`."""
    model_calls: int
    failed_calls: int
    input_tokens: int
    """Includes cached tokens."""
    output_tokens: int
    """Includes reasoning tokens."""
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    priced_cost_usd: float
    """The part of the cost that is known."""
    unpriced_calls: int

    @property
    def cost_usd(self) -> float | None:
        """The whole cost; None if the price of any call is unknown."""
        return None if self.unpriced_calls else self.priced_cost_usd

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens


class SpanKey(NamedTuple):
    """What a span is known by."""

    span_id: str
    trace_id: str


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What `update_run_completion` sets, by hand; the totals count only for a run without node rows."""

    status: str
    end_time_unix_nano: int
    duration_seconds: float | None = None
    error_type: str | None = None
    error_message: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0


class AbstractWorkflowRunRepository(ABC):
    """Keeps runs."""

    @abstractmethod
    def upsert_many(self, records: Sequence[WorkflowRunRecord]) -> None:
        """Write all records in one transaction; the only way into the table.

        A record replaces the stored one of the same (span_id, trace_id) unless that has a higher `status_rank`; so
        duplicates and disorder are harmless.

        Raises:
            StorageError: Nothing of it was written.
        """

    @abstractmethod
    def get(self, run_id: str) -> WorkflowRunRecord:
        """Read one run with its config text, by its id, the beginning of its id if that is unique, or `last`.

        Raises:
            RunNotFoundError: There is none, or more than one.
        """

    @abstractmethod
    def list_runs(
        self,
        *,
        workflow_name: str | None = None,
        status: str | None = None,
        since_unix_nano: int | None = None,
        before_run_id: str | None = None,
        undelivered_to: str | None = None,
        limit: int = 20,
    ) -> list[WorkflowRunRecord]:
        """List runs, the newest first, without their config texts; `before_run_id` gives the next page.

        With `undelivered_to`: only those that have ended, were sampled, and have no mark for this destination.
        """

    @abstractmethod
    def mark_delivered(self, marks: Sequence[DeliveryRecord]) -> None:
        """Note where runs have been delivered to; a mark of a run that is not there is none.

        Raises:
            StorageError: Nothing of it was written.
        """

    @abstractmethod
    def list_deliveries(self, run_id: str) -> list[DeliveryRecord]:
        """List where a run has been delivered to, by destination; `run_id` is a whole id."""

    @abstractmethod
    def usage_by_model(self, *, since: date | None = None, until: date | None = None) -> list[ModelUsage]:
        """Say what each model was used for and cost on each day, the newest day first.

        It counts the model calls that the store holds, of runs that still go on and of other programs too.

        Args:
            since: The first day, in UTC; None for the first that there is.
            until: The last day, itself included.
        """

    @abstractmethod
    def delete(self, run_id: str) -> None:
        """Delete a run with its node executions, spans and marks.

        Raises:
            RunNotFoundError: There is none with exactly this id.
        """

    def add(self, record: WorkflowRunRecord) -> None:
        """Write one record."""
        self.upsert_many([record])

    def list_by_workflow(self, workflow_name: str, *, limit: int = 20) -> list[WorkflowRunRecord]:
        """List runs of a workflow, the newest first."""
        return self.list_runs(workflow_name=workflow_name, limit=limit)

    def update_status(self, run_id: str, status: str) -> None:
        """Set a run's status by hand; a status of a lower rank than the stored one changes nothing."""
        self.upsert_many([replace(self.get(run_id), status=Status(status))])

    def update_run_completion(self, run_id: str, completion: Completion) -> None:
        """Set by hand how a run ended."""
        values = {name: getattr(completion, name) for name in Completion.__dataclass_fields__}
        run = self.get(run_id)
        if run.node_executions:
            for total in ("input_tokens", "output_tokens", "cost_usd"):
                del values[total]
        elif completion.cost_usd is not None:
            values["priced_cost_usd"] = completion.cost_usd
        self.upsert_many([replace(run, **values)])


class AbstractExecutionStateRepository(ABC):
    """Keeps node executions and the other spans below a run."""

    @abstractmethod
    def upsert_many(self, records: Sequence[ExecutionStateRecord]) -> None:
        """Write all records in one transaction, by the rule of `AbstractWorkflowRunRepository.upsert_many`."""

    @abstractmethod
    def upsert_spans(self, records: Sequence[SpanRecord]) -> None:
        """Write other spans in one transaction; the same span again changes nothing."""

    @abstractmethod
    def get_state_history(self, run_id: str) -> list[ExecutionStateRecord]:
        """List a run's node executions in the order of `seq`; `run_id` is a whole id."""

    @abstractmethod
    def list_spans(self, run_id: str) -> list[SpanRecord]:
        """List the other spans of a run by their start."""

    @abstractmethod
    def get_latest_state(self, run_id: str) -> ExecutionStateRecord | None:
        """Read the node execution with the highest `seq`."""

    @abstractmethod
    def get_run(self, run_id: str) -> WorkflowRunRecord:
        """Read the run itself, by its whole id.

        Raises:
            RunNotFoundError: There is none.
        """

    def save_state(self, record: ExecutionStateRecord) -> None:
        """Write one record."""
        self.upsert_many([record])

    def get_state_at(self, run_id: str, seq: int | None = None) -> dict[str, Any]:
        """Give the whole state after a node execution; without `seq`, the run's result (or its state so far).

        Raises:
            RunNotFoundError: There is no such run.
            KeyError: The run has no execution `seq`.
        """
        run = self.get_run(run_id)
        history = self.get_state_history(run_id)
        deltas = [record.delta for record in history if record.status == Status.COMPLETED]
        if seq is None:
            heads = run.reads_from or tuple(delta.seq for delta in deltas)
            return fold_state(run.initial_state, run.reducers, deltas, heads)
        if not any(record.seq == seq for record in history):
            raise KeyError(f"run {run_id!r} has no node execution {seq}")
        at = next(record for record in history if record.seq == seq)
        # An item of a map gives its value to the collected list, which is whole only after the last item.
        heads = at.reads_from if at.map_index is not None or at.status != Status.COMPLETED else (seq,)
        return fold_state(run.initial_state, run.reducers, deltas, heads)


_Read = TypeVar("_Read")


class StorageBackend(ABC):
    """A store that is open: the pair of repositories over one database. Unpacks as `runs, states = backend`."""

    runs: AbstractWorkflowRunRepository
    execution_states: AbstractExecutionStateRepository
    location: str
    """Where it is, as people may see it: a path, or a URL without its password."""
    renew_seconds: float | None = None
    """How often `hold` wants to be called while runs go on; None where the kernel's locks say it all."""
    journals: Sequence[Path] = ()
    """Where the processes that write this store keep their journals: the first that can be written is used."""

    def __iter__(self) -> Iterator[Any]:
        """Give the pair: runs, execution states."""
        return iter((self.runs, self.execution_states))

    @abstractmethod
    def write(self, records: Sequence[AnyRecord]) -> None:
        """Write records of any kind in one transaction.

        Raises:
            StorageError: Nothing of it was written.
        """

    def write_at_once(self, records: Sequence[AnyRecord]) -> bool:
        """Write records as `write` does, if that needs no waiting for others; whoever asks may have a loop to keep going.

        Returns:
            False if it would, or did not succeed: nothing was written.
        """
        return False

    def tend(self) -> None:  # noqa: B027 - most need nothing
        """Do what keeps the store fast and need not be done by each write; called now and then.

        Raises:
            StorageError: The database did not do it.
        """

    def together(self, read: Callable[[], _Read]) -> _Read:
        """Do several reads on one connection, which is cheaper."""
        return read()

    def take_in(self, batches: Iterable[Sequence[Record]]) -> int:
        """Write records of another store, all in one transaction; give how many were not here.

        What is here stays, unless the other record tells an end that this one does not: it may hold more than came
        along.

        Raises:
            StorageError: Nothing of it was written. So it is with whatever `batches` raises.
        """
        raise StorageError(f"the store at {self.location} takes in nothing from files")

    @abstractmethod
    def mark_interrupted(self, runs: Sequence[SpanKey], nodes: Sequence[SpanKey]) -> None:
        """Say of runs and node executions that are still `running` that their process has died.

        A run gets the totals of its node executions, since it cannot tell them any more. A record that tells how it
        really ended may still come, and wins.

        Raises:
            StorageError: Nothing of it was written.
        """

    def hold(self, runs: Sequence[SpanKey]) -> None:  # noqa: B027 - see `renew_seconds`
        """Say that the process of these runs lives, for those who see it from another host.

        Raises:
            StorageError: The database did not take it.
        """

    def recover(self) -> None:  # noqa: B027 - a store without a journal has nothing to take up
        """Take up the journals of processes that have died.

        Raises:
            StorageError: The database did not take it; nothing is lost.
        """

    def is_current(self) -> bool:
        """Say whether what is open is still what stands at the store's place (a file may be deleted or replaced)."""
        return True

    @abstractmethod
    def close(self) -> None:
        """Give the database's connections back; the object cannot be used afterwards."""


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
