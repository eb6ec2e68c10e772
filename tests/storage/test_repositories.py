"""What a repository is; every implementation runs this."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import MISSING, replace

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from _odd_records import node_records, run_records, span_records
from _records import START_UNIX_NANO, node_record, run_id, run_record, span_record
from configurable_agents.errors import RunNotFoundError, StorageError
from configurable_agents.semconv import Status
from configurable_agents.storage.base import Completion, StorageBackend
from configurable_agents.storage.records import (
    ExecutionStateRecord,
    Record,
    SpanKey,
    SpanRecord,
    WorkflowRunRecord,
    sparse,
    status_rank,
)

# The store outlives the examples: what one example wrote is deleted, or has keys of its own.
on_one_store = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

CONFIG = "flow:\n  name: support\n"


def test_a_store_unpacks_as_its_pair_of_repositories(store: StorageBackend) -> None:
    runs, states = store
    assert runs is store.runs
    assert states is store.execution_states


def test_a_run_comes_back_with_its_config_text(store: StorageBackend) -> None:
    record = run_record(config_sha256="ab" * 32, config_text=CONFIG, inputs_json='{"b": 1, "a": "\\u0000"}')
    store.runs.add(record)
    assert store.runs.get(record.run_id) == record
    assert store.runs.list_runs() == [replace(record, config_text=None)]


def test_a_config_text_without_a_hash_is_kept_by_the_hash_of_its_bytes(store: StorageBackend) -> None:
    store.runs.add(run_record(config_text=CONFIG))
    found = store.runs.get("last")
    assert found.config_text == CONFIG
    assert found.config_sha256 == hashlib.sha256(CONFIG.encode()).hexdigest()


@given(
    runs=st.lists(run_records, max_size=5, unique_by=lambda run: run.run_id),
    states=st.lists(node_records, max_size=5),
    spans=st.lists(span_records, max_size=5),
    data=st.data(),
)
@on_one_store
def test_records_come_back_as_they_went_in_even_if_sent_twice_and_in_any_order(
    store: StorageBackend,
    runs: list[WorkflowRunRecord],
    states: list[ExecutionStateRecord],
    spans: list[SpanRecord],
    data: st.DataObject,
) -> None:
    records: list[Record] = [*_unique(runs), *_unique(states), *_unique([span for span in spans if span.run_id])]
    try:
        for record in data.draw(st.permutations([*records, *records])):
            store.write([record])
        store.write(data.draw(st.permutations([*records, *records])))
        assert _everything(store) == {_key(record): record for record in records}
    finally:
        _empty(store, records)


@given(statuses=st.lists(st.sampled_from([status.value for status in Status]), min_size=1, max_size=5), data=st.data())
@on_one_store
def test_what_becomes_of_a_record_depends_on_which_statuses_came_not_on_their_order(
    store: StorageBackend, statuses: list[str], data: st.DataObject
) -> None:
    terminal = next((status for status in statuses if status_rank(status) == 2), None)
    came = [status if status_rank(status) < 2 else str(terminal) for status in statuses]
    expected = max(came, key=status_rank)
    sent = data.draw(st.permutations(came))
    cut = data.draw(st.integers(0, len(sent)))
    try:
        for part in (sent[:cut], sent[cut:]):
            store.write([node_record(status=status, error_message=f"as {status}") for status in part])
            store.write([run_record(status=status, error_message=f"as {status}") for status in part])
        node = store.execution_states.get_latest_state(run_id())
        assert node is not None
        assert (node.status, node.error_message) == (expected, f"as {expected}")
        run = store.runs.get(run_id())
        assert (run.status, run.error_message) == (expected, f"as {expected}")
    finally:
        store.runs.delete(run_id())


def test_a_start_record_that_comes_late_does_not_reopen_a_finished_run(store: StorageBackend) -> None:
    store.runs.add(run_record(status="completed"))
    store.runs.add(run_record(status="running"))
    store.runs.update_status(run_id(), "interrupted")
    assert store.runs.get("last").status == "completed"


def test_a_run_that_was_thought_dead_may_still_finish(store: StorageBackend) -> None:
    store.runs.add(run_record(status="running"))
    store.runs.update_status(run_id(), Status.INTERRUPTED)
    assert store.runs.get("last").status == "interrupted"
    store.runs.add(run_record(status="failed"))
    assert store.runs.get("last").status == "failed"


def test_the_same_span_again_changes_nothing(store: StorageBackend) -> None:
    store.execution_states.upsert_spans([span_record(model="first")])
    store.execution_states.upsert_spans([span_record(model="second"), span_record(2)])
    assert [span.model for span in store.execution_states.list_spans(run_id())] == ["first", "fake-model"]


def test_one_span_id_in_two_traces_is_two_spans(store: StorageBackend) -> None:
    """Span ids are only unique within a trace."""
    store.write([span_record(1), span_record(1, trace_id="f" * 32), span_record(1, trace_id="e" * 32)])
    assert len(store.execution_states.list_spans(run_id())) == 3


def test_a_span_of_a_foreign_program_belongs_to_no_run(store: StorageBackend) -> None:
    store.write([span_record(run_id=None)])
    assert store.execution_states.list_spans(run_id()) == []


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 300])
def test_a_batch_of_any_size_is_written_whole(store: StorageBackend, count: int) -> None:
    records = [node_record(seq) for seq in range(1, count + 1)]
    store.write([*records, run_record(), *(span_record(number) for number in range(count))])
    assert store.execution_states.get_state_history(run_id()) == records
    assert len(store.execution_states.list_spans(run_id())) == count


@pytest.mark.parametrize("odd", [None, 1, 100])
def test_what_a_record_does_not_say_is_as_its_kind_has_it(store: StorageBackend, odd: int | None) -> None:
    """A span's record says little; what it leaves out replaces what was stored, also beside one that says everything."""
    before = [node_record(seq, status="running", error_message="before", attempts=3) for seq in range(1, 101)]
    store.write([run_record(status="running", error_message="before", cost_usd=None), *before])
    nodes = [node_record(seq, cost_usd=None if seq == odd else 0.0) for seq in range(1, 101)]
    run = run_record(input_tokens=7 if odd else 0)
    records: list[Record] = [run, *nodes]
    store.write([_said(record) for record in records])
    assert store.execution_states.get_state_history(run_id()) == nodes
    assert store.runs.get(run_id()) == run


