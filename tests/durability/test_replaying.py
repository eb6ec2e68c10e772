"""Taking up the journals of the dead: twice, half, or by two at once gives what doing it once gives."""

from __future__ import annotations

import random
import shutil
import signal
import struct
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest

from _faults import Nursery, everything, lost_or_wrong
from _records import node_record, run_record, span_record
from _runs import rows, run_program, start_program
from configurable_agents import create_storage_backend
from configurable_agents.semconv import Status
from configurable_agents.storage.codec import encode_record
from configurable_agents.storage.journal import HEADER_BYTES, MARKER, Journal, make_private_directory
from configurable_agents.storage.records import Record
from configurable_agents.storage.recovery import recover, segments

RUNS = 40
NODES = 10


def history(run: int) -> list[Record]:
    """What one run leaves; every third died before its end, in the middle of a node."""
    records: list[Record] = [run_record(run, status=Status.RUNNING)]
    for seq in range(1, NODES + 1):
        records += [
            node_record(seq, run=run, status=Status.RUNNING),
            span_record(seq, run=run),
            node_record(seq, run=run, model_calls=1, input_tokens=seq, cost_usd=seq / 8, priced_cost_usd=seq / 8),
        ]
    if run % 3 == 0:
        return [*records, node_record(NODES + 1, run=run, status=Status.RUNNING)]
    return [
        *records,
        run_record(
            run, node_executions=NODES, input_tokens=55, model_calls=NODES, cost_usd=55 / 8, priced_cost_usd=55 / 8
        ),
    ]


def leave_journals(store: Path, *, owners: int = 4) -> Path:
    """Leave journals as processes that died would; gives their directory."""
    backend = create_storage_backend(store)
    directory = backend.journals[0]
    backend.close()
    for owner in range(owners):
        journal = Journal(directory, segment_bytes=40_000)
        for run in range(1 + owner, 1 + RUNS, owners):
            for record in history(run):
                journal.append(encode_record(record))
        journal.close(remove=False)
    return directory


