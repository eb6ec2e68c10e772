"""`runs import`: what another store wrote comes back as it was; a file is taken in whole or not at all."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from _cli import Said, run_here, run_process
from _records import node_record, run_record, span_record
from _runs import rows, run_program
from configurable_agents import create_storage_backend
from configurable_agents.storage.records import Record

FOREIGN = {
    "resourceSpans": [
        {
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "cart"}}]},
            "scopeSpans": [
                {
                    "scope": {"name": "io.otel.http"},
                    "spans": [
                        {
                            "traceId": run_record(1).trace_id,
                            "spanId": "eee19b7ec3c1b174",
                            "parentSpanId": run_record(1).span_id,
                            "name": "GET /cart",
                            "kind": 3,
                            "startTimeUnixNano": "1544712660000000000",
                            "endTimeUnixNano": "1544712661000000000",
                        }
                    ],
                }
            ],
        }
    ]
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return tmp_path / "other.db"


def fill(store: Path | str, *numbers: int, **values: Any) -> None:
    with closing(create_storage_backend(store)) as backend:
        for number in numbers:
            run = run_record(number, **{"config_text": f"flow: {number % 2}\n", "node_executions": 2, **values})
            nodes = [node_record(seq, run=number, outputs={"x": "ü \u2028 \x00", "seq": seq}) for seq in (1, 2)]
            backend.write([run, *nodes, span_record(1, run=number)])


def everything(store: Path | str) -> list[Record]:
    with closing(create_storage_backend(store)) as backend:
        states = backend.execution_states
        found: list[Record] = []
        for run in backend.runs.list_runs(limit=10_000):
            found.append(backend.runs.get(run.run_id))
            found += [*states.get_state_history(run.run_id), *states.list_spans(run.run_id)]
        return found


def take_in(capsys: pytest.CaptureFixture[str], store: Path | str, *files: Path | str, json: bool = False) -> Said:
    words = [*map(str, files), "--store", str(store), *(["--json"] if json else [])]
    return run_here(capsys, "runs", "import", *words)


def written(capsys: pytest.CaptureFixture[str], store: Path | str, *words: str) -> str:
    said = run_here(capsys, "runs", "export", *words, "--format", "otlp-json", "--store", str(store))
    assert said.code == 0
    return said.out


def test_runs_come_back_as_they_were(
    store: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(store, 1, 2, 3)
    fill(store, 4, status="interrupted", end_time_unix_nano=None, trace_flags=0x201, trace_state="a=b")
    file = tmp_path / "runs.json"
    file.write_text(written(capsys, store, "--all"))
    said = take_in(capsys, other, file, json=True)
    assert said.json() == {"file": str(file), "runs": 4, "node_executions": 8, "spans": 4, "new": 16}
    assert everything(other) == everything(store)
    assert rows(other, "SELECT text FROM workflow_configs ORDER BY text") == [("flow: 0\n",), ("flow: 1\n",)]
    assert take_in(capsys, other, file, json=True).json()["new"] == 0
    assert everything(other) == everything(store)


def test_it_says_what_it_took(store: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(store, 1)
    file = tmp_path / "run.json"
    file.write_text(written(capsys, store, "last"))
    said = take_in(capsys, other, file)
    assert (said.code, said.out) == (0, "")
    assert f"{file}: 1 run, 2 node executions, 1 other span taken into {other}" in said.err
    assert "4 of 4 were there already" in take_in(capsys, other, file).err


def test_a_run_that_goes_on_there_is_interrupted_here(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody will ever tell its end to this store."""
    fill(store, 1)
    document = json.loads(written(capsys, store, "last"))
    run = document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    left_out = {"configurable_agents.status", "configurable_agents.record", "configurable_agents.duration_seconds"}
    run["attributes"] = [pair for pair in run["attributes"] if pair["key"] not in left_out]
    del run["endTimeUnixNano"]
    file, other = tmp_path / "run.json", tmp_path / "other.db"
    file.write_text(json.dumps(document))
    assert take_in(capsys, other, file).code == 0
    with closing(create_storage_backend(other)) as backend:
        assert backend.runs.get("last").status == "interrupted"


