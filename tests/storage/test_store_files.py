"""A store in a file: where it may be, who may read it, and what is said when it cannot be used."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from _plain_user import plain_user
from _records import node_record, run_id, run_record
from _timing import anew, in_one_of_a_few_tries, within
from configurable_agents.errors import StorageError
from configurable_agents.storage.factory import create_storage_backend

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another_process(path: Path) -> Iterator[None]:
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.stdin.close()


def made_store(path: Path) -> Path:
    with closing(create_storage_backend(path)) as store:
        store.write([run_record(), node_record()])
    return path


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_only_its_owner_can_read_a_store_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "made" / "below" / "workflows.db"
    before = os.umask(0)
    try:
        with closing(create_storage_backend(path)) as store:
            store.write([run_record()])
            names = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert names == {"workflows.db": 0o600, "workflows.db-wal": 0o600, "workflows.db-shm": 0o600}
    assert [stat.S_IMODE(directory.stat().st_mode) for directory in (path.parent, path.parent.parent)] == [0o700, 0o700]


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_the_permissions_of_what_was_there_before_are_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    path = made_store(tmp_path / "workflows.db")
    path.chmod(0o640)
    made_store(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


@pytest.mark.parametrize("name", ["with space.db", "100%25?#.db", "ünï.db", "no-suffix"])
def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    path = made_store(tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    with closing(create_storage_backend(path, read_only=True)) as store:
        assert store.runs.get("last").run_id == run_id()


def test_a_relative_path_stays_where_it_was_when_the_program_changes_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    with closing(create_storage_backend(environ={})) as store:
        monkeypatch.chdir(tmp_path / "b")
        store.write([run_record()])
        assert store.location == "workflows.db"
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.db")] == ["a/workflows.db"]


def test_a_directory_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is a directory; give the path of a file in it"):
        create_storage_backend(tmp_path)


@pytest.mark.parametrize("content", [b"flow:\n  name: support\n", b"x", b"SQLite format 3\x00" + b"garbage" * 500])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_is_no_database_is_said_to_be_none_and_left_alone(
    tmp_path: Path, content: bytes, read_only: bool
) -> None:
    path = tmp_path / "support.yaml"
    path.write_bytes(content)
    with pytest.raises(StorageError, match="is not a SQLite database"):
        create_storage_backend(path, read_only=read_only)
    assert path.read_bytes() == content


def test_a_path_below_a_file_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot be opened"):
        create_storage_backend(tmp_path / "file" / "workflows.db")


def test_reading_makes_no_file_and_no_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "none.db", tmp_path / "none" / "none.db"):
        with pytest.raises(StorageError, match="there is no store at"):
            create_storage_backend(path, read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_another_programs_database_holds_no_store_and_is_not_changed_by_reading(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(StorageError, match="there is no store at"):
        create_storage_backend(path, read_only=True)
    assert path.read_bytes() == before


@pytest.mark.alone
@in_one_of_a_few_tries
def test_a_store_locked_by_another_process_costs_about_the_busy_timeout(tmp_path: Path) -> None:
    path = made_store(anew(tmp_path / "workflows.db"))
    with closing(create_storage_backend(path)) as store:
        with held_by_another_process(path):
            with within(1, least=0.15), pytest.raises(StorageError, match="is locked by another process"):
                store.write([run_record(2)])
            assert store.runs.get("last").run_id == run_id(1), "readers do not wait for a writer"
            with within(1):  # opening a store that is up to date does not wait either
                create_storage_backend(path).close()
        store.write([run_record(2)])
        assert store.runs.get("last").run_id == run_id(2)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs file permissions")
def test_a_place_that_may_not_be_written_is_an_error_with_a_remedy() -> None:
    with plain_user() as directory:
        directory.chmod(0o500)
        for path in (directory / "workflows.db", directory / "sub" / "workflows.db"):
            with pytest.raises(StorageError, match=r"cannot be opened: Permission denied; .*--store"):
                create_storage_backend(path)
        directory.chmod(0o700)
        path = made_store(directory / "workflows.db")
        path.chmod(0o400)
        with pytest.raises(StorageError, match="cannot be opened: Permission denied"):
            create_storage_backend(path)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs file permissions")
def test_a_read_only_store_in_a_read_only_directory_can_be_read() -> None:
    with plain_user() as directory:
        path = made_store(directory / "workflows.db")
        path.chmod(0o400)
        directory.chmod(0o500)
        with closing(create_storage_backend(path, read_only=True)) as store:
            assert store.runs.get("last").run_id == run_id()
            assert len(store.execution_states.get_state_history(run_id())) == 1
        assert [file.name for file in directory.iterdir()] == ["workflows.db"]


def test_a_store_that_is_being_written_can_be_read_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "workflows.db"
    with (
        closing(create_storage_backend(path)) as writer,
        closing(create_storage_backend(path, read_only=True)) as reader,
    ):
        for number in range(1, 4):
            writer.write([run_record(number)])
            assert reader.runs.get("last").run_id == run_id(number)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_writes_through_connections_of_its_own(tmp_path: Path) -> None:
    """SQLite's locks belong to a process: a connection shared by a fork can damage the file."""
    path = tmp_path / "workflows.db"
    with closing(create_storage_backend(path, busy_timeout_seconds=10)) as store:
        store.write([run_record(1)])
        children = []
        for child in range(2, 6):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    for number in range(20):
                        store.write([run_record(child * 100 + number)])
                    store.close()
                    code = 0
                finally:
                    os._exit(code)
            children.append(pid)
        for number in range(20):
            store.write([run_record(number + 10)])
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
        assert len(store.runs.list_runs(limit=1000)) == 1 + 5 * 20
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
