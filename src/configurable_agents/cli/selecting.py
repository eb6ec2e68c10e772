"""Which runs a command is about, read from the store one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from configurable_agents.errors import InputError
from configurable_agents.observability.archive import StoredRun
from configurable_agents.semconv import Status

if TYPE_CHECKING:
    from configurable_agents.storage.base import StorageBackend
    from configurable_agents.storage.records import WorkflowRunRecord

_PAGE: Final = 50
"""Runs that are listed at once, so that a store of any size is never held in memory."""


@dataclass(frozen=True)
class Selection:
    """Runs by name, or all that the rest describes."""

    runs: tuple[str, ...] = ()
    """Ids, unique beginnings of ids, or `last`."""
    workflow: str | None = None
    status: Status | None = None
    since_unix_nano: int | None = None
    undelivered_to: str | None = None


def select(backend: StorageBackend, selection: Selection) -> Iterator[WorkflowRunRecord]:
    """Give the runs, each once, the newest first if they are not named; without those that still go on.

    Raises:
        InputError: A run that is named still goes on.
        RunNotFoundError: There is no such run.
    """
    return _named(backend, selection) if selection.runs else _described(backend, selection)


def _named(backend: StorageBackend, selection: Selection) -> Iterator[WorkflowRunRecord]:
    # All are looked up before any is given: a misspelt one shall not be found out halfway.
    found = {run.run_id: run for run in (backend.runs.get(name) for name in selection.runs)}
    running = [run.run_id for run in found.values() if run.status == Status.RUNNING]
    if running:
        raise InputError([f"run {run_id!r} still goes on; export it when it has ended" for run_id in running])
    yield from found.values()


def _described(backend: StorageBackend, selection: Selection) -> Iterator[WorkflowRunRecord]:
    last: str | None = None
    while page := backend.runs.list_runs(
        workflow_name=selection.workflow,
        status=None if selection.status is None else selection.status.value,
        since_unix_nano=selection.since_unix_nano,
        undelivered_to=selection.undelivered_to,
        before_run_id=last,
        limit=_PAGE,
    ):
        yield from (run for run in page if run.status != Status.RUNNING)
        last = page[-1].run_id


def read_run(backend: StorageBackend, run: WorkflowRunRecord, *, with_text: bool = False) -> StoredRun:
    """Read all that is kept of a run.

    Args:
        with_text: Also the text of its workflow file, which lists do not have.
    """
    states = backend.execution_states

    def read() -> StoredRun:
        text = states.get_run(run.run_id).config_text if with_text else None
        nodes, spans = states.get_state_history(run.run_id), states.list_spans(run.run_id)
        return StoredRun(replace(run, config_text=text), nodes, spans)

    return backend.together(read)
