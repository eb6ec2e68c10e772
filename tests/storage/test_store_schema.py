"""The schema: made at once or by migrations, always the same; older is upgraded, newer is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from _records import node_record, run_id, run_record, span_record
from configurable_agents.errors import StorageError
from configurable_agents.storage import migrations
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.models import SCHEMA_REVISION, VERSION_TABLE, metadata, version
from configurable_agents.storage.pruning import Rules, prune
from configurable_agents.storage.records import DeliveryRecord, SpanKey

Open = Callable[..., StorageBackend]


@contextmanager
def plain_connection(target: str) -> Iterator[sa.Connection]:
    url = target.replace("postgresql:", "postgresql+psycopg:") if "://" in target else f"sqlite:///{target}"
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        yield connection


def schema(target: str) -> list[Any]:
    """List everything that the database says of its own schema."""
    sqlite = [
        # Of a table its columns: its text shows which of them were added later.
        "SELECT type, name, tbl_name, iif(type = 'table', '', sql) FROM sqlite_master ORDER BY 1, 2",
        "SELECT m.name, c.* FROM sqlite_master m, pragma_table_xinfo(m.name) c WHERE m.type = 'table' ORDER BY 1, 2",
    ]
    postgresql = [
        (
            "SELECT table_name, column_name, data_type, is_nullable, collation_name, column_default"
            " FROM information_schema.columns WHERE table_schema = current_schema() ORDER BY 1, ordinal_position"
        ),
        "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema() ORDER BY 1, 2",
        "SELECT viewname, definition FROM pg_views WHERE schemaname = current_schema() ORDER BY 1",
    ]
    with plain_connection(target) as connection:
        rows = [
            row
            for query in (sqlite if connection.dialect.name == "sqlite" else postgresql)
            for row in connection.exec_driver_sql(query)
        ]
    return [tuple(re.sub(r"\s+", " ", value) if isinstance(value, str) else value for value in row) for row in rows]


def forget_everything_but_the_version_table(target: str) -> None:
    with plain_connection(target) as connection:
        for view in ("runs", "node_executions", "costs"):
            connection.exec_driver_sql(f"DROP VIEW {view}")
        metadata.drop_all(connection)
        connection.execute(version.delete())


def test_the_migrations_lead_to_the_schema_that_a_fresh_store_has(target: str, open_store: Open) -> None:
    open_store().close()
    fresh = schema(target)
    assert len(fresh) > 8
    forget_everything_but_the_version_table(target)
    store = open_store()
    assert schema(target) == fresh
    store.write([run_record(), node_record()])
    assert store.runs.get("last").run_id == run_id()


def test_models_and_migrations_agree(target: str, open_store: Open) -> None:
    open_store().close()
    with plain_connection(target) as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_the_newest_migration_is_the_revision_that_this_version_expects() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(str(migrations.__file__)).parent))
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA_REVISION]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_newer_schema_is_refused_and_left_alone(target: str, open_store: Open, read_only: bool) -> None:
    open_store().write([run_record()])
    with plain_connection(target) as connection:
        connection.execute(version.update().values(version_num="9999"))
    before = schema(target)
    with pytest.raises(StorageError, match="9999"):
        open_store(read_only=read_only)
    assert schema(target) == before


def test_an_older_schema_is_not_upgraded_by_reading(target: str, open_store: Open) -> None:
    open_store().close()
    with plain_connection(target) as connection:
        connection.execute(version.delete())
    with pytest.raises(StorageError, match="another schema"):
        open_store(read_only=True)


def test_a_program_with_migrations_of_its_own_can_share_the_database(target: str, open_store: Open) -> None:
    with plain_connection(target) as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('abc')")
    open_store().write([run_record()])
    with plain_connection(target) as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "abc"


def test_a_store_is_made_whole_or_not_at_all(target: str, open_store: Open) -> None:
    with plain_connection(target) as connection:
        connection.exec_driver_sql("CREATE TABLE spans (theirs INTEGER)")
    before = schema(target)
    with pytest.raises(StorageError, match="already exists"):
        open_store()
    assert schema(target) == before


LOADED = """
import sys
import configurable_agents.storage.base, configurable_agents.storage.factory as factory
def loaded(): return sorted({"sqlalchemy", "alembic", "psycopg", "pydantic", "sqlalchemy.dialects.postgresql"} & set(sys.modules))
print("imported", loaded())
factory.create_storage_backend(sys.argv[1]).close()
print("made", loaded())
factory.create_storage_backend(sys.argv[1]).close()
print("opened", loaded())
"""


def test_sqlalchemy_is_loaded_when_a_store_is_opened_for_its_database_alone_and_alembic_only_to_migrate(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", LOADED, str(tmp_path / "workflows.db")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["imported []", "made ['sqlalchemy']", "opened ['sqlalchemy']"]


@contextmanager
def statements_seen() -> Iterator[list[tuple[str, Any]]]:
    seen: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        seen.append((statement, parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


READS: dict[str, Callable[[StorageBackend], object]] = {
    "workflow_runs": lambda store: store.runs.list_runs(),
    "ix_workflow_runs_workflow_name": lambda store: store.runs.list_runs(workflow_name="support", before_run_id="f"),
    "ix_workflow_runs_not_completed": lambda store: store.runs.list_runs(status="failed"),
    "execution_states": lambda store: store.execution_states.get_state_history(run_id()),
    "ix_spans_run_id": lambda store: store.execution_states.list_spans(run_id()),
}
"""What is read, and the index or the table whose key it goes through."""
KEYS = {"sqlite": "sqlite_autoindex_{}_1", "postgresql": "{}_pkey"}


@pytest.mark.parametrize("name", READS)
def test_reading_goes_through_an_index(target: str, store: StorageBackend, name: str) -> None:
    store.write([run_record(), node_record(), span_record()])
    with statements_seen() as seen:
        READS[name](store)
    statement, parameters = seen[-1]  # before it, where there are any, leases are looked at
    plan = plan_of(target, statement, parameters)
    key = KEYS["postgresql" if "://" in target else "sqlite"]
    assert (name if name.startswith("ix_") else key.format(name)) in plan
    if name != "ix_spans_run_id":  # spans that start together are sorted by their id
        assert "TEMP B-TREE" not in plan, "the index gives the order too"


RUN = SpanKey(run_id(1), run_record(1).span_id, run_record(1).trace_id)
NODE = SpanKey(run_id(1), node_record(1).span_id, node_record(1).trace_id)
BY_KEY: dict[str, Callable[[StorageBackend], object]] = {
    "a run by its id": lambda store: store.runs.get(run_id(1)),
    "a run by the beginning of its id": lambda store: store.runs.get(run_id(1)[:-1]),
    "the run of a history": lambda store: store.execution_states.get_run(run_id(1)),
    "the latest state": lambda store: store.execution_states.get_latest_state(run_id(1)),
    "the spans of a run": lambda store: store.execution_states.list_spans(run_id(1)),
    "where a run was delivered to": lambda store: store.runs.list_deliveries(run_id(1)),
    "what goes on": lambda store: store.runs.list_runs(status="running"),
    "marking a run as delivered": lambda store: store.runs.mark_delivered(
        [DeliveryRecord(run_id=run_id(1), destination="here", delivered_at_unix_nano=1)]
    ),
    "the death of a process": lambda store: store.mark_interrupted([RUN], [NODE]),
    "a sign of life": lambda store: store.hold([RUN]),
    "runs without one": lambda store: store.runs.list_runs(status="running"),
    "deleting a run whose text others have": lambda store: store.runs.delete(run_id(1)),
}


@pytest.mark.parametrize("what", BY_KEY)
def test_what_is_looked_for_by_a_key_is_found_without_reading_a_whole_table(
    target: str, store: StorageBackend, what: str
) -> None:
    """Nor a whole index: a store of a million runs answers like one of ten."""
    text: dict[str, Any] = {"config_sha256": "ab" * 32, "config_text": "flow: …"}
    running: dict[str, Any] = {"status": "running", "duration_seconds": None}
    store.write([run_record(1, **running, **text), node_record(1, status="running"), span_record()])
    store.write([run_record(2, **text), node_record(1, run=2), node_record(2, run=2), span_record(run=2)])
    if what == "runs without one" and "://" in target:
        with plain_connection(target) as connection:
            connection.exec_driver_sql("UPDATE run_leases SET lease_until_unix = 0")
    with statements_seen() as seen:
        BY_KEY[what](store)
    plans = [plan_of(target, *one) for one in seen if re.match("SELECT|UPDATE|DELETE|INSERT|WITH", one[0])]
    # Whoever lives sweeps the few leases that there are.
    assert [plan for plan in plans for line in whole_readings(plan) if "run_leases" not in line] == []
    assert plans or (what == "a sign of life" and "://" not in target), "on a file the locks say who lives"


def whole_readings(plan: str) -> list[str]:
    """Give the lines of a plan that read all of a table or of an index."""
    lines = plan.splitlines()
    return [
        line
        for line, following in zip(lines, [*lines[1:], ""], strict=True)
        if re.search(r"^SCAN (?!CONSTANT)|Seq Scan", line)  # SQLite's word, PostgreSQL's word
        or (re.search("Index.* Scan", line) and "Index Cond" not in following)
    ]


def test_texts_that_no_run_has_any_more_are_found_in_one_look_at_the_runs(target: str, store: StorageBackend) -> None:
    """However many texts there are, and without their rows."""
    for number in (1, 2):
        store.write([run_record(number, config_sha256=f"{number:064}", config_text=f"flow: {number}")])
    with statements_seen() as seen:
        prune(store, Rules(keep_last=1))
    (plan,) = (plan_of(target, *one) for one in seen if one[0].startswith("DELETE FROM workflow_configs"))
    assert len([line for line in whole_readings(plan) if "workflow_runs" in line]) == 1
    assert "CORRELATED" not in plan
    assert "SubPlan" not in plan.replace("hashed SubPlan", "")
    assert "ix_workflow_runs_workflow_name" in plan or "://" in target


def plan_of(target: str, statement: str, parameters: Any) -> str:
    with plain_connection(target) as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # small tables are read whole otherwise
        prefix = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN (COSTS OFF)"
        return "\n".join(str(row[-1]) for row in connection.exec_driver_sql(f"{prefix} {statement}", parameters))