def test_spans_of_other_programs_are_kept_beside_the_runs(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "collector.json"
    file.write_text(json.dumps(FOREIGN) + '\n{"resourceLogs": []}\n' + json.dumps(FOREIGN))
    assert take_in(capsys, store, file, json=True).json() == {
        "file": str(file),
        "runs": 0,
        "node_executions": 0,
        "spans": 2,
        "new": 1,
    }
    assert rows(store, "SELECT name, run_id, resource_json FROM spans") == [
        (
            "GET /cart",
            None,
            '{"telemetry.sdk.language":null,"telemetry.sdk.name":null,"telemetry.sdk.version":null,"service.name":"cart"}',
        )
    ]


def test_a_pipe_is_a_file(store: Path, tmp_path: Path) -> None:
    fill(store, 1, 2)
    out = run_process(["runs", "export", "--all", "--format", "otlp-json", "--store", str(store)], tmp_path).out
    said = run_process(["runs", "import", "-", "--store", "other.db"], tmp_path, stdin=out)
    assert said.code == 0
    assert everything(tmp_path / "other.db") == everything(store)


@pytest.mark.parametrize(
    "bad", ['{"resourceSpans": [', '{"resourceSpans": [{"scopeSpans": [{"spans": [{"name": 7}]}]}]}']
)
def test_a_file_is_taken_in_whole_or_not_at_all(
    bad: str, store: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one of many thousand lines, of which the last is wrong; and the files before it are in."""
    fill(store, *range(1, 61))
    good, broken = tmp_path / "good.json", tmp_path / "broken.json"
    good.write_text(json.dumps(FOREIGN))
    broken.write_text(written(capsys, store, "--all") + bad)
    said = take_in(capsys, other, good, broken)
    assert said.code == 2
    assert f"error: {broken}: line 61" in said.err
    assert "Nothing of this file was taken in." in said.err
    assert everything(other) == []
    assert rows(other, "SELECT count(*) FROM spans") == [(1,)]


def test_a_file_that_is_not_there_is_said(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = take_in(capsys, store, tmp_path / "nobody.json")
    assert (said.code, "cannot be read: No such file" in said.err) == (2, True)
    said = take_in(capsys, store, tmp_path)
    assert (said.code, "cannot be read" in said.err) == (2, True)


def test_a_poorer_file_takes_nothing_away(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was shipped has no content; taking it back in must not cost the store what it has."""
    fill(store, 1, inputs_json='{"topic": "tea"}')
    before = everything(store)
    file = tmp_path / "shipped.json"
    file.write_text(written(capsys, store, "last", "--no-content"))
    assert take_in(capsys, store, file, json=True).json()["new"] == 0
    assert everything(store) == before


def test_another_text_does_not_take_the_place_of_a_workflow_file(
    store: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Texts are shown for every run with the same hash."""
    fill(store, 1)
    file = tmp_path / "run.json"
    file.write_text(written(capsys, store, "last").replace("flow: 1", "flow: 666"))
    said = take_in(capsys, other, file)
    assert (said.code, "does not have the hash" in said.err) == (2, True)
    assert rows(other, "SELECT count(*) FROM workflow_configs") == [(0,)]


@pytest.mark.postgres
def test_runs_move_from_a_file_to_a_server(
    postgres_url: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(store, 1, 2)
    file = tmp_path / "runs.json"
    file.write_text(written(capsys, store, "--all"))
    assert take_in(capsys, postgres_url, file).code == 0
    there = everything(postgres_url)
    assert [record.run_id for record in there] == [record.run_id for record in everything(store)]
    assert take_in(capsys, postgres_url, file, json=True).json()["new"] == 0
    back = tmp_path / "back.db"
    file.write_text(written(capsys, postgres_url, "--all"))
    assert take_in(capsys, back, file).code == 0
    assert everything(back) == there


PEAK = """
import re, sys
from configurable_agents.cli.main import main
assert main(sys.argv[1:]) == 0
# Not `ru_maxrss`, which begins with what the process that started this one had.
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells no memory")
def test_a_store_of_many_runs_is_never_in_memory(store: Path, tmp_path: Path) -> None:
    """Export and import take a few runs at a time: their memory does not grow with the store."""

    def peak(*words: str) -> int:
        code, out, err = run_program(PEAK, "runs", *words)
        assert code == 0, err
        return int(out.splitlines()[-1])

    text = json.dumps({"x": "y" * 100_000})
    with closing(create_storage_backend(store)) as backend:
        backend.write([run_record(number, inputs_json=text) for number in range(1, 251)])
    small, file = tmp_path / "small.json", tmp_path / "runs.json"
    of_one = peak("export", "last", "--output", str(small), "--store", str(store))
    of_all = peak("export", "--all", "--output", str(file), "--store", str(store))
    assert file.stat().st_size > 25_000_000
    assert of_all - of_one < 20_000
    of_one = peak("import", str(small), "--store", str(tmp_path / "one.db"))
    of_all = peak("import", str(file), "--store", str(tmp_path / "all.db"))
    assert of_all - of_one < 60_000, "a batch of records, and SQLite's own cache"
