"""What must not be in a store: secrets never, content where it is switched off. Looked for in the bytes of the files."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel

from _both_ways import both_ways
from _runs import Run, asks, calls, chain, field, kept, scripted
from _workflows import Spans, make
from configurable_agents import NodeExecutionError, Workflow, run_workflow
from configurable_agents.core.secrets import masker

SECRET = "s3cr3t-väl\"ue\\with/odd'signs"
MULTILINE = "-----BEGIN KEY-----\nabc123def456\n-----END KEY-----\n"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def bytes_of(store: Path) -> bytes:
    """Everything that is on disk: the file, its write-ahead log, and whatever else lies beside it."""
    return b"".join(path.read_bytes() for path in sorted(store.parent.rglob("*")) if path.is_file())


def with_secret() -> Workflow:
    """A file that names a secret variable in `config`, and a function beside a model."""
    config = scripted({"text": "${env:THE_SECRET}", "usage": None})
    return make(
        [asks("ask", "answer"), calls("leak", "x", answer="{answer}")],
        chain("START ask leak END"),
        {"x": field("dict"), "answer": field("str"), "given": field("str", "")},
        config,
    )


def in_any_spelling(secret: str) -> list[bytes]:
    """A secret as it is, and as JSON escapes it, once and twice."""
    once = json.dumps(secret, ensure_ascii=False)[1:-1]
    return [text.encode() for text in (secret, once, json.dumps(once, ensure_ascii=False)[1:-1])]


@both_ways
@pytest.mark.parametrize("secret", ["hunter2-hunter2", SECRET, MULTILINE])
def test_a_secret_in_outputs_messages_and_inputs_is_masked_in_the_store(
    run: Run, secret: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_SECRET", secret)
    spans = Spans()
    leak = {"leak": lambda answer: {"value": answer, "list": [f"in the middle {secret} of a text"], secret: 1}}
    result = run(with_secret(), {"given": f"my {secret}"}, functions=leak, store=store, observers=[spans])
    assert result.outputs["answer"] == secret, "the run itself has the value"
    for spelling in in_any_spelling(secret):
        assert spelling not in bytes_of(store)
        assert all(spelling.decode() not in span.to_json() for span in spans.ended)
    assert kept(store).node("ask").outputs == {"answer": "***"}
    assert b"${env:THE_SECRET}" in bytes_of(store), "the file is kept as it was written"


@both_ways
@pytest.mark.parametrize("secret", ["hunter2-hunter2", SECRET, MULTILINE])
def test_a_secret_in_an_error_is_masked_in_the_store_and_in_our_message(
    run: Run, secret: str, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("THE_SECRET", secret)

    def leak(answer: str) -> Any:
        raise ValueError(f"401 for key {answer}, refused")

    with caplog.at_level(logging.DEBUG), pytest.raises(NodeExecutionError) as caught:
        run(with_secret(), functions={"leak": leak}, store=store)
    for spelling in in_any_spelling(secret):
        assert spelling not in bytes_of(store)
        assert spelling.decode() not in str(caught.value)
        assert spelling.decode() not in caplog.text
    assert kept(store).run.error_message == "401 for key ***, refused"


@both_ways
def test_the_key_of_a_model_is_masked_too(run: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes from the environment by the provider's name, and servers repeat it in what they refuse."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")
    workflow = make([calls("leak", "x")], chain("START leak END"), {"x": field("str")})
    run(workflow, functions={"leak": lambda: "key=sk-test-0123456789"}, store=store)
    assert b"sk-test-0123456789" not in bytes_of(store)
    assert kept(store).node("leak").outputs == {"x": "key=***"}


def test_short_values_and_empty_ones_hide_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every `a` of every text would be gone."""
    monkeypatch.setenv("THE_SECRET", "a")
    run_workflow(with_secret(), functions={"leak": lambda answer: {"b": "banana"}}, store=store)
    assert kept(store).node("leak").outputs == {"x": {"b": "banana"}}


@pytest.mark.parametrize("secret", ["secret\ud800value", "a.b*c(d)[e]", "tab\tand\x7fdelete", "日本語の秘密の値"])
def test_any_value_can_be_masked(secret: str) -> None:
    hide = masker([secret])
    assert hide(f"before {secret} after") == "before *** after"
    escaped = json.dumps(secret, ensure_ascii=False)[1:-1]
    assert hide(f'{{"k": "{escaped}"}}') == '{"k": "***"}'


