"""`validate` and `schema`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from _cli import run_here, scripted_file

WRONG = """\
schema_version: "1.0"
flow: {name: "bad [red]x[/]"}
state: {fields: {a: {type: str}}}
nodes:
  - {id: go, temprature: 1, prompt: "{nope}", outputs: [a]}
edges:
  - {from: START, to: go}
  - {from: go, to: reveiw}
"""


def test_a_sound_file_is_told_with_what_it_reaches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before running a stranger's file one wants to know."""
    file = scripted_file(tmp_path)
    text = file.read_text().replace("{llm: {provider: scripted, params: {}}}", "\n")
    file.write_text(
        text
        + "  llm: {provider: openai_compatible, model: m, api_base: 'https://models.example/v1', api_key_env: MY_KEY}\n"
        + "  storage: {path: ./runs/x.db}\n"
    )
    said = run_here(capsys, "validate", str(file))
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[0] == f"ok: {file}: support, 2 nodes, 3 edges"
    lines = {line.split()[0]: line.split()[1:] for line in said.out.splitlines()[1:]}
    assert lines == {"hosts": ["models.example"], "variables": ["MY_KEY"], "paths": ["./runs/x.db"]}


def test_every_problem_of_every_file_is_told_with_place_and_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the sound one among them, too."""
    sound = scripted_file(tmp_path)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(WRONG)
    said = run_here(capsys, "validate", str(wrong), str(sound), str(tmp_path / "gone.yaml"))
    assert said.code == 2
    assert f"{wrong}:5:14: nodes[0].temprature: unknown key\n  Did you mean" in said.out
    assert f"{wrong}:8:20: edges[1].to: no node is called 'reveiw'" in said.out
    assert f"ok: {sound}" in said.out
    assert "gone.yaml: the file cannot be read" in said.out


def test_functions_that_nobody_registered_are_a_warning_and_with_a_module_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file alone cannot know what a program registers."""
    file = scripted_file(tmp_path)
    file.write_text(file.read_text().replace('prompt: "Judge: {answer}"', "function: judge"))
    (tmp_path / "judges.py").write_text("__all__ = ['judge']\ndef judge(): ...\n")
    (tmp_path / "others.py").write_text("__all__ = ['other']\ndef other(): ...\n")
    (tmp_path / "silent.py").write_text("def judge(): ...\n")
    alone = run_here(capsys, "validate", str(file))
    assert alone.code == 0
    assert "warning: " in alone.out
    assert "'judge'" in alone.out
    offered = run_here(capsys, "validate", str(file), "--functions", str(tmp_path / "judges.py"))
    assert (offered.code, "warning" in offered.out) == (0, False)
    missing = run_here(capsys, "validate", str(file), "--functions", str(tmp_path / "others.py"))
    assert missing.code == 2
    assert "no function is called 'judge'" in missing.out
    silent = run_here(capsys, "validate", str(file), "--functions", str(tmp_path / "silent.py"))
    assert (silent.code, silent.out) == (2, "")
    assert "has no __all__" in silent.err


@pytest.mark.skipif(os.name == "nt", reason="file names of POSIX")
def test_a_files_own_words_are_no_markup_and_no_escapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor is its name."""
    file = tmp_path / "\x1b[31m[red].yaml"
    file.write_text(WRONG.replace("reveiw", '"[blink]\\u202e\\e[2Jx"'))
    said = run_here(capsys, "validate", str(file))
    assert said.code == 2
    assert not {"\x1b", "\u202e"} & set(said.out)
    assert "[red].yaml" in said.out


def test_the_schema_is_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    """Editors read it."""
    said = run_here(capsys, "schema")
    assert said.code == 0
    assert json.loads(said.out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
