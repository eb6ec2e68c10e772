"""What models were used for and cost, by day: a rollup, made from the model calls that are there, and a view of it.

A migration never changes once it was released, so it repeats what `models`, `usage` and `views` say today.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0004"
down_revision: Final = "0003"

_ID: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_TOKENS: Final = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
_COUNTS: Final = ("model_calls", "failed_calls", *_TOKENS, "priced_nano_usd", "unpriced_calls")
_INDEX: Final = "ix_spans_model_calls"
_INDEX_COLUMNS: Final = (
    *("start_time_unix_nano", "model", "provider", "input_tokens", "output_tokens", "cost_usd", "operation"),
)
_IS_CALL: Final = "operation = 'chat'"


def upgrade() -> None:
    """Make the rollup, and drop the index that answered the same question."""
    op.create_table(
        "model_usage",
        sa.Column("unix_day", sa.BigInteger(), nullable=False),
        sa.Column("provider", _ID, nullable=False),
        sa.Column("model", _ID, nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _COUNTS),
        sa.PrimaryKeyConstraint("unix_day", "provider", "model"),
        sqlite_with_rowid=False,
    )
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE spans IN SHARE ROW EXCLUSIVE MODE")
    connection.exec_driver_sql(_fill())
    connection.exec_driver_sql(_view(connection.dialect.name))
    op.drop_index(_INDEX, "spans")


def downgrade() -> None:
    """Drop it."""
    where = sa.text(_IS_CALL)
    op.create_index(_INDEX, "spans", list(_INDEX_COLUMNS), sqlite_where=where, postgresql_where=where)
    op.get_bind().exec_driver_sql("DROP VIEW costs")
    op.drop_table("model_usage")


def _fill() -> str:
    priced = "cost_usd BETWEEN 0 AND 1000000"
    sums = (
        "count(*)",
        "sum(CASE WHEN error_type IS NULL THEN 0 ELSE 1 END)",
        *(
            f"sum(CASE WHEN {name} BETWEEN 0 AND 1000000000000 THEN CAST({name} AS BIGINT) ELSE 0 END)"
            for name in _TOKENS
        ),
        f"sum(CASE WHEN {priced} THEN CAST(round(cost_usd * 1e9) AS BIGINT) ELSE 0 END)",
        f"sum(CASE WHEN {priced} THEN 0 ELSE 1 END)",
    )
    names = ("unix_day", "provider", "model", *_COUNTS)
    return (
        f"INSERT INTO model_usage ({', '.join(names)}) SELECT start_time_unix_nano / 86400000000000,"  # noqa: S608 - our own
        f" substr(coalesce(provider, ''), 1, 200), substr(coalesce(model, ''), 1, 200), {', '.join(sums)}"
        f" FROM spans WHERE {_IS_CALL} GROUP BY 1, 2, 3"
    )


def _view(dialect: str) -> str:
    day = {
        "sqlite": "date(unix_day * 86400, 'unixepoch')",
        "postgresql": "to_char(date '1970-01-01' + unix_day::integer, 'YYYY-MM-DD')",
    }[dialect]
    usd = {"sqlite": "priced_nano_usd / 1e9", "postgresql": "priced_nano_usd / 1e9::double precision"}[dialect]
    return f"""\
CREATE VIEW costs AS
SELECT {day} AS day, nullif(provider, '') AS provider, nullif(model, '') AS model, model_calls, failed_calls,
    input_tokens, output_tokens, input_tokens + output_tokens AS total_tokens,
    CASE WHEN unpriced_calls = 0 THEN {usd} END AS cost_usd,
    {usd} AS priced_cost_usd, unpriced_calls
FROM model_usage"""  # noqa: S608 - the parts are our own
