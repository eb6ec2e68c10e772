"""A run whose process has died is shown for what it is, by the first command that looks."""

from __future__ import annotations

from pathlib import Path

import pytest

from _cli import run_here
from _runs import run_program

DYING = """
import os, sys
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow
both = make([calls("a", "x"), calls("b", "x")], chain("START a b END"), {"x": field("int")})
run_workflow(both, functions={"a": lambda: 1, "b": lambda: os._exit(9)}, store=sys.argv[1])
"""


@pytest.mark.parametrize("command", [("runs", "list"), ("runs", "show", "last")])
def test_a_run_that_died_is_shown_as_interrupted_at_once(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "runs.db"
    assert run_program(DYING, store)[0] == 9
    said = run_here(capsys, *command, "--store", str(store))
    assert (said.code, "interrupted" in said.out, "running" in said.out) == (0, True, False)
    assert list((tmp_path / "runs.db.journal").glob("*.segment")) == []


def test_what_a_run_that_died_has_done_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "runs.db"
    run_program(DYING, store)
    shown = run_here(capsys, "runs", "show", "last", "--json", "--store", str(store)).json()
    assert [(node["node_id"], node["status"], node["outputs"]) for node in shown["nodes"]] == [
        ("a", "completed", {"x": 1}),
        ("b", "interrupted", {}),
    ]
