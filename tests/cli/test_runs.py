"""`runs`: list, show and delete what a store keeps."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer

from _cli import Said, run_here, run_process
from _records import START_UNIX_NANO, node_record, run_id, run_record, span_record
from configurable_agents import create_storage_backend
from configurable_agents.cli.listing import id_length
from configurable_agents.cli.runs_commands import parse_since
from configurable_agents.semconv import Status


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Give a store with a completed, a failed and a running run."""
    path = tmp_path / "runs.db"
    backend = create_storage_backend(path)
    used = {"model_calls": 1, "input_tokens": 10, "output_tokens": 5}
    backend.write(
        [
            run_record(1, inputs_json='{"topic": "refunds"}', reads_from_json="[1]", node_executions=1, **used),
            node_record(1, edge="END", outputs={"answer": "yes"}, **used),
            span_record(1, parent_span_id=node_record(1).span_id),
            run_record(2, workflow_name="digest", status="failed", error_type="ValueError", error_message="no news"),
            node_record(1, run=2, status="failed", outputs_json=None, error_type="ValueError", error_message="no news"),
            run_record(300_000, status="running", duration_seconds=None),
        ]
    )
    backend.close()
    return path


def command(capsys: pytest.CaptureFixture[str], store: Path, *words: str) -> Said:
    """Run a `runs` command on the store."""
    return run_here(capsys, "runs", *words, "--store", str(store))


def test_runs_are_listed_the_newest_first(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In columns, with a prefix of the id that is enough."""
    lines = command(capsys, store, "list").out.splitlines()
    assert [line.split()[1] for line in lines] == ["workflow", "support", "digest", "support"]
    assert lines[0].split() == ["run", "workflow", "status", "started", "took", "tokens", "cost"]
    assert lines[3].split() == [
        run_id(1)[:13],
        "support",
        "✓",
        "completed",
        "2025-10-09T08:53:20Z",
        "1.5",
        "s",
        "10",
        "→",
        "5",
        "$0.00",
    ]


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        (["--workflow", "digest"], [2]),
        (["--status", "running"], [300_000]),
        (["--since", "2025-10-09T08:55:00Z"], [300_000]),
        (["--since", "2025-10-09"], [300_000, 2, 1]),
        (["--limit", "1"], [300_000]),
        (["--workflow", "nobody"], []),
    ],
)
def test_a_list_can_be_narrowed(
    store: Path, capsys: pytest.CaptureFixture[str], options: list[str], runs: list[int]
) -> None:
    """Each option alone."""
    said = command(capsys, store, "list", "--json", *options)
    assert [json.loads(line)["run_id"] for line in said.out.splitlines()] == [run_id(number) for number in runs]


def test_an_empty_list_says_so_on_stderr(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Silence looks like a mistake."""
    said = command(capsys, store, "list", "--workflow", "nobody")
    assert (said.code, said.out, said.err) == (0, "", f"{store} holds no such run\n")


def test_a_run_is_shown_by_a_prefix_of_its_id_and_by_last(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody types 36 characters."""
    assert run_id(1) in command(capsys, store, "show", run_id(1)[:-1]).out
    assert run_id(300_000) in command(capsys, store, "show", "last").out
    for name, told in (("0199", "is the beginning of 3 runs"), ("ffff", "holds no run 'ffff'")):
        said = command(capsys, store, "show", name)
        assert (said.code, said.out) == (2, "")
        assert told in said.err


def test_show_json_holds_everything_whole(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The keys that docs/cli.md names."""
    value = command(capsys, store, "show", run_id(1), "--json").json()
    listed = json.loads(command(capsys, store, "list", "--json").out.splitlines()[-1])
    assert {key: value[key] for key in listed} == listed
    assert (value["inputs"], value["outputs"]) == ({"topic": "refunds"}, {"topic": "refunds", "answer": "yes"})
    (node,) = value["nodes"]
    assert (node["seq"], node["node_id"], node["edge"], node["outputs"]) == (1, "draft", "END", {"answer": "yes"})
    assert node["calls"][0]["model"] == "fake-model"
    failed = command(capsys, store, "show", run_id(2), "--json").json()
    assert failed["error"] == failed["nodes"][0]["error"] == {"type": "ValueError", "message": "no news"}


def test_documented_keys_are_the_keys(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A contract that is not written down is none."""
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    value = command(capsys, store, "show", run_id(1), "--json").json()
    keys = {*value, *value["nodes"][0], *value["nodes"][0]["calls"][0]}
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []


def test_delete_asks_first(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal to ask on, it does nothing."""
    said = run_process(["runs", "delete", run_id(2), "--store", str(store)], tmp_path)
    assert said.code == 2
    assert "--yes" in said.err
    assert command(capsys, store, "show", run_id(2)).code == 0
    assert command(capsys, store, "delete", run_id(2), "--yes").code == 0
    assert command(capsys, store, "show", run_id(2)).code == 2


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00+00:00"),
        ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00+00:00"),
        ("2026-01-31", "2026-01-31T00:00:00+00:00"),
        ("90s", "2026-02-01T11:58:30+00:00"),
        ("30m", "2026-02-01T11:30:00+00:00"),
        ("12h", "2026-02-01T00:00:00+00:00"),
        ("1w", "2026-01-25T12:00:00+00:00"),
    ],
)
def test_since_takes_times_and_how_long_ago(text: str, at: str) -> None:
    """UTC unless a zone is named."""
    now = datetime(2026, 2, 1, 12, tzinfo=UTC)
    assert parse_since(text, now=now) == int(datetime.fromisoformat(at).timestamp()) * 1_000_000_000


@pytest.mark.parametrize("text", ["", "yesterday", "5 parsecs", "99999999999w", "-1h"])
def test_since_refuses_what_is_no_time(text: str) -> None:
    """With an example of what is."""
    with pytest.raises(typer.BadParameter, match="give a time as"):
        parse_since(text, now=datetime(2026, 2, 1, tzinfo=UTC))


def test_ids_are_cut_where_they_still_differ() -> None:
    """Runs that began in the same millisecond need more of their ids."""
    assert id_length([run_id(1), run_id(2)]) == 13
    assert id_length([f"{run_id(1)[:18]}-8000-{number:012x}" for number in (1, 2)]) == 36
    assert id_length([]) == 13


def test_every_status_has_its_sign(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Colour is not all that tells them apart."""
    assert START_UNIX_NANO
    out = command(capsys, store, "list").out
    assert all(sign in out for sign in ("● running", "✗ failed", "✓ completed"))
    assert len(Status) == 5
