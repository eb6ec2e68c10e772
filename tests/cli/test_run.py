"""`run`: what goes to which stream, what the exit code says, and what is kept."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from _cli import COMMAND, environment, run_here, run_process, scripted_file
from _runs import run_program
from _timing import in_one_of_a_few_tries, timely
from configurable_agents import create_storage_backend
from configurable_agents.storage.records import WorkflowRunRecord

REPLIES = {
    "replies": [{"match": "Write", "text": "Dear Ada,\nthank you."}, {"match": "Judge", "value": {"verdict": "good"}}]
}

RESULT_KEYS = {
    "run_id",
    "trace_id",
    "workflow",
    "status",
    "outputs",
    "duration_seconds",
    "node_executions",
    "model_calls",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "total_cost_usd",
    "priced_cost_usd",
    "unpriced_calls",
    "store",
    "degraded",
    "error",
}


def stored(store: Path) -> WorkflowRunRecord:
    """Read the newest run of a store."""
    backend = create_storage_backend(store, read_only=True)
    try:
        return backend.runs.get("last")
    finally:
        backend.close()


def test_a_run_prints_what_it_gave_and_its_tree_and_says_where_it_is_kept(tmp_path: Path) -> None:
    """The first thing that a stranger sees."""
    file = scripted_file(tmp_path, **REPLIES)
    said = run_process(["run", str(file), "-i", "topic=refunds"], tmp_path)
    run = stored(tmp_path / "workflows.db")
    assert said.code == 0
    assert said.out.startswith("answer   Dear Ada,\n         thank you.\nverdict  good\n\n✓ support 2  completed\n")
    assert "$0.00 (priced at 0)" in said.out
    assert "├─ ✓ 1 draft → review" in said.out
    assert f"kept in workflows.db\nshow again: configurable-agents runs show {run.run_id[:18]}\n" == said.err
    assert run.status == "completed"


def test_show_again_shows_the_same_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The hint on stderr is a command that works, for a store of one's own too."""
    file, store = scripted_file(tmp_path, **REPLIES), str(tmp_path / "my runs.db")
    said = run_here(capsys, "run", str(file), "-i", "topic=x", "--store", store)
    words = said.err.splitlines()[-1].partition("configurable-agents ")[2].partition(" --store ")[0].split()
    again = run_here(capsys, *words, "--store", store)
    assert again.out.partition("support  ")[2] in said.out


def test_json_is_one_object_with_the_documented_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A contract for programs."""
    file = scripted_file(tmp_path, **REPLIES)
    said = run_here(capsys, "run", str(file), "-i", "topic=x", "--store", str(tmp_path / "s.db"), "--json")
    value = said.json()
    assert said.out.count("\n") == 1
    assert set(value) == RESULT_KEYS
    assert value["outputs"] == {
        "topic": "x",
        "count": 1,
        "tags": [],
        "answer": "Dear Ada,\nthank you.",
        "verdict": "good",
    }
    assert (value["status"], value["total_cost_usd"], value["error"]) == ("completed", 0.0, None)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_failed_run_is_exit_code_1_with_its_error_and_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    """Scripts and people both see that, where and why."""
    file = scripted_file(tmp_path, replies=[{"error": {"message": "no [red]such[/] model", "status_code": 404}}])
    store = tmp_path / "s.db"
    options = ["--json"] if as_json else []
    said = run_here(capsys, "run", str(file), "-i", "topic=x", "--store", str(store), *options)
    assert (said.code, stored(store).status) == (1, "failed")
    assert "error: node 'draft' failed: no [red]such[/] model\n" in said.err
    assert f"kept in {store}" in said.err
    assert "Traceback" not in said.err
    if as_json:
        value = said.json()
        assert set(value) == RESULT_KEYS
        assert (value["status"], value["outputs"], value["store"]) == ("failed", None, str(store))
        assert (value["error"]["node_id"], value["error"]["seq"]) == ("draft", 1)
    else:
        assert "└─ ✗ 1 draft" in said.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "gone.yaml"], "gone.yaml: the file cannot be read"),
        (["run", "support.yaml"], "topic"),
        (["run", "support.yaml", "-i", "topci=x"], "did you mean 'topic'?"),
        (["run", "support.yaml", "-i", "topic=x", "--model", "nobody:x"], "unknown provider 'nobody'"),
        (["run", "support.yaml", "-i", "topic=x", "--functions", "no_such_module"], "cannot import 'no_such_module'"),
        (["run", "support.yaml", "-i", "topic=x", "--store", "a.db", "--no-store"], "exclude each other"),
        (["run", "support.yaml", "--nonsense"], "No such option"),
        (["run"], "FILE"),
        (["rnu"], "No such command 'rnu'"),
        (["runs", "show", "last"], "there is no store at 'workflows.db'"),
        (["runs", "list", "--since", "yesterday"], "give a time as"),
        (["runs", "list", "--status", "done"], "completed"),
    ],
)
def test_a_wrong_command_or_file_is_exit_code_2_and_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    """Nothing ran, nothing on stdout, no traceback."""
    scripted_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONFIGURABLE_AGENTS_STORE", raising=False)
    said = run_here(capsys, *arguments)
    assert (said.code, said.out) == (2, "")
    assert told in said.err
    assert "Traceback" not in said.err
    assert not list(tmp_path.glob("*.db"))


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before and after the command's name."""
    for arguments in (["--debug", "run", "gone.yaml"], ["run", "gone.yaml", "--debug"]):
        said = run_here(capsys, *arguments)
        assert said.code == 2
        assert "Traceback" in said.err