def _said(record: Record) -> Record:
    """Give the same record as a span's: made of what is not at its default."""
    values = {name: value for name, value in vars(record).items() if value != getattr(type(record), name, MISSING)}
    return sparse(type(record), values)


def test_an_empty_write_does_nothing(store: StorageBackend) -> None:
    store.write([])
    store.runs.upsert_many([])
    store.execution_states.upsert_many([])
    store.execution_states.upsert_spans([])
    assert store.runs.list_runs() == []


def test_a_write_is_all_or_nothing(store: StorageBackend) -> None:
    """Half a run would be worse than none: the caller sends the same records again."""
    too_large = span_record(input_tokens=2**70)
    with pytest.raises(StorageError):
        store.write([run_record(), node_record(), too_large])
    assert store.runs.list_runs() == []
    assert store.execution_states.get_state_history(run_id()) == []
    store.write([run_record(), node_record()])
    assert len(store.runs.list_runs()) == 1


def test_an_error_message_with_characters_that_no_database_takes_is_kept_readable(store: StorageBackend) -> None:
    store.write([run_record(error_message="be\x00fore \ud800 after", status="failed"), node_record()])
    message = store.runs.get("last").error_message or ""
    assert message.startswith("be")
    assert message.endswith(" after")
    assert store.execution_states.get_latest_state(run_id()) is not None
    message.encode()


