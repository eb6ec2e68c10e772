"""Keys that are also the indexes which reading needs, so that a commit writes fewer trees.

A migration never changes once it was released, so it repeats what `models` says today.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0005"
down_revision: Final = "0004"

_RUNS: Final = "workflow_runs"
_STATES: Final = "execution_states"
_BY_WORKFLOW: Final = "ix_workflow_runs_workflow_name"
_ROW: Final = {"sqlite": "rowid", "postgresql": "ctid"}


def upgrade() -> None:
    """Key runs and node executions by their run."""
    _lock()
    _rekey(
        _RUNS,
        ["run_id", "span_id"],
        without=[_BY_WORKFLOW, "ix_workflow_runs_run_id", "ix_workflow_runs_config_sha256"],
    )
    op.create_index(_BY_WORKFLOW, _RUNS, ["workflow_name", "run_id", "config_sha256"])
    _rekey(_STATES, ["run_id", "seq", "span_id"], without=["ix_execution_states_run_id_seq"])


def downgrade() -> None:
    """Key them by their span."""
    _lock()
    _rekey(_RUNS, ["span_id", "trace_id"], without=[_BY_WORKFLOW])
    op.create_index("ix_workflow_runs_config_sha256", _RUNS, ["config_sha256"])
    op.create_index("ix_workflow_runs_run_id", _RUNS, ["run_id"])
    op.create_index(_BY_WORKFLOW, _RUNS, ["workflow_name", "run_id"])
    _rekey(_STATES, ["span_id", "trace_id"], without=[])
    op.create_index("ix_execution_states_run_id_seq", _STATES, ["run_id", "seq"])


def _lock() -> None:
    """Keep others of a server away, in the order in which they write."""
    if op.get_bind().dialect.name == "postgresql":
        op.get_bind().exec_driver_sql(f"LOCK TABLE {_RUNS}, {_STATES} IN ACCESS EXCLUSIVE MODE")


def _rekey(table: str, key: Sequence[str], *, without: Sequence[str]) -> None:
    connection = op.get_bind()
    connection.exec_driver_sql(_delete_all_but_one(table, key, _ROW[connection.dialect.name]))
    if connection.dialect.name == "sqlite":
        _make_anew(connection, table, key, without)
        return
    for index in without:
        op.drop_index(index, table)
    connection.exec_driver_sql(f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey, ADD PRIMARY KEY ({', '.join(key)})")


def _delete_all_but_one(table: str, key: Sequence[str], row: str) -> str:
    """Of rows that would have the same key, which nobody makes, keep the last one of the highest rank, as writing them would."""
    same = " AND ".join(f"other.{column} = {table}.{column}" for column in key)
    other, this = (
        f"(CASE {name}.status WHEN 'running' THEN 0 WHEN 'interrupted' THEN 1 ELSE 2 END, {name}.{row})"
        for name in ("other", table)
    )
    return f"DELETE FROM {table} WHERE EXISTS (SELECT 1 FROM {table} AS other WHERE {same} AND {other} > {this})"  # noqa: S608 - our own


def _make_anew(connection: sa.Connection, table: str, key: Sequence[str], without: Sequence[str]) -> None:
    """Do what SQLite cannot do to a table that is there (https://sqlite.org/lang_altertable.html#otheralter)."""
    what_stays = connection.exec_driver_sql(
        "SELECT name, sql FROM sqlite_master WHERE tbl_name = ? AND type IN ('index', 'trigger') AND sql IS NOT NULL",
        (table,),
    ).all()
    columns = sa.Table(table, sa.MetaData(), autoload_with=connection).columns
    new = sa.Table(
        f"{table}_0005",
        sa.MetaData(),
        *(sa.Column(column.name, column.type, nullable=column.nullable) for column in columns),
        sa.PrimaryKeyConstraint(*key),
    )
    new.create(connection)
    names = ", ".join(columns.keys())
    connection.exec_driver_sql(
        f"INSERT INTO {new.name} ({names}) SELECT {names} FROM {table} ORDER BY {', '.join(key)}"  # noqa: S608 - our own
    )
    op.drop_table(table)
    # Else SQLite would look the views through, which name a table that is not there just now.
    connection.exec_driver_sql("PRAGMA legacy_alter_table = ON")
    try:
        op.rename_table(new.name, table)
    finally:
        connection.exec_driver_sql("PRAGMA legacy_alter_table = OFF")
    for name, statement in what_stays:
        if name not in without:
            connection.exec_driver_sql(statement)