def take_up(store: Path) -> None:
    backend = create_storage_backend(store, busy_timeout_seconds=5)
    backend.runs.list_runs()
    backend.close()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[list[object]]:
    """What taking the journals up once gives."""
    store = tmp_path_factory.mktemp("expected") / "runs.db"
    leave_journals(store)
    take_up(store)
    found = everything(store)
    runs, states, spans, _ = found
    assert (len(runs), len(states), len(spans)) == (RUNS, RUNS * NODES + RUNS // 3, RUNS * NODES)
    return found


def test_taking_journals_up_twice_changes_nothing(tmp_path: Path, expected: list[list[object]]) -> None:
    store = tmp_path / "runs.db"
    directory = leave_journals(store)
    copies = [(path, path.read_bytes()) for path in segments(directory)]
    assert len(copies) > 8
    for _ in range(2):
        take_up(store)
        assert everything(store) == expected
        for path, data in copies:
            path.write_bytes(data)


def test_a_part_of_the_journals_again_changes_nothing(tmp_path: Path, expected: list[list[object]]) -> None:
    """A recoverer that dies while it removes segments leaves some of them."""
    store = tmp_path / "runs.db"
    directory = leave_journals(store)
    copies = [(path, path.read_bytes()) for path in segments(directory)]
    take_up(store)
    for chance in map(random.Random, range(5)):
        for path, data in chance.sample(copies, len(copies) // 2):
            path.write_bytes(data)
        take_up(store)
        assert everything(store) == expected


def test_many_who_take_journals_up_at_once_agree(tmp_path: Path, expected: list[list[object]]) -> None:
    store = tmp_path / "runs.db"
    directory = leave_journals(store)
    threads = [threading.Thread(target=take_up, args=(store,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    take_up(store)  # one that found everything in others' hands did not wait for them
    assert segments(directory) == []
    assert everything(store) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork, and Linux's way to adopt orphans")
def test_who_takes_journals_up_may_be_killed_at_any_moment(
    nursery: Nursery, tmp_path: Path, expected: list[list[object]]
) -> None:
    made = tmp_path / "made" / "runs.db"
    leave_journals(made)
    chance = random.Random(5)
    for turn in range(12):
        store = tmp_path / str(turn) / "runs.db"
        shutil.copytree(made.parent, store.parent)
        for _ in range(2):
            nursery.start("list", store)
        time.sleep(chance.uniform(0.01, 0.12))
        nursery.end(signal.SIGKILL)
        assert lost_or_wrong(store, []) == []
        assert everything(store) == expected


def test_how_a_run_really_ended_wins_over_interrupted_however_late_it_comes(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    backend = create_storage_backend(store)
    journal = Journal(backend.journals[0])
    journal.append(encode_record(run_record(status=Status.RUNNING)))
    journal.append(encode_record(node_record(1, status=Status.RUNNING)))
    journal.close(remove=False)
    (run,) = backend.runs.list_runs()
    assert (run.status, run.node_executions) == (Status.INTERRUPTED, 1)
    backend.write([node_record(1), run_record(node_executions=1)])
    (run,) = backend.runs.list_runs()
    (node,) = backend.execution_states.get_state_history(run.run_id)
    assert (run.status, node.status) == (Status.COMPLETED, Status.COMPLETED)
    for late in (Status.RUNNING, Status.INTERRUPTED):  # and stays
        backend.write([run_record(status=late)])
    assert backend.runs.get("last").status == Status.COMPLETED
    backend.close()


def test_a_run_whose_journal_moved_to_another_place_is_summed_up_over_both(tmp_path: Path) -> None:
    """A disk that filled up in the middle of a run: its records stand in two directories, and its end in neither."""
    backend = create_storage_backend(tmp_path / "runs.db")
    parts = [history(3)[:10], history(3)[10:]]
    for directory, records in zip(backend.journals, parts, strict=True):
        journal = Journal(directory)
        journal.append(encode_record(run_record(3, status=Status.RUNNING)))
        for record in records:
            journal.append(encode_record(record))
        journal.close(remove=False)
    (run,) = backend.runs.list_runs()
    assert (run.status, run.node_executions, run.input_tokens) == (Status.INTERRUPTED, NODES + 1, 55)
    backend.close()


def test_recovery_keeps_no_more_than_a_group_of_records_in_memory(tmp_path: Path) -> None:
    """A store that was away for a day leaves more than anybody wants to hold at once."""
    import tracemalloc

    backend = create_storage_backend(tmp_path / "runs.db")
    journal = Journal(backend.journals[0])
    for seq in range(1, 2001):
        journal.append(encode_record(node_record(seq, outputs={"answer": "x" * 20_000})))
    journal.close(remove=False)
    tracemalloc.start()
    recover(backend.journals[0], backend)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(backend.execution_states.get_state_history(node_record().run_id)) == 2000
    assert peak < 25_000_000, "40 MB were in the journal"
    backend.close()


def test_a_service_that_is_started_again_takes_up_what_the_last_one_left(tmp_path: Path) -> None:
    """Nobody need list runs for that: a service that crashes again and again piles up no journals."""
    store = tmp_path / "runs.db"
    program = (
        "import os, sys\n"
        "from _runs import calls, chain, field\n"
        "from _workflows import make\n"
        "from configurable_agents import run_workflow\n"
        "one = make([calls('a', 'x')], chain('START a END'), {'x': field('int')})\n"
        "run_workflow(one, functions={'a': lambda: os._exit(9) if sys.argv[2] == 'dies' else 1}, store=sys.argv[1])\n"
    )
    assert [run_program(program, store, how)[0] for how in ("dies", "dies", "lives")] == [9, 9, 0]
    assert list((tmp_path / "runs.db.journal").glob("*.segment")) == []
    statuses = rows(store, "SELECT status FROM workflow_runs ORDER BY run_id")
    assert statuses == [("interrupted",), ("interrupted",), ("completed",)]


DELETES = """
import os, sys
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import create_storage_backend, run_workflow

one = make([calls("a", "x")], chain("START a END"), {"x": field("int")})
store = create_storage_backend(sys.argv[1])
for _ in range(10):
    run = run_workflow(one, functions={"a": lambda: 1}, store=sys.argv[1])
    store.runs.delete(run.run_id)
os.kill(os.getpid(), 9)
"""


def test_a_journal_of_the_version_before_is_taken_up(tmp_path: Path) -> None:
    """As a process leaves it that still ran the code before when the store was upgraded."""
    store = tmp_path / "runs.db"
    backend = create_storage_backend(store)
    payloads = [encode_record(record) for record in history(1)]
    frames = [struct.pack("<4sII", MARKER, len(data), zlib.crc32(data)) + data for data in payloads]
    committed = struct.pack("<Q", HEADER_BYTES + len(frames[0]))
    mark = committed + struct.pack("<I", zlib.crc32(committed))
    header = (b"CAJOURN1" + bytes(16) + mark).ljust(HEADER_BYTES, b"\0")
    make_private_directory(backend.journals[0])
    (backend.journals[0] / "1-1-000001.segment").write_bytes(header + b"".join(frames))
    (run,) = backend.runs.list_runs()
    assert run == history(1)[-1]
    assert [state.seq for state in backend.execution_states.get_state_history(run.run_id)] == [*range(1, NODES + 1)]
    assert segments(backend.journals[0]) == []
    backend.close()


def test_a_journal_of_a_later_version_is_left_to_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = create_storage_backend(tmp_path / "runs.db")
    make_private_directory(backend.journals[0])
    segment = backend.journals[0] / "1-1-000001.segment"
    segment.write_bytes(b"CAJOURN9" + bytes(100))
    assert backend.runs.list_runs() == []
    assert segment.read_bytes() == b"CAJOURN9" + bytes(100)
    assert (
        "1-1-000001.segment was written by a later version, which has to take it up; it is left as it is" in caplog.text
    )
    backend.close()


def test_a_run_that_is_deleted_as_soon_as_it_returns_stays_so_when_its_process_dies(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    code, _, err = run_program(DELETES, store)
    assert code == -signal.SIGKILL, err
    backend = create_storage_backend(store)
    assert backend.runs.list_runs() == []
    backend.close()


def test_a_run_that_another_process_deletes_stays_so_when_its_own_dies(
    tmp_path: Path,
) -> None:
    """Nothing more comes that could make its process say what the database has had."""
    store = tmp_path / "runs.db"
    program = DELETES.replace("range(10)", "range(1)").replace("store.runs.delete(run.run_id)", "print(flush=True)")
    with start_program(program.replace("os.kill(os.getpid(), 9)", "sys.stdin.read()"), store) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        backend = create_storage_backend(store)
        (run,) = backend.runs.list_runs()
        backend.runs.delete(run.run_id)
        process.kill()
    assert backend.runs.list_runs() == []
    backend.close()
