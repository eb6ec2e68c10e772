"""The way of records into a store: what waits arrives, whatever happens to threads, journals and processes meanwhile."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import shutil
import signal
import socket
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from _files import is_below
from _records import node_record, run_record, span_record
from _runs import PATIENCE_SECONDS as SECONDS
from _runs import besides_waiting, calls, chain, eventually, field, run_program, start_program
from _timing import in_one_of_a_few_tries, timely, within
from _workflows import make
from configurable_agents import RunResult, arun_workflow, run_workflow
from configurable_agents.errors import StorageError
from configurable_agents.storage.backlog import MEMORY_BYTES
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.codec import OpenSpan, decode_record, split
from configurable_agents.storage.factory import create_storage_backend
from configurable_agents.storage.journal import SEGMENT_BYTES, frames
from configurable_agents.storage.locks import lock_exclusively
from configurable_agents.storage.records import AnyRecord, DeliveryRecord, ExecutionStateRecord, WorkflowRunRecord
from configurable_agents.storage.writer import RETRY_SECONDS, Writer


class Gate(StorageBackend):
    """A store whose writes wait while the gate is shut."""

    def __init__(self, inner: StorageBackend) -> None:
        self._inner = inner
        self.runs, self.execution_states = inner
        self.location = inner.location
        self.open = threading.Event()
        self.open.set()
        self.reached = threading.Event()
        self.fails = False
        self.tried_at: list[float] = []
        self.groups: list[Sequence[AnyRecord]] = []
        """What was written."""

    def write(self, records: Sequence[AnyRecord]) -> None:
        self.tried_at.append(time.monotonic())
        self.reached.set()
        assert self.open.wait(SECONDS)
        if self.fails:
            raise StorageError("away, for the test")
        self._inner.write(records)
        self.groups.append(records)

    def mark_interrupted(self, runs: Sequence[Any], nodes: Sequence[Any]) -> None:
        self._inner.mark_interrupted(runs, nodes)

    def close(self) -> None:
        self._inner.close()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with closing(create_storage_backend(tmp_path / "runs.db", busy_timeout_seconds=SECONDS)) as backend:
        yield Gate(backend)


@contextmanager
def writing(gate: Gate, *journals: Path) -> Iterator[Writer]:
    """Give a writer; it ends with the test, and so do its files."""
    writer = Writer(None, journals=journals, backend=gate)
    try:
        yield writer
    finally:
        gate.open.set()
        writer.flush(SECONDS)
        writer.close()


def seqs(gate: Gate) -> list[int]:
    return [record.seq for record in gate.execution_states.get_state_history(run_record().run_id)]


@contextmanager
def no_thread_can_begin() -> Iterator[None]:
    """Ask for stacks that no machine has, as where a limit on threads or memory is reached."""
    before = threading.stack_size(2**46)
    try:
        yield
    finally:
        threading.stack_size(before)


def test_where_no_thread_can_begin_records_wait_for_one_that_can(gate: Gate, tmp_path: Path) -> None:
    """A thread that could not be started once must not count as one that is at work."""
    with writing(gate, tmp_path / "journal") as writer:
        with no_thread_can_begin():
            writer.write([node_record(1)])
            assert writer.when_tried(run_record().run_id, lambda: None), "there is nobody to wait for"
            assert not writer.flush(SECONDS)
        writer.write([node_record(2)])
        assert writer.flush(SECONDS)
        assert seqs(gate) == [1, 2]


def test_where_no_thread_can_ever_begin_the_end_of_the_program_commits(gate: Gate, tmp_path: Path) -> None:
    with no_thread_can_begin():
        writer = Writer(None, journals=[tmp_path / "journal"], backend=gate)
        writer.write([node_record(1)])
        writer.close()
    assert seqs(gate) == [1]
    assert not list((tmp_path / "journal").iterdir())


@pytest.mark.parametrize("more", [4, 40])
def test_when_one_journal_takes_no_more_another_one_goes_on_and_nothing_is_lost(
    gate: Gate, tmp_path: Path, more: int
) -> None:
    """Records wait in either of them, more than memory keeps; each must be read where it stands."""
    first, second = tmp_path / "first", tmp_path / "second"
    big = "x" * (MEMORY_BYTES // 8)
    with writing(gate, first, second) as writer:
        gate.open.clear()
        for seq in range(1, 21):
            writer.write([node_record(seq, outputs={"x": big})])
        shutil.rmtree(first)
        first.write_text("a file, where the journal was")
        for seq in range(21, 21 + more):
            writer.write([node_record(seq, outputs={"x": big})])
        assert [path.is_dir() for path in (first, second)] == [False, True]
        gate.open.set()
        assert writer.flush(SECONDS)
        assert seqs(gate) == list(range(1, 21 + more))
        assert writer.dropped_records == 0
        # What is written now is still kept by a journal.
        gate.open.clear()
        writer.write([node_record(100)])
        assert sum(path.stat().st_size for path in second.iterdir()) > 0


def test_what_cannot_be_read_back_is_lost_to_its_own_run_alone(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of many runs at once wait together, and the journal has each where it was written."""
    monkeypatch.setattr("configurable_agents.storage.backlog.MEMORY_BYTES", 0)
    with writing(gate, tmp_path / "journal") as writer:
        shut(gate, writer)
        for run in (1, 2, 3):
            writer.write([node_record(run=run, outputs={"x": f"of run {run}"})])
        (segment,) = (tmp_path / "journal").iterdir()
        segment.write_bytes(segment.read_bytes().replace(b'"of run 2', b"}of run 2"))
        gate.open.set()
        assert writer.flush(SECONDS)
        kept = [gate.execution_states.get_state_history(run_record(run).run_id) for run in (1, 2, 3)]
        assert [[record.outputs for record in records] for records in kept] == [
            [{"x": "of run 1"}],
            [],
            [{"x": "of run 3"}],
        ]
        assert writer.dropped_records == 1
        assert [writer.lacks(run_record(run).run_id) for run in (1, 2, 3)] == [False, True, False]


