"""Many processes that write one store: nothing is lost, whatever else they do to its file."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from _records import run_record
from _runs import rows, run_program
from configurable_agents.storage.factory import create_storage_backend

COME_AND_GO = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT count(*) FROM workflow_runs").fetchone()
connection.close()
"""


@pytest.mark.parametrize("read_only", [False, True])
def test_opening_a_store_twice_in_a_process_leaves_its_locks_to_sqlite(tmp_path: Path, read_only: bool) -> None:
    """Closing any other descriptor of the file would free them: then a process that comes and goes takes itself for the
    last one and removes the log, and what the first one commits from then on is nowhere."""
    path = tmp_path / "workflows.db"
    with closing(create_storage_backend(path)) as store:
        store.write([run_record(1)])
        create_storage_backend(path, read_only=read_only).close()
        assert run_program(COME_AND_GO, path) == (0, "", "")
        store.write([run_record(2)])
        assert rows(path, "SELECT count(*) FROM workflow_runs") == [(2,)]
