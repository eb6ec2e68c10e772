"""A store whose n-th write fails, for every n: the run does not notice, and in the end everything is there, once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import pytest

from _faults import CHAIN, FaultyBackend, everything, lost_or_wrong
from _records import node_record, run_record, span_record
from _runs import eventually, rows
from configurable_agents import create_storage_backend, run_workflow
from configurable_agents.errors import StorageError
from configurable_agents.semconv import Status
from configurable_agents.storage.records import Record
from configurable_agents.storage.recovery import segments
from configurable_agents.storage.writer import Writer

How = Literal["once", "for ever", "after"]

HOW = pytest.mark.parametrize("how", get_args(How))
ERRORS = pytest.mark.parametrize(
    "error",
    [lambda: StorageError("it failed"), lambda: RuntimeError("a bug"), lambda: SystemExit(3)],
    ids=["away", "bug", "exit"],
)

WRITTEN: list[list[Record]] = [
    [run_record(status=Status.RUNNING)],
    [node_record(1, status=Status.RUNNING)],
    [span_record(1), node_record(1)],
    [node_record(2, status=Status.RUNNING)],
    [node_record(2)],
    [run_record(node_executions=2)],
]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[list[object]]:
    """What a store that never fails holds in the end."""
    store = tmp_path_factory.mktemp("expected") / "runs.db"
    backend = create_storage_backend(store)
    for records in WRITTEN:
        backend.write(records)
    backend.close()
    return everything(store)


@HOW
@ERRORS
def test_whichever_write_fails_every_record_is_there_once_in_the_end(
    tmp_path: Path, how: How, error: Callable[[], BaseException], expected: list[list[object]]
) -> None:
    for nth in itertools.count(1):
        store = tmp_path / f"{nth}.db"
        faulty = FaultyBackend(create_storage_backend(store), nth=nth, how=how, error=error)
        writer = Writer(None, journals=faulty.journals, backend=faulty)
        for records in WRITTEN:
            writer.write(records)
            if how != "for ever":
                assert writer.flush(10)
        writer.close()
        faulty.close()
        assert writer.dropped_records == 0
        backend = create_storage_backend(store)
        backend.runs.list_runs()
        left = [path for journal in backend.journals for path in segments(journal)]
        backend.close()
        assert left == []
        assert everything(store) == expected
        if not faulty.was_reached or how == "for ever":
            # A store that fails for ever is tried again and again, so that every n would be reached in time.
            break
    assert nth > len(WRITTEN) or how == "for ever"


def acting(faulty: FaultyBackend) -> Callable[[], int]:
    """Give a node's function that waits until there was a write for each of its calls before: a run has several."""
    calls = itertools.count()

    def act() -> int:
        before = next(calls)
        eventually(lambda: faulty.writes >= before)
        return 7

    return act


@HOW
def test_a_run_on_a_store_that_fails_gives_the_same_result_and_is_kept_in_the_end(tmp_path: Path, how: How) -> None:
    for nth in itertools.count(1):
        store = tmp_path / f"{nth}.db"
        faulty = FaultyBackend(create_storage_backend(store), nth=nth, how=how, error=lambda: StorageError("injected"))
        result = run_workflow(CHAIN, functions={"act": acting(faulty)}, store=faulty)
        assert result.degraded or how != "for ever"
        assert (result.status, result.outputs) == ("completed", {"x": 7, "y": "yes"})
        faulty.heal()
        assert eventually(partial(rows, store, "SELECT 1 FROM workflow_runs WHERE status = 'completed'"))
        assert lost_or_wrong(store, [], by_the_dead=False) == []
        assert rows(store, "SELECT count(*) FROM execution_states WHERE status = 'completed'") == [(5,)]
        assert rows(store, "SELECT count(*), sum(cost_usd) FROM spans") == [(1, pytest.approx(20e-6))]
        if not faulty.was_reached or (how == "for ever" and nth > 3):
            break
    assert nth > 3