def test_json_comes_back_byte_by_byte(store: StorageBackend) -> None:
    text = '{"z": 1,  "a": "\\u0000 \\ud83d\\ude00 ü", "z": 1e400, "n": 12345678901234567890123}'
    store.write([node_record(outputs_json=text, attributes_json=text)])
    (found,) = store.execution_states.get_state_history(run_id())
    assert (found.outputs_json, found.attributes_json) == (text, text)


def test_large_content_is_kept_whole(store: StorageBackend) -> None:
    outputs = {"text": "ü" * 3_000_000}
    store.write([node_record(outputs=outputs)])
    (found,) = store.execution_states.get_state_history(run_id())
    assert found.outputs == outputs


def test_a_unique_beginning_of_an_id_is_enough(store: StorageBackend) -> None:
    store.write([run_record(1), run_record(2), run_record(3, run_id="zz%_-1")])
    assert store.runs.get(run_id(2)).run_id == run_id(2)
    assert store.runs.get("zz%").run_id == "zz%_-1"
    assert store.runs.get("last").run_id == "zz%_-1"
    with pytest.raises(RunNotFoundError) as caught:
        store.runs.get(run_id()[:8])
    assert caught.value.candidates == (run_id(2), run_id(1))


def test_a_whole_id_is_found_even_if_it_begins_another(store: StorageBackend) -> None:
    store.write([run_record(1, run_id="a"), run_record(2, run_id="ab")])
    assert store.runs.get("a").run_id == "a"


@pytest.mark.parametrize("wanted", ["", "x", "%", "_", "\x00", "\ud800", "last", "ü" * 100])
def test_an_id_that_is_not_there_is_said_to_be_missing(store: StorageBackend, wanted: str) -> None:
    with pytest.raises(RunNotFoundError) as caught:
        store.runs.get(wanted)
    assert caught.value.candidates == ()
    with pytest.raises(RunNotFoundError):
        store.execution_states.get_run(wanted)
    with pytest.raises(RunNotFoundError):
        store.runs.delete(wanted)


def test_runs_are_listed_newest_first_page_by_page(store: StorageBackend) -> None:
    store.write([run_record(number) for number in (3, 1, 5, 2, 4)])
    first = store.runs.list_runs(limit=2)
    second = store.runs.list_runs(limit=2, before_run_id=first[-1].run_id)
    third = store.runs.list_runs(limit=2, before_run_id=second[-1].run_id)
    assert [run.run_id for run in (*first, *second, *third)] == [run_id(number) for number in (5, 4, 3, 2, 1)]


def test_runs_are_listed_by_workflow_status_and_time(store: StorageBackend) -> None:
    statuses = ["running", "completed", "failed", "cancelled", "interrupted", "failed"]
    store.write(
        [
            run_record(number, status=status, workflow_name=name)
            for number, (status, name) in enumerate(itertools.product(statuses, ["support", "digest"]), start=1)
        ]
    )
    for status in statuses:
        listed = store.runs.list_runs(status=status)
        assert {run.status for run in listed} == {status}
        assert len(listed) == 2 * statuses.count(status)
    assert {run.workflow_name for run in store.runs.list_by_workflow("digest")} == {"digest"}
    failed = store.runs.list_runs(workflow_name="digest", status="failed")
    assert [run.run_id for run in failed] == [run_id(12), run_id(6)]
    since = store.runs.list_runs(since_unix_nano=START_UNIX_NANO + 11 * 1_000_000)
    assert [run.run_id for run in since] == [run_id(12), run_id(11)]
    assert store.runs.list_runs(workflow_name="\x00") == []


def test_history_is_in_the_order_of_seq_whatever_came_first(store: StorageBackend) -> None:
    for seq in (3, 1, 2):
        store.execution_states.save_state(node_record(seq))
    assert [state.seq for state in store.execution_states.get_state_history(run_id())] == [1, 2, 3]
    latest = store.execution_states.get_latest_state(run_id())
    assert latest is not None
    assert latest.seq == 3


def test_a_run_without_node_executions_has_no_latest_state(store: StorageBackend) -> None:
    store.runs.add(run_record())
    assert store.execution_states.get_latest_state(run_id()) is None
    assert store.execution_states.get_state_history(run_id()) == []


