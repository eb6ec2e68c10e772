"""The spans follow the conventions that `semconv` names: names, kinds, types, and what stands where."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.trace import SpanKind

from _conventions import wrongly_typed
from _openai_server import OpenAIServer, openai_server
from _runs import asks, calls, chain, field, kept, scripted
from _workflows import Spans, make
from configurable_agents import NodeExecutionError, Workflow, semconv
from configurable_agents.llm.adapter import PROVIDER_NAMES
from configurable_agents.llm.base import ModelInfo
from configurable_agents.llm.scripted import ScriptedChatModel
from configurable_agents.runtime.executor import run_workflow


def one_node(config: dict[str, Any], **node: Any) -> Workflow:
    """A workflow that asks its model once."""
    return make([asks("ask", "text", **node)], chain("START ask END"), {"text": field("str")}, config, name="one")


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("MY_KEY", "sk-secret-4711")
    with openai_server() as running:
        yield running


def over_http(server: OpenAIServer, **llm: Any) -> Spans:
    """Run one model node against a server that speaks OpenAI's protocol."""
    block = {"provider": "openai", "model": "gpt-4o-mini", "api_base": server.url, "api_key_env": "MY_KEY", **llm}
    spans = Spans()
    run_workflow(one_node({"llm": block}), store=False, observers=[spans])
    return spans


def test_a_model_call_says_what_was_asked_for_and_what_came_back(server: OpenAIServer) -> None:
    """Whole numbers in the file are doubles where the conventions want doubles: backends index by type."""
    server.model = "gpt-4o-mini-2024-07-18"
    params = {"top_p": 1, "presence_penalty": 1, "frequency_penalty": 0.25, "seed": 7, "n": 2, "stop": ["END"]}
    spans = over_http(server, temperature=0, max_tokens=77, params={**params, "extra_body": {"top_k": 40}})
    chat = spans.ended[0]
    said = attributes_of(chat)
    assert (chat.name, chat.kind) == ("chat gpt-4o-mini", SpanKind.CLIENT)
    wanted = {
        semconv.GEN_AI_OPERATION_NAME: "chat",
        semconv.GEN_AI_PROVIDER_NAME: "openai",
        semconv.GEN_AI_OUTPUT_TYPE: "text",
        semconv.GEN_AI_REQUEST_MODEL: "gpt-4o-mini",
        semconv.GEN_AI_REQUEST_TEMPERATURE: 0.0,
        semconv.GEN_AI_REQUEST_MAX_TOKENS: 77,
        semconv.GEN_AI_REQUEST_TOP_P: 1.0,
        semconv.GEN_AI_REQUEST_TOP_K: 40.0,
        semconv.GEN_AI_REQUEST_PRESENCE_PENALTY: 1.0,
        semconv.GEN_AI_REQUEST_FREQUENCY_PENALTY: 0.25,
        semconv.GEN_AI_REQUEST_SEED: 7,
        semconv.GEN_AI_REQUEST_CHOICE_COUNT: 2,
        semconv.GEN_AI_REQUEST_STOP_SEQUENCES: ("END",),
        semconv.GEN_AI_RESPONSE_MODEL: "gpt-4o-mini-2024-07-18",
        semconv.GEN_AI_RESPONSE_ID: "chatcmpl-1",
        semconv.GEN_AI_RESPONSE_FINISH_REASONS: ("stop",),
        semconv.GEN_AI_USAGE_INPUT_TOKENS: 1000,
        semconv.GEN_AI_USAGE_OUTPUT_TOKENS: 100,
        semconv.GEN_AI_USAGE_CACHE_READ: 400,
        semconv.GEN_AI_USAGE_REASONING: 60,
        semconv.SERVER_ADDRESS: "127.0.0.1",
        semconv.OPENINFERENCE_SPAN_KIND: "LLM",
    }
    assert {key: said.get(key) for key in wanted} == wanted
    assert said[semconv.COST_USD] == pytest.approx(0.00018)
    assert said[semconv.PRICE_SOURCE] == "genai-prices"
    assert said[semconv.PRICE_VERSION]
    assert_typed(spans)


