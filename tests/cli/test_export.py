"""`runs export`: a stored run goes out just as it went, or would have gone, when it was made."""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from _cli import Said, run_here
from _otlp import PROTOCOLS, OtlpReceiver, Protocol, otlp_receiver
from _otlp_decode import ReceivedSpan
from _records import START_UNIX_NANO, node_record, run_id, run_record, span_record
from _runs import PATIENCE_SECONDS, asks, calls, chain, eventually, field, kept, run_program, scripted
from _workflows import make
from configurable_agents import WorkflowExecutionError, create_storage_backend, run_workflow
from configurable_agents.observability.content import CAPTURE_VARIABLE
from configurable_agents.storage.records import DeliveryRecord

EXAMPLES = Path(__file__).parents[2] / "examples"
ENDED = START_UNIX_NANO + 10**9


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment says nothing of where spans go."""
    for name in [name for name in os.environ if name.startswith("OTEL_") or name == "JAEGER_UI_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(PATIENCE_SECONDS))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture(params=PROTOCOLS)
def receiver(request: pytest.FixtureRequest) -> Iterator[OtlpReceiver]:
    with otlp_receiver(request.param) as found:
        yield found


def export(capsys: pytest.CaptureFixture[str], store: Path | str, *words: str) -> Said:
    return run_here(capsys, "runs", "export", *words, "--store", str(store))


def towards(receiver: OtlpReceiver) -> list[str]:
    return ["--otlp", receiver.endpoint, "--protocol", receiver.protocol]


def fill(store: Path | str, *numbers: int, **values: Any) -> None:
    """Write sampled runs that have ended, each with a node and a model call."""
    with closing(create_storage_backend(store)) as backend:
        for number in numbers:
            run = run_record(number, **{"trace_flags": 1, "end_time_unix_nano": ENDED, "node_executions": 1, **values})
            backend.write([run, node_record(1, run=number, trace_flags=1), span_record(1, run=number, trace_flags=1)])


def deliveries(store: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(store)) as connection:
        return connection.execute("SELECT run_id, destination FROM run_deliveries ORDER BY 1, 2").fetchall()


def by_id(spans: list[ReceivedSpan]) -> dict[tuple[str, str], ReceivedSpan]:
    found = {(span.trace_id, span.span_id): span for span in spans}
    assert len(found) == len(spans), "no span came twice"
    return found


# --- the same as when it was made ----------------------------------------------------------------------------------------


def _example(example: str, **inputs: Any) -> Callable[..., Any]:
    return lambda **options: run_workflow(
        EXAMPLES / example / f"{example}.yaml", inputs, models={"default": "scripted"}, **options
    )


def _failing(**options: Any) -> None:
    def fail(x: Any) -> int:
        raise ValueError(f"no such {x}")

    nodes = [asks("ask", "x"), calls("fail", "x", x="{x}") | {"retry": {"max_attempts": 2, "initial_delay": 0.01}}]
    workflow = make(nodes, chain("START ask fail END"), {"x": field("str")}, scripted("the topic", price=PRICE))
    with pytest.raises(WorkflowExecutionError):
        run_workflow(workflow, functions={"fail": fail}, **options)


def _timing_out(**options: Any) -> None:
    import asyncio

    async def slow() -> int:
        await asyncio.sleep(10)
        return 1

    workflow = make([calls("slow", "x") | {"timeout": 0.05}], chain("START slow END"), {"x": field("int")})
    with pytest.raises(WorkflowExecutionError):
        run_workflow(workflow, functions={"slow": slow}, **options)


def _below_a_remote_parent(**options: Any) -> None:
    workflow = make([asks("ask", "x")], chain("START ask END"), {"x": field("str")}, scripted("y", price=PRICE))
    run_workflow(workflow, traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01", **options)


PRICE = {"input_per_mtok": 2.5, "output_per_mtok": 10}
RUNS: Mapping[str, Callable[..., Any]] = {
    "hello": _example("hello", name="Ada"),
    "triage": _example("triage", ticket="It crashes. " * 20),
    "digest": _example("digest", **json.loads((EXAMPLES / "digest" / "newsletter.json").read_text())),
    "failing": _failing,
    "timing out": _timing_out,
    "below a remote parent": _below_a_remote_parent,
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("captures", [False, True], ids=["without content", "with content"])
def test_an_exported_run_is_what_was_shipped_when_it_was_made(
    run: str,
    captures: bool,
    receiver: OtlpReceiver,
    store: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ids, names, kinds, attributes and their types, events, status, flags, scope and resource: all of it."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,host.name=a")
    monkeypatch.setenv("CONFIGURABLE_AGENTS_COST_ATTRIBUTES", "true")
    if captures:
        monkeypatch.setenv(CAPTURE_VARIABLE, "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", receiver.protocol)
    RUNS[run](store=store, otlp=receiver.endpoint)
    stored = kept(store)
    expected = 1 + len(stored.nodes) + len(stored.spans)
    live = by_id(receiver.wait_for(expected))
    receiver.spans.clear()
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES")  # the run has its own
    assert export(capsys, store, "last", *towards(receiver)).code == 0
    exported = by_id(receiver.wait_for(expected))
    assert exported == live
    assert {span.resource["host.name"] for span in live.values()} == {"a"}
    assert any("input.value" in span.attributes for span in live.values()) is captures or run == "timing out"


HOST = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow
trace.set_tracer_provider(TracerProvider(resource=Resource({"service.name": "shop", "team": "a"}), shutdown_on_exit=False))
workflow = make([calls("one", "x")], chain("START one END"), {"x": field("int")})
with trace.get_tracer("host").start_as_current_span("request"):
    run_workflow(workflow, functions={"one": lambda: 1}, store=sys.argv[1], otlp=sys.argv[2])
"""