def test_totals_given_by_hand_count_for_a_run_without_node_executions(store: StorageBackend) -> None:
    store.write([run_record(1, status="running"), run_record(2, status="running", node_executions=1, input_tokens=7)])
    completion = Completion(status="completed", end_time_unix_nano=5, input_tokens=100, output_tokens=1, cost_usd=0.25)
    for number in (1, 2):
        store.runs.update_run_completion(run_id(number), completion)
    by_hand, counted = store.runs.get(run_id(1)), store.runs.get(run_id(2))
    assert (by_hand.total_tokens, by_hand.cost_usd, by_hand.priced_cost_usd) == (101, 0.25, 0.25)
    assert (counted.total_tokens, counted.cost_usd) == (7, 0.0)
    assert (counted.status, counted.end_time_unix_nano) == ("completed", 5)


def test_an_unknown_cost_is_none_and_never_zero(store: StorageBackend) -> None:
    store.write([run_record(cost_usd=None), node_record(cost_usd=None), span_record(cost_usd=None)])
    (state,) = store.execution_states.get_state_history(run_id())
    (span,) = store.execution_states.list_spans(run_id())
    assert (store.runs.get("last").cost_usd, state.cost_usd, span.cost_usd) == (None, None, None)


def test_an_interrupt_amid_a_write_arrives_as_itself_and_leaves_the_store_usable(store: StorageBackend) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    store.write([run_record()])
    sa.event.listen(sa.Engine, "before_cursor_execute", interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            store.runs.delete(run_id())
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", interrupt)
    assert store.runs.get(run_id()) == run_record()
    store.runs.delete(run_id())
    assert store.runs.list_runs() == []


def test_deleting_a_run_deletes_all_that_is_its_own_and_nothing_else(store: StorageBackend) -> None:
    sha = "cd" * 32
    for number in (1, 2):
        store.write([run_record(number, config_sha256=sha, config_text=CONFIG)])
        store.write([node_record(run=number), span_record(run=number)])
    store.runs.delete(run_id(1))
    with pytest.raises(RunNotFoundError):
        store.runs.get(run_id(1))
    assert store.execution_states.get_state_history(run_id(1)) == []
    assert store.execution_states.list_spans(run_id(1)) == []
    assert store.runs.get(run_id(2)).config_text == CONFIG
    assert len(store.execution_states.get_state_history(run_id(2))) == 1
    assert len(store.execution_states.list_spans(run_id(2))) == 1


def test_records_of_one_span_are_one_row_whatever_trace_they_name(store: StorageBackend) -> None:
    """Also within one statement, in which PostgreSQL refuses to touch a row twice."""
    for make in (run_record, node_record):
        store.write([make(trace_id="a" * 32), make(trace_id="b" * 32, status="running")])
        store.write([make(trace_id="c" * 32, status="interrupted")])
    store.write([node_record(2, span_id=node_record(1).span_id), node_record(1, run=2, span_id=node_record(1).span_id)])
    (run,) = store.runs.list_runs()
    assert (run.trace_id, run.status) == ("a" * 32, "completed")
    assert [(node.seq, node.status) for node in store.execution_states.get_state_history(run_id())] == [
        (1, "completed"),
        (2, "completed"),
    ]
    assert len(store.execution_states.get_state_history(run_id(2))) == 1


def test_what_went_on_in_a_dead_process_is_interrupted_however_many_it_was(store: StorageBackend) -> None:
    """A map over a long list has many items open at once. What had ended, and other processes' runs, stay as they are."""
    made: list[Record] = [run_record(run, status="running", node_executions=7) for run in (1, 2, 3)]
    made += [node_record(seq, run=run, status="running") for run in (1, 2) for seq in range(1, 1003)]
    store.write([*made, node_record(7), node_record(1, run=3, status="running")])
    keys = [SpanKey(one.run_id, one.span_id, one.trace_id) for one in made if one.run_id in (run_id(1), run_id(2))]
    store.mark_interrupted(keys[:2], keys[2:])
    assert [run.status for run in store.runs.list_runs()] == ["running", "interrupted", "interrupted"]
    assert [run.node_executions for run in store.runs.list_runs()] == [7, 1002, 1002]
    statuses = [
        [node.status for node in store.execution_states.get_state_history(run_id(run))].count for run in (1, 2, 3)
    ]
    assert [count("interrupted") for count in statuses] == [1001, 1002, 0]
    assert [count("completed") for count in statuses] == [1, 0, 0]


@pytest.mark.parametrize("others", [[3], [7], [4, 6]])
def test_a_config_text_stays_while_any_other_run_has_it(store: StorageBackend, others: list[int]) -> None:
    """An older one, a newer one, one of another name; runs in between have other texts."""
    for number in range(1, 10):
        sha = "cd" * 32 if number in (5, *others) else f"{number:064}"
        name = "another" if number in (4, 6) else "support"
        store.runs.add(run_record(number, workflow_name=name, config_sha256=sha, config_text=CONFIG))
    for number in (5, *others):
        assert store.runs.get(run_id(number)).config_text == CONFIG
        store.runs.delete(run_id(number))
    store.runs.add(run_record(5, config_sha256="cd" * 32))
    assert store.runs.get(run_id(5)).config_text is None
    assert [run.config_sha256 for run in store.runs.list_runs() if store.runs.get(run.run_id).config_text is None] == [
        "cd" * 32
    ]


def test_a_config_text_goes_with_the_last_run_that_had_it(store: StorageBackend) -> None:
    sha = "cd" * 32
    store.runs.add(run_record(1, config_sha256=sha, config_text=CONFIG))
    store.runs.delete(run_id(1))
    store.runs.add(run_record(2, config_sha256=sha))
    assert store.runs.get(run_id(2)).config_text is None


def test_a_store_can_be_read_after_it_was_closed_and_opened_again(open_store: Callable[..., StorageBackend]) -> None:
    first = open_store()
    first.write([run_record(), node_record()])
    first.close()
    second = open_store()
    assert second.runs.get("last").run_id == run_id()
    with pytest.raises(StorageError, match="is closed"):
        first.runs.list_runs()


def test_a_store_opened_for_reading_reads_and_refuses_to_write(open_store: Callable[..., StorageBackend]) -> None:
    open_store().write([run_record(), node_record()])
    reader = open_store(read_only=True)
    assert reader.runs.get("last").run_id == run_id()
    assert len(reader.execution_states.get_state_history(run_id())) == 1
    with pytest.raises(StorageError):
        reader.runs.add(run_record(2))


def test_reading_where_no_store_is_says_so_and_makes_none(open_store: Callable[..., StorageBackend]) -> None:
    for _ in range(2):
        with pytest.raises(StorageError, match="there is no store at"):
            open_store(read_only=True)


def _unique(
    records: list[Record] | list[WorkflowRunRecord] | list[ExecutionStateRecord] | list[SpanRecord],
) -> list[Record]:
    return list({(record.span_id, record.trace_id): record for record in records}.values())


def _key(record: Record) -> tuple[str, str, str]:
    return type(record).__name__, record.span_id, record.trace_id


def _everything(store: StorageBackend) -> dict[tuple[str, str, str], Record]:
    found: list[Record] = list(store.runs.list_runs(limit=1000))
    for number in range(1, 6):
        found += store.execution_states.get_state_history(run_id(number))
        found += store.execution_states.list_spans(run_id(number))
    assert len(found) == len({_key(record) for record in found})
    return {_key(record): record for record in found}


def _empty(store: StorageBackend, records: list[Record]) -> None:
    """Delete runs through the public face: node executions need a run for that."""
    ids = {record.run_id for record in records}
    for number, run in enumerate(sorted(str(run) for run in ids)):
        store.runs.add(run_record(span_id=f"{number + 2**63:016x}", run_id=run))
        store.runs.delete(run)
