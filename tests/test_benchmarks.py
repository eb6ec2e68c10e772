"""The benchmark's harness, at its smallest: that it measures, reports and compares. No time is asserted anywhere here."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from benchmarks import __main__ as benchmark
from benchmarks import filling, targets
from benchmarks.contenders import CONTENDERS, OURS, SPAN, Contender
from benchmarks.turns import Spread, ratio
from benchmarks.work import CHAIN, FAN_OUT

from configurable_agents import create_storage_backend

ROOT = Path(__file__).parent.parent
FEW = ["--contender", SPAN, "--contender", OURS]


def measured(folder: Path, *arguments: str) -> dict[str, Any]:
    path = folder / "result.json"
    benchmark.main([*arguments, "--size", "tiny", "--directory", str(folder), "--json", str(path)])
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def test_every_contender_that_takes_part_has_a_figure_for_each_work(tmp_path: Path) -> None:
    """Else a table would compare what was not measured."""
    result = measured(tmp_path, "engine", *FEW, "--work", CHAIN, "--work", FAN_OUT)
    assert set(result["engine"]) == {CHAIN, FAN_OUT}
    for work, rounds in ((CHAIN, 4), (FAN_OUT, 2)):  # the chain is measured in twice as many
        figures = result["engine"][work]
        assert set(figures) == {SPAN, OURS}
        assert all(figure["cpu_us"]["median"] > 0 for figure in figures.values())
        assert all(len(figure["cpu_us_of_rounds"]) == rounds for figure in figures.values())
        assert ratio(figures, OURS, OURS) == 1


def test_many_runs_at_once_are_counted_with_their_memory(tmp_path: Path) -> None:
    """A contender that has no asynchronous form is left out, not shown with nothing."""
    figures = measured(tmp_path, "concurrency", *FEW)["concurrency"]
    assert set(figures["contenders"]) == {OURS}
    assert figures["contenders"][OURS]["wall_seconds"]["median"] >= figures["least_seconds"]


def test_what_is_sustained_is_told_with_the_lag_of_commits(tmp_path: Path) -> None:
    """A rate without the lag would hide that records pile up."""
    figures = measured(tmp_path, "sustaining")["sustaining"]
    for name in ("run_after_run", "one_process", "processes_together"):
        assert figures[name]["nodes_per_second"] > 0
        assert 0 < figures[name]["commit_lag_ms"]["p50"] <= figures[name]["commit_lag_ms"]["p99"]


def test_a_filled_store_reads_like_one_that_was_run(tmp_path: Path) -> None:
    """Figures of reading are worth something only if the rows are what runs leave."""
    path = tmp_path / "filled.db"
    filling.fill(path, 100, say=lambda text: None)
    store = create_storage_backend(path)
    latest = store.runs.list_runs(limit=200)
    assert len(latest) == 100
    assert latest == sorted(latest, key=lambda run: run.start_time_unix_nano, reverse=True)
    run = latest[50]
    history = store.execution_states.get_state_history(run.run_id)
    assert [node.seq for node in history] == list(range(1, filling.NODES + 1))
    assert {node.trace_id for node in history} == {run.trace_id}
    assert len(store.execution_states.list_spans(run.run_id)) == filling.MODEL_CALLS
    assert store.execution_states.get_state_at(run.run_id)["x"]
    assert len(store.runs.list_runs(status="failed", limit=200)) == 100 // filling.FAILED_ONE_IN
    store.close()
    with pytest.raises(FileExistsError):
        filling.fill(path, 100, say=lambda text: None)


def test_reading_tells_what_each_question_and_each_cold_start_takes(tmp_path: Path) -> None:
    """The names are those that the promises are read from."""
    figures = measured(tmp_path, "reading")["reading"]
    assert figures["runs"] == 100
    assert all(figures[name] > 0 for name in figures)


def test_a_peer_that_is_not_installed_takes_no_part_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    """Who has not installed all of them shall still get figures."""
    absent = Contender("nobody", "Nobody", "nobody", packages=("a-package-that-nobody-has",)).absent()
    assert absent is not None
    assert "a-package-that-nobody-has is not installed" in absent
    for contender in CONTENDERS.values():
        installed = all(_is_installed(package) for package in contender.packages)
        assert (contender.absent() is None) == installed


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def test_the_check_fails_exactly_where_a_promise_that_was_measured_does_not_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its exit code is what a machine looks at."""
    good = {"reading": {"latest_20_ms": 4.9}}
    bad = {"reading": {"latest_20_ms": 5.1}}
    path = tmp_path / "result.json"
    for result, code, word in ((good, 0, "holds"), (bad, 1, "FAILS")):
        (verdict,) = [found for found in targets.verdicts(result) if found.figure is not None]
        assert verdict.holds is (code == 0)
        whole = {"reading": {"runs": 1, "store_mb": 1, **result["reading"]}}
        path.write_text(json.dumps(whole), encoding="utf-8")
        assert benchmark.main(["--result", str(path), "--check"]) == code
        assert word in capsys.readouterr().out


def test_a_spread_is_the_median_with_its_tenths() -> None:
    """One odd round must not be the figure."""
    spread = Spread.of([1.0, 2.0, 3.0, 4.0, 100.0])
    assert spread.median == 3
    assert spread.low < 2
    assert spread.high > 4
    assert spread.deviation == 1


def test_the_committed_result_can_be_shown_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The picture in the papers is made of the data beside it."""
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        picture = tmp_path / "picture.svg"
        benchmark.main(["--result", str(path), "--plot", str(picture)])
        assert CONTENDERS[OURS].label in capsys.readouterr().out
        assert ElementTree.parse(picture).getroot().tag.endswith("svg")
        assert picture.read_text(encoding="utf-8") == path.with_suffix(".svg").read_text(encoding="utf-8")
