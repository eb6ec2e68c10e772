"""Models that answer over HTTP: what is sent, what is read back, and which errors may be tried again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from decimal import Decimal
from importlib.metadata import version

import pytest
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from _openai_server import OpenAIServer, openai_server
from _timing import in_one_of_a_few_tries, within
from configurable_agents.config.schema import LLMConfig, PriceConfig
from configurable_agents.llm.base import ChatModel, Message, Reply, Usage
from configurable_agents.llm.providers import open_model, wrap_model

KEY = "sk-secret-4711"
SCHEMA = {
    "type": "object",
    "properties": {"category": {"type": "string", "enum": ["billing", "other"]}, "urgent": {"type": "boolean"}},
    "required": ["category", "urgent"],
    "additionalProperties": False,
}
HELLO = [Message("system", "be brief"), Message("user", "hi")]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server() as running:
        yield running


def at(server: OpenAIServer, **keys: object) -> ChatModel:
    llm = {"provider": "openai", "model": "gpt-4o-mini", "api_base": server.url, "api_key_env": "MY_KEY", **keys}
    return open_model(LLMConfig.model_validate(llm), environ={"MY_KEY": KEY})


def ask(model: ChatModel, **options: object) -> Reply:
    return asyncio.run(model.ask(HELLO, **options))  # type: ignore[arg-type]  # the tests' options are few


def test_a_reply_says_its_text_its_tokens_and_who_answered(server: OpenAIServer) -> None:
    server.model = "gpt-4o-mini-2024-07-18"
    reply = ask(at(server, temperature=0.5, max_tokens=77))
    assert reply == Reply(
        text="hello",
        usage=Usage(1000, 100, cache_read_tokens=400, reasoning_tokens=60),
        model="gpt-4o-mini-2024-07-18",
        response_id="chatcmpl-1",
        finish_reasons=("stop",),
    )
    (body,) = server.requests
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert (body["temperature"], body["max_completion_tokens"], server.keys) == (0.5, 77, [KEY])


def test_a_span_knows_provider_model_and_server_before_the_call(server: OpenAIServer) -> None:
    info = at(server, temperature=0.5, max_tokens=77).info
    assert (info.provider, info.model, info.temperature, info.max_tokens) == ("openai", "gpt-4o-mini", 0.5, 77)
    assert (info.server_address, info.server_port) == ("127.0.0.1", int(server.url.split(":")[2].split("/")[0]))
    assert not info.in_process


def test_a_span_knows_the_parameters_that_the_provider_gets(server: OpenAIServer) -> None:
    """What is told of a request is what the request says, wherever the file has put it."""
    params = {
        "top_p": 0.9,
        "presence_penalty": 1,
        "frequency_penalty": 0.25,
        "seed": 7,
        "n": 2,
        "stop": ["END", "STOP"],
    }
    model = at(server, params={**params, "extra_body": {"top_k": 40}})
    info = model.info
    assert (info.top_p, info.presence_penalty, info.frequency_penalty) == (0.9, 1.0, 0.25)
    assert (info.seed, info.choice_count, info.stop_sequences, info.top_k) == (7, 2, ("END", "STOP"), 40.0)
    ask(model)
    assert {name: server.requests[0][name] for name in [*params, "top_k"]} == {**params, "top_k": 40}


def test_what_is_left_to_the_provider_is_not_told_as_asked_for(server: OpenAIServer) -> None:
    info = at(server).info
    assert (info.top_p, info.top_k, info.seed, info.stop_sequences) == (None, None, None, ())
    assert (info.presence_penalty, info.frequency_penalty, info.choice_count) == (None, None, None)


def test_a_model_of_the_programs_own_tells_its_parameters_too(server: OpenAIServer) -> None:
    extra = {"top_k": 3}
    own = ChatOpenAI(model="m", base_url=server.url, api_key=SecretStr(KEY), stop_sequences="END", model_kwargs=extra)
    assert (wrap_model(own).info.stop_sequences, wrap_model(own).info.top_k) == (("END",), 3.0)


def test_cached_tokens_are_priced_once(server: OpenAIServer) -> None:
    """600 fresh at $0.15, 400 cached at $0.075 and 100 out at $0.60 a million, which the price list says since 2024."""
    model = at(server)
    reply = ask(model)
    assert reply.usage is not None
    cost = model.price(reply.usage, model=reply.model, at_unix_nano=time.time_ns())
    assert cost is not None
    assert cost.usd == Decimal("0.00018")
    assert (cost.source, cost.version) == ("genai-prices", version("genai-prices"))


def test_a_schema_is_sent_and_its_answer_read(server: OpenAIServer) -> None:
    server.replies.append({"category": "other", "urgent": True})
    reply = ask(at(server), schema=SCHEMA)
    assert (reply.value, reply.parse_error) == ({"category": "other", "urgent": True}, None)
    sent = server.requests[0]["response_format"]["json_schema"]
    assert sent["strict"] is True
    assert sent["schema"]["properties"]["category"]["enum"] == ["billing", "other"]


def test_an_open_schema_is_not_asked_for_strictly(server: OpenAIServer) -> None:
    """OpenAI refuses a strict schema with free keys."""
    open_schema = {"type": "object", "properties": {"counts": {"type": "object"}}, "required": ["counts"]}
    assert ask(at(server), schema=open_schema).value == {"counts": {}}
    assert not server.requests[0]["response_format"]["json_schema"].get("strict")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("", "empty"), ("no idea", "not JSON"), ('{"category": "oth', "not JSON"), ("[1]", "must be a JSON object")],
)
def test_an_answer_that_is_no_json_says_why(server: OpenAIServer, answer: str, reason: str) -> None:
    server.replies.append(answer)
    reply = ask(at(server), schema=SCHEMA)
    assert reply.value is None
    assert reason in (reply.parse_error or "")


def test_an_answer_cut_off_by_the_limit_keeps_its_usage(server: OpenAIServer) -> None:
    """The openai package raises here; the tokens were spent all the same."""
    server.replies.append('{"category": "oth')
    server.finish_reason = "length"
    reply = ask(at(server), schema=SCHEMA)
    assert "cut off" in (reply.parse_error or "")
    assert reply.usage == Usage(1000, 100, cache_read_tokens=400, reasoning_tokens=60)
    assert (reply.text, reply.finish_reasons) == ('{"category": "oth', ("length",))


@pytest.mark.parametrize(
    ("status", "again"),
    [(400, False), (401, False), (404, False), (408, True), (409, True), (429, True), (500, True), (503, True)],
)
def test_one_ask_is_one_request_and_its_error_says_whether_to_try_again(
    server: OpenAIServer, status: int, again: bool
) -> None:
    server.failures.append(status)
    model = at(server)
    with pytest.raises(Exception) as caught:
        ask(model)
    assert model.is_retryable(caught.value) is again
    assert len(server.requests) == 1


def test_no_error_repeats_the_key(server: OpenAIServer) -> None:
    """Some servers write the refused key into their answer."""
    server.failures.append(401)
    with pytest.raises(Exception, match="Incorrect API key") as caught:
        ask(at(server))
    assert KEY not in f"{caught.value} {caught.value.args} {vars(caught.value)}"


def test_a_server_that_is_not_there_may_be_tried_again(server: OpenAIServer) -> None:
    llm = LLMConfig(provider="openai_compatible", model="m", api_base="http://127.0.0.1:9/v1")
    model = open_model(llm, environ={})
    with pytest.raises(Exception) as caught:
        ask(model)
    assert model.is_retryable(caught.value)


def test_an_unnamed_key_is_not_sent_to_any_compatible_server(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """langchain-openai would take the key from the environment by itself."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    llm = LLMConfig(provider="openai_compatible", model="tiny", api_base=server.url, max_tokens=9)
    model = open_model(llm, environ={"OPENAI_API_KEY": KEY})
    reply = ask(model)
    assert server.keys == ["none"]
    assert server.requests[0]["max_tokens"] == 9
    assert (model.info.provider, model.info.max_tokens) == ("openai_compatible", 9)
    assert reply.usage is not None
    assert model.price(reply.usage, model=reply.model, at_unix_nano=time.time_ns()) is None


