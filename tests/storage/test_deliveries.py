"""Marks of where runs have been delivered to, and records that come from another store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from _records import START_UNIX_NANO, node_record, run_id, run_record, span_record
from configurable_agents.errors import StorageError
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.pruning import Rules, prune
from configurable_agents.storage.records import DeliveryRecord, Record, RunId, WorkflowRunRecord
from configurable_agents.storage.upkeep import sql_store

HERE, THERE = "http://127.0.0.1:4318", "https://jaeger.example:4317"
LATER = START_UNIX_NANO + 10**15


def mark(run: RunId, destination: str = HERE, at: int = LATER) -> DeliveryRecord:
    return DeliveryRecord(run_id=run, destination=destination, delivered_at_unix_nano=at)


def ended(number: int, **values: object) -> WorkflowRunRecord:
    end = START_UNIX_NANO + number * 1_000_000 + 500
    return run_record(number, **{"trace_flags": 1, "end_time_unix_nano": end, **values})


def pending(store: StorageBackend, destination: str = HERE) -> list[str]:
    return [run.run_id for run in store.runs.list_runs(undelivered_to=destination)]


# --- marks ---------------------------------------------------------------------------------------------------------------


def test_pending_is_what_has_ended_was_sampled_and_has_no_mark_for_that_destination(store: StorageBackend) -> None:
    store.write(
        [
            ended(1),
            ended(2, status="failed"),
            ended(3, status="interrupted", end_time_unix_nano=None),
            ended(4, trace_flags=0),
            ended(5, status="running", end_time_unix_nano=None),
            ended(6, trace_flags=0x201),
        ]
    )
    assert pending(store) == [run_id(number) for number in (6, 3, 2, 1)]
    store.runs.mark_delivered([mark(run_id(1)), mark(run_id(3)), mark(run_id(2), THERE)])
    assert pending(store) == [run_id(6), run_id(2)]
    assert pending(store, THERE) == [run_id(6), run_id(3), run_id(1)]
    assert [run.run_id for run in store.runs.list_runs(undelivered_to=HERE, status="failed")] == [run_id(2)]


def test_a_mark_may_come_with_its_run_in_one_transaction(store: StorageBackend) -> None:
    store.write([mark(run_id(1)), ended(1), mark(run_id(1), THERE)])
    assert store.runs.list_deliveries(run_id(1)) == [mark(run_id(1)), mark(run_id(1), THERE)]
    assert pending(store) == []


def test_a_mark_of_a_run_that_is_not_there_is_none(store: StorageBackend) -> None:
    """Its run may have been deleted while it was on its way; the same id will not come again."""
    store.runs.mark_delivered([mark(run_id(1))])
    store.write([ended(1)])
    assert pending(store) == [run_id(1)]


def test_the_last_of_several_deliveries_counts(store: StorageBackend) -> None:
    store.write([ended(1)])
    for at in (LATER, LATER + 5, LATER + 2):
        store.runs.mark_delivered([mark(run_id(1), at=at)])
    assert store.runs.list_deliveries(run_id(1)) == [mark(run_id(1), at=LATER + 5)]


def test_a_run_that_ends_after_it_was_delivered_as_interrupted_is_pending_again(store: StorageBackend) -> None:
    """It was taken for dead; what was delivered lacks its end."""
    store.write([ended(1, status="interrupted", end_time_unix_nano=None)])
    store.runs.mark_delivered([mark(run_id(1), at=START_UNIX_NANO)])
    assert pending(store) == []
    store.write([ended(1)])
    assert pending(store) == [run_id(1)]


def _delete(store: StorageBackend) -> None:
    store.runs.delete(run_id(1))


def _prune(store: StorageBackend) -> None:
    prune(store, Rules(keep_last=1))


@pytest.mark.parametrize("remove", [_delete, _prune])
def test_marks_go_with_their_run(store: StorageBackend, remove: Callable[[StorageBackend], None]) -> None:
    store.write([ended(1), mark(run_id(1)), ended(2), mark(run_id(2)), mark(run_id(2), THERE)])
    remove(store)
    counted = sql_store(store).database.run(
        lambda connection: connection.exec_driver_sql("SELECT run_id FROM run_deliveries").scalars().all()
    )
    assert counted == [run_id(2), run_id(2)]


def test_pruning_takes_marks_along_that_lost_their_run(store: StorageBackend) -> None:
    store.write([ended(1), ended(2), mark(run_id(1))])
    database = sql_store(store).database
    database.run(lambda c: c.exec_driver_sql(f"DELETE FROM workflow_runs WHERE run_id = '{run_id(1)}'"), write=True)
    prune(store, Rules(keep_last=10))
    assert store.runs.list_deliveries(run_id(1)) == []


# --- taking in -----------------------------------------------------------------------------------------------------------


def everything(store: StorageBackend) -> list[Record]:
    found: list[Record] = []
    for run in store.runs.list_runs():
        states = store.execution_states
        found.append(store.runs.get(run.run_id))
        found += [*states.get_state_history(run.run_id), *states.list_spans(run.run_id)]
    return found


def test_what_is_taken_in_is_there_and_the_same_again_changes_nothing(store: StorageBackend) -> None:
    records: list[Record] = [ended(1, config_text="flow: 1", config_sha256="ab" * 32), node_record(), span_record()]
    assert store.take_in([records[:1], records[1:]]) == 3
    assert everything(store) == records
    assert store.take_in([records, records]) == 0
    assert everything(store) == records


def test_what_is_here_stays_as_it_is(store: StorageBackend) -> None:
    """The file may hold less: content is left out of what was shipped."""
    store.write([ended(1, inputs_json='{"topic": "tea"}'), node_record(), span_record()])
    before = everything(store)
    poorer: list[Record] = [ended(1, inputs_json=None), node_record(outputs_json=None), span_record(model=None)]
    assert store.take_in([poorer]) == 0
    assert everything(store) == before


def test_a_run_that_was_interrupted_here_takes_its_end_from_another_store(store: StorageBackend) -> None:
    store.write([ended(1, status="interrupted"), node_record(status="interrupted")])
    assert store.take_in([[ended(1, status="failed"), node_record(status="failed")]]) == 2
    assert store.runs.get("last").status == "failed"


def test_a_run_that_goes_on_here_is_not_interrupted_by_a_file(store: StorageBackend) -> None:
    store.write([ended(1, status="running")])
    assert store.take_in([[ended(1, status="interrupted")]]) == 0
    assert store.runs.get("last").status == "running"


def test_an_error_in_the_middle_leaves_nothing(store: StorageBackend) -> None:
    def batches() -> Iterator[Sequence[Record]]:
        yield [ended(1), node_record()]
        raise ValueError("the file ends in the middle of a line")

    with pytest.raises(ValueError, match="in the middle"):
        store.take_in(batches())
    assert store.runs.list_runs() == []
    store.write([ended(2)])  # the transaction is over
    with pytest.raises(StorageError):
        store.take_in([[ended(1)], [replace(ended(3), node_executions=2**70)]])
    assert [run.run_id for run in store.runs.list_runs()] == [run_id(2)]


@given(
    statuses=st.lists(st.sampled_from(["running", "interrupted", "completed"]), min_size=1, max_size=4),
    taken=st.sampled_from(["interrupted", "completed"]),
)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_taking_in_never_takes_an_end_away(store: StorageBackend, statuses: list[str], taken: str) -> None:
    try:
        for status in statuses:
            store.write([ended(1, status=status)])
        before = store.runs.get(run_id(1)).status
        store.take_in([[ended(1, status=taken)]])
        after = store.runs.get(run_id(1)).status
        assert after == (taken if taken == "completed" else before)
    finally:
        store.runs.delete(run_id(1))