def test_a_run_in_a_host_is_exported_on_the_hosts_behalf(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with otlp_receiver("http/protobuf") as receiver:
        code, _, err = run_program(HOST, store, receiver.endpoint)
        assert (code, err) == (0, "")
        live = by_id(receiver.wait_for(2))
        receiver.spans.clear()
        assert export(capsys, store, "last", *towards(receiver)).code == 0
        assert by_id(receiver.wait_for(2)) == live
    assert {span.resource["service.name"] for span in live.values()} == {"shop"}
    (run,) = (span for span in live.values() if span.name.startswith("invoke_workflow"))
    assert run.parent_span_id is not None


# --- what goes out -------------------------------------------------------------------------------------------------------


def test_content_leaves_only_where_it_is_asked_for(
    store: Path, receiver: OtlpReceiver, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a run; the command line has the last word."""
    fill(store, 1, inputs_json='{"topic": "tea-canary"}')
    assert export(capsys, store, "last", *towards(receiver)).code == 0
    assert b"tea-canary" not in receiver.raw()
    monkeypatch.setenv(CAPTURE_VARIABLE, "true")
    assert export(capsys, store, "last", "--no-content", *towards(receiver)).code == 0
    assert b"tea-canary" not in receiver.raw()
    assert export(capsys, store, "last", *towards(receiver)).code == 0
    monkeypatch.delenv(CAPTURE_VARIABLE)
    receiver.requests.clear()
    assert export(capsys, store, "last", "--content", *towards(receiver)).code == 0
    assert b"tea-canary" in receiver.raw()


def test_requests_stay_below_a_megabyte(
    store: Path, receiver: OtlpReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(create_storage_backend(store)) as backend:
        text = "y" * 7_000
        nodes = [node_record(seq, outputs={"x": text}, trace_flags=1) for seq in range(1, 601)]
        backend.write([run_record(1, trace_flags=1, end_time_unix_nano=ENDED, node_executions=600), *nodes])
    said = export(capsys, store, "last", "--content", *towards(receiver), "--json")
    assert said.json() == {"destination": receiver.endpoint, "runs": 1, "spans": 601, "error": None}
    assert len(by_id(receiver.spans)) == 601
    assert max(len(request.body) for request in receiver.requests) < 1_000_000
    assert len(receiver.requests) > 4


def test_an_interrupted_run_has_an_end_and_is_no_success(
    store: Path, receiver: OtlpReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(store, 1, status="interrupted", end_time_unix_nano=None, status_code="UNSET")
    assert export(capsys, store, "last", *towards(receiver)).code == 0
    (run,) = (span for span in receiver.spans if span.name.startswith("invoke_workflow"))
    assert run.status == "ERROR"
    assert run.end_time_unix_nano == max(span.end_time_unix_nano for span in receiver.spans)
    assert run.attributes["configurable_agents.status"] == "interrupted"


@pytest.mark.parametrize("nest", [lambda value: {"k": value}, lambda value: [value]])
def test_values_in_values_keep_no_run_back(
    nest: Callable[[Any], Any],
    store: Path,
    receiver: OtlpReceiver,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of one attribute, which some code of a node's has set, not all leaves; everything else does."""
    deep: Any = "the end"
    for _ in range(200):
        deep = nest(deep)
    fill(store, 1)
    with closing(create_storage_backend(store)) as backend:
        backend.write([node_record(2, run=1, trace_flags=1, attributes_json=json.dumps({"deep": deep}))])
    assert export(capsys, store, "--pending", *towards(receiver)).code == 0
    assert len(receiver.wait_for(4)) == 4
    assert export(capsys, store, "--all", "--format", "otlp-json", "--output", str(tmp_path / "runs.json")).code == 0
    assert "the end" in (tmp_path / "runs.json").read_text(encoding="utf-8"), "a file has all of it, as text"
    again = run_here(capsys, "runs", "import", str(tmp_path / "runs.json"), "--store", str(tmp_path / "again.db"))
    assert (again.code, "1 run, 2 node executions, 1 other span" in again.err) == (0, True)


# --- which runs ----------------------------------------------------------------------------------------------------------


def test_pending_sends_what_is_missing_and_nothing_twice(
    store: Path, receiver: OtlpReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a timer, say: what has been delivered is noted, for each destination."""
    fill(store, 1, 2, 3)
    assert export(capsys, store, run_id(2), *towards(receiver)).code == 0
    assert export(capsys, store, "--pending", *towards(receiver)).code == 0
    assert len(by_id(receiver.spans)) == 9
    said = export(capsys, store, "--pending", *towards(receiver))
    assert "delivered 0 runs" in said.err
    assert len(receiver.spans) == 9
    with otlp_receiver("http/protobuf") as other:
        assert export(capsys, store, "--pending", *towards(other)).code == 0
        assert len(by_id(other.spans)) == 9
    assert len(deliveries(store)) == 6


def test_tenants_of_one_host_are_told_apart_by_their_paths(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What one of them has got, the other still misses. A mark of before, by host alone, is the plain endpoint's."""
    fill(store, 1, 2)
    with otlp_receiver("http/protobuf") as receiver:
        plain = receiver.endpoint
        with closing(create_storage_backend(store)) as backend:
            mark = DeliveryRecord(run_id=run_id(1), destination=plain, delivered_at_unix_nano=ENDED)
            backend.runs.mark_delivered([mark])
        delivered = [
            export(capsys, store, "--pending", "--otlp", endpoint).err.split(" (")[0]
            for endpoint in (plain, f"{plain}/a", f"{plain}/b/v1/traces", f"{plain}/a", f"{plain}/b")
        ]
        paths = {request.path for request in receiver.requests}
    assert delivered == [f"delivered {runs}" for runs in ("1 run", "2 runs", "2 runs", "0 runs", "0 runs")]
    assert paths == {"/v1/traces", "/a/v1/traces", "/b/v1/traces"}


def test_what_was_shipped_live_is_not_pending(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with otlp_receiver("http/protobuf") as receiver:
        result = RUNS["hello"](store=store, otlp=receiver.endpoint)
        eventually(lambda: deliveries(store))
        assert deliveries(store) == [(result.run_id, receiver.endpoint)]
        count = len(receiver.spans)
        assert export(capsys, store, "--pending", *towards(receiver)).code == 0
        assert len(receiver.spans) == count


def test_what_an_endpoint_missed_while_it_was_down_it_gets_later(
    store: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    program = """
import sys
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow
workflow = make([calls("one", "x")], chain("START one END"), {"x": field("int")})
run_workflow(workflow, functions={"one": lambda: 1}, store=sys.argv[1], otlp=sys.argv[2])
"""
    with otlp_receiver("http/protobuf", fault="refuse") as receiver:
        assert run_program(program, store, receiver.endpoint)[0] == 0
    assert deliveries(store) == []
    with otlp_receiver("http/protobuf") as receiver:
        assert export(capsys, store, "--pending", *towards(receiver)).code == 0
        assert [span.name for span in receiver.wait_for(2)] == ["invoke_workflow made", "execute_node one"]


MISSED = """
import os, sys
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import create_storage_backend, run_workflow
os.chdir(sys.argv[1])
config = {} if sys.argv[2] == "none" else {"storage": {"backend": "sqlite", "path": sys.argv[2]}}
workflow = make([calls("one", "x")], chain("START one END"), {"x": field("int")}, config)
store = create_storage_backend(sys.argv[3]) if sys.argv[3] != "none" else None
run_workflow(workflow, functions={"one": lambda: 1}, store=store)
"""


@pytest.mark.parametrize(
    ("in_file", "opened", "environment", "path", "said"),
    [
        ("workflows.db", "none", {}, "", " --otlp {endpoint}"),
        ("its own.db", "none", {}, "/tenant", " --otlp {endpoint}/tenant --store 'its own.db'"),
        ("none", "opened.db", {"CONFIGURABLE_AGENTS_STORE": "mine.db"}, "", " --otlp {endpoint} --store opened.db"),
        ("none", "./mine.db", {"CONFIGURABLE_AGENTS_STORE": "mine.db"}, "", " --otlp {endpoint}"),
        ("none", "none", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "{endpoint}/in"}, "", ""),
    ],
)
def test_the_command_that_a_warning_gives_ships_what_was_missed(
    in_file: str,
    opened: str,
    environment: Mapping[str, str],
    path: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is copied from the log, and has to find the store and the endpoint that the run had."""
    with otlp_receiver("http/protobuf", fault="refuse") as receiver:
        endpoint = receiver.endpoint
        variables = {
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"{endpoint}{path}",
            "OTEL_METRICS_EXPORTER": "none",
            **{name: value.format(endpoint=endpoint) for name, value in environment.items()},
        }
        code, _, err = run_program(MISSED, tmp_path, in_file, opened, **variables)
    assert code == 0, err
    command = err.split("`")[1]
    assert command == f"configurable-agents runs export --pending{said.format(endpoint=endpoint)}"
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    assert "1 run would go to" in run_here(capsys, *shlex.split(command)[1:], "--dry-run").err


def test_filters_choose_among_runs(store: Path, receiver: OtlpReceiver, capsys: pytest.CaptureFixture[str]) -> None:
    fill(store, 1, workflow_name="digest")
    fill(store, 2, status="failed")
    fill(store, 3, 4, trace_flags=0)
    fill(store, 5, status="running", end_time_unix_nano=None)

    def chosen(*words: str) -> list[str]:
        out = export(capsys, store, *words, "--dry-run", "--json", *towards(receiver)).out
        return [json.loads(line)["run_id"] for line in out.splitlines()]

    assert chosen("--all") == [run_id(number) for number in (4, 3, 2, 1)], "what goes on is left out"
    assert chosen("--workflow", "digest") == [run_id(1)]
    assert chosen("--status", "failed") == [run_id(2)]
    assert chosen("--since", "2030-01-01") == []
    assert chosen("--pending") == [run_id(2), run_id(1)], "what sampling left out is not missed"
    assert chosen("--pending", "--workflow", "support") == [run_id(2)]
    assert chosen(run_id(3), run_id(3), run_id(1)) == [run_id(3), run_id(1)], "one that is named goes all the same"
    assert receiver.requests == []


def test_a_dry_run_lists_for_people_too(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(store, 1, 2)
    said = export(capsys, store, "--all", "--dry-run", "--otlp", "http://127.0.0.1:1")
    assert [line.split()[1] for line in said.out.splitlines()] == ["workflow", "support", "support"]
    assert "2 runs would go to http://127.0.0.1:1" in said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--all"], "say where to: --otlp ENDPOINT"),
        (["--otlp", "http://127.0.0.1:1"], "say which runs"),
        (["last", "--all", "--otlp", "http://127.0.0.1:1"], "not both"),
        (["--all", "--otlp", "http://127.0.0.1:1", "--format", "otlp-json"], "exclude each other"),
        (["--pending", "--format", "otlp-json"], "--pending is about what an endpoint misses"),
        (["--all", "--otlp", "nonsense://x"], "is no endpoint"),
        (["--all", "--protocol", "grpc"], "--protocol needs --otlp"),
        (["--all", "--format", "otlp-json", "--json"], "give --output FILE"),
        (["nobody", "--otlp", "http://127.0.0.1:1"], "holds no run 'nobody'"),
        ([run_id(2), "--otlp", "http://127.0.0.1:1"], "still goes on"),
    ],
)
def test_what_makes_no_sense_is_said(
    words: list[str], said: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(store, 1)
    fill(store, 2, status="running", end_time_unix_nano=None)
    found = export(capsys, store, *words)
    assert found.code == 2
    assert said in " ".join(found.err.split())


def test_without_an_option_the_environment_says_where_to(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with otlp_receiver("http/protobuf") as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret-canary")
        fill(store, 1)
        said = export(capsys, store, "--pending")
        assert said.code == 0
        assert receiver.requests[0].headers["x-key"] == "secret-canary"
        assert "secret-canary" not in said.out + said.err
        assert deliveries(store) == [(run_id(1), receiver.endpoint)]


# --- endpoints that fail -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("fault", ["refuse", "bad_request", "too_large", "hang"])
def test_a_failure_is_one_message_and_exit_code_1(
    protocol: Protocol, fault: Any, store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    fill(store, 1)
    with otlp_receiver(protocol, fault=fault) as receiver:
        said = export(capsys, store, "last", *towards(receiver))
    assert said.code == 1
    assert said.err.startswith(f"error: {receiver.endpoint} did not take the spans: ")
    assert said.err.count("\n") == 2
    assert "No run was delivered." in said.err
    assert deliveries(store) == []


def test_what_was_delivered_before_a_failure_is_told_and_not_sent_again(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(create_storage_backend(store)) as backend:
        for number in range(1, 5):
            nodes = [node_record(seq, run=number, trace_flags=1) for seq in range(1, 301)]
            backend.write([run_record(number, trace_flags=1, end_time_unix_nano=ENDED), *nodes])
    with otlp_receiver("http/protobuf") as receiver:
        receiver.requests.clear()
        take = receiver._take

        def two_requests_at_most(*arguments: Any) -> Any:
            receiver.fault = "bad_request" if len(receiver.requests) >= 2 else None
            return take(*arguments)

        receiver._take = two_requests_at_most  # type: ignore[method-assign,assignment]  # the test's own server
        said = export(capsys, store, "--pending", *towards(receiver), "--json")
        assert said.code == 1
        assert (said.json()["runs"], said.json()["spans"]) == (3, 1024)
        assert "3 runs (1,024 spans) were delivered before; --pending sends what is missing" in said.err
        assert len(deliveries(store)) == 3
        receiver._take = take  # type: ignore[method-assign]
        receiver.fault = None
        receiver.spans.clear()
        said = export(capsys, store, "--pending", *towards(receiver), "--json")
        assert (said.json()["runs"], said.json()["spans"]) == (1, 301)
        assert {span.trace_id for span in receiver.spans} == {run_record(1).trace_id}


def test_where_the_store_cannot_be_written_runs_are_delivered_all_the_same(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a note, which one warning says."""
    fill(store, 1)
    with otlp_receiver("http/protobuf") as receiver, closing(sqlite3.connect(store)) as other:
        monkeypatch.setattr("configurable_agents.cli.exporting._MARK_SECONDS", 0.1)
        other.execute("BEGIN IMMEDIATE")
        said = export(capsys, store, "--all", *towards(receiver))
        assert said.code == 0
        assert "warning: what is delivered cannot be noted" in said.err
        assert len(receiver.spans) == 3


# --- files ---------------------------------------------------------------------------------------------------------------


def test_a_file_holds_everything_is_private_and_says_so(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(store, 1, config_text="flow: 1", inputs_json='{"topic": "tea-canary"}')
    file = tmp_path / "runs.json"
    said = export(capsys, store, "last", "--output", str(file), "--json")
    assert said.json() == {"file": str(file), "runs": 1, "spans": 3, "size_bytes": file.stat().st_size}
    assert "it holds inputs, outputs, messages and workflow files" in said.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "tea-canary" in file.read_text()
    assert json.loads(file.read_text())["resourceSpans"]
    again = export(capsys, store, "last", "--output", str(file))
    assert (again.code, "is there already" in again.err) == (2, True)
    assert [path.name for path in tmp_path.glob("*.part")] == []
    said = export(capsys, store, "last", "--format", "otlp-json", "--no-content")
    assert "tea-canary" not in said.out
    assert "it holds" not in said.err


def test_many_runs_are_one_request_a_line(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(store, 1, 2, 3, inputs_json='{"topic": "ü \x9b"}')
    said = export(capsys, store, "--all", "--format", "otlp-json")
    assert said.code == 0
    found = [json.loads(line) for line in said.out.splitlines()]
    assert len(found) == 3
    assert "\x9b" not in said.out, "no terminal obeys what a model said"
    assert "ü" in said.out


def test_a_file_that_cannot_be_written_leaves_nothing_behind(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(store, 1)
    said = export(capsys, store, "last", "--output", str(tmp_path / "no" / "folder.json"))
    assert (said.code, "cannot be written" in said.err) == (2, True)
    said = export(capsys, store, "last", "nobody", "--output", str(tmp_path / "half.json"))
    assert said.code == 2
    assert list(tmp_path.glob("half*")) == []


# --- Jaeger --------------------------------------------------------------------------------------------------------------


def test_a_run_links_its_trace_where_jaeger_is_known(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 1)
    assert "trace " not in run_here(capsys, "runs", "show", "last", "--store", str(store)).out
    monkeypatch.setenv("JAEGER_UI_URL", "http://127.0.0.1:16686/")
    link = f"http://127.0.0.1:16686/trace/{run_record(1).trace_id}"
    assert f"trace    {link}\n" in run_here(capsys, "runs", "show", "last", "--store", str(store)).out
    assert run_here(capsys, "runs", "show", "last", "--store", str(store), "--json").json()["trace_url"] == link
    monkeypatch.setenv("JAEGER_UI_URL", "javascript:alert(1)//")
    assert "trace " not in run_here(capsys, "runs", "show", "last", "--store", str(store)).out


def test_a_run_that_has_just_ended_says_where_its_trace_is(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAEGER_UI_URL", "http://127.0.0.1:16686")
    said = run_here(
        capsys,
        "run",
        str(EXAMPLES / "hello" / "hello.yaml"),
        "-i",
        "name=Ada",
        "--model",
        "scripted",
        "--store",
        str(store),
    )
    assert "its trace: http://127.0.0.1:16686/trace/" in said.err


def test_deliveries_are_shown(store: Path, receiver: OtlpReceiver, capsys: pytest.CaptureFixture[str]) -> None:
    fill(store, 1)
    assert export(capsys, store, "last", *towards(receiver)).code == 0
    (found,) = run_here(capsys, "runs", "show", "last", "--store", str(store), "--json").json()["deliveries"]
    assert found["destination"] == receiver.endpoint
    assert found["delivered_at"].endswith("Z")


# --- PostgreSQL ----------------------------------------------------------------------------------------------------------


@pytest.mark.postgres
def test_a_store_on_a_server_is_an_outbox_too(
    postgres_url: str, receiver: OtlpReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(postgres_url, 1, 2)
    assert export(capsys, postgres_url, "--pending", *towards(receiver)).code == 0
    assert len(by_id(receiver.spans)) == 6
    assert "delivered 0 runs" in export(capsys, postgres_url, "--pending", *towards(receiver)).err
