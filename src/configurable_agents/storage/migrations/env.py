"""Alembic's entry: runs the migrations on the connection that `storage.schema` hands over, in its transaction."""

from __future__ import annotations

from alembic import context

from configurable_agents.storage.models import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
context.run_migrations()