def test_params_are_passed_on(server: OpenAIServer) -> None:
    ask(at(server, params={"top_p": 0.25, "seed": 7}))
    assert (server.requests[0]["top_p"], server.requests[0]["seed"]) == (0.25, 7)


def test_a_model_answers_in_one_event_loop_after_another(server: OpenAIServer) -> None:
    """A program that runs two workflows runs two loops; a connection kept open belongs to the first."""
    server.keep_alive = True
    model = at(server)
    assert [ask(model).text, ask(model).text, ask(at(server)).text] == ["hello"] * 3
    assert server.connections == 3


def test_a_programs_own_model_answers_in_one_event_loop_after_another(server: OpenAIServer) -> None:
    server.keep_alive = True
    own = wrap_model(ChatOpenAI(model="gpt-4o", base_url=server.url, api_key=SecretStr(KEY), max_retries=0))
    assert [ask(own).text, ask(own).text, ask(own, schema=SCHEMA).value] == [
        "hello",
        "hello",
        {"category": "billing", "urgent": False},
    ]
    assert (len(server.requests), server.connections) == (3, 3)


def test_a_programs_own_model_is_used_as_it_is(server: OpenAIServer) -> None:
    own = ChatOpenAI(model="gpt-4o", base_url=server.url, api_key=SecretStr(KEY), max_retries=0, temperature=0.1)
    model = wrap_model(own, price=PriceConfig(input_per_mtok=3, output_per_mtok=10, cache_read_per_mtok=0.3))
    reply = ask(model, schema=SCHEMA)
    assert reply.value == {"category": "billing", "urgent": False}
    assert (model.info.provider, model.info.model, model.info.temperature) == ("openai", "gpt-4o", 0.1)
    assert reply.usage is not None
    cost = model.price(reply.usage, model=reply.model, at_unix_nano=0)
    assert cost is not None
    assert (cost.usd, cost.source) == (Decimal("0.00292"), "workflow")


@pytest.mark.alone
@in_one_of_a_few_tries
def test_calls_run_side_by_side(server: OpenAIServer) -> None:
    server.delay_seconds = 0.3
    model = at(server)

    async def five() -> None:
        with within(1.2):
            await asyncio.gather(*(model.ask(HELLO) for _ in range(5)))

    asyncio.run(five())
