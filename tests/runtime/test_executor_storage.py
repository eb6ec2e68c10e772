"""What a run leaves in its store, and what it does where there is none."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from _both_ways import both_ways
from _plain_user import plain_user
from _runs import Run, calls, chain, eventually, field, kept, rows
from _timing import LateError, in_one_of_a_few_tries, timely, within
from _workflows import make
from configurable_agents import (
    NodeExecutionError,
    StorageError,
    Workflow,
    create_storage_backend,
    run_workflow,
)
from configurable_agents.storage.factory import REQUIRED_SECONDS

DOUBLE = {"double": lambda x: x * 2}


def doubling(**storage: Any) -> Workflow:
    """One node that doubles a number."""
    return make(
        [calls("double", "x", x="{x}")],
        chain("START double END"),
        {"x": field("int", required=True)},
        {"storage": storage} if storage else None,
        name="doubling",
    )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@contextmanager
def locked(store: Path) -> Iterator[Callable[[], object]]:
    """Hold a store's write lock, as another program may; gives what lets go of it before the block is left."""
    with closing(sqlite3.connect(store, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield other.rollback
        other.rollback()


@both_ways
def test_the_run_is_in_the_store_as_running_before_its_first_node_starts(run: Run, store: Path) -> None:
    seen: list[Any] = []

    def double(x: int) -> int:
        seen.extend(rows(store, "SELECT run_id, status, workflow_name, inputs_json FROM workflow_runs"))
        return x * 2

    result = run(doubling(), {"x": 2}, functions={"double": double}, store=store)
    assert seen == [(result.run_id, "running", "doubling", '{"x":2}')]


@both_ways
@in_one_of_a_few_tries
def test_the_run_is_updated_when_it_completes(run: Run, store: Path) -> None:
    result = run(doubling(), {"x": 2}, functions=DOUBLE, store=store)
    stored = kept(store, result.run_id)
    assert (stored.run.status, stored.run.status_code, stored.run.error_message) == ("completed", "OK", None)
    assert stored.run.duration_seconds == result.duration_seconds
    assert stored.run.end_time_unix_nano is not None
    assert stored.run.end_time_unix_nano >= stored.run.start_time_unix_nano
    assert (stored.run.node_executions, stored.run.trace_id) == (1, result.trace_id)
    assert stored.said() == [("double", "completed")]
    assert stored.node("double").outputs == {"x": 4}
    assert (result.outputs, result.store) == ({"x": 4}, str(store))
    timely(not result.degraded)


@both_ways
def test_the_run_is_updated_when_it_fails(run: Run, store: Path) -> None:
    with pytest.raises(NodeExecutionError) as caught:
        run(doubling(), {"x": 0}, functions={"double": lambda x: 1 / x}, store=store)
    stored = kept(store, caught.value.run_id)
    assert (stored.run.status, stored.run.status_code) == ("failed", "ERROR")
    assert (stored.run.error_type, stored.run.error_message) == ("ZeroDivisionError", "division by zero")
    assert stored.said() == [("double", "failed")]


DYING = """
import os, sys
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow
both = make([calls("a", "x"), calls("b", "x")], chain("START a b END"), {"x": field("int")})
run_workflow(both, functions={"a": lambda: 1, "b": lambda: os._exit(9)}, store=sys.argv[1])
"""


def test_a_node_that_finished_survives_whatever_the_next_one_does(store: Path) -> None:
    """Nothing that was paid for is lost, and a dead run is not shown as running."""
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(store)], env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert done.returncode == 9
    backend = create_storage_backend(store)
    (run,) = backend.runs.list_runs()
    states = backend.execution_states.get_state_history(run.run_id)
    assert (run.status, run.node_executions) == ("interrupted", 2)
    assert [(state.node_id, state.status, state.outputs) for state in states] == [
        ("a", "completed", {"x": 1}),
        ("b", "interrupted", {}),
    ]
    backend.close()


@pytest.mark.alone
@both_ways
@in_one_of_a_few_tries
def test_a_locked_store_changes_nothing_but_degraded_and_one_warning(
    run: Run, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    run(doubling(), {"x": 1}, functions=DOUBLE, store=store)
    assert kept(store).run.status == "completed"
    with locked(store), caplog.at_level(logging.WARNING):
        with within(0.2 + 0.3):  # at most 200 ms at the end, and some room
            result = run(doubling(), {"x": 2}, functions=DOUBLE, store=store)
        # The run does not wait until the database has said why.
        eventually(lambda: any(str(store) in one.getMessage() for one in caplog.records))
    assert (result.outputs, result.status, result.degraded) == ({"x": 4}, "completed", True)
    said = [one.getMessage() for one in caplog.records if str(store) in one.getMessage()]
    assert len(said) == 1, caplog.text
    assert "locked" in said[0]


@in_one_of_a_few_tries
def test_a_store_that_the_call_names_is_missed_also_where_the_file_wants_none(store: Path) -> None:
    """Who names one wants to know whether it has the run."""
    timely(not run_workflow(doubling(enabled=False), {"x": 1}, functions=DOUBLE, store=store).degraded)
    with locked(store):
        assert run_workflow(doubling(enabled=False), {"x": 2}, functions=DOUBLE, store=store).degraded


def test_records_arrive_when_a_locked_store_is_free_again(store: Path) -> None:
    run_workflow(doubling(), {"x": 1}, functions=DOUBLE, store=store)
    with locked(store):
        first = run_workflow(doubling(), {"x": 2}, functions=DOUBLE, store=store)
        with pytest.raises(NodeExecutionError) as caught:
            run_workflow(doubling(), {"x": 3}, functions={"double": lambda x: 1 / 0}, store=store)
    eventually(lambda: kept(store, caught.value.run_id).run.status == "failed")
    stored = kept(store, first.run_id)
    assert (stored.run.status, stored.said()) == ("completed", [("double", "completed")])


def test_a_run_begun_while_the_store_was_locked_is_whole_if_the_lock_goes_meanwhile(store: Path) -> None:
    run_workflow(doubling(), {"x": 1}, functions=DOUBLE, store=store)
    with closing(sqlite3.connect(store, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")

        def double(x: int) -> int:
            other.execute("ROLLBACK")
            return x * 2

        result = run_workflow(doubling(), {"x": 2}, functions={"double": double}, store=store)
    eventually(lambda: kept(store, result.run_id).said() == [("double", "completed")])


def a_directory(folder: Path) -> Path:
    return folder


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_text("x")
    return folder / "file" / "runs.db"


def another_format(folder: Path) -> Path:
    (folder / "notes.txt").write_text("these are notes, and no database at all")
    return folder / "notes.txt"


def an_unwritable_folder(folder: Path) -> Path:
    (folder / "closed").mkdir(mode=0o500)
    return folder / "closed" / "runs.db"


def a_read_only_file(folder: Path) -> Path:
    store = folder / "read-only.db"
    create_storage_backend(store).close()
    store.chmod(0o400)
    folder.chmod(0o500)
    return store


@both_ways
@pytest.mark.parametrize("place", [a_directory, below_a_file, another_format, an_unwritable_folder, a_read_only_file])
def test_a_store_that_cannot_be_written_changes_nothing_but_degraded_and_one_warning(
    run: Run, place: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with plain_user() as folder, caplog.at_level(logging.WARNING):
        result = run(doubling(), {"x": 2}, functions=DOUBLE, store=place(folder))
    assert (result.outputs, result.status, result.degraded) == ({"x": 4}, "completed", True)
    # The user is another one for the whole process, so the stores of earlier tests may have a word to say too.
    ours = [record for record in caplog.records if str(folder) in record.getMessage()]
    assert len(ours) == 1, caplog.text


def test_a_store_that_cannot_be_opened_leaves_a_failing_run_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(NodeExecutionError) as caught:
        run_workflow(doubling(), {"x": 0}, functions={"double": lambda x: 1 / x}, store=tmp_path)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@both_ways
def test_a_required_store_that_cannot_be_opened_keeps_the_run_from_starting(run: Run, tmp_path: Path) -> None:
    called: list[int] = []
    with pytest.raises(StorageError, match="directory"):
        run(doubling(required=True), {"x": 2}, functions={"double": called.append}, store=tmp_path)
    assert called == []


def test_a_required_store_that_cannot_be_written_keeps_the_run_from_starting() -> None:
    """A file that opens and then takes no record is no store either."""
    called: list[int] = []
    with plain_user() as folder:
        store = a_read_only_file(folder)
        with pytest.raises(StorageError):
            run_workflow(doubling(required=True), {"x": 2}, functions={"double": called.append}, store=store)
    assert called == []


@both_ways
@in_one_of_a_few_tries
def test_a_required_store_that_stays_locked_keeps_the_run_from_starting(run: Run, store: Path) -> None:
    """It can be opened and read, which is not what it is required for. Others go on meanwhile, and do not wait."""
    create_storage_backend(store).close()
    called: list[int] = []
    refused: list[str] = []

    def try_to_run() -> None:
        try:
            run(doubling(required=True), {"x": 2}, functions={"double": called.append}, store=store)
        except StorageError as error:
            refused.append(str(error))

    with locked(store):
        trying = threading.Thread(target=try_to_run)
        trying.start()
        time.sleep(0.1)
        other = run_workflow(doubling(), {"x": 2}, functions=DOUBLE, store=store.with_name("other.db"))
        waits = trying.is_alive()
        trying.join()
    timely(waits, "it gives whoever holds the store some time")
    assert other.outputs == {"x": 4}
    assert called == []
    assert refused == [
        f"the store at {store} is locked by another process; try again, or close the program that holds it"
    ]


@in_one_of_a_few_tries
def test_runs_that_need_a_locked_store_at_once_do_not_wait_one_after_the_other(store: Path) -> None:
    create_storage_backend(store).close()
    refused: list[str] = []

    def try_to_run() -> None:
        with pytest.raises(StorageError, match="locked") as error:
            run_workflow(doubling(required=True), {"x": 2}, functions=DOUBLE, store=store)
        refused.append(str(error.value))

    with locked(store), within(3 * REQUIRED_SECONDS):
        trying = [threading.Thread(target=try_to_run) for _ in range(5)]
        for thread in trying:
            thread.start()
        for thread in trying:
            thread.join()
    assert len(refused) == 5


@in_one_of_a_few_tries
def test_a_required_store_that_is_locked_for_a_moment_is_waited_for(store: Path) -> None:
    create_storage_backend(store).close()
    with locked(store) as unlock:
        unlocking = threading.Timer(0.7, unlock)
        unlocking.start()
        try:
            result = run_workflow(doubling(required=True), {"x": 2}, functions=DOUBLE, store=store)
        except StorageError as error:  # the moment has become a longer one than is waited for
            raise LateError from error
        finally:
            unlocking.join()
    assert result.outputs == {"x": 4}
    timely(not result.degraded)


@both_ways
def test_without_a_store_nothing_is_written_and_nothing_is_degraded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(doubling(), {"x": 2}, functions=DOUBLE, store=False)
    again = run(doubling(enabled=False), {"x": 2}, functions=DOUBLE)
    assert (result.outputs, result.store, result.degraded) == ({"x": 4}, None, False)
    assert (again.outputs, again.store, again.degraded) == ({"x": 4}, None, False)
    assert list(tmp_path.iterdir()) == []
    assert caplog.records == []


def test_the_store_is_what_the_call_then_the_environment_then_the_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONFIGURABLE_AGENTS_STORE", raising=False)

    def stored(store: Any = None, **storage: Any) -> str | None:
        return run_workflow(doubling(**storage), {"x": 1}, functions=DOUBLE, store=store).store

    assert stored() == "workflows.db"
    assert stored(path="file.db") == "file.db"
    monkeypatch.setenv("CONFIGURABLE_AGENTS_STORE", "environment.db")
    assert stored(path="file.db") == "environment.db"
    assert stored("call.db", path="file.db") == "call.db"
    assert sorted(path.name for path in tmp_path.glob("*.db")) == [
        "call.db",
        "environment.db",
        "file.db",
        "workflows.db",
    ]


def test_a_store_object_is_written_to_and_left_open(store: Path) -> None:
    backend = create_storage_backend(store)
    runs, states = backend
    result = run_workflow(doubling(), {"x": 2}, functions=DOUBLE, store=backend)
    assert runs.get(result.run_id).status == "completed"
    assert states.get_state_at(result.run_id) == {"x": 4}
    backend.close()


@in_one_of_a_few_tries
def test_a_file_that_was_deleted_between_runs_is_made_anew(store: Path) -> None:
    run_workflow(doubling(), {"x": 1}, functions=DOUBLE, store=store)
    for path in store.parent.glob(f"{store.name}*"):
        if path.is_file():
            path.unlink()
    result = run_workflow(doubling(), {"x": 2}, functions=DOUBLE, store=store)
    assert kept(store, result.run_id).said() == [("double", "completed")]
    timely(not result.degraded)


def test_plain_sqlite_answers_what_ran_how_long_and_what_it_wrote(store: Path) -> None:
    assert kept(store, run_workflow(doubling(), {"x": 2}, functions=DOUBLE, store=store).run_id)
    (row,) = rows(store, "SELECT seq, node_id, status, duration_seconds > 0, cost_usd, outputs FROM node_executions")
    assert row == (1, "double", "completed", 1, 0.0, '{"x":4}')
    (run,) = rows(store, "SELECT workflow, status, node_executions, total_tokens, error FROM runs")
    assert run == ("doubling", "completed", 1, 0, None)