def test_what_is_not_known_is_absent(server: OpenAIServer) -> None:
    """No empty value, no zero in place of nothing: backends would count them."""
    spans = over_http(server)
    asked = {key for key in attributes_of(spans.ended[0]) if key.startswith("gen_ai.request.")}
    assert asked == {semconv.GEN_AI_REQUEST_MODEL}
    assert_typed(spans)


def test_one_answer_is_not_told_as_a_number_of_answers(server: OpenAIServer) -> None:
    """The conventions want `gen_ai.request.choice.count` where it is not 1."""
    assert semconv.GEN_AI_REQUEST_CHOICE_COUNT not in attributes_of(over_http(server, params={"n": 1}).ended[0])


def assert_typed(spans: Spans) -> None:
    for span in spans.ended:
        assert wrongly_typed(attributes_of(span)) == {}, span.name


def test_tokens_and_money_are_counted_on_model_calls_only(tmp_path: Path) -> None:
    """A backend that sums `gen_ai.usage.*` over all spans counts each token once; roll-ups have names of our own."""
    spans = Spans()
    price = {"input_per_mtok": 1, "output_per_mtok": 1}
    run_workflow(one_node(scripted("hello", price=price)), store=tmp_path / "runs.db", observers=[spans])
    with_usage = {s.name for s in spans.ended for key in attributes_of(s) if key.startswith("gen_ai.usage.")}
    assert with_usage == {"chat scripted"}
    chat, node, run = (attributes_of(span) for span in spans.ended)
    assert chat[semconv.PRICE_SOURCE] == "workflow"
    assert semconv.PRICE_VERSION not in chat
    assert node[semconv.INPUT_TOKENS] == run[semconv.INPUT_TOKENS] == chat[semconv.GEN_AI_USAGE_INPUT_TOKENS]
    assert node[semconv.COST_USD] == run[semconv.COST_USD] == chat[semconv.COST_USD] > 0
    assert_typed(spans)


def test_every_span_says_its_operation_and_what_phoenix_takes_it_for() -> None:
    spans = Spans()
    nodes = [asks("ask", "text"), calls("count", "n")]
    fields = {"text": field("str"), "n": field("int")}
    workflow = make(nodes, chain("START ask count END"), fields, scripted("hello"), name="both")
    run_workflow(workflow, functions={"count": lambda: 1}, store=False, observers=[spans])
    names = (semconv.GEN_AI_OPERATION_NAME, semconv.OPENINFERENCE_SPAN_KIND)
    assert [(s.name, s.kind.name, *(attributes_of(s)[name] for name in names)) for s in spans.started] == [
        ("invoke_workflow both", "INTERNAL", "invoke_workflow", "CHAIN"),
        ("execute_node ask", "INTERNAL", "execute_node", "CHAIN"),
        ("chat scripted", "INTERNAL", "chat", "LLM"),
        ("execute_node count", "INTERNAL", "execute_node", "CHAIN"),
    ]


def test_what_a_sampler_may_ask_for_is_there_from_the_start(server: OpenAIServer) -> None:
    """The conventions list attributes that "SHOULD be provided at span creation time"."""
    seen: list[dict[str, Any]] = []

    class AtStart(Spans):
        def on_start(self, span: ReadableSpan) -> None:
            seen.append(attributes_of(span))

    block = {"provider": "openai", "model": "gpt-4o-mini", "api_base": server.url, "api_key_env": "MY_KEY"}
    run_workflow(one_node({"llm": block}), store=False, observers=[AtStart()])
    early = {semconv.GEN_AI_OPERATION_NAME, semconv.GEN_AI_PROVIDER_NAME, semconv.GEN_AI_REQUEST_MODEL}
    assert early | {semconv.SERVER_ADDRESS, semconv.SERVER_PORT} <= set(seen[2])


