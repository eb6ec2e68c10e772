"""The tables of a store, in SQLAlchemy Core: one row for each finished span, one text for each version of a workflow file.

JSON is kept as TEXT on every database: its bytes come back exactly (PostgreSQL's `jsonb` reorders keys and refuses NUL).
There are no foreign keys: a node's row may come before its run's, a child span before its parent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Final

import sqlalchemy as sa

SCHEMA_REVISION: Final = "0005"
"""The Alembic revision that this module describes; a test compares it with the migrations' head."""
OLDER_REVISIONS: Final = frozenset({"", "0001", "0002", "0003", "0004"})
"""Those that are upgraded; any other was written by a newer version. (Empty: all migrations were taken back.)"""
VERSION_TABLE: Final = "configurable_agents_version"
"""Alembic's table under a name of our own, so that a store can live in the database of a program that uses Alembic too."""

# Ids are compared byte by byte: run ids sort by time then, whatever the database's language.
_Id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

metadata = sa.MetaData()

version = sa.Table(
    VERSION_TABLE,
    sa.MetaData(),  # Alembic's own, and shaped as Alembic makes it
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
)


def _required(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _optional(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True)


def _span_columns() -> list[sa.Column[Any]]:
    return [
        _required("span_id", _Id),
        _required("trace_id", _Id),
        _optional("parent_span_id", _Id),
        _required("name", sa.Text),
        _required("kind", sa.Text),
        _required("start_time_unix_nano", sa.BigInteger),
        _optional("end_time_unix_nano", sa.BigInteger),
        _required("status_code", sa.Text),
        _optional("status_message", sa.Text),
        _required("attributes_json", sa.Text),
        _optional("events_json", sa.Text),
        _optional("links_json", sa.Text),
        _optional("scope_json", sa.Text),
        _required("trace_flags", sa.Integer),
        _optional("trace_state", sa.Text),
    ]


def _totals_columns() -> list[sa.Column[Any]]:
    return [
        _required("model_calls", sa.BigInteger),
        _required("input_tokens", sa.BigInteger),
        _required("output_tokens", sa.BigInteger),
        _required("cache_read_tokens", sa.BigInteger),
        _required("cache_write_tokens", sa.BigInteger),
        _required("reasoning_tokens", sa.BigInteger),
        _optional("cost_usd", sa.Double),
        _required("priced_cost_usd", sa.Double),
        _required("unpriced_calls", sa.BigInteger),
    ]


def _outcome_columns() -> list[sa.Column[Any]]:
    return [
        _required("status", sa.Text),
        _optional("duration_seconds", sa.Double),
        _optional("error_type", sa.Text),
        _optional("error_message", sa.Text),
    ]


workflow_configs = sa.Table(
    "workflow_configs",
    metadata,
    sa.Column("sha256", _Id, primary_key=True),
    _required("text", sa.Text),
)

_NOT_COMPLETED: Final = "ix_workflow_runs_not_completed"
_IS_NOT_COMPLETED: Final = "status <> 'completed'"

workflow_runs = sa.Table(
    "workflow_runs",
    metadata,
    _required("run_id", _Id),
    _required("workflow_name", sa.Text),
    _optional("workflow_version", sa.Text),
    *_outcome_columns(),
    _required("node_executions", sa.BigInteger),
    *_totals_columns(),
    _optional("config_sha256", _Id),
    _optional("inputs_json", sa.Text),
    _optional("defaults_json", sa.Text),
    _optional("reducers_json", sa.Text),
    _optional("reads_from_json", sa.Text),
    *_span_columns(),
    _optional("resource_json", sa.Text),
    # Latest runs and a run by its id. Not that alone: one odd record must not make a whole batch fail.
    sa.PrimaryKeyConstraint("run_id", "span_id"),
    # With the hash it also says whether a config text is still in use, without a look at the rows.
    sa.Index("ix_workflow_runs_workflow_name", "workflow_name", "run_id", "config_sha256"),
    # Few runs are open or failed, so that this index is small and costs nothing on the runs that complete.
    sa.Index(_NOT_COMPLETED, "status", "run_id", sqlite_where=sa.text(_IS_NOT_COMPLETED)).ddl_if(dialect="sqlite"),
)

# Said in an argument of the index it would load PostgreSQL's dialect for every command that reads a SQLite store.
sa.event.listen(
    workflow_runs,
    "after_create",
    sa.DDL(  # type: ignore[no-untyped-call]  # it is published without types
        f"CREATE INDEX {_NOT_COMPLETED} ON workflow_runs (status, run_id) WHERE {_IS_NOT_COMPLETED}"
    ).execute_if(dialect="postgresql"),
)

execution_states = sa.Table(
    "execution_states",
    metadata,
    _required("run_id", _Id),
    _required("seq", sa.BigInteger),
    _required("node_id", sa.Text),
    _required("node_kind", sa.Text),
    *_outcome_columns(),
    _optional("provider", sa.Text),
    _optional("model", sa.Text),
    _optional("models_json", sa.Text),
    *_totals_columns(),
    _required("reads_from_json", sa.Text),
    _optional("branch", sa.Text),
    _optional("map_index", sa.BigInteger),
    _required("attempts", sa.BigInteger),
    _optional("edge", sa.Text),
    _optional("inputs_json", sa.Text),
    _optional("outputs_json", sa.Text),
    *_span_columns(),
    # Each tree costs a commit its pages: this one is the key, and gives a run's history in its order. Run ids are
    # time-ordered: new rows go to its end, or near it.
    sa.PrimaryKeyConstraint("run_id", "seq", "span_id"),
)

spans = sa.Table(
    "spans",
    metadata,
    _optional("run_id", _Id),
    _optional("operation", sa.Text),
    _optional("provider", sa.Text),
    _optional("model", sa.Text),
    _optional("input_tokens", sa.BigInteger),
    _optional("output_tokens", sa.BigInteger),
    _optional("cache_read_tokens", sa.BigInteger),
    _optional("cache_write_tokens", sa.BigInteger),
    _optional("reasoning_tokens", sa.BigInteger),
    _optional("cost_usd", sa.Double),
    _optional("duration_seconds", sa.Double),
    _optional("error_type", sa.Text),
    *_span_columns(),
    _optional("resource_json", sa.Text),
    # Foreign spans have no run. Our span ids are time-ordered: with them in front, new rows go to the end of the key's tree.
    sa.PrimaryKeyConstraint("span_id", "trace_id"),
    sa.Index("ix_spans_run_id", "run_id", "start_time_unix_nano"),
)

model_usage = sa.Table(
    "model_usage",
    metadata,
    # Days since 1970-01-01, UTC; a call counts for the day on which it began.
    _required("unix_day", sa.BigInteger),
    # The empty text where it is unknown: a key has no NULL.
    _required("provider", _Id),
    _required("model", _Id),
    *(
        _required(name, sa.BigInteger)
        for name in (
            *("model_calls", "failed_calls", "input_tokens", "output_tokens"),
            *("cache_read_tokens", "cache_write_tokens", "reasoning_tokens"),
            # Whole billionths of a dollar: fractions would not come back to zero when calls are deleted.
            "priced_nano_usd",
            "unpriced_calls",
        )
    ),
    sa.PrimaryKeyConstraint("unix_day", "provider", "model"),
    sqlite_with_rowid=False,  # each commit with a model call writes one page of it, not two
)

run_leases = sa.Table(
    "run_leases",
    metadata,
    _required("span_id", _Id),
    _required("trace_id", _Id),
    # On the database's clock, in seconds.
    _required("lease_until_unix", sa.Double),
    sa.PrimaryKeyConstraint("span_id", "trace_id"),
)

run_deliveries = sa.Table(
    "run_deliveries",
    metadata,
    _required("run_id", _Id),
    _required("destination", sa.Text),
    _required("delivered_at_unix_nano", sa.BigInteger),
    sa.PrimaryKeyConstraint("run_id", "destination"),
)


def plain_names(names: Iterable[str]) -> list[str]:
    """Give the names of columns as plain text, for what has them as keys.

    SQLAlchemy's are a kind of text of its own, with which each look into a dict takes twice as long.
    """
    return [sys.intern(str(name)) for name in names]
