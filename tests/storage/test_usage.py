"""What models cost by day: always the sums of the model calls that are kept, whatever came, came twice, or went."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from _records import START_UNIX_NANO, node_record, run_id, run_record, span_record
from _runs import besides_waiting, run_at_once
from _timing import anew, in_one_of_a_few_tries, timely
from configurable_agents.errors import StorageError
from configurable_agents.storage import migrations
from configurable_agents.storage.base import ModelUsage, StorageBackend
from configurable_agents.storage.doctor import examine
from configurable_agents.storage.factory import create_storage_backend
from configurable_agents.storage.pruning import Rules, prune
from configurable_agents.storage.records import DeliveryRecord, SpanRecord
from configurable_agents.storage.upkeep import rebuild_usage, sql_store

Open = Callable[..., StorageBackend]
DAY_NANO = 86_400 * 10**9
FIRST_DAY = datetime.fromtimestamp(START_UNIX_NANO // 10**9, UTC).date()


def call(number: int = 1, *, run: int = 1, day: int = 0, **values: Any) -> SpanRecord:
    """Make a model call that began so many days after the first one."""
    return span_record(number, run=run, **{"start_time_unix_nano": START_UNIX_NANO + day * DAY_NANO, **values})


def summed(spans: Sequence[SpanRecord]) -> list[ModelUsage]:
    """Add up model calls in the plain way."""
    groups: dict[tuple[date, str, str], list[SpanRecord]] = {}
    for span in spans:
        if span.operation == "chat":
            day = datetime.fromtimestamp(span.start_time_unix_nano // 10**9, UTC).date()
            groups.setdefault((day, span.provider or "", span.model or ""), []).append(span)
    return [
        ModelUsage(
            day=day,
            provider=provider or None,
            model=model or None,
            model_calls=len(calls),
            failed_calls=sum(span.error_type is not None for span in calls),
            input_tokens=sum(span.input_tokens or 0 for span in calls),
            output_tokens=sum(span.output_tokens or 0 for span in calls),
            cache_read_tokens=sum(span.cache_read_tokens or 0 for span in calls),
            cache_write_tokens=sum(span.cache_write_tokens or 0 for span in calls),
            reasoning_tokens=sum(span.reasoning_tokens or 0 for span in calls),
            priced_cost_usd=sum(round(span.cost_usd * 1e9) for span in calls if span.cost_usd is not None) / 1e9,
            unpriced_calls=sum(span.cost_usd is None for span in calls),
        )
        for (day, provider, model), calls in sorted(
            groups.items(), key=lambda item: (-item[0][0].toordinal(), *item[0])
        )
    ]


def kept(store: StorageBackend, runs: int = 10) -> list[SpanRecord]:
    return [span for run in range(runs) for span in store.execution_states.list_spans(run_id(run))]


def execute(store: StorageBackend, statement: str) -> Any:
    return sql_store(store).database.run(lambda connection: connection.exec_driver_sql(statement).rowcount, write=True)


def verdict(target: str) -> str:
    return {check.name: check.verdict for check in examine(target, os.environ)}["costs"]


# --- what is counted -------------------------------------------------------------------------------------------------------


def test_calls_are_added_up_by_day_provider_and_model(store: StorageBackend) -> None:
    store.write(
        [
            call(1, cost_usd=0.1, cache_read_tokens=4, reasoning_tokens=2),
            call(2, cost_usd=0.2, cache_write_tokens=3),
            call(3, model="other"),
            call(4, provider="elsewhere"),
            call(5, day=1),
            call(6, operation="execute_tool"),
            call(7, operation=None),
            run_record(1),
            node_record(1),
        ]
    )
    tomorrow, elsewhere, both, other = store.runs.usage_by_model()
    assert [row.day - FIRST_DAY for row in (tomorrow, both)] == [timedelta(1), timedelta(0)]
    assert (elsewhere.provider, other.model) == ("elsewhere", "other")
    assert both == ModelUsage(FIRST_DAY, "fake", "fake-model", 2, 0, 20, 10, 4, 3, 2, 0.3, 0)
    assert (both.cost_usd, both.total_tokens) == (0.3, 30)


def test_a_day_is_one_in_utc_and_begins_at_its_first_nanosecond(store: StorageBackend) -> None:
    midnight = START_UNIX_NANO // DAY_NANO * DAY_NANO
    store.write([call(1, start_time_unix_nano=midnight), call(2, start_time_unix_nano=midnight - 1)])
    assert [row.day for row in store.runs.usage_by_model()] == [FIRST_DAY, FIRST_DAY - timedelta(1)]


def test_days_can_be_asked_for(store: StorageBackend) -> None:
    store.write([call(day, day=day) for day in range(6)])
    second, fourth = FIRST_DAY + timedelta(2), FIRST_DAY + timedelta(4)

    def days(**bounds: date) -> list[int]:
        return [(row.day - FIRST_DAY).days for row in store.runs.usage_by_model(**bounds)]

    assert days(since=second, until=fourth) == [4, 3, 2]
    assert days(since=fourth) == [5, 4]
    assert days(until=date(2000, 1, 1)) == []


def test_a_cost_that_is_not_known_is_counted_and_is_not_zero(store: StorageBackend) -> None:
    store.write([call(1, cost_usd=None, input_tokens=None, error_type="TimeoutError"), call(2, cost_usd=0.5)])
    (row,) = store.runs.usage_by_model()
    assert (row.cost_usd, row.priced_cost_usd, row.unpriced_calls, row.failed_calls) == (None, 0.5, 1, 1)
    store.write([call(3, model="free", cost_usd=0.0)])
    assert [row.cost_usd for row in store.runs.usage_by_model()] == [None, 0.0]


def test_a_provider_or_model_that_nobody_named_is_none(store: StorageBackend) -> None:
    store.write([call(1, provider=None, model=None)])
    (row,) = store.runs.usage_by_model()
    assert (row.provider, row.model) == (None, None)


def test_sums_of_money_are_exact(store: StorageBackend) -> None:
    """A tenth of a cent a thousand times is a dollar."""
    store.write([call(number, cost_usd=0.001) for number in range(1000)])
    assert store.runs.usage_by_model()[0].cost_usd == 1.0


@pytest.mark.parametrize(
    "odd",
    [
        {"input_tokens": 2**63 - 1, "output_tokens": -1},
        {"cost_usd": 1e300},
        {"cost_usd": float("inf")},
        {"cost_usd": float("nan")},
        {"cost_usd": -1.0},
        {"model": "m" * 5000, "provider": "p" * 5000},
        {"model": "a\ud800b"},
    ],
)
def test_an_absurd_number_in_a_span_spoils_no_sum(target: str, store: StorageBackend, odd: dict[str, Any]) -> None:
    """Any program's spans may come; each is kept, and what cannot be true is not added."""
    for number in range(3):
        store.write([call(number, **odd)])
    store.write([call(9)])
    assert len(store.execution_states.list_spans(run_id(1))) == 4
    rows = store.runs.usage_by_model()
    assert sum(row.model_calls for row in rows) == 4
    assert sum(row.priced_cost_usd for row in rows) in (0.001, 0.004)
    assert sum(row.output_tokens for row in rows) in (5, 20)
    assert verdict(target) == "ok"


