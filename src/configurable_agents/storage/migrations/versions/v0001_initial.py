"""The first schema: runs, node executions, spans, texts of workflow files, and two views.

A migration never changes once it was released, so it repeats what `models` and `views` say today.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0001"
down_revision: Final = None

_ID: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create everything."""
    _create_workflow_configs()
    _create_workflow_runs()
    _create_execution_states()
    _create_spans()
    for statement in _views(op.get_bind().dialect.name):
        # Not `op.execute`: a colon in the text would begin a parameter there.
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    """Drop everything."""
    for view in ("node_executions", "runs"):
        op.get_bind().exec_driver_sql(f"DROP VIEW {view}")
    for table in ("spans", "execution_states", "workflow_runs", "workflow_configs"):
        op.drop_table(table)


def _create_partial_index(name: str, table: str, columns: Sequence[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _create_workflow_configs() -> None:
    op.create_table(
        "workflow_configs",
        sa.Column("sha256", _ID, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )


def _create_workflow_runs() -> None:
    op.create_table(
        "workflow_runs",
        sa.Column("run_id", _ID, nullable=False),
        sa.Column("workflow_name", sa.Text(), nullable=False),
        sa.Column("workflow_version", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("duration_seconds", sa.Double(), nullable=True),
        sa.Column("error_type", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("node_executions", sa.BigInteger(), nullable=False),
        sa.Column("model_calls", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_usd", sa.Double(), nullable=True),
        sa.Column("priced_cost_usd", sa.Double(), nullable=False),
        sa.Column("unpriced_calls", sa.BigInteger(), nullable=False),
        sa.Column("config_sha256", _ID, nullable=True),
        sa.Column("inputs_json", sa.Text(), nullable=True),
        sa.Column("defaults_json", sa.Text(), nullable=True),
        sa.Column("reducers_json", sa.Text(), nullable=True),
        sa.Column("reads_from_json", sa.Text(), nullable=True),
        sa.Column("span_id", _ID, nullable=False),
        sa.Column("trace_id", _ID, nullable=False),
        sa.Column("parent_span_id", _ID, nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("start_time_unix_nano", sa.BigInteger(), nullable=False),
        sa.Column("end_time_unix_nano", sa.BigInteger(), nullable=True),
        sa.Column("status_code", sa.Text(), nullable=False),
        sa.Column("status_message", sa.Text(), nullable=True),
        sa.Column("attributes_json", sa.Text(), nullable=False),
        sa.Column("events_json", sa.Text(), nullable=True),
        sa.Column("links_json", sa.Text(), nullable=True),
        sa.Column("scope_json", sa.Text(), nullable=True),
        sa.Column("trace_flags", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("span_id", "trace_id"),
    )
    op.create_index("ix_workflow_runs_config_sha256", "workflow_runs", ["config_sha256"])
    _create_partial_index(
        "ix_workflow_runs_not_completed", "workflow_runs", ["status", "run_id"], "status <> 'completed'"
    )
    op.create_index("ix_workflow_runs_run_id", "workflow_runs", ["run_id"])
    op.create_index("ix_workflow_runs_workflow_name", "workflow_runs", ["workflow_name", "run_id"])


def _create_execution_states() -> None:
    op.create_table(
        "execution_states",
        sa.Column("run_id", _ID, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("node_kind", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("duration_seconds", sa.Double(), nullable=True),
        sa.Column("error_type", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("provider", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("models_json", sa.Text(), nullable=True),
        sa.Column("model_calls", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_usd", sa.Double(), nullable=True),
        sa.Column("priced_cost_usd", sa.Double(), nullable=False),
        sa.Column("unpriced_calls", sa.BigInteger(), nullable=False),
        sa.Column("reads_from_json", sa.Text(), nullable=False),
        sa.Column("branch", sa.Text(), nullable=True),
        sa.Column("map_index", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("edge", sa.Text(), nullable=True),
        sa.Column("inputs_json", sa.Text(), nullable=True),
        sa.Column("outputs_json", sa.Text(), nullable=True),
        sa.Column("span_id", _ID, nullable=False),
        sa.Column("trace_id", _ID, nullable=False),
        sa.Column("parent_span_id", _ID, nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("start_time_unix_nano", sa.BigInteger(), nullable=False),
        sa.Column("end_time_unix_nano", sa.BigInteger(), nullable=True),
        sa.Column("status_code", sa.Text(), nullable=False),
        sa.Column("status_message", sa.Text(), nullable=True),
        sa.Column("attributes_json", sa.Text(), nullable=False),
        sa.Column("events_json", sa.Text(), nullable=True),
        sa.Column("links_json", sa.Text(), nullable=True),
        sa.Column("scope_json", sa.Text(), nullable=True),
        sa.Column("trace_flags", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("span_id", "trace_id"),
    )
    op.create_index("ix_execution_states_run_id_seq", "execution_states", ["run_id", "seq"])


def _create_spans() -> None:
    op.create_table(
        "spans",
        sa.Column("run_id", _ID, nullable=True),
        sa.Column("operation", sa.Text(), nullable=True),
        sa.Column("provider", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cache_read_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cache_write_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cost_usd", sa.Double(), nullable=True),
        sa.Column("duration_seconds", sa.Double(), nullable=True),
        sa.Column("error_type", sa.Text(), nullable=True),
        sa.Column("span_id", _ID, nullable=False),
        sa.Column("trace_id", _ID, nullable=False),
        sa.Column("parent_span_id", _ID, nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("start_time_unix_nano", sa.BigInteger(), nullable=False),
        sa.Column("end_time_unix_nano", sa.BigInteger(), nullable=True),
        sa.Column("status_code", sa.Text(), nullable=False),
        sa.Column("status_message", sa.Text(), nullable=True),
        sa.Column("attributes_json", sa.Text(), nullable=False),
        sa.Column("events_json", sa.Text(), nullable=True),
        sa.Column("links_json", sa.Text(), nullable=True),
        sa.Column("scope_json", sa.Text(), nullable=True),
        sa.Column("trace_flags", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("span_id", "trace_id"),
    )
    _create_partial_index(
        "ix_spans_model_calls",
        "spans",
        ["start_time_unix_nano", "model", "provider", "input_tokens", "output_tokens", "cost_usd", "operation"],
        "operation = 'chat'",
    )
    op.create_index("ix_spans_run_id", "spans", ["run_id", "start_time_unix_nano"])


_STARTED_AT: Final = {
    "sqlite": "strftime('%Y-%m-%dT%H:%M:%S', start_time_unix_nano / 1000000000, 'unixepoch')"
    " || printf('.%06dZ', start_time_unix_nano / 1000 % 1000000)",
    "postgresql": "to_char(timestamp 'epoch' + start_time_unix_nano / 1000 * interval '1 microsecond',"
    """ 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')""",
}
_OBJECT: Final = {"sqlite": "json_object", "postgresql": "json_build_object"}
_OUTPUTS: Final = {
    # A text that is no JSON (nothing of ours writes one) must not make the whole view unreadable.
    "sqlite": "CASE WHEN json_valid(outputs_json) THEN json(outputs_json) ELSE json('{}') END",
    "postgresql": "coalesce(outputs_json, '{}')::json",
}


def _views(dialect: str) -> tuple[str, ...]:
    runs = f"""\
CREATE VIEW runs AS
SELECT run_id, workflow_name AS workflow, status, {_STARTED_AT[dialect]} AS started_at, duration_seconds,
    node_executions, input_tokens, output_tokens, input_tokens + output_tokens AS total_tokens, cost_usd,
    error_message AS error
FROM workflow_runs"""  # noqa: S608 - the parts are our own
    nodes = f"""\
CREATE VIEW node_executions AS
SELECT run_id, seq, node_id, status, {_STARTED_AT[dialect]} AS started_at, duration_seconds, model,
    input_tokens, output_tokens, input_tokens + output_tokens AS total_tokens, cost_usd,
    outputs_json AS outputs, error_message AS error,
    {_OBJECT[dialect]}('node_id', node_id, 'status', status, 'duration_seconds', duration_seconds,
        'input_tokens', input_tokens, 'output_tokens', output_tokens, 'total_tokens', input_tokens + output_tokens,
        'model', model, 'cost_usd', cost_usd, 'outputs', {_OUTPUTS[dialect]}, 'error', error_message) AS state_data
FROM execution_states"""  # noqa: S608 - the parts are our own
    return runs, nodes
