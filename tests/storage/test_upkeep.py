"""The upkeep of a store: what it says of itself, and what it makes of rows that do not agree."""

from __future__ import annotations

import os
import random
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from _records import node_record, run_id, run_record, span_record
from _runs import eventually, rows, run_program
from configurable_agents.errors import StorageError
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.doctor import examine, has_wal_reset_fix
from configurable_agents.storage.factory import create_storage_backend
from configurable_agents.storage.pruning import Rules, prune
from configurable_agents.storage.space import used_bytes_of
from configurable_agents.storage.targets import journal_directories
from configurable_agents.storage.upkeep import back_up, look_at_journal, read_info, rebuild, sql_store

Open = Callable[..., StorageBackend]
USED: dict[str, Any] = {
    "model_calls": 1,
    "input_tokens": 10,
    "output_tokens": 5,
    "cost_usd": 0.5,
    "priced_cost_usd": 0.5,
}


def write_run(store: StorageBackend, number: int, *, nodes: int = 2, text: str = "yes", **values: Any) -> None:
    """Write a run whose totals are the sums over its nodes."""
    totals = {name: value * nodes for name, value in USED.items()}
    store.write(
        [
            run_record(number, node_executions=nodes, config_text=f"flow: {number}", **{**totals, **values}),
            *(node_record(seq, run=number, outputs={"answer": text}, **USED) for seq in range(1, nodes + 1)),
            span_record(1, run=number),
        ]
    )


def run_ids(store: StorageBackend) -> list[str]:
    return [run.run_id for run in store.runs.list_runs(limit=10_000)]


def execute(store: StorageBackend, statement: str) -> None:
    sql_store(store).database.run(lambda connection: connection.exec_driver_sql(statement), write=True)


def verdicts(target: str) -> dict[str, str]:
    return {check.name: check.verdict for check in examine(target, os.environ)}


# --- what a store says of itself -------------------------------------------------------------------------------------------


def test_a_store_tells_what_it_holds(target: str, store: StorageBackend) -> None:
    write_run(store, 1)
    write_run(store, 2, cost_usd=None, unpriced_calls=1)
    store.write([run_record(3, status="running", duration_seconds=None)])
    info = read_info(store, journal_directories(Path(target), {}) if "://" not in target else ())
    assert (info.runs, info.node_executions, info.spans) == ({"completed": 2, "running": 1}, 4, 2)
    assert (info.model_calls, info.unpriced_calls, info.missing_node_executions) == (4, 1, 0)
    assert info.size_bytes > 10_000
    assert not info.degraded


def test_an_empty_store_tells_that_it_is_empty(store: StorageBackend) -> None:
    info = read_info(store, ())
    assert (info.runs, info.node_executions, info.oldest_unix_nano, info.degraded) == ({}, 0, None, False)


def test_what_a_run_counts_and_no_row_shows_is_said_with_its_number(target: str, store: StorageBackend) -> None:
    """A gap is stated, never guessed away: the run's own totals are the truer ones, and stay."""
    write_run(store, 1, nodes=5)
    execute(store, "DELETE FROM execution_states WHERE seq > 3")
    info = read_info(store, ())
    assert (info.missing_node_executions, info.degraded) == (2, True)
    assert verdicts(target)["totals"] == "problem"
    assert rebuild(store) == 0
    assert store.runs.get("last").input_tokens == 50


DIE = """
import os, sys
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow
workflow = make([calls("a", "x"), calls("b", "x")], chain("START a b END"), {"x": field("int")})
run_workflow(workflow, functions={"a": lambda: 1, "b": lambda: os._exit(9)}, store=sys.argv[1])
"""


def test_journals_of_the_dead_and_of_the_living_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "workflows.db"
    assert run_program(DIE, path)[0] == 9
    (directory, _) = journal_directories(path, os.environ)
    dead = look_at_journal(directory)
    assert (dead.segments, dead.dead_segments, dead.size_bytes > 64) == (1, 1, True)
    assert verdicts(str(path))["journals"] == "warning"
    assert look_at_journal(directory) == dead, "looking changes nothing"
    with closing(create_storage_backend(path)) as store:
        assert store.runs.get("last").status == "interrupted"
    assert look_at_journal(directory).segments == 0
    assert verdicts(str(path))["journals"] == "ok"


# --- the doctor ------------------------------------------------------------------------------------------------------------