def test_the_longer_of_two_secrets_is_hidden_whole() -> None:
    assert masker(["secret-1", "secret-1-and-more"])("secret-1-and-more secret-1") == "*** ***"


CANARY = "canary-4711"


def chatty() -> Workflow:
    """A model and a function that are given, and give back, what may be kept."""
    return make(
        [asks("ask", "answer", system="system {given}"), calls("work", "x", answer="{answer}")],
        chain("START ask work END"),
        {"given": field("str", ""), "answer": field("str"), "x": field("list[str]")},
        scripted(),
    )


WORK: dict[str, Any] = {"work": lambda answer: [answer, CANARY]}


@both_ways
def test_content_is_kept_unless_it_is_switched_off(run: Run, store: Path) -> None:
    run(chatty(), {"given": CANARY}, functions=WORK, store=store)
    stored = kept(store)
    assert stored.run.inputs["given"] == CANARY
    assert CANARY in str(stored.node("work").outputs)
    assert CANARY in stored.spans[0].attributes_json


@both_ways
def test_a_node_with_content_off_leaves_none_of_it_in_the_store(run: Run, store: Path) -> None:
    # The file's own text is kept; so the canary comes from a function.
    workflow = make(
        [
            calls("work", "x", given="{given}") | {"capture_content": False},
            asks("ask", "answer", prompt="prompt {x}", capture_content=False),
            calls("after", "n"),
        ],
        chain("START work ask after END"),
        {"given": field("str", "harmless"), "answer": field("str"), "x": field("list[str]"), "n": field("int", 0)},
        scripted(),
    )
    functions = {"work": lambda given: [CANARY], "after": lambda: 1}
    result = run(workflow, functions=functions, store=store)
    assert result.outputs["answer"] == f'prompt ["{CANARY}"]'
    assert CANARY.encode() not in bytes_of(store)
    work, ask, after = kept(store).nodes
    assert (ask.inputs_json, ask.outputs_json, work.inputs_json, work.outputs_json) == (None, None, None, None)
    assert after.outputs == {"n": 1}, "other nodes keep theirs"
    assert (ask.input_tokens > 0, ask.model, work.status) == (True, "scripted", "completed")


@both_ways
def test_storage_with_content_off_leaves_none_of_it_in_the_store(run: Run, store: Path) -> None:
    config = scripted() | {"storage": {"capture_content": False}}
    workflow = make(
        [asks("ask", "answer", prompt="prompt {given}"), calls("work", "x", answer="{answer}")],
        chain("START ask work END"),
        {"given": field("str", ""), "answer": field("str"), "x": field("list[str]")},
        config,
    )
    result = run(workflow, {"given": CANARY}, functions=WORK, store=store)
    assert result.outputs["x"] == [f"prompt {CANARY}", CANARY]
    assert CANARY.encode() not in bytes_of(store)
    stored = kept(store)
    assert (stored.run.inputs_json, stored.run.defaults_json) == (None, None)
    assert stored.said() == [("ask", "completed"), ("work", "completed")]


@both_ways
@pytest.mark.parametrize("off", ["node", "storage"])
@pytest.mark.parametrize("kind", ["exception", "wrong type", "wrong answer"])
def test_with_content_off_an_error_does_not_give_it_away(run: Run, kind: str, off: str, store: Path) -> None:
    """What failed and where is kept; the texts of errors repeat values."""
    node = calls("bad", "n", given="{given}")
    if kind == "wrong answer":
        schema = {"type": "object", "fields": [{"name": "n", "type": "int"}]}
        node = asks("bad", "n", output_schema=schema, prompt="{given}")
    config = scripted() | ({"storage": {"capture_content": False}} if off == "storage" else {})
    if off == "node":
        node["capture_content"] = False
    workflow = make([node], chain("START bad END"), {"given": field("str", ""), "n": field("int")}, config)

    def bad(given: str) -> Any:
        if kind == "exception":
            raise ValueError(f"cannot take {CANARY}")
        return CANARY

    models = {"default": FakeListChatModel(responses=[f'{{"n": "{CANARY}"}}'])}
    with pytest.raises(NodeExecutionError) as caught:
        run(workflow, functions={"bad": bad}, models=models if kind == "wrong answer" else {}, store=store)
    assert caught.value.__cause__ is not None
    assert CANARY in str(caught.value), "the caller is told"
    stored = kept(store)
    assert CANARY.encode() not in bytes_of(store)
    assert "capture_content" in str(stored.run.error_message)
    assert stored.node("bad").error_type
