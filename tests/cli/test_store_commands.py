"""`store`: what a store holds, whether it is sound, and its upkeep."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer

from _cli import Said, run_here
from _records import node_record, run_id, run_record, span_record
from configurable_agents import create_storage_backend
from configurable_agents.cli.store_commands import parse_size, size


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Give a store with three runs of long ago; the second is running still."""
    path = tmp_path / "runs.db"
    with closing(create_storage_backend(path)) as backend:
        for number in (1, 2, 3):
            running: dict[str, Any] = {"status": "running", "duration_seconds": None} if number == 2 else {}
            ended = {} if number == 2 else {"node_executions": 1}
            backend.write(
                [run_record(number, **running, **ended), node_record(1, run=number), span_record(1, run=number)]
            )
    return path


def command(capsys: pytest.CaptureFixture[str], store: Path, *words: str) -> Said:
    """Run a `store` command."""
    return run_here(capsys, "store", *words, "--store", str(store))


def objects(said: Said) -> list[dict[str, Any]]:
    """Give the objects that a command printed."""
    assert said.code in (0, 1), said.err
    return [json.loads(line) for line in said.out.splitlines()]


def test_info_says_what_is_there(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = objects(command(capsys, store, "info", "--json"))
    assert (found["runs"], found["runs_by_status"]) == (3, {"completed": 2, "running": 1})
    assert (found["node_executions"], found["spans"], found["degraded"]) == (3, 3, False)
    assert (found["database"], found["store"], found["size_bytes"]) == ("sqlite", str(store), store.stat().st_size)
    lines = dict(line.split(maxsplit=1) for line in command(capsys, store, "info").out.splitlines())
    assert lines["runs"] == "3 (2 completed, 1 running)"
    assert lines["degraded"] == "no"


def test_info_of_no_store_makes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt path is an error, not a new file."""
    said = command(capsys, tmp_path / "none.db", "info")
    assert (said.code, said.out) == (2, "")
    assert "there is no store at" in said.err
    assert list(tmp_path.iterdir()) == []


def test_doctor_is_exit_code_0_for_a_sound_store_and_1_for_another(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = command(capsys, store, "doctor", "--json")
    assert said.code == 0
    assert {check["check"]: check["verdict"] for check in objects(said)}["integrity"] == "ok"
    with closing(create_storage_backend(store)) as backend:
        backend.write([run_record(9, node_executions=5)])
    said = command(capsys, store, "doctor")
    assert said.code == 1
    assert "problem  totals: 5 node executions are missing" in said.out


def test_prune_deletes_what_it_said_it_would(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = ("prune", "--older-than", "30d", "--json")
    (said,) = objects(command(capsys, store, *rules, "--dry-run"))
    assert (said["run_ids"], said["dry_run"]) == ([run_id(1), run_id(3)], True)
    (done,) = objects(command(capsys, store, *rules))
    assert (done["run_ids"], done["dry_run"]) == ([run_id(1), run_id(3)], False)
    assert done["bytes_after"] == store.stat().st_size
    assert command(capsys, store, "prune", "--keep-last", "5").out.startswith("0 runs deleted; ")


def test_a_size_that_cannot_be_reached_is_said(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = command(capsys, store, "prune", "--max-size", "1kB")
    assert said.out.startswith("2 runs deleted; ")
    assert "still larger than 1.0 kB" in said.err


@pytest.mark.parametrize(
    "words", [[], ["--older-than", "soon"], ["--max-size", "much"], ["--max-size", "5i"], ["--keep-last", "-1"]]
)
def test_prune_without_a_rule_that_can_be_read_deletes_nothing(
    store: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert command(capsys, store, "prune", *words).code == 2
    (found,) = objects(command(capsys, store, "info", "--json"))
    assert found["runs"] == 3


def test_rebuild_sets_totals_right(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(create_storage_backend(store)) as backend:
        backend.write([node_record(2, run=1, input_tokens=4)])
    (done,) = objects(command(capsys, store, "rebuild", "--json"))
    assert done["runs_changed"] == 1
    with closing(create_storage_backend(store)) as backend:
        assert backend.runs.get(run_id(1)).input_tokens == 4


def test_backup_copies_and_never_writes_over(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy.db"
    (done,) = objects(command(capsys, store, "backup", str(copy), "--json"))
    assert done == {"file": str(copy), "size_bytes": copy.stat().st_size}
    with closing(create_storage_backend(copy, read_only=True)) as backend:
        assert len(backend.runs.list_runs()) == 3
    said = command(capsys, store, "backup", str(copy))
    assert (said.code, said.out) == (2, "")
    assert "is there already" in said.err


@pytest.mark.parametrize(
    ("text", "number"),
    [("500MB", 500_000_000), ("2GiB", 2 * 1024**3), ("1.5 kB", 1500), ("64k", 64_000), ("700", 700), ("9b", 9)],
)
def test_sizes_are_read_as_people_write_them(text: str, number: int) -> None:
    assert parse_size(text) == number


@pytest.mark.parametrize("text", ["", "MB", "5iB", "-1MB", "1e3", "5XB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="500MB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (123_456, "123 kB"), (5 * 10**8, "500 MB"), (2 * 10**10, "20.0 GB")],
)
def test_sizes_are_said_shortly(number: int, text: str) -> None:
    assert size(number) == text