def test_a_sound_store_has_no_problem(target: str, store: StorageBackend) -> None:
    write_run(store, 1)
    found = verdicts(target)
    assert list(found) == ["opens", "schema", "integrity", "totals", "costs", "version", "journals", "quarantine"]
    assert "problem" not in found.values()


def test_a_damaged_file_is_a_problem_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "workflows.db"
    with closing(create_storage_backend(path)) as store:
        for number in range(1, 30):
            write_run(store, number, text="x" * 2000)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 20_000)
    assert verdicts(str(path))["integrity"] == "problem"


def test_a_newer_schema_is_a_problem(target: str, store: StorageBackend) -> None:
    execute(store, "UPDATE configurable_agents_version SET version_num = '9999'")
    (first, *_) = examine(target, os.environ)
    assert (first.name, first.verdict) == ("opens", "problem")
    assert "9999" in first.detail


def test_a_refused_record_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "workflows.db"
    create_storage_backend(path).close()
    journal = tmp_path / "workflows.db.journal"
    journal.mkdir()
    (journal / "quarantine.jsonl").write_text("{}\n{}\n")
    assert verdicts(str(path))["quarantine"] == "problem"
    with closing(create_storage_backend(path, read_only=True)) as store:
        assert read_info(store, [journal]).quarantined_records == 2


@pytest.mark.parametrize(
    ("version", "fixed"),
    [
        ("3.40.1", False),
        ("3.44.5", False),
        ("3.44.6", True),
        ("3.45.0", False),
        ("3.50.6", False),
        ("3.50.7", True),
        ("3.51.2", False),
        ("3.51.3", True),
        ("3.53.0", True),
        ("4.0.0", True),
    ],
)
def test_the_versions_with_the_fix_of_the_wal_reset_bug_are_known(version: str, fixed: bool) -> None:
    assert has_wal_reset_fix(version) is fixed


# --- totals ----------------------------------------------------------------------------------------------------------------


def test_totals_that_do_not_agree_are_computed_anew(target: str, store: StorageBackend) -> None:
    write_run(store, 1)
    write_run(store, 2)
    before = store.runs.get(run_id(2))
    execute(store, f"UPDATE workflow_runs SET input_tokens = 7, cost_usd = NULL WHERE run_id = '{run_id(1)}'")
    assert verdicts(target)["totals"] == "problem"
    assert rebuild(store) == 1
    again = store.runs.get(run_id(1))
    assert (again.input_tokens, again.cost_usd, again.node_executions) == (20, 1.0, 2)
    assert store.runs.get(run_id(2)) == before
    assert rebuild(store) == 0
    assert verdicts(target)["totals"] == "ok"


def test_a_running_run_keeps_what_it_says(store: StorageBackend) -> None:
    store.write([run_record(1, status="running", duration_seconds=None), node_record(1, **USED)])
    assert rebuild(store) == 0
    assert store.runs.get("last").input_tokens == 0


# --- pruning ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        (Rules(keep_last=2), [5, 4, 2]),
        (Rules(keep_last=0), [2]),
        (Rules(started_before_unix_nano=run_record(4).start_time_unix_nano), [5, 4, 2]),
        (Rules(started_before_unix_nano=run_record(4).start_time_unix_nano, keep_last=3), [5, 4, 3, 2]),
        (Rules(started_before_unix_nano=0), [5, 4, 3, 2, 1]),
        (Rules(max_bytes=1), [2]),
        (Rules(max_bytes=1, keep_last=1), [5, 2]),
        (Rules(max_bytes=10**12), [5, 4, 3, 2, 1]),
    ],
)
def test_old_runs_go_and_running_ones_stay(store: StorageBackend, rules: Rules, left: list[int]) -> None:
    for number in range(1, 6):
        running: dict[str, Any] = {"status": "running", "duration_seconds": None} if number == 2 else {}
        write_run(store, number, **running)
    said = prune(store, rules, dry_run=True)
    assert len(run_ids(store)) == 5, "a dry run changes nothing"
    gone = prune(store, rules)
    assert run_ids(store) == [run_id(number) for number in left]
    assert gone.run_ids == tuple(run_id(number) for number in range(1, 6) if number not in left)
    assert said.run_ids == gone.run_ids
    info = read_info(store, ())
    assert (info.node_executions, info.spans, info.missing_node_executions) == (2 * len(left), len(left), 0)
    texts = sa.text("SELECT count(*) FROM workflow_configs")
    assert sql_store(store).database.run(lambda connection: connection.execute(texts).scalar()) == len(left)


