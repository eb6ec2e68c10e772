"""Stores of every released revision are upgraded when they are opened, also by several processes at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from _records import node_record, run_id, run_record, span_record
from _runs import run_at_once
from configurable_agents.storage import migrations
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.codec import encode_record
from configurable_agents.storage.journal import Journal
from configurable_agents.storage.models import (
    OLDER_REVISIONS,
    SCHEMA_REVISION,
    execution_states,
    metadata,
    spans,
    version,
    workflow_configs,
    workflow_runs,
)
from configurable_agents.storage.records import ExecutionStateRecord, Record, WorkflowRunRecord

Open = Callable[..., StorageBackend]

CONFIG = Config()
CONFIG.set_main_option("script_location", str(Path(str(migrations.__file__)).parent))
OLDER = [script.revision for script in ScriptDirectory.from_config(CONFIG).walk_revisions() if not script.is_head]

IMPORTS = """
import sys
from _records import node_record, run_record
from configurable_agents.storage.factory import create_storage_backend
"""
OPEN_AND_WRITE = """
number += 2
store = create_storage_backend(sys.argv[1], busy_timeout_seconds=20)
store.write([run_record(number, node_executions=1), node_record(1, run=number)])
store.close()
"""


@contextmanager
def plain_connection(target: str) -> Iterator[sa.Connection]:
    url = target.replace("postgresql:", "postgresql+psycopg:") if "://" in target else f"sqlite:///{target}"
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
        yield connection


def make_store(target: str, revision: str) -> None:
    """Make a store as that revision's version did, with a run in it."""
    with plain_connection(target) as connection:
        CONFIG.attributes["connection"] = connection
        command.upgrade(CONFIG, revision)
        required: dict[str, Any] = {
            column.name: 0 if isinstance(column.type, sa.Integer | sa.Double) else "{}"
            for column in workflow_runs.c
            if not column.nullable
        }
        row = {**required, "run_id": run_id(1), "span_id": "01" * 8, "trace_id": "01" * 16, "status": "completed"}
        connection.execute(sa.insert(workflow_runs).values({**row, "kind": "INTERNAL", "status_code": "OK"}))


def test_every_older_revision_is_known() -> None:
    """Without loading Alembic, which takes longer than all else: what is not known is newer."""
    assert {"", *OLDER} == OLDER_REVISIONS
    assert "0001" in OLDER


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("revision", OLDER)
def test_processes_that_open_an_older_store_at_once_upgrade_it_and_lose_nothing(
    target: str, open_store: Callable[..., StorageBackend], revision: str
) -> None:
    make_store(target, revision)
    assert run_at_once(IMPORTS, OPEN_AND_WRITE, target, processes=4) == (0, "", "")
    with plain_connection(target) as connection:
        assert connection.execute(sa.select(version.c.version_num)).scalars().all() == [SCHEMA_REVISION]
    assert [run.run_id for run in open_store().runs.list_runs()] == [run_id(number) for number in range(5, 0, -1)]


# --- 0005: other keys ------------------------------------------------------------------------------------------------------

TABLE_OF = {WorkflowRunRecord: workflow_runs, ExecutionStateRecord: execution_states}
RUNNING: dict[str, Any] = {"status": "running", "duration_seconds": None}


def fill(target: str, *records: Record) -> None:
    """Put rows of records into a store of 0004; its tables have the columns that they have now."""
    with plain_connection(target) as connection:
        CONFIG.attributes["connection"] = connection
        command.upgrade(CONFIG, "0004")
        connection.execute(sa.insert(workflow_configs).values(sha256="ab" * 32, text="flow: …"))
        for record in records:
            table = TABLE_OF.get(type(record), spans)
            connection.execute(
                sa.insert(table).values({column.name: getattr(record, column.name) for column in table.c})
            )
            if table is workflow_runs:
                lease = {"span_id": record.span_id, "trace_id": record.trace_id, "lease_until_unix": 4e9}
                connection.execute(metadata.tables["run_leases"].insert().values(lease))


def everything(target: str) -> dict[str, list[str]]:
    with plain_connection(target) as connection:
        return {
            name: sorted(map(repr, connection.execute(sa.select(table)))) for name, table in metadata.tables.items()
        }


def indexes(target: str) -> set[str]:
    with plain_connection(target) as connection:
        look = sa.inspect(connection)
        return {str(index["name"]) for table in metadata.tables for index in look.get_indexes(table)}


def migrate(target: str, revision: str) -> None:
    with plain_connection(target) as connection:
        CONFIG.attributes["connection"] = connection
        (command.upgrade if revision > "0004" else command.downgrade)(CONFIG, revision)


