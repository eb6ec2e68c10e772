"""JSON out of any chat model: by its own means where it has any, by words where not, and never a part for the whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import (
    FakeListChatModel,
    FakeMessagesListChatModel,
    GenericFakeChatModel,
    ParrotFakeChatModel,
)
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda

from _timing import cpu_seconds
from configurable_agents.config.schema import LLMConfig
from configurable_agents.errors import ModelSetupError
from configurable_agents.llm.base import Message, Reply, Usage
from configurable_agents.llm.providers import open_model, wrap_model
from configurable_agents.llm.structured import is_strict, read_json, with_title

SCHEMA = {
    "type": "object",
    "properties": {"category": {"type": "string", "enum": ["billing", "other"]}},
    "required": ["category"],
    "additionalProperties": False,
}


def ask(model: BaseChatModel, *messages: Message, schema: dict[str, Any] | None = None) -> Reply:
    return asyncio.run(wrap_model(model).ask(messages or [Message("user", "hi")], schema=schema))


@pytest.mark.parametrize(
    "model",
    [
        FakeListChatModel(responses=["plain"]),
        GenericFakeChatModel(messages=iter(["plain"])),
        FakeMessagesListChatModel(responses=[AIMessage("plain")]),
    ],
    ids=lambda model: type(model).__name__,
)
def test_langchain_cores_own_models_answer(model: BaseChatModel) -> None:
    reply = ask(model)
    assert (reply.text, reply.usage, reply.response_id) == ("plain", None, None)


def test_a_model_without_means_is_told_the_schema_in_one_system_message() -> None:
    class Listener(ParrotFakeChatModel):
        heard: list[list[BaseMessage]] = []  # noqa: RUF012 - a field of the model, not of the class

        def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
            self.heard.append(messages)
            return super()._generate(messages, *args, **kwargs)

    model = Listener()
    reply = ask(model, Message("system", "be kind"), Message("user", '{"category": "other"}'), schema=SCHEMA)
    assert reply.value == {"category": "other"}
    (messages,) = model.heard
    assert [message.type for message in messages] == ["system", "human"]
    assert str(messages[0].content).startswith("be kind\n\n")
    assert '"enum": ["billing", "other"]' in str(messages[0].content)


def test_an_unpriced_model_of_a_program_says_its_class_and_runs_in_process() -> None:
    model = wrap_model(FakeListChatModel(responses=["x"]))
    assert (model.info.model, model.info.in_process) == ("FakeListChatModel", True)
    assert model.price(Usage(1, 1), model=None, at_unix_nano=0) is None


class ToolModel(BaseChatModel):
    """Has tools, and so langchain-core's own structured output."""

    answer: AIMessage
    bound: list[dict[str, Any]] = []  # noqa: RUF012 - a field of the model, not of the class

    @property
    def _llm_type(self) -> str:
        return "tool-model"

    def bind_tools(self, tools: Any, *, tool_choice: Any = None, **kwargs: Any) -> Runnable[Any, AIMessage]:
        self.bound.append({"tools": tools, "tool_choice": tool_choice})
        return self.bind()

    def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.answer)])


