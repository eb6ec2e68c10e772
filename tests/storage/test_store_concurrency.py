"""Several threads and processes that first use one store at once."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from types import FrameType

import pytest
import sqlalchemy as sa

from _records import node_record, run_id, run_record, span_record
from _runs import run_at_once
from configurable_agents import create_storage_backend
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.upkeep import sql_store

THREADS = 8
PROCESSES = 4
RUNS = 8
NODES = 3

Open = Callable[..., StorageBackend]


def write_runs(store: StorageBackend, first: int) -> None:
    for number in range(first, first + RUNS):
        store.write([run_record(number, status="running", config_sha256="ab" * 32, config_text="flow: …")])
        for seq in range(1, NODES + 1):
            store.write([node_record(seq, run=number), span_record(seq, run=number)])
        store.write([run_record(number, node_executions=NODES, config_sha256="ab" * 32, config_text="flow: …")])


def assert_every_row_is_there(store: StorageBackend, writers: int) -> None:
    numbers = [writer * 1000 + run for writer in range(1, writers + 1) for run in range(RUNS)]
    runs = store.runs.list_runs(limit=100_000)
    assert sorted(run.run_id for run in runs) == [run_id(number) for number in numbers]
    assert {run.status for run in runs} == {"completed"}
    for number in numbers:
        history = store.execution_states.get_state_history(run_id(number))
        assert [state.seq for state in history] == list(range(1, NODES + 1))
        assert len(store.execution_states.list_spans(run_id(number))) == NODES


def test_threads_write_through_one_store_at_once(store: StorageBackend) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda writer: write_runs(store, writer * 1000), range(1, THREADS + 1)))
    assert_every_row_is_there(store, THREADS)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Have `_thread.interrupt_main` raise KeyboardInterrupt, also where the tests' own process is deaf to Ctrl-C."""
    before, interval = signal.signal(signal.SIGINT, signal.default_int_handler), sys.getswitchinterval()
    yield
    signal.signal(signal.SIGINT, before)
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_just_when_it_is_a_threads_turn_leaves_the_next_turn_to_others(tmp_path: Path) -> None:
    """Else the store would be away for the rest of the process."""
    holds, waits = threading.Event(), threading.Event()
    with closing(create_storage_backend(tmp_path / "runs.db")) as backend, ThreadPoolExecutor(1) as pool:
        database = sql_store(backend).database

        def wait(_: sa.Connection) -> None:
            holds.set()
            waits.wait()

        def hand_over() -> None:
            database.run(wait, write=True)
            _thread.interrupt_main()

        other = pool.submit(hand_over)
        holds.wait()
        # From here on a thread goes on until it waits: the other one ends its turn when this one waits for it, and sends
        # the signal before this one takes a step.
        sys.setswitchinterval(60)
        waits.set()
        with pytest.raises(KeyboardInterrupt):
            backend.write([run_record(1)])
        other.result()
        pool.submit(backend.write, [run_record(2)]).result()
        assert [run.run_id for run in backend.runs.list_runs()] == [run_id(2)]


def test_ctrl_c_as_any_function_of_ours_is_entered_leaves_the_next_turn_to_others(tmp_path: Path) -> None:
    """There a signal is heard, before the first line: what was to be done inside is not done."""
    left = 0

    def interrupt(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        if event == "call" and "configurable_agents" in frame.f_code.co_filename:
            left -= 1
            if not left:
                raise KeyboardInterrupt

    with closing(create_storage_backend(tmp_path / "runs.db")) as store:
        turn = sql_store(store).database._writer
        assert turn is not None
        for number in range(1, 100):
            store.write([node_record(number)])  # so that each begins as the others do
            left = number
            usual = sys.gettrace()
            sys.settrace(interrupt)
            try:
                with suppress(KeyboardInterrupt):
                    store.write([node_record(number)])
            finally:
                sys.settrace(usual)
            assert not turn._is_owned(), number  # type: ignore[attr-defined]  # as a lock tells it
        assert left > 0, "a write enters no more of them than that"


def test_threads_that_first_open_one_fresh_store_at_once_all_write(open_store: Open) -> None:
    together = threading.Barrier(THREADS)

    def work(writer: int) -> None:
        together.wait()
        write_runs(open_store(), writer * 1000)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(1, THREADS + 1)))
    assert_every_row_is_there(open_store(), THREADS)


IMPORTS = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_store_concurrency import write_runs
from configurable_agents.storage.factory import create_storage_backend
"""
OPEN_AND_WRITE = """
store = create_storage_backend(sys.argv[1], busy_timeout_seconds=10)
write_runs(store, (number + 1) * 1000)
store.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_processes_that_first_open_one_fresh_store_at_once_all_write(target: str, open_store: Open) -> None:
    assert run_at_once(IMPORTS, OPEN_AND_WRITE, target, processes=PROCESSES) == (0, "", "")
    assert_every_row_is_there(open_store(), PROCESSES)


def test_writers_and_a_deleter_lose_no_config_text_that_is_in_use(store: StorageBackend) -> None:
    """The text goes with its last run; a run that is written at that moment must keep it."""
    sha, text = "cd" * 32, "flow: shared"

    def write_and_delete(writer: int) -> None:
        for number in range(writer * 1000, writer * 1000 + 25):
            store.write([run_record(number, config_sha256=sha, config_text=text)])
            assert store.runs.get(run_id(number)).config_text == text
            store.runs.delete(run_id(number))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write_and_delete, range(1, 5)))
    assert store.runs.list_runs() == []


def test_batches_in_opposite_order_do_not_block_each_other(store: StorageBackend) -> None:
    """A database server would have to break such a deadlock, and one batch would be lost."""
    records = [node_record(seq) for seq in range(1, 101)]

    def write_often(backwards: bool) -> None:
        for _ in range(10):
            store.write(records[::-1] if backwards else records)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write_often, [True, False, True, False]))
    assert store.execution_states.get_state_history(run_id()) == records