# --- always the sums of what is there ---------------------------------------------------------------------------------------

calls = st.builds(
    call,
    st.integers(0, 6),
    run=st.integers(1, 3),
    day=st.integers(0, 2),
    operation=st.sampled_from(["chat", "chat", "chat", "execute_tool", None]),
    provider=st.sampled_from(["a", "b", None]),
    model=st.sampled_from(["x", "y", None]),
    input_tokens=st.none() | st.integers(0, 10**6),
    reasoning_tokens=st.none() | st.integers(0, 10**6),
    cost_usd=st.none() | st.floats(0, 1000),
    error_type=st.none() | st.just("TimeoutError"),
)
acts = st.one_of(
    st.tuples(st.sampled_from(["write", "upsert", "take in", "fail"]), st.lists(calls, max_size=8)),
    st.tuples(st.sampled_from(["delete", "prune", "prune by age"]), st.integers(1, 3)),
)


class HaltError(Exception):
    """An error in the middle of a transaction."""


def act(store: StorageBackend, what: str, subject: Any) -> None:
    match what:
        case "write":
            store.write([run_record(1), run_record(2), run_record(3), *subject])
        case "upsert":
            store.execution_states.upsert_spans(subject)
        case "take in":
            store.take_in([subject[:3], subject[3:], subject[:2]])
        case "fail":

            def batches() -> Any:
                yield subject
                raise HaltError

            with pytest.raises(HaltError):
                store.take_in(batches())
        case "delete":
            if any(run.run_id == run_id(subject) for run in store.runs.list_runs()):
                store.runs.delete(run_id(subject))
        case "prune":
            prune(store, Rules(keep_last=subject))
        case "prune by age":
            prune(store, Rules(started_before_unix_nano=START_UNIX_NANO + subject * DAY_NANO, keep_last=2))


