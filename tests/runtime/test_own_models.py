"""`models=`: any langchain-core chat model, langchain-core's own fakes and ChatOpenAI over HTTP among them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel, FakeMessagesListChatModel, GenericFakeChatModel
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from _both_ways import both_ways
from _openai_server import OpenAIServer, openai_server
from _runs import Run, asks, chain, eventually, field, kept, rows
from _workflows import make
from configurable_agents import ModelSetupError, NodeExecutionError, RunResult, Workflow, arun_workflow, run_workflow

openai = pytest.importorskip("langchain_openai", reason="needs langchain-openai")

SCHEMA = {"type": "object", "fields": [{"name": "score", "type": "int"}, {"name": "why", "type": "str"}]}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server() as running:
        yield running


def one(config: Any = None, **more: Any) -> Workflow:
    return make([asks("ask", "text", **more)], chain("START ask END"), {"text": field("str")}, config)


def structured() -> Workflow:
    fields = {"score": field("int"), "why": field("str")}
    return make([asks("ask", "score", "why", output_schema=SCHEMA)], chain("START ask END"), fields)


@both_ways
@pytest.mark.parametrize(
    "model",
    [
        FakeListChatModel(responses=["an answer"]),
        FakeMessagesListChatModel(responses=[AIMessage("an answer")]),
        FakeMessagesListChatModel(responses=[AIMessage([{"type": "text", "text": "an answer"}])]),
        "generic",
    ],
    ids=lambda model: type(model).__name__,
)
def test_langchain_cores_own_fakes_answer(run: Run, model: Any, store: Path) -> None:
    if model == "generic":
        model = GenericFakeChatModel(messages=iter([AIMessage("an answer")]))
    result = run(one(), models={"default": model}, store=store)
    assert result.outputs == {"text": "an answer"}
    assert (result.total_cost_usd, result.unpriced_calls, result.model_calls) == (None, 1, 1)
    stored = kept(store)
    assert [span.name for span in stored.spans] == [f"chat {stored.node('ask').model}"]


@both_ways
def test_a_fake_that_knows_no_schema_is_asked_in_words_and_again(run: Run, store: Path) -> None:
    model = FakeListChatModel(responses=["no idea", 'Sure: {"score": 3, "why": "good"}'])
    result = run(structured(), models={"ask": model}, store=store)
    assert result.outputs == {"score": 3, "why": "good"}
    assert (result.model_calls, len(kept(store).spans)) == (2, 2)


class Blocking(BaseChatModel):
    """Knows no async, and tells the thread it was asked on."""

    @property
    def _llm_type(self) -> str:
        return "blocking"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        name = threading.current_thread().name
        usage: Any = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
        return ChatResult(generations=[ChatGeneration(message=AIMessage(name, usage_metadata=usage))])


@both_ways
def test_a_model_without_async_is_asked_beside_the_loop(run: Run, store: Path) -> None:
    result = run(one(), models={"default": Blocking()}, store=store)
    assert result.outputs["text"] != threading.main_thread().name
    assert (result.input_tokens, result.output_tokens) == (5, 2)


def test_a_model_by_node_id_wins_over_the_default_and_over_the_file(store: Path) -> None:
    workflow = make(
        [asks("a", "x"), asks("b", "y")],
        chain("START a b END"),
        {"x": field("str"), "y": field("str")},
        {"llm": {"provider": "scripted", "params": {"replies": ["from the file"]}}},
    )
    options: Any = {"store": store}
    one_node = {"b": FakeListChatModel(responses=["of b"])}
    assert run_workflow(workflow, models=one_node, **options).outputs == {"x": "from the file", "y": "of b"}
    both = {"default": FakeListChatModel(responses=["default"]), **one_node}
    assert run_workflow(workflow, models=both, **options).outputs == {"x": "default", "y": "of b"}
    assert run_workflow(workflow, models={"default": "scripted"}, **options).status == "completed"


def test_a_model_for_no_node_and_what_is_no_model_are_told_before_anything_runs(store: Path) -> None:
    with pytest.raises(ModelSetupError, match="'asks'"):
        run_workflow(one(), models={"asks": FakeListChatModel(responses=["x"])}, store=store)
    with pytest.raises(ModelSetupError, match="not dict"):
        run_workflow(one(), models={"ask": {}}, store=store)  # type: ignore[dict-item]  # that is the point
    with pytest.raises(ModelSetupError, match=r"set llm\.provider"):
        run_workflow(one(), store=store)
    assert not store.exists()


def chat_openai(server: OpenAIServer, **more: Any) -> Any:
    return openai.ChatOpenAI(model="gpt-4o-mini", base_url=server.url, api_key="test-key", max_retries=0, **more)


@both_ways
def test_chat_openai_answers_over_http_and_is_priced_and_counted(run: Run, server: OpenAIServer, store: Path) -> None:
    server.replies.extend(["an answer"])
    result = run(one(), models={"default": chat_openai(server)}, store=store)
    assert result.outputs == {"text": "an answer"}
    (call,) = kept(store).spans
    assert (call.kind, call.provider, call.model) == ("CLIENT", "openai", "gpt-4o-mini")
    assert (call.input_tokens, call.output_tokens) == (1000, 100)
    assert (call.cache_read_tokens, call.reasoning_tokens) == (400, 60)
    # 600 fresh at 0.15, 400 cached at 0.075, 100 out at 0.60 for a million.
    assert call.cost_usd == result.total_cost_usd == pytest.approx((600 * 0.15 + 400 * 0.075 + 100 * 0.6) / 1e6)
    assert len(server.requests) == 1


@both_ways
def test_chat_openai_gives_structured_answers(run: Run, server: OpenAIServer, store: Path) -> None:
    server.replies.extend([{"score": 4, "why": "fine"}])
    result = run(structured(), models={"default": chat_openai(server)}, store=store)
    assert result.outputs == {"score": 4, "why": "fine"}
    assert (result.model_calls, len(server.requests)) == (1, 1)


@both_ways
@pytest.mark.parametrize("max_retries", [0, 1])
def test_a_server_error_is_asked_so_often_and_no_more(
    run: Run, max_retries: int, server: OpenAIServer, store: Path
) -> None:
    server.failures.extend([500] * 9)
    workflow = one({"execution": {"max_retries": max_retries}})
    with pytest.raises(NodeExecutionError) as caught:
        run(workflow, models={"default": chat_openai(server)}, store=store)
    assert len(server.requests) == max_retries + 1
    assert getattr(caught.value.__cause__, "status_code", None) == 500
    assert "The server had an error" in str(kept(store).run.error_message)


@pytest.mark.parametrize("run", [run_workflow, lambda *a, **o: asyncio.run(arun_workflow(*a, **o))])
@pytest.mark.parametrize("keep_alive", [False, True])
def test_one_model_object_serves_one_run_after_another(
    run: Run, keep_alive: bool, server: OpenAIServer, store: Path
) -> None:
    """Each has an event loop of its own; a connection that the last loop left open must not fail the next run."""
    server.keep_alive = keep_alive
    model = chat_openai(server)
    for number in range(3):
        server.replies.append(f"answer {number}")
        assert run(one(), models={"default": model}, store=store).outputs == {"text": f"answer {number}"}
    eventually(lambda: rows(store, "SELECT status FROM workflow_runs") == [("completed",)] * 3)


@pytest.mark.parametrize("keep_alive", [False, True])
def test_a_provider_named_in_the_file_serves_one_run_after_another(
    keep_alive: bool, server: OpenAIServer, store: Path
) -> None:
    server.keep_alive = keep_alive
    llm = {"provider": "openai_compatible", "model": "some-model", "api_base": server.url}
    workflow = one({"llm": llm, "execution": {"max_retries": 0}})
    for number in range(3):
        server.replies.append(f"answer {number}")
        assert run_workflow(workflow, store=store).outputs == {"text": f"answer {number}"}


def test_one_model_object_serves_runs_in_several_threads_at_once(server: OpenAIServer, store: Path) -> None:
    server.keep_alive = True
    server.delay_seconds = 0.01
    model = chat_openai(server)
    results: list[RunResult] = []
    threads = [
        threading.Thread(
            target=lambda: results.extend(run_workflow(one(), models={"default": model}, store=store) for _ in range(3))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.outputs["text"] for result in results] == ["hello"] * 12
    eventually(lambda: rows(store, "SELECT count(*) FROM spans WHERE operation = 'chat'") == [(12,)])


def test_one_model_object_serves_many_runs_on_one_loop(server: OpenAIServer, store: Path) -> None:
    model = chat_openai(server)

    async def program() -> list[RunResult]:
        return await asyncio.gather(*(arun_workflow(one(), models={"default": model}, store=store) for _ in range(8)))

    assert [result.outputs["text"] for result in asyncio.run(program())] == ["hello"] * 8
