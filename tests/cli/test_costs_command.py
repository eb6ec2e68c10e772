"""`runs costs`: what models were used for and cost, by day."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from _cli import Said, run_here, run_process, scripted_file
from _records import START_UNIX_NANO, span_record
from configurable_agents import create_storage_backend

DAY_NANO = 86_400 * 10**9


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Give a store with calls of three days in October 2025."""
    path = tmp_path / "runs.db"
    calls: list[dict[str, Any]] = [
        {"model": "small", "cost_usd": 0.001},
        {"model": "small", "cost_usd": 0.002},
        {"model": "large", "cost_usd": 1.5, "input_tokens": 4000, "start_time_unix_nano": START_UNIX_NANO + DAY_NANO},
        {"model": None, "provider": None, "cost_usd": None, "start_time_unix_nano": START_UNIX_NANO + 2 * DAY_NANO},
    ]
    with closing(create_storage_backend(path)) as backend:
        backend.write([span_record(number, **call) for number, call in enumerate(calls)])
    return path


def command(capsys: pytest.CaptureFixture[str], store: Path, *words: str) -> Said:
    return run_here(capsys, "runs", "costs", *words, "--store", str(store))


def test_each_day_and_model_is_a_line_and_the_sum_the_last(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = command(capsys, store)
    assert (said.code, said.err) == (0, "")
    assert [line.split("  ") for line in [" ".join(line.split()) for line in said.out.splitlines()]] == [
        ["day provider model calls tokens cost"],
        ["2025-10-11 – – 1 10 → 5 unknown (1 call unpriced, $0.00 priced)"],
        ["2025-10-10 fake large 1 4,000 → 5 $1.50"],
        ["2025-10-09 fake small 2 20 → 10 $0.003"],
        ["total 4 4,030 → 20 unknown (1 call unpriced, $1.503 priced)"],
    ]


def test_days_can_be_chosen(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = command(capsys, store, "--since", "2025-10-10", "--until", "2025-10-10T23:00:00Z", "--json")
    assert [json.loads(line)["day"] for line in said.out.splitlines()] == ["2025-10-10"]
    said = command(capsys, store, "--since", "1d")
    assert (said.code, said.out) == (0, "")
    assert "holds no such model call" in said.err
    assert command(capsys, store, "--until", "soon").code == 2


def test_json_is_one_object_for_each_day_and_model(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unknown, large, _ = [json.loads(line) for line in command(capsys, store, "--json").out.splitlines()]
    assert large == {
        "day": "2025-10-10",
        "provider": "fake",
        "model": "large",
        "model_calls": 1,
        "failed_calls": 0,
        "input_tokens": 4000,
        "output_tokens": 5,
        "total_tokens": 4005,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "reasoning_tokens": 0,
        "cost_usd": 1.5,
        "priced_cost_usd": 1.5,
        "unpriced_calls": 0,
    }
    assert (unknown["provider"], unknown["model"], unknown["cost_usd"], unknown["unpriced_calls"]) == (
        None,
        None,
        None,
        1,
    )


def test_a_store_that_is_not_there_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = command(capsys, tmp_path / "none.db")
    assert (said.code, said.out) == (2, "")
    assert list(tmp_path.iterdir()) == []


def test_the_calls_of_a_run_are_there_when_it_has_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The costs are the sums of what `runs list` says."""
    for _ in range(2):
        assert run_process(["run", str(scripted_file(tmp_path)), "-i", "topic=refunds"], tmp_path).code == 0
    said = [
        run_here(capsys, "runs", word, "--json", "--store", str(tmp_path / "workflows.db"))
        for word in ("list", "costs")
    ]
    listed, costs = ([json.loads(line) for line in found.out.splitlines()] for found in said)
    assert len(listed) == 2
    for name in ("model_calls", "input_tokens", "output_tokens", "unpriced_calls", "reasoning_tokens"):
        assert sum(row[name] for row in costs) == sum(run[name] for run in listed)
