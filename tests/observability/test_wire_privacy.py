"""What leaves the machine and what does not, searched for in the bytes that a receiver gets over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from _conventions import wrongly_typed
from _otlp import PROTOCOLS, OtlpReceiver, otlp_receiver, settle_environment
from _otlp_decode import ReceivedSpan
from _runs import asks, calls, chain, field, kept
from _workflows import make
from configurable_agents import NodeExecutionError, Workflow, run_workflow, semconv
from configurable_agents.core.spans import WITHHELD

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"

SECRETS = {"MY_KEY": "canary-secret-of-a-key", "MY_TOKEN": "canary-secret-in-config"}
"""Environment variables that the file names; never to be seen anywhere."""
NEVER = (*SECRETS.values(), "canary-unused-default", "canary-description")
"""What does not leave even where content may: secrets, and what of the file no span shows."""
CONTENT = (
    "canary-input",
    "canary-prompt",
    "canary-system",
    "canary-answer",
    "canary-function-input",
    "canary-function-output",
)
"""What leaves only where capture is asked for."""


@pytest.fixture(params=PROTOCOLS)
def receiver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    with otlp_receiver(request.param) as running:
        settle_environment(monkeypatch, running)
        for name, value in SECRETS.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def full_of_canaries(**ask: Any) -> Workflow:
    """A workflow with something recognisable in every place that could leak."""
    nodes = [
        asks("ask", "answer", system="canary-system", description="canary-description", **ask)
        | {"prompt": "canary-prompt {topic}"},
        calls("look", "found", given="canary-function-input"),
    ]
    fields = {
        "topic": field("str", required=True),
        "unused": field("str", "canary-unused-default", description="canary-description"),
        "answer": field("str"),
        "found": field("str"),
    }
    replies = [{"text": "canary-answer ${env:MY_TOKEN}"}]
    llm = {"provider": "scripted", "params": {"replies": replies}, "api_key_env": "MY_KEY"}
    return make(nodes, chain("START ask look END"), fields, {"llm": llm}, name="canaries")


def run_canaries(receiver: OtlpReceiver, store: Path | bool, **ask: Any) -> dict[str, ReceivedSpan]:
    run_workflow(
        full_of_canaries(**ask),
        {"topic": "canary-input"},
        functions={"look": lambda given: f"canary-function-output {SECRETS['MY_KEY']}"},
        store=store,
        otlp=receiver.endpoint,
    )
    return {span.name: span for span in receiver.wait_for(4)}


def found_in(receiver: OtlpReceiver, canaries: tuple[str, ...]) -> list[str]:
    return [canary for canary in canaries if canary.encode() in receiver.raw()]


def test_nothing_of_what_a_run_works_on_leaves_unasked(receiver: OtlpReceiver, store: Path) -> None:
    """No input, output, prompt, default or secret anywhere in the bytes, not even under a strange name."""
    spans = run_canaries(receiver, store)
    assert b"canary-" not in receiver.raw().replace(b"canaries", b"")
    assert b"invoke_workflow canaries" in receiver.raw(), "the search looks at what was sent"
    content = {key for span in spans.values() for key in span.attributes if ".content." in key or "value" in key}
    assert content == set()


def test_the_store_still_holds_all_of_it(receiver: OtlpReceiver, store: Path) -> None:
    """Filtered is the copy that leaves, not the record."""
    run_canaries(receiver, store)
    files = b"".join(path.read_bytes() for path in store.parent.rglob("*") if path.is_file())
    assert [canary for canary in CONTENT if canary.encode() not in files] == []
    assert [secret for secret in SECRETS.values() if secret.encode() in files] == []


@pytest.mark.parametrize("asked", ["true", "1", "SPAN_ONLY", "span_and_event"])
def test_content_leaves_where_capture_is_asked_for(
    asked: str, receiver: OtlpReceiver, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the shape that the conventions and OpenInference give it; secrets, defaults and the file never."""
    monkeypatch.setenv(CAPTURE, asked)
    spans = run_canaries(receiver, store)
    assert found_in(receiver, CONTENT) == list(CONTENT)
    assert found_in(receiver, NEVER) == []
    chat = spans["chat scripted"].attributes
    messages = [
        {"role": "system", "parts": [{"type": "text", "content": "canary-system"}]},
        {"role": "user", "parts": [{"type": "text", "content": "canary-prompt canary-input"}]},
    ]
    answer = {"role": "assistant", "parts": [{"type": "text", "content": "canary-answer ***"}], "finish_reason": "stop"}
    assert json.loads(chat[semconv.GEN_AI_INPUT_MESSAGES]) == messages
    assert json.loads(chat[semconv.GEN_AI_OUTPUT_MESSAGES]) == [answer]
    assert inputs_and_outputs(spans["chat scripted"]) == (messages, [answer])
    given, written = {"given": "canary-function-input"}, {"found": "canary-function-output ***"}
    assert inputs_and_outputs(spans["execute_node look"]) == (given, written)
    assert json.loads(spans["invoke_workflow canaries"].attributes[semconv.INPUT_VALUE]) == {"topic": "canary-input"}
    for span in spans.values():
        assert wrongly_typed(span.attributes) == {}, span.name
        assert not any(key.startswith(semconv.CONTENT_PREFIX) for key in span.attributes), span.name