def test_every_row_is_the_same_after_the_upgrade_and_after_taking_it_back(target: str, open_store: Open) -> None:
    """Also of runs that go on, and in the order in which they never were written."""
    text: dict[str, Any] = {"config_sha256": "ab" * 32, "inputs_json": '{"x": "\U0001f600"}'}
    made: list[Record] = [
        *(run_record(number, **text, **(RUNNING if number == 3 else {})) for number in (2, 3, 1)),
        *(node_record(seq, run=run, cost_usd=None) for run in (3, 1, 2) for seq in (2, 1, 10)),
        node_record(11, run=3, **RUNNING),
        span_record(run=1),
    ]
    fill(target, *made)
    before, trees = everything(target), indexes(target)
    open_store().close()
    assert everything(target) == before
    assert indexes(target) == trees - {
        *("ix_workflow_runs_run_id", "ix_workflow_runs_config_sha256", "ix_execution_states_run_id_seq")
    }
    with plain_connection(target) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM node_executions").scalar() == 10
    store = open_store()
    assert store.runs.get(run_id(3)).config_text == "flow: …"
    assert [node.seq for node in store.execution_states.get_state_history(run_id(3))] == [1, 2, 10, 11]
    store.close()
    migrate(target, "0004")
    assert everything(target) == before
    assert indexes(target) == trees


def test_what_people_have_put_beside_our_tables_survives_the_upgrade(target: str, open_store: Open) -> None:
    fill(target, run_record(), node_record())
    with plain_connection(target) as connection:
        connection.exec_driver_sql("CREATE INDEX theirs ON execution_states (node_id)")
        connection.exec_driver_sql(
            "CREATE VIEW slow AS SELECT node_id FROM execution_states JOIN workflow_runs USING (run_id)"
        )
    open_store().write([node_record(2)])
    assert "theirs" in indexes(target)
    with plain_connection(target) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM slow").scalar() == 2


def test_an_upgrade_that_is_torn_at_its_very_end_leaves_the_store_as_it_was(target: str, open_store: Open) -> None:
    """As by the death of its process. The next one does it all."""
    fill(target, run_record(), node_record())
    before, trees = everything(target), indexes(target)

    def tear(_c: Any, _cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool) -> None:
        if statement.startswith(f"UPDATE {version.name}"):
            raise RuntimeError("torn")

    sa.event.listen(sa.Engine, "before_cursor_execute", tear)
    try:
        with pytest.raises(RuntimeError, match="torn"):
            open_store()
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", tear)
    assert (everything(target), indexes(target)) == (before, trees)
    open_store().close()
    assert everything(target) == before
    assert indexes(target) < trees


def test_of_rows_that_the_new_keys_take_for_the_same_the_one_that_tells_an_end_stays(
    target: str, open_store: Open
) -> None:
    """Nobody makes such rows; but one of them must not make a store unopenable."""
    fill(
        target,
        run_record(trace_id="0a" * 16, **RUNNING),
        run_record(trace_id="0b" * 16),
        run_record(trace_id="0c" * 16, status="interrupted"),
        node_record(trace_id="0a" * 16, status="interrupted"),
        node_record(trace_id="0b" * 16, status="failed"),
        node_record(trace_id="0c" * 16),
        node_record(2, span_id=node_record(1).span_id),
    )
    store = open_store()
    (run,) = store.runs.list_runs()
    assert (run.trace_id, run.status) == ("0b" * 16, "completed")
    assert [(node.seq, node.trace_id) for node in store.execution_states.get_state_history(run_id())] == [
        (1, "0c" * 16),
        (2, node_record().trace_id),
    ]


def test_the_journal_that_a_dead_process_of_an_older_version_left_is_taken_up(target: str, open_store: Open) -> None:
    """Its notes of what goes on do not say of which run it is."""
    alone: dict[str, Any] = {"run": 2, "trace_id": "0d" * 16}  # its run is nowhere
    going_on: list[Record] = [run_record(**RUNNING), node_record(2, **RUNNING), node_record(1, **alone, **RUNNING)]
    fill(target, *going_on, node_record(1), run_record(3, **RUNNING), node_record(1, run=3, **RUNNING))
    store = open_store()
    with_end = Journal(store.journals[0])
    with_end.begin()
    for kind, record in zip(("run", "node", "node", "node"), (*going_on, node_record(1)), strict=True):
        note = {"open": kind, "span_id": record.span_id, "trace_id": record.trace_id}
        with_end.append(orjson.dumps(note))
    with_end.append(encode_record(node_record(1)))
    with_end.close(remove=False)
    runs = {run.run_id: run.status for run in store.runs.list_runs()}
    assert runs == {run_id(1): "interrupted", run_id(3): "running"}
    assert store.runs.get(run_id(1)).node_executions == 2
    nodes = [node for number in (1, 2, 3) for node in store.execution_states.get_state_history(run_id(number))]
    assert [node.status for node in nodes] == ["completed", "interrupted", "interrupted", "running"]