def test_a_tool_call_is_read_as_the_answer() -> None:
    call = {"name": "answer", "args": {"category": "other"}, "id": "1", "type": "tool_call"}
    message = AIMessage(
        content=[{"type": "text", "text": "Let me see. "}, {"type": "reasoning", "reasoning": "hm"}, "Well."],
        tool_calls=[call],
        usage_metadata={"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
        response_metadata={"model": "m-1", "stop_reason": "tool_use", "id": "msg_1"},
    )
    model = ToolModel(answer=message)
    reply = ask(model, schema=SCHEMA)
    assert reply == Reply(
        text='{"category": "other"}',
        value={"category": "other"},
        usage=Usage(3, 4),
        model="m-1",
        response_id="msg_1",
        finish_reasons=("tool_use",),
    )
    assert model.bound[0]["tools"][0]["title"] == "answer"
    assert ask(model).text == "Let me see. Well."


def test_json_in_words_is_taken_from_a_model_that_should_have_called_a_tool() -> None:
    assert ask(ToolModel(answer=AIMessage('Sure: {"category": "other"}.')), schema=SCHEMA).value == {
        "category": "other"
    }


def test_a_broken_tool_call_says_why() -> None:
    call = {"name": "answer", "args": '{"category": ', "id": "1", "error": None, "type": "invalid_tool_call"}
    reply = ask(ToolModel(answer=AIMessage("", invalid_tool_calls=[call])), schema=SCHEMA)
    assert "not JSON" in (reply.parse_error or "")


def test_a_model_that_hides_its_message_gives_its_value() -> None:
    class Opaque(FakeListChatModel):
        def with_structured_output(
            self, schema: Any, *, include_raw: bool = False, **kwargs: Any
        ) -> Runnable[Any, Any]:
            return RunnableLambda(lambda _: {"category": "other"})

    reply = ask(Opaque(responses=["unused"]), schema=SCHEMA)
    assert (reply.value, reply.usage) == ({"category": "other"}, None)


def test_what_is_no_chat_model_is_refused() -> None:
    with pytest.raises(ModelSetupError, match="not str"):
        wrap_model("gpt-4o")  # type: ignore[arg-type]  # what a program might do


@pytest.mark.parametrize(
    "text",
    [
        '{"category": "other"}',
        '  \n{"category":\n "other"}\n',
        '```json\n{"category": "other"}\n```',
        'Here is {the answer}:\n```\n{"category": "other"}\n```\nAnything else? {}',
        '{"category": "other"} {"category": "billing"}',
        'I think {"category": "other"}',
    ],
)
def test_json_is_found_in_what_is_around_it(text: str) -> None:
    assert read_json(text, SCHEMA) == ({"category": "other"}, None)


@pytest.mark.parametrize(
    "text",
    [
        '{"category": {"category": "other"}, "more": "cut o',
        '{"list": [{"category": "other"}, {"category": "bil',
        '{"category": "other"',
        '{"a": NaN}',
        '["category"]',
        "null",
        "3",
        "category: other",
        "",
        "{" * 5000,
        "[" * 200_000,
        '{"a":' * 200_000,
        "9" * 50_000,
    ],
    ids=lambda text: text[:20] or "empty",
)
def test_no_part_of_a_broken_answer_passes_for_the_whole(text: str) -> None:
    value, problem = read_json(text, SCHEMA)
    assert value is None
    assert problem


@pytest.mark.parametrize("unit", ["{", '{"', '{"a', '{"a":', "[", '{"a":[', "\\{\n", '{"a":1}', "```json\n"])
def test_reading_takes_bounded_time(unit: str) -> None:
    text = unit * (2_000_000 // len(unit))
    assert cpu_seconds(lambda: read_json(text, SCHEMA), limit=2) < 2


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.text(), st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner)), max_size=4
    ),
    st.text(alphabet="abc .\n", max_size=20),
    st.text(alphabet="abc .}\n`", max_size=20),
)
def test_any_object_is_found_whatever_words_stand_around_it(value: dict[str, Any], before: str, after: str) -> None:
    assert read_json(before + json.dumps(value) + after, {"type": "object"}) == (value, None)


def test_a_schema_is_strict_when_it_leaves_nothing_open() -> None:
    assert is_strict(SCHEMA)
    assert not is_strict({**SCHEMA, "additionalProperties": True})
    assert not is_strict({**SCHEMA, "required": []})
    assert not is_strict({**SCHEMA, "properties": {"category": {"type": "object"}}})
    assert not is_strict({**SCHEMA, "properties": {"category": {"type": "array"}}})
    assert not is_strict({**SCHEMA, "minProperties": 1})


def test_a_title_is_a_name_that_providers_take() -> None:
    assert with_title({"title": "What is it? " * 20})["title"] == ("What_is_it_" * 20)[:60]
    assert with_title({})["title"] == "answer"


def test_a_stream_of_answers_is_asked_for_once_each() -> None:
    def answers() -> Iterator[str]:
        yield "one"
        yield "two"

    model = wrap_model(GenericFakeChatModel(messages=answers()))
    assert [asyncio.run(model.ask([Message("user", "x")])).text for _ in range(2)] == ["one", "two"]


def test_a_long_answer_that_is_no_json_costs_no_time() -> None:
    """langchain-core's own parser takes a minute for this one."""
    words = "no json here " * 20_000
    model = open_model(LLMConfig(provider="scripted", params={"replies": [{"text": words}]}), environ={})
    replies: list[Reply] = []

    def ask() -> None:
        replies.append(asyncio.run(model.ask([Message("user", "hello")], schema=SCHEMA)))

    assert cpu_seconds(ask, limit=2) < 2
    assert (replies[0].value, replies[0].text) == (None, words)
    assert replies[0].parse_error is not None
