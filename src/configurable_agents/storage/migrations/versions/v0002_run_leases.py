"""Leases of running runs: on a server, other hosts see by them that a run's process has died.

A migration never changes once it was released, so it repeats what `models` says today.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0002"
down_revision: Final = "0001"

_ID: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the table of leases."""
    op.create_table(
        "run_leases",
        sa.Column("span_id", _ID, nullable=False),
        sa.Column("trace_id", _ID, nullable=False),
        sa.Column("lease_until_unix", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("span_id", "trace_id"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("run_leases")