@pytest.mark.parametrize("has_journal", [True, False])
def test_each_run_lacks_its_own_records_however_many_wait_together(
    has_journal: bool, gate: Gate, tmp_path: Path
) -> None:
    runs = (1, 2, 3)
    with writing(gate, *([tmp_path / "journal"] if has_journal else [])) as writer:
        shut(gate, writer)
        for seq in (1, 2):
            for run in runs:
                writer.write([node_record(seq, run=run)])
        assert [writer.lacks(run_record(run).run_id) for run in (*runs, 4)] == [True] * 3 + [False]
        gate.open.set()
        assert writer.flush(SECONDS)
        assert [writer.lacks(run_record(run).run_id) for run in runs] == [False] * 3
        for run in runs:
            history = gate.execution_states.get_state_history(run_record(run).run_id)
            assert [record.seq for record in history] == [1, 2]


def test_without_a_journal_what_the_memory_does_not_hold_is_lost_by_itself(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A big record takes no small ones with it, whose runs came just before and after it."""
    monkeypatch.setattr("configurable_agents.storage.backlog.MEMORY_BYTES_WITHOUT_JOURNAL", 100_000)
    with writing(gate) as writer:
        gate.fails = True
        writer.write([node_record(run=9)])
        eventually(lambda: writer.is_away)
        for run in (1, 2, 3):
            writer.write([node_record(run=run, outputs={"x": "x" * (200_000 if run == 2 else 1)})])
        gate.fails = False
        assert writer.flush(SECONDS)
        assert writer.dropped_records == 1
        assert [writer.lacks(run_record(run).run_id) for run in (1, 2, 3)] == [False, True, False]


def shut(gate: Gate, writer: Writer) -> None:
    """Shut the gate, and have the writer's thread wait before it with something else."""
    gate.open.clear()
    gate.reached.clear()
    writer.write([node_record(run=9)])
    assert gate.reached.wait(SECONDS)


def test_each_segment_of_the_journal_knows_of_all_that_goes_on(gate: Gate, tmp_path: Path) -> None:
    """Of a process that dies later, the segments before may have gone by then."""
    running = [run_record(number, status="running") for number in range(1, 1001)]
    with writing(gate, tmp_path / "journal") as writer:
        writer.write(running)
        assert writer.flush(SECONDS)
        for seq in (1, 2):
            writer.write([node_record(seq, outputs={"x": "x" * SEGMENT_BYTES})])
            assert writer.flush(SECONDS)
        (left,) = (tmp_path / "journal").iterdir()
        noted = [decode_record(line) for frame in frames(left.read_bytes()) for line in split(frame.payload)]
        said = {(one.run_id, one.span_id, one.trace_id) for one in noted if isinstance(one, OpenSpan)}
        assert said == {(run.run_id, run.span_id, run.trace_id) for run in running}


def test_what_has_waited_comes_in_few_groups_and_without_starts_that_have_ended(gate: Gate, tmp_path: Path) -> None:
    """A store that was slow for a while is to catch up, and nobody needs to see a start whose end waits behind it."""
    count = 600
    with writing(gate, tmp_path / "journal") as writer:
        gate.open.clear()
        writer.write([node_record(1)])
        assert gate.reached.wait(SECONDS)
        for status in ("running", "completed"):
            for seq in range(2, count + 2):
                writer.write([node_record(seq, status=status)])
        gate.open.set()
        assert writer.flush(SECONDS)
    assert seqs(gate) == list(range(1, count + 2))
    statuses = {record.status for group in gate.groups for record in group if isinstance(record, ExecutionStateRecord)}
    assert statuses == {"completed"}
    assert len(gate.groups) <= 4


def test_big_records_come_in_smaller_groups(gate: Gate, tmp_path: Path) -> None:
    """A group is held in memory, and keeps other processes waiting while it is written."""
    with writing(gate, tmp_path / "journal") as writer:
        gate.open.clear()
        for seq in range(1, 13):
            writer.write([node_record(seq, outputs={"x": "x" * 1024 * 1024})])
        gate.open.set()
        assert writer.flush(SECONDS)
    assert seqs(gate) == list(range(1, 13))
    assert max(map(len, gate.groups)) <= 4


def test_a_run_that_waits_is_told_though_others_go_on_for_long(gate: Gate, tmp_path: Path) -> None:
    """Its records wait for company a little, since others may end at the same moment; not until they have."""
    with writing(gate, tmp_path / "journal") as writer:
        for run in range(1, 11):
            writer.write([run_record(run, status="running")])
        assert writer.flush(SECONDS)
        told = threading.Event()
        writer.write([run_record(1)])
        if not writer.when_tried(run_record(1).run_id, told.set):
            assert told.wait(SECONDS)
        assert gate.runs.get(run_record(1).run_id).status == "completed"


@pytest.mark.parametrize(("busy_seconds", "is_waited_for"), [(SECONDS, True), (0.0, False)])
def test_a_store_that_has_just_taken_a_group_is_still_waited_for(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy_seconds: float, is_waited_for: bool
) -> None:
    """Runs that wait for nothing would outrun a store that is only busy, and make it later still."""
    monkeypatch.setattr("configurable_agents.storage.writer.BUSY_SECONDS", busy_seconds)
    with writing(gate, tmp_path / "journal") as writer:
        writer.write([node_record(1)])
        assert writer.flush(SECONDS)
        gate.open.clear()
        writer.write([node_record(2)])
        writer.stop_waiting()
        assert writer.when_tried(run_record().run_id, lambda: None) is not is_waited_for


def test_whoever_begins_to_wait_during_a_commit_does_not_wait_for_company(gate: Gate, tmp_path: Path) -> None:
    """The hurry that a waiter asks for must outlast the commit that was under way."""
    with writing(gate, tmp_path / "journal") as writer:
        gate.open.clear()
        writer.write([node_record(1)])
        assert gate.reached.wait(SECONDS)
        committed: list[float] = []
        writer.write([node_record(2, run=2)])
        assert not writer.when_tried(run_record(2).run_id, lambda: committed.append(time.perf_counter()))
        writer._changed.acquire()
        try:
            gate.open.set()
            assert writer._hurry
        finally:
            writer._changed.release()
        eventually(lambda: bool(committed))


def test_a_value_of_a_kind_that_no_column_takes_holds_nothing_else_up(
    open_store: Callable[[], StorageBackend], tmp_path: Path
) -> None:
    """Any program may put what it likes into an attribute that has a column."""
    backend = open_store()
    writer = Writer(None, journals=[tmp_path / "journal"], backend=backend)
    try:
        writer.write([span_record(1, cost_usd=["free", "of charge"]), span_record(2)])
        assert writer.flush(SECONDS)
        assert (writer.dropped_records, writer.is_away) == (1, False)
        assert [record.cost_usd for record in backend.execution_states.list_spans(run_record().run_id)] == [0.001]
    finally:
        writer.close()
    assert (tmp_path / "journal" / "quarantine.jsonl").read_text().count("of charge") == 1


@contextmanager
def away_without_a_journal(gate: Gate, folder: Path) -> Iterator[Writer]:
    """Give a writer that has nothing but memory for its records until the gate opens."""
    (folder / "file").touch()
    with writing(gate, folder / "file") as writer:
        writer._went_away(StorageError("away, for the test"))
        gate.open.clear()
        yield writer


def test_without_a_journal_what_memory_cannot_hold_is_counted(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("configurable_agents.storage.backlog.MEMORY_BYTES_WITHOUT_JOURNAL", 100_000)
    with away_without_a_journal(gate, tmp_path) as writer:
        for seq in range(1, 11):
            writer.write([node_record(seq, outputs={"x": "x" * 30_000})])
        assert writer.dropped_records == 7
        assert writer.lacks(run_record().run_id)
        gate.open.set()
        assert writer.flush(SECONDS)
        assert seqs(gate) == [1, 2, 3]
        assert writer.lacks(run_record().run_id), "the rest never comes"


def test_a_write_of_many_records_counts_for_memory_once(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the SDK's processor hands over a host's spans, some hundred at once."""
    monkeypatch.setattr("configurable_agents.storage.backlog.MEMORY_BYTES_WITHOUT_JOURNAL", 1_000_000)
    with away_without_a_journal(gate, tmp_path) as writer:
        for first in (1, 513):
            writer.write([span_record(number) for number in range(first, first + 512)])
        assert writer.dropped_records == 0
        gate.open.set()
        assert writer.flush(SECONDS)


class Torn(str):
    """An id at whose first look-up Ctrl-C comes."""

    __slots__ = ("has_come",)

    def __hash__(self) -> int:
        if hasattr(self, "has_come"):
            return str.__hash__(self)
        self.has_come = True
        raise KeyboardInterrupt


def test_ctrl_c_amid_the_bookkeeping_leaves_it_right(gate: Gate, tmp_path: Path) -> None:
    with writing(gate, tmp_path / "journal") as writer:
        with pytest.raises(KeyboardInterrupt):
            writer.write([node_record(1, outputs={"x": "x" * 30_000}, run_id=Torn(run_record().run_id))])
        writer.write([node_record(2)])
        assert writer.flush(SECONDS)
        assert seqs(gate) == [1, 2]
        assert not writer.lacks(run_record().run_id)


def test_ctrl_c_while_the_journal_is_begun_leaves_it_to_the_next_record(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_come: list[int] = []

    def torn(fd: int) -> None:
        if is_below(fd, tmp_path):
            has_come.append(fd)
            if len(has_come) == 1:
                raise KeyboardInterrupt
        lock_exclusively(fd)

    # A signal at the seam to the operating system: no test could hit this instant otherwise.
    monkeypatch.setattr("configurable_agents.storage.journal.lock_exclusively", torn)
    with writing(gate, tmp_path / "journal") as writer:
        gate.open.clear()
        with pytest.raises(KeyboardInterrupt):
            writer.write([node_record(1)])
        writer.write([node_record(2)])
        noted = [frame for path in (tmp_path / "journal").iterdir() for frame in frames(path.read_bytes())]
        assert len(noted) == 1
        gate.open.set()
        assert writer.flush(SECONDS)
        assert seqs(gate) == [2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@in_one_of_a_few_tries
def test_whoever_waits_for_a_store_that_fails_at_once_has_it_tried_at_its_own_pace(gate: Gate, tmp_path: Path) -> None:
    """`force_flush` waits for half a minute, in which the processor shall not be busy with it."""
    with writing(gate, tmp_path / "journal") as writer:
        gate.fails = True
        gate.tried_at.clear()
        writer.write([node_record(1)])
        assert not writer.flush(0.5)
        tried_at = [*gate.tried_at]
        gate.fails = False
        pauses = [later - earlier for earlier, later in pairwise(tried_at)]
        wanted = [*RETRY_SECONDS, *[RETRY_SECONDS[-1]] * len(pauses)]
        assert sum(pause < least for pause, least in zip(pauses, wanted, strict=False)) <= 1, "the call cuts one short"
        timely(len(tried_at) >= 2)
        assert writer.flush(SECONDS)


def test_a_child_that_was_forked_in_the_middle_of_a_write_is_not_stuck(gate: Gate, tmp_path: Path) -> None:
    """The lock that a thread of the parent held at the fork has nobody in the child to free it."""
    with writing(gate, tmp_path / "journal") as writer:
        gate.open.clear()
        writer.write([node_record(1)])
        holding, done = threading.Event(), threading.Event()

        def hold() -> None:
            with writer._changed:
                holding.set()
                done.wait(SECONDS)

        thread = threading.Thread(target=hold)
        thread.start()
        assert holding.wait(SECONDS)
        child = os.fork()
        if not child:  # pragma: no cover - the child
            signal.alarm(5)  # ends it if it is stuck
            code = 1
            with suppress(BaseException):
                code = 0 if writer.flush(1) and not writer.lacks(run_record().run_id) else 2
            os._exit(code)
        done.set()
        thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        gate.open.set()
        assert writer.flush(SECONDS)
        assert seqs(gate) == [1], "the parent's own is not the child's to write, and not lost"


def test_a_log_handler_that_leaves_spans_itself_is_not_stuck(gate: Gate, tmp_path: Path) -> None:
    """Hosts ship their logs with what makes spans; a warning of ours must not wait for what waits for us."""
    wrote: list[bool] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            other = threading.Thread(target=lambda: writer.write([node_record(2)]))
            other.start()
            other.join(SECONDS / 2)
            wrote.append(not other.is_alive())

    log, handler = logging.getLogger("configurable_agents.storage.writer"), Handler(logging.INFO)
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        with writing(gate, tmp_path / "journal") as writer:
            gate.fails = True
            writer.write([node_record(1)])
            eventually(lambda: writer.is_away and bool(wrote))
            gate.fails = False
            eventually(lambda: len(wrote) == 2)
        assert wrote == [True, True], "it went away, and it came back"
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
    assert seqs(gate) == [1, 2]


def test_a_host_whose_log_filter_raises_does_not_end_the_thread_that_commits(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no `Exception`, as a test framework's way to fail, is nobody's to catch where something is logged."""
    told: list[Any] = []

    class Failed(BaseException):
        pass

    def end(report: Any) -> None:
        told.append(report)
        raise SystemExit

    monkeypatch.setattr(threading, "excepthook", end)  # a host's own, which would end the thread, too
    monkeypatch.setattr("configurable_agents.storage.writer.IDLE_SECONDS", 0.5)

    def refuse(record: logging.LogRecord) -> bool:
        raise Failed(record.name)

    log = logging.getLogger("configurable_agents.storage.writer")
    level = log.level
    log.setLevel(logging.INFO)
    log.addFilter(refuse)
    try:
        with writing(gate, tmp_path / "journal") as writer:
            gate.fails = True
            writer.write([node_record(1)])
            eventually(lambda: len(gate.tried_at) > 1)
            gate.fails = False
            eventually(lambda: len(told) == 2)
            assert not writer.is_away
            eventually(lambda: not list((tmp_path / "journal").iterdir()))  # and it rests as ever
    finally:
        log.removeFilter(refuse)
        log.setLevel(level)
    assert seqs(gate) == [1]
    assert [report.exc_type for report in told] == [Failed] * 2, "as the store went away, and came back"


AT_EXIT = """
import atexit, sys
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow
workflow = make([calls("a", "x")], chain("START a END"), {"x": field("int")})
def again():
    print(run_workflow(workflow, functions={"a": lambda: 1}, store=sys.argv[1]).outputs)
if sys.argv[2] == "before":
    atexit.register(again)
again()
if sys.argv[2] == "after":
    atexit.register(again)
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_at_the_interpreters_end_is_kept(when: str, tmp_path: Path) -> None:
    """Before and after our own end; from Python 3.12 on no thread can be begun there."""
    code, out, err = run_program(AT_EXIT, tmp_path / "runs.db", when)
    assert (code, out, err) == (0, "{'x': 1}\n" * 2, "")
    with closing(create_storage_backend(tmp_path / "runs.db")) as backend:
        assert [run.status for run in backend.runs.list_runs()] == ["completed"] * 2


FORKING = """
import os, signal, sys, threading, time, warnings
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow
warnings.simplefilter("ignore")
workflow = make([calls("a", "x")], chain("START a END"), {"x": field("int")})

def run():
    return run_workflow(workflow, functions={"a": lambda: 1}, store=sys.argv[1]).status

thread = threading.Thread(target=run)
thread.start()
children = []
while not children or (thread.is_alive() and len(children) < 8):
    time.sleep(0.03)
    children.append(os.fork())
    if not children[-1]:
        signal.alarm(30)
        run()
        sys.exit()
thread.join()
print({os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children})
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@in_one_of_a_few_tries
def test_a_child_that_was_forked_while_the_store_was_being_opened_can_open_it_too(tmp_path: Path) -> None:
    """What is half loaded at the fork stays half loaded in the child for ever."""
    code, out, err = run_program(FORKING, tmp_path / "runs.db")
    assert (code, out, besides_waiting(err)) == (0, "{0}\n", [])
    timely(err == "", err)
    with closing(create_storage_backend(tmp_path / "runs.db")) as backend:
        assert {run.status for run in backend.runs.list_runs()} == {"completed"}


FORKED_AFTER_THE_LOAD = """
import logging, os, sys, threading, time  # logging has a hook, too, and keeps its lock until the fork
os.register_at_fork(before=lambda: time.sleep(0.3))  # of those that come after, this one is called last
from _records import run_record
from configurable_agents import create_storage_backend

def write():
    create_storage_backend(sys.argv[1]).database.run(lambda connection: time.sleep(0.6), write=True)

thread = threading.Thread(target=write)
thread.start()
while "sqlalchemy" not in sys.modules:
    time.sleep(0.001)
child = os.fork()
if not child:
    create_storage_backend(sys.argv[1], busy_timeout_seconds=5).write([run_record()])
    os._exit(0)
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_that_waited_for_a_load_waits_for_the_first_transaction_too(tmp_path: Path) -> None:
    """In a child that is forked from the middle of one, SQLite takes its file for locked as long as it lives."""
    code, out, err = run_program(FORKED_AFTER_THE_LOAD, tmp_path / "runs.db")
    assert (code, out, err) == (0, "0\n", "")


SERVED = """
import sys
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow
workflow = make([calls("a", "x")], chain("START a END"), {"x": field("int")})
run_workflow(workflow, functions={"a": lambda: 1}, store=f"postgresql://u@127.0.0.1:{sys.argv[1]}/d")
print("ran", flush=True)
sys.stdin.readline()
"""


@in_one_of_a_few_tries
def test_a_server_that_stops_answering_does_not_hold_up_the_end_of_the_program(tmp_path: Path) -> None:
    """A try to connect lasts seconds; nobody waits for it who has half a second."""
    pytest.importorskip("psycopg")
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port, hang = server.getsockname()[1], threading.Event()
        kept: list[socket.socket] = []
        refused: list[socket.socket] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    if hang.is_set():
                        kept.append(connection)
                    else:
                        connection.close()
                        refused.append(connection)

        threading.Thread(target=serve, daemon=True).start()
        with start_program(SERVED, port, XDG_STATE_HOME=str(tmp_path)) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "ran\n"
            eventually(lambda: len(refused) >= len(RETRY_SECONDS))  # from now on it pauses for long between its tries
            hang.set()
            try:
                with within(4):  # half a second and what a busy machine adds, not the five of a try to connect
                    process.stdin.close()
                    assert process.wait(SECONDS) == 0
            finally:
                for connection in kept:
                    connection.close()


@pytest.mark.parametrize("required", [False, True])
@in_one_of_a_few_tries
def test_a_server_that_does_not_answer_does_not_hold_up_the_callers_loop(
    required: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that is asked for a run has other requests to answer, also while the store is being opened."""
    pytest.importorskip("psycopg")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    blocked: list[float] = []

    async def look() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.01)
            blocked.append(time.perf_counter() - started)

    async def run(store: str) -> RunResult:
        looking = asyncio.create_task(look())
        config = {"storage": {"required": required}}
        workflow = make([calls("a", "x")], chain("START a END"), {"x": field("int")}, config)
        try:
            return await arun_workflow(workflow, functions={"a": lambda: 1}, store=store)
        finally:
            looking.cancel()

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        store = f"postgresql://u@127.0.0.1:{server.getsockname()[1]}/d?connect_timeout=3"
        if required:
            with pytest.raises(StorageError):
                asyncio.run(run(store))
        else:
            with within(2.5):  # 1 s to open it, 250 ms to commit, and then nobody waits any more
                result = asyncio.run(run(store))
            assert (result.outputs, result.degraded) == ({"x": 1}, True)
    timely(max(blocked) < 1, "the loop went on; a busy machine may stall it for a moment")


@in_one_of_a_few_tries
def test_stores_that_were_opened_for_one_run_each_leave_no_file_and_no_thread_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("configurable_agents.storage.writer.IDLE_SECONDS", 0.05)
    workflow = make([calls("a", "x")], chain("START a END"), {"x": field("int")})
    before = set(threading.enumerate())
    seen: list[weakref.ref[StorageBackend]] = []
    for _ in range(5):
        backend = create_storage_backend(tmp_path / "runs.db", busy_timeout_seconds=SECONDS)
        timely(not run_workflow(workflow, functions={"a": lambda: 1}, store=backend).degraded)
        backend.close()
        seen.append(weakref.ref(backend))
        del backend
    eventually(lambda: set(threading.enumerate()) <= before)
    eventually(lambda: gc.collect() >= 0 and all(reference() is None for reference in seen))
    assert not list((tmp_path / "runs.db.journal").iterdir())


def test_a_mark_of_a_delivery_reaches_the_store_and_is_no_part_of_its_run(gate: Gate, tmp_path: Path) -> None:
    """A run is not degraded, and its end waits for nothing, because somebody notes where it was delivered to."""
    run = run_record()
    marks = [
        DeliveryRecord(run_id=run.run_id, destination=place, delivered_at_unix_nano=at)
        for place, at in (("http://a", 1), ("http://b", 2), ("http://a", 3))
    ]
    with writing(gate, tmp_path / "journal") as writer:
        writer.write([run])
        assert writer.flush(SECONDS)
        gate.open.clear()
        writer.write(marks)
        assert not writer.lacks(run.run_id)
        assert writer.when_tried(run.run_id, lambda: None)
        gate.open.set()
        assert writer.flush(SECONDS)
        assert gate.runs.list_deliveries(run.run_id) == [marks[2], marks[1]]


def test_marks_wait_in_the_journal_of_a_process_that_dies(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    program = """
import os, sys
from pathlib import Path
from _records import run_record
from configurable_agents import StoreSpanExporter
from configurable_agents.errors import StorageError
from configurable_agents.storage.factory import create_storage_backend, open_writer

writer = open_writer(Path(sys.argv[1]), required=True)
writer.write([run_record()])
writer.flush(10)
writer._target.backend.write = lambda records: os._exit(9)
StoreSpanExporter(writer=writer).mark_delivered(run_record().run_id, "http://127.0.0.1:4318")
writer.flush(10)
"""
    assert run_program(program, store)[0] == 9
    with closing(create_storage_backend(store)) as backend:
        assert backend.runs.list_deliveries(run_record().run_id) == []
        backend.recover()
        (mark,) = backend.runs.list_deliveries(run_record().run_id)
        assert mark.destination == "http://127.0.0.1:4318"
        assert backend.runs.get("last") == run_record()


@in_one_of_a_few_tries
def test_a_run_that_ends_is_committed_on_its_own_thread(gate: Gate, tmp_path: Path) -> None:
    """To wake the writer's thread costs more than the commit."""
    backend = create_storage_backend(tmp_path / "own.db")
    committed_on: list[str] = []
    write = backend.write

    def noting(records: Sequence[AnyRecord]) -> None:
        committed_on.append(threading.current_thread().name)
        write(records)

    backend.write = noting  # type: ignore[method-assign]  # whatever a store of the caller's own does, it sees every record
    workflow = make([calls("a", "x")], chain("START a END"), {"x": field("int")})
    with closing(backend):
        degraded = [run_workflow(workflow, functions={"a": lambda: 1}, store=backend).degraded for _ in range(3)]
    # The writer's thread gathers for 20 ms before it takes a turn: a run that is stalled for as long finds it at work.
    timely((committed_on, degraded) == ([threading.current_thread().name] * 3, [False] * 3), committed_on)


@in_one_of_a_few_tries
def test_runs_of_one_loop_that_end_together_are_committed_together(tmp_path: Path) -> None:
    """A commit for each of a thousand would take longer than the rest of what keeping them takes."""
    ends: list[int] = []
    backend = create_storage_backend(tmp_path / "runs.db")
    write = backend.write

    def noting(records: Sequence[AnyRecord]) -> None:
        write(records)
        ends.append(sum(isinstance(each, WorkflowRunRecord) and each.status == "completed" for each in records))

    backend.write = noting  # type: ignore[method-assign]  # for this one object
    workflow = make([calls("a", "x")], chain("START a END"), {"x": field("int")})

    async def together(runs: int) -> list[RunResult]:
        all_go_on = asyncio.Barrier(runs)

        async def meet() -> int:
            await all_go_on.wait()
            return 1

        return await asyncio.gather(
            *(arun_workflow(workflow, functions={"a": meet}, store=backend) for _ in range(runs))
        )

    with closing(backend):
        asyncio.run(together(1))
        ends.clear()
        timely(not any(result.degraded for result in asyncio.run(together(100))))
        commits = [number for number in ends if number]
        assert sum(commits) == 100
        timely(len(commits) < 20, f"{len(commits)} commits")


@in_one_of_a_few_tries
def test_a_file_that_somebody_else_writes_is_left_to_the_writers_thread(tmp_path: Path) -> None:
    """An event loop waits for nobody: it tries, and goes on."""
    with closing(create_storage_backend(tmp_path / "runs.db")) as backend:
        with closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with within(0.1):  # a write that waits gives up after 200 ms
                assert not backend.write_at_once([run_record()])
            other.execute("ROLLBACK")
        assert backend.write_at_once([run_record()])
        assert backend.runs.get("last") == run_record()


@pytest.mark.parametrize("at_once", [1, 16])
def test_the_log_of_a_file_does_not_grow_with_the_runs(
    at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody who commits a run's end brings the log into the file: that waits for the disk."""
    monkeypatch.setattr("configurable_agents.storage.writer.TEND_BYTES", 400_000)
    workflow = make([calls("a", "x")], chain("START a END"), {"x": field("int")})
    deadline = time.monotonic() + SECONDS

    def has_begun_anew() -> int:
        """Give how often the log was all in the file, so that it began anew (https://sqlite.org/fileformat2.html#walformat)."""
        return int.from_bytes((tmp_path / "runs.db-wal").read_bytes()[12:16])

    with closing(create_storage_backend(tmp_path / "runs.db")) as backend:

        async def run_after_run() -> None:
            while has_begun_anew() < 5 and time.monotonic() < deadline:
                await arun_workflow(workflow, functions={"a": lambda: 1}, store=backend)

        async def all_of_them() -> None:
            await asyncio.gather(*(run_after_run() for _ in range(at_once)))

        asyncio.run(all_of_them())
        assert has_begun_anew() >= 5


@in_one_of_a_few_tries
def test_no_run_waits_for_what_is_done_before_the_store_is_tended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes its time to have SQLite's log, and runs may go on ending meanwhile."""
    monkeypatch.setattr("configurable_agents.storage.writer.TEND_BYTES", 1)
    workflow = make([calls("a", "x")], chain("START a END"), {"x": field("int")})
    prepares, tends, is_prepared = threading.Event(), threading.Event(), threading.Event()

    def prepare() -> None:
        prepares.set()
        assert is_prepared.wait(SECONDS)

    backend = create_storage_backend(tmp_path / "runs.db")
    backend.prepare_tending = prepare  # type: ignore[method-assign]  # for this one object
    backend.tend = tends.set  # type: ignore[method-assign]
    with closing(backend):
        run_workflow(workflow, functions={"a": lambda: 1}, store=backend)
        assert prepares.wait(SECONDS)
        try:
            for _ in range(3):
                timely(not run_workflow(workflow, functions={"a": lambda: 1}, store=backend).degraded)
            assert not tends.is_set()
        finally:
            is_prepared.set()
        assert tends.wait(SECONDS)


@in_one_of_a_few_tries
def test_a_run_that_ends_while_the_store_is_tended_is_committed_right_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's log is brought into the file while nobody writes; a fault of that is no run's."""
    monkeypatch.setattr("configurable_agents.storage.writer.TEND_BYTES", 1)
    workflow = make([calls("a", "x")], chain("START a END"), {"x": field("int")})
    tends = threading.Event()

    def tend() -> None:
        tends.set()
        time.sleep(0.05)
        raise StorageError("for the test")

    backend = create_storage_backend(tmp_path / "runs.db")
    backend.tend = tend  # type: ignore[method-assign]  # for this one object
    with closing(backend):
        for _ in range(3):
            run_workflow(workflow, functions={"a": lambda: 1}, store=backend)
            assert tends.wait(SECONDS)
            tends.clear()
            timely(not run_workflow(workflow, functions={"a": lambda: 1}, store=backend).degraded)


@in_one_of_a_few_tries
def test_a_run_has_a_row_as_soon_as_one_of_its_nodes_has(gate: Gate, tmp_path: Path) -> None:
    """Until then only the journal knows of it, unless it goes on for half a second."""
    with writing(gate, tmp_path / "journal") as writer:
        gate.groups.clear()
        writer.write([run_record(1, status="running")])
        writer.write([run_record(2, status="running"), node_record(1, run=2)])
        eventually(lambda: bool(gate.groups))
        first = [(type(record).__name__, record.run_id) for record in gate.groups[0]]
        expected = [
            ("WorkflowRunRecord", run_record(2).run_id),
            ("ExecutionStateRecord", run_record(2).run_id),
        ]
        timely(first == expected, first)
        eventually(lambda: len(gate.groups) == 2)
        assert gate.runs.get(run_record(1).run_id).status == "running"


def test_a_run_within_a_transaction_of_its_thread_is_not_taken_back_with_it(tmp_path: Path) -> None:
    """The run has said that it is kept; whatever becomes of what its caller reads or writes meanwhile."""
    workflow = make([calls("a", "x")], chain("START a END"), {"x": field("int")})
    with closing(create_storage_backend(tmp_path / "runs.db")) as backend:
        run_workflow(workflow, functions={"a": lambda: 1}, store=backend)

        def fail() -> None:
            run_workflow(workflow, functions={"a": lambda: 1}, store=backend)
            raise KeyError("for the test")

        with suppress(KeyError):
            backend.together(fail)
        eventually(lambda: len(backend.runs.list_runs()) == 2)


def test_a_store_that_fails_in_its_own_way_changes_no_run(gate: Gate, tmp_path: Path) -> None:
    """A store of the caller's own may raise anything."""

    def odd(records: Sequence[AnyRecord]) -> bool:
        raise RuntimeError("odd, for the test")

    backend = create_storage_backend(tmp_path / "odd.db")
    workflow = make([calls("a", "x")], chain("START a END"), {"x": field("int")})
    with closing(backend):
        backend.write_at_once = odd  # type: ignore[method-assign]  # for this one object
        assert run_workflow(workflow, functions={"a": lambda: 1}, store=backend).outputs == {"x": 1}
        eventually(lambda: [run.status for run in backend.runs.list_runs()] == ["completed"])


@in_one_of_a_few_tries
def test_what_goes_on_has_a_row_in_time_also_after_a_pause(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks on shall not wait until the writer's thread has slept enough."""
    monkeypatch.setattr("configurable_agents.storage.writer.AWAKE_SECONDS", 0.05)
    with writing(gate, tmp_path / "journal") as writer:
        writer.write([run_record(1)])
        assert writer.flush(SECONDS)
        eventually(lambda: writer._is_asleep)
        gate.groups.clear()
        with within(2):  # half a second, and what a busy machine adds; not the five of its sleep
            writer.write([run_record(2, status="running")])
            eventually(lambda: len(gate.groups) == 1)


@in_one_of_a_few_tries
def test_a_handler_of_a_signal_amid_a_commit_is_not_stuck(gate: Gate, tmp_path: Path) -> None:
    """It may flush the store, and cannot wait for the code that it has interrupted."""
    flushed: list[tuple[bool, float]] = []
    with writing(gate, tmp_path / "journal") as writer:

        def write_at_once(records: Sequence[AnyRecord]) -> bool:
            started = time.monotonic()
            flushed.append((writer.flush(SECONDS), time.monotonic() - started))
            return False

        gate.write_at_once = write_at_once  # type: ignore[method-assign]  # as if a signal came in the middle of it
        writer.write([run_record()])
        assert not writer.commit_here()
        timely(bool(flushed), "the writer's own thread has had it: it gathers for 20 ms")
        assert flushed[0][0] is False
        timely(flushed[0][1] < 1, flushed)
        assert writer.flush(SECONDS)


@pytest.mark.alone
@in_one_of_a_few_tries
def test_a_store_that_is_idle_is_left_to_rest_once(gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tidied up at the end of idleness does not begin it anew."""
    monkeypatch.setattr("configurable_agents.storage.writer.IDLE_SECONDS", 1.5)
    with writing(gate, tmp_path / "journal") as writer:
        writer.write([run_record()])
        assert writer.flush(SECONDS)
        with within(2 * 1.5):  # it waits for so long once, not once more after it has tidied up
            eventually(lambda: not list((tmp_path / "journal").iterdir()))