@given(st.lists(acts, max_size=10))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_the_rollup_is_the_sum_of_the_calls_whatever_happens_in_any_order(
    store: StorageBackend, acts: list[tuple[str, Any]]
) -> None:
    for run in (1, 2, 3):
        store.write([run_record(run)])
        store.runs.delete(run_id(run))
    execute(store, "DELETE FROM spans")
    execute(store, "DELETE FROM model_usage")
    for what, subject in acts:
        act(store, what, subject)
        assert store.runs.usage_by_model() == summed(kept(store)), what


def test_the_same_calls_again_in_another_order_change_nothing(store: StorageBackend) -> None:
    spans = [call(number, run=1 + number % 5, day=number % 3) for number in range(200)]
    store.write(spans)
    found = store.runs.usage_by_model()
    random.Random(1).shuffle(spans)
    for start in range(0, 200, 70):
        store.write(spans[start : start + 90] * 2)
    assert store.runs.usage_by_model() == found == summed(spans)


def test_a_call_that_comes_again_with_other_figures_changes_nothing(store: StorageBackend) -> None:
    """The first one stays, in the spans and in the sums."""
    store.write([call(1)])
    store.write([replace(call(1), cost_usd=7.0, model="other"), call(2)])
    assert store.runs.usage_by_model() == summed([call(1), call(2)])


def test_writers_and_deleters_at_once_leave_exact_sums_and_never_deadlock(target: str, open_store: Open) -> None:
    """Each writes the days and models in an order of its own, half of it also written by another."""
    problems: list[BaseException] = []

    def write(thread: int) -> None:
        store, dice = open_store(), random.Random(thread)
        try:
            for turn in range(12):
                own, shared = (
                    [call(n, run=run, day=n % 4, model=f"m{n % 3}") for n in range(1, 9)]
                    for run in (thread * 100 + turn, 50 + turn)
                )
                dice.shuffle(own)
                store.write([*dice.sample(shared, 8), *own[:3], run_record(thread * 100 + turn)])
                store.take_in([own[:5], own[5:]])
                if turn % 4 == 3:
                    store.runs.delete(run_id(thread * 100 + turn))
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(1, 5)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert problems == []
    store = open_store()
    found = store.runs.usage_by_model()
    assert sum(row.model_calls for row in found) == (4 * 9 + 12) * 8
    assert verdict(target) == "ok"
    assert rebuild_usage(store) == 0


def test_a_transaction_that_fails_leaves_no_call_counted(store: StorageBackend) -> None:
    store.write([call(1)])
    with pytest.raises(StorageError):
        store.write([call(2), call(3, end_time_unix_nano=2**70)])
    with pytest.raises(StorageError):
        store.write([call(2), *marks_that_fail()])
    assert store.runs.usage_by_model() == summed([call(1)])
    store.write([call(2)])
    assert store.runs.usage_by_model() == summed([call(1), call(2)])


def marks_that_fail() -> list[Any]:
    """Give what is written after the spans of a transaction, and is refused."""
    return [DeliveryRecord(run_id=run_id(1), destination="http://localhost", delivered_at_unix_nano=2**70)]


