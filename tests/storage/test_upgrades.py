"""Stores of every released revision are upgraded when they are opened, also by several processes at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from _records import run_id
from _runs import run_at_once
from configurable_agents.storage import migrations
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.models import OLDER_REVISIONS, SCHEMA_REVISION, version, workflow_runs

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
