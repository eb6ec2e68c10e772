"""What people read with a plain database shell."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from _records import node_record, run_id, run_record
from configurable_agents.storage.base import StorageBackend

Query = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def query(target: str) -> Query:
    """Give a function that asks the database without this package."""

    def ask(sql: str) -> list[dict[str, Any]]:
        if target.startswith("postgresql:"):
            import psycopg
            from psycopg.rows import dict_row

            with psycopg.connect(target, row_factory=dict_row) as connection:
                return list(connection.execute(sql).fetchall())
        with closing(sqlite3.connect(f"{Path(target).as_uri()}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql)]

    return ask


def test_which_nodes_ran_in_what_order_how_long_at_what_cost_and_what_they_wrote(
    store: StorageBackend, query: Query
) -> None:
    tokens: dict[str, Any] = {"input_tokens": 10, "output_tokens": 5, "model": "fake-model", "cost_usd": 0.25}
    store.write(
        [
            node_record(2, node_id="send", status="failed", error_message="no mail", outputs_json=None, cost_usd=None),
            node_record(1, outputs={"answer": "Grüße", "nested": {"a": [1, None]}}, **tokens),
        ]
    )
    first, second = query("SELECT * FROM node_executions ORDER BY run_id, seq")
    assert {name: value for name, value in first.items() if name not in ("state_data", "outputs")} == {
        "run_id": run_id(),
        "seq": 1,
        "node_id": "draft",
        "status": "completed",
        "started_at": "2025-10-09T08:53:20.124456Z",
        "duration_seconds": 0.5,
        "total_tokens": 15,
        "error": None,
        **tokens,
    }
    assert json.loads(first["outputs"]) == {"answer": "Grüße", "nested": {"a": [1, None]}}
    assert (second["node_id"], second["status"], second["error"]) == ("send", "failed", "no mail")
    assert second["cost_usd"] is None


def test_state_data_in_the_view_is_the_records_own(store: StorageBackend, query: Query) -> None:
    records = [
        node_record(1, outputs={"answer": "ja\x00\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")}),
        node_record(2, status="failed", error_message='a "quoted" one\nand more', outputs_json=None, cost_usd=None),
        node_record(3, model="fake-model", input_tokens=2**62, output_tokens=1, cost_usd=0.1, duration_seconds=1 / 3),
    ]
    store.write(records)
    for record, row in zip(records, query("SELECT state_data FROM node_executions ORDER BY seq"), strict=True):
        found = row["state_data"] if isinstance(row["state_data"], dict) else json.loads(row["state_data"])
        assert list(found) == list(record.state_data)
        # Databases write floating-point numbers with 15 or 17 digits.
        assert found.pop("duration_seconds") == pytest.approx(record.duration_seconds, rel=1e-14)
        assert found == {name: value for name, value in record.state_data.items() if name != "duration_seconds"}


def test_runs_in_the_view(store: StorageBackend, query: Query) -> None:
    store.write(
        [
            run_record(1, input_tokens=3, output_tokens=4, cost_usd=0.5, node_executions=2),
            run_record(2, status="running", duration_seconds=None, cost_usd=None),
            run_record(3, status="failed", error_message="boom"),
        ]
    )
    done, running, failed = query("SELECT * FROM runs ORDER BY run_id")
    assert done == {
        "run_id": run_id(1),
        "workflow": "support",
        "status": "completed",
        "started_at": "2025-10-09T08:53:20.124456Z",
        "duration_seconds": 1.5,
        "node_executions": 2,
        "input_tokens": 3,
        "output_tokens": 4,
        "total_tokens": 7,
        "cost_usd": 0.5,
        "error": None,
    }
    assert (running["status"], running["duration_seconds"], running["cost_usd"]) == ("running", None, None)
    assert (failed["status"], failed["error"]) == ("failed", "boom")


@pytest.mark.parametrize("outputs", ["[1]", "null", '{"n": 1e999}', "{}", '{"a": "\\u0000\\ud800"}'])
def test_odd_outputs_do_not_make_the_view_unreadable(store: StorageBackend, query: Query, outputs: str) -> None:
    store.write([node_record(1, outputs_json=outputs), node_record(2)])
    rows = query("SELECT seq, outputs, state_data FROM node_executions ORDER BY seq")
    assert [(row["seq"], row["outputs"]) for row in rows] == [(1, outputs), (2, '{"answer": "yes"}')]