def test_inputs_come_from_stdin_too(tmp_path: Path) -> None:
    """`jq … | configurable-agents run … --inputs -`."""
    file = scripted_file(tmp_path)
    said = run_process(["run", str(file), "--inputs", "-", "--no-store", "--json"], tmp_path, stdin='{"topic": "té"}')
    assert said.json()["outputs"]["topic"] == "té"
    assert said.err == "not kept (--no-store)\n" or said.err == ""
    assert not list(tmp_path.glob("*.db"))


FUNCTIONS = """
import sys
__all__ = ["shout", "leave", "give_up"]
def shout(text): return text.upper()
def leave(text): sys.exit(0)
def give_up(text): raise KeyboardInterrupt
"""


def function_file(folder: Path, function: str) -> Path:
    """Write a workflow of one function node, and its module."""
    (folder / "my_functions.py").write_text(FUNCTIONS)
    path = folder / "functions.yaml"
    path.write_text(
        f"""\
schema_version: "1.0"
flow: {{name: functions}}
state: {{fields: {{text: {{type: str, default: hi}}, loud: {{type: str}}}}}}
nodes: [{{id: call, function: {function}, inputs: {{text: "{{text}}"}}, outputs: [loud]}}]
edges: [{{from: START, to: call}}, {{from: call, to: END}}]
"""
    )
    return path


@pytest.mark.parametrize("module", ["my_functions", "my_functions.py"])
def test_functions_come_from_a_module_in_the_working_directory(tmp_path: Path, module: str) -> None:
    """By its name, and by its file."""
    said = run_process(["run", str(function_file(tmp_path, "shout")), "--functions", module, "--json"], tmp_path)
    assert said.json()["outputs"]["loud"] == "HI"


def test_a_function_that_is_not_registered_is_told_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what to do about it."""
    said = run_here(capsys, "run", str(function_file(tmp_path, "shout")), "--store", str(tmp_path / "s.db"))
    assert said.code == 2
    assert "function 'shout' is not registered\nName a module that offers it with --functions" in said.err


def test_a_node_that_exits_with_0_does_not_look_like_success(tmp_path: Path) -> None:
    """`sys.exit(0)` in a library is no success of the run."""
    said = run_process(["run", str(function_file(tmp_path, "leave")), "--functions", "my_functions"], tmp_path)
    assert (said.code, stored(tmp_path / "workflows.db").status) == (1, "failed")


def test_a_store_that_cannot_be_written_is_one_warning_and_the_same_result(tmp_path: Path) -> None:
    """A broken disk does not break the answer."""
    file = scripted_file(tmp_path, **REPLIES)
    said = run_process(["run", str(file), "-i", "topic=x", "--store", str(tmp_path), "--json"], tmp_path)
    value = said.json()
    assert (said.code, value["status"], value["store"], value["degraded"]) == (0, "completed", None, True)
    assert said.err.count("warning: ") == 1


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(
    ("number", "in_background"),
    # Ctrl-C is not for a job in the background: a shell has it ignored there.
    [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)],
    ids=["Ctrl-C", "SIGTERM", "SIGTERM in the background"],
)
def test_a_signal_cancels_the_run_which_is_stored_and_ends_the_process_by_that_signal(
    tmp_path: Path, number: signal.Signals, in_background: bool
) -> None:
    """A shell loop stops, a supervisor sees why, and the store tells the truth."""
    file = scripted_file(tmp_path, replies=[{"text": "done"}, {"text": "late", "delay_seconds": 60}])
    ignore = (lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if in_background else None
    process = subprocess.Popen(
        [*COMMAND, "run", str(file), "-i", "topic=x", "--json"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=ignore,
    )
    wait_for_node(tmp_path / "workflows.db", "review")
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == -number
    assert json.loads(out)["status"] == "cancelled"
    assert "error: cancelled\nkept in workflows.db\n" in err
    assert "Traceback" not in err
    run = stored(tmp_path / "workflows.db")
    assert (run.status, run.node_executions) == ("cancelled", 2)


IN_THE_BACKGROUND = """
import signal, sys
from configurable_agents.cli.main import main
signal.signal(signal.SIGINT, signal.SIG_IGN)
main(["run", *sys.argv[1:]])
print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_program_that_runs_a_command_in_the_background_has_its_signals_again(tmp_path: Path) -> None:
    """What it starts afterwards would be deaf to Ctrl-C for ever."""
    code, out, err = run_program(IN_THE_BACKGROUND, scripted_file(tmp_path), "-i", "topic=x", "--no-store", "--json")
    assert (code, out.splitlines()[-1]) == (0, "True set()"), err


