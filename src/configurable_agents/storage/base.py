"""The interfaces of the repositories that keep a run's records. Nothing here knows a database."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from configurable_agents.deltas import fold_state
from configurable_agents.errors import StorageError
from configurable_agents.semconv import Status
from configurable_agents.storage.records import (
    AnyRecord,
    DeliveryRecord,
    ExecutionStateRecord,
    Record,
    SpanKey,
    SpanRecord,
    WorkflowRunRecord,
)


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

        A record replaces the stored one of the same run and span unless that has a higher `status_rank`; so
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
        """Write all records in one transaction.

        The rule is that of `AbstractWorkflowRunRepository.upsert_many`; `seq` is part of what makes a record the same.
        """

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

    def prepare_tending(self) -> None:  # noqa: B027 - most need nothing
        """Do beforehand what makes `tend` quick, while others may still write."""

    def tend(self) -> None:  # noqa: B027 - most need nothing
        """Do what keeps the store fast and need not be done by each write; called now and then, while nobody else of the process writes.

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
