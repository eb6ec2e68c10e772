"""Runs of other hosts on one server: those whose process renews no lease any more are interrupted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from _records import node_record, run_id, run_record
from _runs import calls, chain, eventually, field, start_program
from _workflows import make
from configurable_agents import create_storage_backend, run_workflow
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.records import SpanKey
from configurable_agents.storage.upkeep import sql_store

RUNNING: dict[str, Any] = {"status": "running", "duration_seconds": None}
KEY = SpanKey(run_id(1), run_record(1).span_id, run_record(1).trace_id)

pytestmark = pytest.mark.postgres


@pytest.fixture
def server(postgres_url: str) -> Iterator[StorageBackend]:
    """Give a store on a server."""
    with closing(create_storage_backend(postgres_url, busy_timeout_seconds=10)) as store:
        yield store


def ask(store: StorageBackend, statement: str) -> Any:
    return sql_store(store).database.run(lambda connection: connection.exec_driver_sql(statement), write=True)


def leases(store: StorageBackend) -> list[float]:
    """Give the seconds that are left of each lease."""
    query = "SELECT lease_until_unix - extract(epoch FROM clock_timestamp()) FROM run_leases ORDER BY 1"
    run = sql_store(store).database.run
    return run(lambda connection: [float(left) for left in connection.exec_driver_sql(query).scalars()])


def let_a_minute_pass(store: StorageBackend) -> None:
    ask(store, "UPDATE run_leases SET lease_until_unix = lease_until_unix - 61")


def test_a_run_of_a_host_that_died_is_interrupted_when_its_lease_is_over(server: StorageBackend) -> None:
    used = {"model_calls": 1, "input_tokens": 7}
    server.write(
        [run_record(1, **RUNNING), node_record(1, **used), node_record(2, status="running", duration_seconds=None)]
    )
    assert server.runs.get("last").status == "running"
    let_a_minute_pass(server)
    run = server.runs.get("last")
    assert (run.status, run.node_executions, run.input_tokens) == ("interrupted", 2, 7)
    assert [node.status for node in server.execution_states.get_state_history(run_id(1))] == [
        "completed",
        "interrupted",
    ]
    assert leases(server) == []


def test_a_run_that_has_ended_has_no_lease(server: StorageBackend) -> None:
    server.write([run_record(1, **RUNNING)])
    (left,) = leases(server)
    assert 50 < left <= 60
    server.write([run_record(1)])
    assert leases(server) == []
    assert server.runs.get("last").status == "completed"


def test_a_lease_that_is_renewed_is_not_over(server: StorageBackend) -> None:
    server.write([run_record(1, **RUNNING)])
    let_a_minute_pass(server)
    server.hold([KEY])
    assert server.runs.get("last").status == "running"


def test_a_run_that_was_taken_for_dead_and_lives_is_running_again(server: StorageBackend) -> None:
    """Its host had no network for a while."""
    server.write([run_record(1, **RUNNING)])
    let_a_minute_pass(server)
    assert server.runs.get("last").status == "interrupted"
    server.hold([KEY])
    assert server.runs.get("last").status == "running"
    let_a_minute_pass(server)
    assert server.runs.get("last").status == "interrupted"
    server.write([run_record(1)])
    assert server.runs.get("last").status == "completed"
    server.hold([KEY])
    assert server.runs.get("last").status == "completed", "what has ended is not revived"


def test_a_row_that_was_written_by_hand_has_no_lease_and_stays(server: StorageBackend) -> None:
    server.runs.add(run_record(1, **RUNNING))
    assert leases(server) == []
    assert server.runs.get("last").status == "running"


def test_a_process_renews_the_leases_of_its_runs_while_a_node_takes_its_time(server: StorageBackend) -> None:
    """Nothing is written meanwhile that could do it."""
    server.renew_seconds = 0.05
    seen: list[float] = []

    def slow() -> int:
        deadline = time.monotonic() + 10
        while len(seen) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
            if min(leases(server), default=0.0) < 1:  # it has one, and it was renewed since the last time
                continue
            ask(server, "UPDATE run_leases SET lease_until_unix = lease_until_unix - 59.5")
            seen.append(leases(server)[0])
        return 1

    workflow = make([calls("slow", "x")], chain("START slow END"), {"x": field("int")})
    result = run_workflow(workflow, functions={"slow": slow}, store=server)
    assert len(seen) == 2
    assert server.runs.get(result.run_id).status == "completed"
    assert leases(server) == []


ELSEWHERE = """
import sys, time
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow

def hang():
    print("running", flush=True)
    time.sleep(60)

workflow = make([calls("hang", "x")], chain("START hang END"), {"x": field("int")})
run_workflow(workflow, functions={"hang": hang}, store=sys.argv[1])
"""


def test_the_runs_of_another_host_are_left_alone_while_it_lives_and_ended_when_it_is_gone(
    postgres_url: str, server: StorageBackend, tmp_path: Path
) -> None:
    """Another state directory stands for another host: its journals are out of sight."""
    with start_program(ELSEWHERE, postgres_url, XDG_STATE_HOME=str(tmp_path / "elsewhere")) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "running\n"
            assert eventually(lambda: server.runs.get("last").status) == "running"
        finally:
            process.kill()
            process.wait()
    assert server.runs.get("last").status == "running", "nobody can know yet"
    let_a_minute_pass(server)
    assert server.runs.get("last").status == "interrupted"