def wait_for_node(store: Path, node_id: str) -> None:
    """Wait until a node execution is in the store."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        time.sleep(0.1)
        if store.exists():
            with_nodes = nodes_of(store)
            if node_id in with_nodes:
                return
    pytest.fail(f"the node {node_id!r} did not start")


def nodes_of(store: Path) -> list[str]:
    """Name the node executions of the newest run, as far as the store knows them."""
    from configurable_agents import ConfigurableAgentsError

    try:
        backend = create_storage_backend(store, read_only=True)
        try:
            return [
                node.node_id for node in backend.execution_states.get_state_history(backend.runs.get("last").run_id)
            ]
        finally:
            backend.close()
    except ConfigurableAgentsError:
        return []


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """`| head` is silent."""
    file = scripted_file(
        tmp_path, replies=[{"match": "Write", "text": "line\n" * 20_000}, {"value": {"verdict": "good"}}]
    )
    command = " ".join([*COMMAND, "run", str(file), "-i", "topic=x", "--no-store"])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -1"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "answer   line\n", "not kept (--no-store)\n")


def test_an_ascii_locale_gets_ascii(tmp_path: Path) -> None:
    """No UnicodeEncodeError, whatever the model says."""
    file = scripted_file(tmp_path, replies=[{"match": "Write", "text": "naïve → 日本"}, {"value": {"verdict": "good"}}])
    arguments = ["run", str(file), "-i", "topic=x", "--no-store"]
    said = run_process(arguments, tmp_path, PYTHONIOENCODING="ascii")
    assert said.code == 0
    assert said.out.isascii()
    assert "answer   na\\xefve \\u2192 \\u65e5\\u672c\n" in said.out
    value = run_process([*arguments, "--json"], tmp_path, PYTHONIOENCODING="ascii").json()
    assert value["outputs"]["answer"] == "naïve → 日本"


def test_escapes_of_a_model_reach_no_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the result, nor the tree, nor JSON."""
    text = "\x1b[2J\x1b]0;owned\x07\u202e[red]ok[/]\x9b31m"
    file = scripted_file(tmp_path, replies=[{"match": "Write", "text": text}, {"value": {"verdict": "good"}}])
    for options in ([], ["--json"]):
        said = run_here(capsys, "run", str(file), "-i", f"topic={text}", "--no-store", *options)
        assert said.code == 0
        assert not set("\x1b\x07\x9b\u202e") & set(said.out + said.err)
    assert said.json()["outputs"]["answer"] == text


def read_terminal(main_end: int) -> str:
    """Read what is drawn on a terminal, until nobody has it open any more."""
    drawn = b""
    with contextlib.suppress(OSError):  # how Linux says so
        while data := os.read(main_end, 65536):
            drawn += data
    return drawn.decode()


@in_one_of_a_few_tries
def test_progress_is_shown_in_a_terminal_and_only_there(tmp_path: Path) -> None:
    """Live nodes on stderr; a log file stays clean."""
    pty = pytest.importorskip("pty")
    file = scripted_file(tmp_path, replies=[{"text": "a", "delay_seconds": 1.2}, {"value": {"verdict": "good"}}])
    main_end, child_end = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "run", str(file), "-i", "topic=x", "--no-store"],
        cwd=tmp_path,
        env=environment(TERM="xterm", COLUMNS="80"),
        stdout=subprocess.PIPE,
        stderr=child_end,
    )
    os.close(child_end)
    with ThreadPoolExecutor(1) as pool:
        # Meanwhile: a terminal keeps 4 kB, and a slow start draws more than that.
        reading = pool.submit(read_terminal, main_end)
        out, _ = process.communicate(timeout=60)
        shown = reading.result()
    os.close(main_end)
    timely("draft" in shown and "0 nodes done" in shown, shown)  # it is drawn eight times a second
    assert b"\x1b" not in out


def test_warnings_of_a_file_are_told_once_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Keys without effect are not passed over in silence."""
    file = scripted_file(tmp_path, **REPLIES)
    file.write_text(file.read_text() + "optimization: {}\n")
    said = run_here(capsys, "run", str(file), "-i", "topic=x", "--no-store")
    assert said.code == 0
    assert said.err.count("warning: ") == 1
    assert "optimization" in said.err