IMPORTS = """
import os, random, signal, sys, threading, time
from _records import run_record, span_record
from configurable_agents.storage.factory import locate, open_writer
"""
DIE = """
seed = number + 1
writer = open_writer(locate(sys.argv[1]))
def die():
    time.sleep(random.Random(seed).uniform(0.0, 0.15))
    os.kill(os.getpid(), signal.SIGKILL)
call = 0
writer.write([run_record(seed)])
writer.flush(10)
threading.Thread(target=die).start()
while True:
    call += 1
    writer.write([span_record(call, run=seed, model=f"m{call % 3}")])
    os.write(1, b".")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@in_one_of_a_few_tries
def test_what_killed_processes_had_recorded_is_counted_once(tmp_path: Path) -> None:
    """Whatever was in the database, in the journal, or in both when they died."""
    path = anew(tmp_path / "workflows.db")
    code, out, err = run_at_once(IMPORTS, DIE, path, processes=4)
    assert (code, besides_waiting(err)) == (1, [])
    timely(err == "", err)
    written = len(out)
    with closing(create_storage_backend(path)) as store:
        assert len(store.runs.list_runs()) == 4  # journals are taken up
        spans = kept(store)
        assert written <= len(spans) <= written + 4
        assert store.runs.usage_by_model() == summed(spans)
    assert verdict(str(path)) == "ok"


# --- upkeep ----------------------------------------------------------------------------------------------------------------


def test_figures_that_are_wrong_are_found_and_made_anew(target: str, store: StorageBackend) -> None:
    store.write([call(number, day=number) for number in range(3)])
    found = store.runs.usage_by_model()
    assert verdict(target) == "ok"
    first = (FIRST_DAY - date(1970, 1, 1)).days
    execute(store, f"UPDATE model_usage SET priced_nano_usd = priced_nano_usd + 1 WHERE unix_day = {first}")
    execute(store, f"DELETE FROM model_usage WHERE unix_day = {first + 1}")
    assert verdict(target) == "problem"
    assert rebuild_usage(store) == 2
    assert store.runs.usage_by_model() == found
    assert verdict(target) == "ok"
    assert rebuild_usage(store) == 0


def test_a_deleted_row_of_the_rollup_does_not_go_below_zero(store: StorageBackend) -> None:
    """Who deletes rows by hand gets no negative cost."""
    store.write([run_record(1), call(1)])
    execute(store, "DELETE FROM model_usage")
    store.runs.delete(run_id(1))
    assert store.runs.usage_by_model() == []


def test_an_older_store_gets_the_sums_of_what_it_holds(target: str, open_store: Open) -> None:
    spans = [call(n, day=n % 3, model=f"m{n % 2}", cost_usd=[None, 0.1, 0.25][n % 3]) for n in range(20)]
    with closing(open_store()) as store:
        store.write([*spans, call(30, operation=None)])
    config = Config()
    config.set_main_option("script_location", str(Path(str(migrations.__file__)).parent))
    url = target.replace("postgresql:", "postgresql+psycopg:") if "://" in target else f"sqlite:///{target}"
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0003")
        assert "model_usage" not in sa.inspect(connection).get_table_names()
    store = open_store()
    assert store.runs.usage_by_model() == summed(spans)
    assert verdict(target) == "ok"


# --- reading ---------------------------------------------------------------------------------------------------------------


def test_the_view_shows_days_models_and_dollars_to_any_shell(store: StorageBackend) -> None:
    store.write([call(1, cost_usd=0.25), call(2, model=None, cost_usd=None)])
    rows = sql_store(store).database.run(
        lambda connection: connection.exec_driver_sql(
            "SELECT day, model, model_calls, total_tokens, cost_usd, priced_cost_usd FROM costs ORDER BY cost_usd"
        ).all()
    )
    assert {tuple(row) for row in rows} == {
        (FIRST_DAY.isoformat(), "fake-model", 1, 15, 0.25, 0.25),
        (FIRST_DAY.isoformat(), None, 1, 15, None, 0.0),
    }


def test_a_store_opened_for_reading_can_be_asked(target: str, open_store: Open) -> None:
    open_store().write([call(1)])
    assert open_store(read_only=True).runs.usage_by_model() == summed([call(1)])


def test_a_batch_without_model_calls_costs_nothing_more(store: StorageBackend) -> None:
    """Rows of the rollup are what several writers of a server wait for."""
    store.write([call(1)])
    execute(store, "DROP VIEW costs")
    execute(store, "DROP TABLE model_usage")
    store.write([run_record(1), node_record(1), call(2, operation="execute_tool")])
    with pytest.raises(StorageError):
        store.write([call(3)])
