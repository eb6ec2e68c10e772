"""What a stored run needs to be shipped later just as it was made, and marks of where it has been delivered to.

A migration never changes once it was released, so it repeats what `models` says today.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0003"
down_revision: Final = "0002"

_ID: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
# In the order in which a fresh store has them. A column that may be NULL is added without touching a row.
_COLUMNS: Final = (
    ("workflow_runs", "trace_state"),
    ("workflow_runs", "resource_json"),
    ("execution_states", "trace_state"),
    ("spans", "trace_state"),
    ("spans", "resource_json"),
)


def upgrade() -> None:
    """Add the columns and the table of marks."""
    for table, column in _COLUMNS:
        op.add_column(table, sa.Column(column, sa.Text(), nullable=True))
    op.create_table(
        "run_deliveries",
        sa.Column("run_id", _ID, nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("delivered_at_unix_nano", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "destination"),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("run_deliveries")
    for table, column in reversed(_COLUMNS):
        op.drop_column(table, column)