def inputs_and_outputs(span: ReceivedSpan) -> tuple[Any, Any]:
    """What Phoenix shows as a span's input and output."""
    assert span.attributes[semconv.INPUT_MIME_TYPE] == span.attributes[semconv.OUTPUT_MIME_TYPE] == "application/json"
    return json.loads(span.attributes[semconv.INPUT_VALUE]), json.loads(span.attributes[semconv.OUTPUT_VALUE])


@pytest.mark.parametrize("said", ["false", "no", "", "event_only", "NO_CONTENT"])
def test_anything_else_is_not_asking_for_it(said: str, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """`event_only` asks for log records, which we do not make."""
    monkeypatch.setenv(CAPTURE, said)
    run_canaries(receiver, False)
    assert found_in(receiver, (*CONTENT, *NEVER)) == []


def test_what_a_node_keeps_to_itself_does_not_leave_either(
    receiver: OtlpReceiver, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`capture_content: false` wins over the environment."""
    monkeypatch.setenv(CAPTURE, "true")
    spans = run_canaries(receiver, store, capture_content=False)
    assert found_in(receiver, ("canary-prompt", "canary-system", "canary-answer")) == []
    assert semconv.GEN_AI_INPUT_MESSAGES not in spans["chat scripted"].attributes


def test_a_long_value_is_cut(receiver: OtlpReceiver, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 kB a value, between two characters of its UTF-8, and the reader sees that something is missing."""
    monkeypatch.setenv(CAPTURE, "true")
    workflow = make([calls("long", "text")], chain("START long END"), {"text": field("str")})
    run_workflow(workflow, functions={"long": lambda: "ä" * 20_000}, store=store, otlp=receiver.endpoint)
    (node,) = [span for span in receiver.wait_for(2) if span.name == "execute_node long"]
    value = node.attributes[semconv.OUTPUT_VALUE]
    assert 8000 < len(value.encode()) <= 8192
    assert (value[:12], value[-2:]) == ('{"text":"äää', "ä…")


def failing(receiver: OtlpReceiver, store: Path) -> list[ReceivedSpan]:
    """A run that fails in a function whose error repeats what it worked on, with a cause that does too."""

    def look(given: str) -> str:
        try:
            raise KeyError(" ".join(["canary", "cause", given]))
        except KeyError as cause:
            raise ValueError(" ".join(["canary", "error", given, SECRETS["MY_KEY"]])) from cause

    with pytest.raises(NodeExecutionError):
        run_workflow(
            full_of_canaries(),
            {"topic": "canary-input"},
            functions={"look": look},
            store=store,
            otlp=receiver.endpoint,
        )
    return [span for span in receiver.wait_for(4) if span.status == "ERROR"]


def test_an_error_tells_its_type_and_place_and_not_its_text(receiver: OtlpReceiver, store: Path) -> None:
    """An error's text repeats values: a `KeyError` its key, a validation error its input."""
    spans = failing(receiver, store)
    assert {span.name for span in spans} == {"execute_node look", "invoke_workflow canaries"}
    assert found_in(receiver, ("canary error", "canary cause", *CONTENT, *NEVER)) == []
    for span in spans:
        assert (span.status_message, span.attributes[semconv.ERROR_TYPE]) == ("ValueError", "ValueError")
        (event,) = span.events
        assert event.attributes[semconv.EXCEPTION_TYPE] == "ValueError"
        assert event.attributes[semconv.EXCEPTION_MESSAGE] == "ValueError"
        assert f'File "{__file__}"' in event.attributes[semconv.EXCEPTION_STACKTRACE]


def test_an_errors_text_leaves_where_capture_is_asked_for(
    receiver: OtlpReceiver, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then without the secret in it."""
    monkeypatch.setenv(CAPTURE, "true")
    text = "canary error canary-function-input ***"
    for span in failing(receiver, store):
        assert (span.status_message, span.attributes[semconv.ERROR_MESSAGE]) == (text, text)
        (event,) = span.events
        assert event.attributes[semconv.EXCEPTION_MESSAGE] == text
        assert str(event.attributes[semconv.EXCEPTION_STACKTRACE]).endswith(f"ValueError: {text}")
    assert found_in(receiver, NEVER) == []


def test_an_error_of_a_model_does_not_tell_what_the_provider_repeated(receiver: OtlpReceiver, store: Path) -> None:
    """Some servers send back what they refuse."""
    llm = {
        "provider": "scripted",
        "params": {"replies": [{"error": {"status_code": 400, "message": "cannot read canary-prompt"}}]},
    }
    workflow = make([asks("ask", "text")], chain("START ask END"), {"text": field("str")}, {"llm": llm})
    with pytest.raises(NodeExecutionError):
        run_workflow(workflow, store=store, otlp=receiver.endpoint)
    assert len(receiver.wait_for(3)) == 3
    assert found_in(receiver, ("canary-prompt", "cannot read")) == []


def test_what_a_cancellation_says_is_content_too(receiver: OtlpReceiver, store: Path) -> None:
    """Whoever cancels may give a text; a plain cancellation has none."""

    async def work() -> str:
        raise asyncio.CancelledError("canary-reason")

    workflow = make(
        [calls("work", "text") | {"capture_content": False}], chain("START work END"), {"text": field("str")}
    )
    with pytest.raises(asyncio.CancelledError):
        run_workflow(workflow, functions={"work": work}, store=store, otlp=receiver.endpoint)
    for span in receiver.wait_for(2):
        assert (span.status_message, span.events) == ("asyncio.exceptions.CancelledError", ())
    assert found_in(receiver, ("canary-reason",)) == []
    assert kept(store).run.error_message == kept(store).node("work").error_message == WITHHELD


def test_a_timeout_of_ours_may_say_what_it_was(receiver: OtlpReceiver, store: Path) -> None:
    """Its text holds a node's name and seconds, and no value."""

    async def slow() -> str:
        await asyncio.sleep(60)
        return ""

    node = calls("slow", "text") | {"timeout": 0.05}
    workflow = make([node], chain("START slow END"), {"text": field("str")})
    with pytest.raises(NodeExecutionError):
        run_workflow(workflow, functions={"slow": slow}, store=store, otlp=receiver.endpoint)
    for span in receiver.wait_for(2):
        assert span.status_message == "node 'slow' took longer than its timeout of 0.05 s"


def test_the_key_of_the_endpoint_is_sent_to_it_and_stands_in_no_span(
    receiver: OtlpReceiver, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a function prints the environment into its result, too."""
    key = "canary-collector-key"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-api-key={key}")
    monkeypatch.setenv(CAPTURE, "true")
    workflow = make([calls("tell", "text")], chain("START tell END"), {"text": field("str")})
    run_workflow(workflow, functions={"tell": lambda: f"it is {key}"}, store=store, otlp=receiver.endpoint)
    spans = receiver.wait_for(2)
    assert {request.headers["x-api-key"] for request in receiver.requests} == {key}
    assert b"".join(request.body for request in receiver.requests).count(key.encode()) == 0
    (node,) = [span for span in spans if span.name == "execute_node tell"]
    assert json.loads(node.attributes[semconv.OUTPUT_VALUE]) == {"text": "it is ***"}
