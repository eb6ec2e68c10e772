"""A FastAPI service with instrumentation of its own and no endpoint of ours: the program of docs/service.md, served."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from _documents import snippets
from _openai_server import OpenAIServer, openai_server
from _otlp import OtlpReceiver, otlp_receiver, tree_of
from _otlp_decode import ReceivedSpan
from _runs import kept
from _source import ROOT

QUESTION, ANSWER = "how long is a piece of string", "as long as it takes"
REQUESTS = 6

TREE = """\
POST /{path}
  invoke_workflow answer
    execute_node look_up
      search
    execute_node reply
      chat my-model
        POST
"""


@pytest.fixture(scope="module")
def model() -> Iterator[OpenAIServer]:
    with openai_server() as server:
        yield server


@pytest.fixture(scope="module")
def backend() -> Iterator[OtlpReceiver]:
    with otlp_receiver("http/protobuf") as receiver:
        yield receiver


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service")
    for snippet in snippets(ROOT / "docs" / "service.md"):
        if named := re.match(r"# (\S+\.(?:py|yaml))$", snippet.text.splitlines()[0]):
            (folder / named[1]).write_text(snippet.text, encoding="utf-8")
    return folder


@contextlib.contextmanager
def serving(folder: Path, *command: str, **environment: str) -> Iterator[str]:
    """Serve `service:app` in a process of its own; gives its URL."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    with subprocess.Popen(
        [*command, "-m", "uvicorn", "service:app", "--port", "0"],
        cwd=folder,
        env={**variables, "OTEL_BSP_SCHEDULE_DELAY": "100", **environment},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if found := re.search(r"Uvicorn running on (http://[0-9.:]+)", line):
                    yield found[1]
                    break
            else:
                raise AssertionError("".join(lines))
        finally:
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
            process.wait(timeout=30)
        assert "Error" not in rest, rest
        assert "WARNING" not in rest, rest


@pytest.fixture(scope="module")
def service(folder: Path, model: OpenAIServer, backend: OtlpReceiver) -> Iterator[str]:
    model.replies.extend([ANSWER] * 100)
    with serving(folder, sys.executable, MODEL_URL=model.url, TRACES_URL=f"{backend.endpoint}/v1/traces") as url:
        yield url


def post(url: str, trace_id: str) -> dict[str, Any]:
    headers = {"content-type": "application/json", "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    request = urllib.request.Request(url, json.dumps({"text": QUESTION}).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def traces(backend: OtlpReceiver, ids: list[str], count: int) -> list[list[ReceivedSpan]]:
    def found() -> list[list[ReceivedSpan]]:
        parts = [[span for span in backend.spans if span.trace_id == trace_id] for trace_id in ids]
        return parts if all(len(part) >= count for part in parts) else []

    return backend.wait_until(found, seconds=30)


@pytest.mark.parametrize("path", ["answers", "blocking"])
def test_a_request_is_one_whole_trace_in_the_services_backend(
    path: str, service: str, backend: OtlpReceiver, model: OpenAIServer, folder: Path
) -> None:
    """Awaited in an async endpoint, blocking in a plain one; several at once, and none mixed up with another."""
    start = {"answers": 1, "blocking": 2}[path]
    ids = [f"{start * 1000 + number:032x}" for number in range(REQUESTS)]
    with ThreadPoolExecutor(REQUESTS) as pool:
        answers = list(pool.map(lambda trace_id: post(f"{service}/{path}", trace_id), ids))
    assert {answer["answer"] for answer in answers} == {ANSWER}
    for trace_id, spans, answer in zip(ids, traces(backend, ids, 7), answers, strict=True):
        assert tree_of(spans) == TREE.format(path=path)
        by_name = {(span.name, span.kind): span for span in spans}
        assert by_name[f"POST /{path}", "SERVER"].parent_span_id == "00f067aa0ba902b7"
        assert by_name["chat my-model", "CLIENT"].attributes["gen_ai.usage.input_tokens"] == 1000
        assert {span.resource["service.name"] for span in spans} == {"help-desk"}
        run = by_name["invoke_workflow answer", "INTERNAL"]
        assert run.attributes["configurable_agents.run.id"] == answer["run"]
        # The model's server is told of the HTTP client's span, and of nothing else.
        told = [
            value for headers in model.headers for name, value in headers if name == "traceparent" and trace_id in value
        ]
        assert [text.split("-")[2] for text in told] == [by_name["POST", "CLIENT"].span_id]
        stored = kept(folder / "workflows.db", answer["run"])
        assert (stored.run.trace_id, stored.run.span_id) == (trace_id, run.span_id)
        assert stored.node("reply").outputs == {"answer": ANSWER}


def test_nothing_that_people_or_models_said_has_left(service: str, backend: OtlpReceiver) -> None:
    post(f"{service}/answers", trace_id := f"{3000:032x}")
    traces(backend, [trace_id], 7)
    assert b"invoke_workflow answer" in backend.raw()
    for text in (QUESTION, ANSWER, "within a day"):
        assert text.encode() not in backend.raw()


PLAIN = """
from fastapi import FastAPI
from configurable_agents import arun_workflow, load_workflow

workflow = load_workflow("answer.yaml")
app = FastAPI()

@app.post("/answers")
async def answer(question: dict[str, str]) -> dict[str, str]:
    result = await arun_workflow(workflow, {"question": question["text"]}, functions={"look_up": lambda question: "-"})
    return {"answer": result.outputs["answer"], "run": result.run_id}
"""


def test_a_service_that_is_instrumented_from_outside_sends_one_whole_trace_too(
    folder: Path, model: OpenAIServer, tmp_path: Path
) -> None:
    """`opentelemetry-instrument` and one endpoint in the environment: the service's spans go there, and so do ours, once."""
    for text, name in ((PLAIN, "service.py"), ((folder / "answer.yaml").read_text(encoding="utf-8"), "answer.yaml")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    with otlp_receiver("http/protobuf") as backend:
        environment = {
            "OTEL_SERVICE_NAME": "outside",
            "OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_PYTHON_EXCLUDED_URLS": "",
            "MODEL_URL": model.url,
        }
        instrument = str(Path(sys.executable).with_name("opentelemetry-instrument"))
        with serving(tmp_path, instrument, sys.executable, **environment) as url:
            post(f"{url}/answers", trace_id := f"{4000:032x}")
            (spans,) = traces(backend, [trace_id], 8)
        spans = [
            span
            for span in backend.spans
            if span.trace_id == trace_id and not span.name.startswith("POST /answers http")
        ]
        tree = TREE.replace("      search\n", "").format(path="answers")
        assert tree_of(spans) == tree
        assert {span.resource["service.name"] for span in spans} == {"outside"}