def test_old_spans_of_other_programs_go_with_their_age(store: StorageBackend) -> None:
    store.write([span_record(1, run_id=None), span_record(9, run_id=None)])
    prune(store, Rules(started_before_unix_nano=span_record(5).start_time_unix_nano))
    assert read_info(store, ()).spans == 1


def test_the_space_is_really_given_back(target: str, store: StorageBackend) -> None:
    """The file itself, as `ls` shows it; on a server the tables."""
    for number in range(1, 61):
        write_run(store, number, text=random.Random(number).randbytes(10_000).hex())
    before, used = read_info(store, ()).size_bytes, used_bytes_of(sql_store(store))
    pruned = prune(store, Rules(max_bytes=used // 2))
    after = read_info(store, ())
    assert after.size_bytes == pruned.bytes_after <= used // 2 < before == pruned.bytes_before
    assert after.size_bytes > used // 3, "not more went than had to"
    assert sum(after.runs.values()) == 60 - len(pruned.run_ids)
    if "://" not in target:
        files = [Path(target), Path(f"{target}-wal")]
        assert sum(file.stat().st_size for file in files if file.exists()) == after.size_bytes
        assert after.free_bytes == 0


def test_a_store_is_pruned_while_it_is_written(target: str, open_store: Open) -> None:
    """Those who write wait for a moment, and lose nothing."""
    store, writer = open_store(), open_store()
    for number in range(1, 200):
        write_run(store, number, text="x" * 1000)
    stop, written = threading.Event(), []

    def write() -> None:
        number = 1000
        while not stop.is_set():
            write_run(writer, number)
            written.append(run_id(number))
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        eventually(lambda: written)
        prune(store, Rules(started_before_unix_nano=run_record(500).start_time_unix_nano))
    finally:
        stop.set()
        thread.join()
    assert written
    assert run_ids(store) == written[::-1]


# --- copies ----------------------------------------------------------------------------------------------------------------

WRITE = """
import sys
from _records import node_record, run_record
from configurable_agents.storage.factory import create_storage_backend
store = create_storage_backend(sys.argv[1], busy_timeout_seconds=30)
print("writing", flush=True)
for number in range(1, 400):
    store.write([run_record(number, node_executions=3), *(node_record(seq, run=number) for seq in (1, 2, 3))])
store.close()
"""


def test_a_copy_taken_while_another_process_writes_is_whole_and_of_one_moment(tmp_path: Path) -> None:
    from _runs import start_program

    path = tmp_path / "workflows.db"
    sizes: list[int] = []
    with start_program(WRITE, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        while process.poll() is None:
            copy = tmp_path / f"copy-{len(sizes)}.db"
            with closing(create_storage_backend(path, read_only=True)) as store:
                assert back_up(store, copy) == copy.stat().st_size
            ((sound,),) = rows(copy, "PRAGMA integrity_check")
            ((runs,),) = rows(copy, "SELECT count(*) FROM workflow_runs")
            assert sound == "ok"
            assert rows(copy, "SELECT count(*) FROM execution_states") == [(3 * runs,)]
            sizes.append(runs)
        assert process.returncode == 0
    assert sizes == sorted(sizes)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_a_copy_is_one_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    path, copy = tmp_path / "workflows.db", tmp_path / "copies" / "copy.db"
    copy.parent.mkdir()
    before = os.umask(0)
    try:
        with closing(create_storage_backend(path)) as store:
            write_run(store, 1)
            back_up(store, copy)
    finally:
        os.umask(before)
    assert [file.name for file in copy.parent.iterdir()] == ["copy.db"]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with closing(create_storage_backend(copy)) as again:
        assert run_ids(again) == [run_id(1)]


def test_no_file_is_written_over_and_no_half_copy_is_left(tmp_path: Path) -> None:
    with closing(create_storage_backend(tmp_path / "workflows.db")) as store:
        (tmp_path / "there").write_text("mine")
        with pytest.raises(StorageError, match="is there already"):
            back_up(store, tmp_path / "there")
        with pytest.raises(StorageError, match="cannot be written"):
            back_up(store, tmp_path / "nowhere" / "copy.db")
    assert (tmp_path / "there").read_text() == "mine"
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.postgres
def test_a_server_is_backed_up_with_its_own_tools(postgres_url: str, tmp_path: Path) -> None:
    with (
        closing(create_storage_backend(postgres_url)) as store,
        pytest.raises(StorageError, match=r"pg_dump .*postgresql://"),
    ):
        back_up(store, tmp_path / "copy")