def test_messages_have_the_shape_of_the_conventions(tmp_path: Path) -> None:
    spans = Spans()
    run_workflow(one_node(scripted("hi there"), system="be brief"), store=False, observers=[spans])
    said = attributes_of(spans.ended[0])
    assert json.loads(said[semconv.CONTENT_INPUT_MESSAGES]) == [
        {"role": "system", "parts": [{"type": "text", "content": "be brief"}]},
        {"role": "user", "parts": [{"type": "text", "content": "ask"}]},
    ]
    assert json.loads(said[semconv.CONTENT_OUTPUT_MESSAGES]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "hi there"}], "finish_reason": "stop"}
    ]


def test_a_text_that_is_no_unicode_is_kept_as_well_as_it_can_be() -> None:
    """A lone surrogate must not take the span's messages away."""
    nodes = [calls("find", "found"), asks("ask", "text") | {"prompt": "{found}"}]
    fields = {"found": field("str"), "text": field("str")}
    spans = Spans()
    workflow = make(nodes, chain("START find ask END"), fields, scripted("hello"))
    run_workflow(workflow, functions={"find": lambda: "a\ud800b"}, store=False, observers=[spans])
    (message,) = json.loads(attributes_of(spans.ended[1])[semconv.CONTENT_INPUT_MESSAGES])
    assert message["parts"][0]["content"] == "a?b"


def test_an_error_and_a_retry_say_their_type_by_its_full_name() -> None:
    """`error.type` and `exception.type` are one name, so that a search finds both."""
    spans = Spans()
    failing = {"error": {"type": "ScriptedModelError", "retryable": True, "message": "overloaded"}}
    with pytest.raises(NodeExecutionError):
        run_workflow(one_node(scripted(failing, max_retries=1)), store=False, observers=[spans])
    name = "configurable_agents.llm.scripted.ScriptedModelError"
    chat, node, run = spans.ended
    assert {attributes_of(span)[semconv.ERROR_TYPE] for span in (chat, node, run)} == {name}
    told = [(event.name, (event.attributes or {})[semconv.EXCEPTION_TYPE]) for event in chat.events]
    assert told == [("retry", name), ("exception", name)]


def test_each_setting_of_a_model_has_spans_of_its_own() -> None:
    """Attributes that are the same for every call are built once, and not taken for another model's."""

    class Named(ScriptedChatModel):
        seed: int

        @property
        def model_info(self) -> ModelInfo:
            return ModelInfo(provider="scripted", model="scripted", seed=self.seed)

    seeds = []
    for seed in (1, 2, 1):
        spans = Spans()
        run_workflow(one_node(scripted()), models={"default": Named(seed=seed)}, store=False, observers=[spans])
        seeds.append(attributes_of(spans.ended[0])[semconv.GEN_AI_REQUEST_SEED])
    assert seeds == [1, 2, 1]


def test_the_first_node_reads_from_the_runs_start(tmp_path: Path) -> None:
    """Nothing before it: no attribute in the span, an empty list in the store."""
    spans = Spans()
    run_workflow(one_node(scripted("x")), store=tmp_path / "runs.db", observers=[spans])
    assert semconv.READS_FROM not in attributes_of(spans.ended[1])
    assert kept(tmp_path / "runs.db").node("ask").reads_from == ()


def test_every_name_of_the_conventions_is_one() -> None:
    """Typed wrong, a name would be ours alone and no backend would know it."""
    registry = {value for key, value in vars(gen_ai_attributes).items() if key.startswith("GEN_AI_")}
    if semconv.GEN_AI_WORKFLOW_NAME not in registry:
        pytest.skip("the installed registry is older than the conventions that are followed")
    ours = {value for key, value in vars(semconv).items() if key.startswith("GEN_AI_")}
    assert ours - registry == {semconv.GEN_AI_USAGE_COST}


def test_a_provider_that_has_a_name_in_the_conventions_goes_by_it() -> None:
    """Where a well-known value applies, it must be used; langchain-core has names of its own."""
    known = getattr(gen_ai_attributes, "GenAiProviderNameValues", None)
    if known is None:
        pytest.skip("the installed registry is older than the conventions that are followed")
    assert set(PROVIDER_NAMES.values()) <= {member.value for member in known}
