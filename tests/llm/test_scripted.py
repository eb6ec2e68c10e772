"""The scripted model: replies from the file, in turn or by what the prompt holds, and it never passes for a model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _timing import in_one_of_a_few_tries, within
from configurable_agents.config.schema import LLMConfig
from configurable_agents.errors import ModelSetupError
from configurable_agents.llm.base import ChatModel, Message, Reply, Usage
from configurable_agents.llm.providers import open_model
from configurable_agents.llm.scripted import ScriptedChatModel
from configurable_agents.llm.smallest import smallest_instance

TICKET = {
    "type": "object",
    "properties": {
        "category": {"type": "string", "enum": ["billing", "other"]},
        "score": {"type": "integer", "minimum": 3},
        "tags": {"type": "array", "items": {"type": "string"}},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "place": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "left_out": {"type": "string"},
    },
    "required": ["category", "score", "tags", "note", "place"],
}


def scripted(*replies: Any, **params: Any) -> ChatModel:
    script = {"replies": list(replies), **params} if replies else params
    return open_model(LLMConfig(provider="scripted", params=script), environ={})


def ask(model: ChatModel, *prompts: str, schema: dict[str, Any] | None = None) -> list[Reply]:
    async def all_of_them() -> list[Reply]:
        return [await model.ask([Message("user", prompt)], schema=schema) for prompt in prompts]

    return asyncio.run(all_of_them())


def texts(replies: Sequence[Reply]) -> list[str]:
    return [reply.text for reply in replies]


def test_replies_come_in_turn_and_the_last_repeats() -> None:
    assert texts(ask(scripted("one", {"text": "two"}), "a", "b", "c", "d")) == ["one", "two", "two", "two"]


def test_each_model_object_takes_its_own_turns() -> None:
    assert texts(ask(scripted("one", "two"), "a") + ask(scripted("one", "two"), "a")) == ["one", "one"]


def test_a_reply_can_be_chosen_by_what_the_prompt_holds() -> None:
    """Concurrent branches then get the same replies, whichever asks first."""
    script = [
        {"match": "roof", "text": "about the roof"},
        {"match": "roof", "text": "again the roof"},
        {"match": ["heating", "cost"], "text": "the price of warmth"},
        "anything else",
    ]
    prompts = ("heating cost", "the roof", "heating", "a roof", "the roof", "hm")
    assert texts(ask(scripted(*script), *prompts)) == [
        "the price of warmth",
        "about the roof",
        "anything else",
        "again the roof",
        "again the roof",
        "anything else",
    ]


def test_it_announces_itself_as_no_model() -> None:
    model = scripted("hello")
    (reply,) = ask(model, "hi")
    assert (model.info.provider, model.info.model, reply.model, model.info.in_process) == (*["scripted"] * 3, True)
    named = open_model(LLMConfig(provider="scripted", model="gpt-4o"), environ={})
    assert named.info.model == "scripted/gpt-4o"


def test_without_a_script_the_last_user_message_comes_back() -> None:
    model = scripted()
    conversation = [
        Message("system", "be brief"),
        Message("user", "one"),
        Message("assistant", "x"),
        Message("user", "two"),
    ]
    assert asyncio.run(model.ask(conversation)).text == "two"


def test_without_a_script_a_schema_gets_its_smallest_instance() -> None:
    (reply,) = ask(scripted(), "hi", schema=TICKET)
    assert reply.value == {"category": "billing", "score": 3, "tags": [], "note": "", "place": {"city": ""}}
    assert (reply.parse_error, json.loads(reply.text)) == (None, reply.value)


def test_a_mapping_is_a_json_answer() -> None:
    replies = ask(scripted({"category": "other"}, {"value": {"text": "hi", "n": None}}), "a", "b", schema=TICKET)
    assert [reply.value for reply in replies] == [{"category": "other"}, {"text": "hi", "n": None}]


def test_a_text_that_is_no_json_says_so() -> None:
    """A script can show how a workflow takes a model that does not answer in JSON."""
    broken, mended = ask(scripted("sorry, no", '```json\n{"category": "other"}\n```'), "a", "b", schema=TICKET)
    assert (broken.value, bool(broken.parse_error)) == (None, True)
    assert (mended.value, mended.parse_error) == ({"category": "other"}, None)


def test_usage_is_given_or_counted_in_words() -> None:
    whole = {
        "input_tokens": 90,
        "output_tokens": 20,
        "cache_read_tokens": 50,
        "cache_write_tokens": 8,
        "reasoning_tokens": 12,
    }
    replies = ask(
        scripted(
            {"text": "a b", "usage": whole},
            "one two three",
            {"text": "x", "usage": None},
            {"text": "x y", "usage": {"output_tokens": 7}},
        ),
        *["four words are here"] * 4,
    )
    assert [reply.usage for reply in replies] == [Usage(90, 20, 50, 8, 12), Usage(4, 3), None, Usage(4, 7)]


def test_a_reply_that_only_speaks_of_usage_answers_as_without_a_script() -> None:
    (reply,) = ask(scripted({"usage": {"input_tokens": 5}, "model": "big-1", "finish_reason": "length"}), "echo me")
    assert (reply.text, reply.model, reply.finish_reasons) == ("echo me", "big-1", ("length",))


@pytest.mark.parametrize(
    ("error", "kind", "again"),
    [
        ({"status_code": 429, "message": "slow down"}, "ScriptedModelError", True),
        ({"status_code": 401}, "ScriptedModelError", False),
        ({"message": "no status"}, "ScriptedModelError", False),
        ({"type": "ConnectionError"}, "ConnectionError", True),
        ({"type": "TimeoutError"}, "TimeoutError", True),
        ({"type": "ValueError"}, "ValueError", False),
        ({"status_code": 429, "retryable": False}, "ScriptedModelError", False),
        ({"type": "ValueError", "retryable": True}, "ValueError", True),
    ],
)
def test_an_error_comes_in_place_of_an_answer(error: dict[str, Any], kind: str, again: bool) -> None:
    model = scripted({"error": error}, "better now")
    with pytest.raises(Exception, match=error.get("message", "scripted error")) as caught:
        ask(model, "a")
    assert (type(caught.value).__name__, model.is_retryable(caught.value)) == (kind, again)
    assert texts(ask(model, "a")) == ["better now"]


@pytest.mark.alone
@in_one_of_a_few_tries
def test_a_delay_is_waited_without_holding_up_the_loop() -> None:
    model = scripted({"text": "slow", "delay_seconds": 0.2}, delay_seconds=0.2)

    async def five() -> None:
        with within(0.8, least=0.2):
            await asyncio.gather(*(model.ask([Message("user", "x")]) for _ in range(5)))

    asyncio.run(five())


def test_tool_calls_and_streams_come_as_from_a_model() -> None:
    model = ScriptedChatModel(
        replies=[{"text": "one two  three"}, {"tool_calls": [{"name": "search", "args": {"q": "x"}}]}]
    )
    chunks = list(model.stream("hi"))
    assert "".join(str(chunk.content) for chunk in chunks) == "one two  three"
    assert len([chunk for chunk in chunks if chunk.content]) > 1
    assert sum(chunk.usage_metadata["total_tokens"] for chunk in chunks if chunk.usage_metadata) == 4
    called = model.bind_tools([]).invoke("hi")
    assert [(call["name"], call["args"]) for call in called.tool_calls] == [("search", {"q": "x"})]
    assert called.response_metadata["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("params", "place"),
    [
        ({"reply": ["x"]}, "llm.params.reply"),
        ({"replies": 3}, "llm.params.replies"),
        ({"replies": [{"text": "x", "usage": {"input": 3}}]}, "replies[0].usage.input"),
        ({"replies": ["x", {"text": "y", "categroy": "z"}]}, "replies[1]"),
        ({"replies": [{"error": {"status_code": 9}}]}, "replies[0].error.status_code"),
        ({"replies": [{"error": {"type": "OSError"}}]}, "replies[0].error.type"),
        ({"replies": [{"delay_seconds": -1}]}, "replies[0].delay_seconds"),
        ({"delay_seconds": "long"}, "llm.params.delay_seconds"),
        ({"replies": [{"usage": {"output_tokens": -1}}]}, "replies[0].usage.output_tokens"),
    ],
)
def test_a_malformed_script_is_an_error_that_names_the_place(params: dict[str, Any], place: str) -> None:
    with pytest.raises(ModelSetupError) as caught:
        scripted(**params)
    assert place in str(caught.value)


def fits(value: Any, schema: dict[str, Any]) -> bool:
    if "enum" in schema:
        return value in schema["enum"]
    if "anyOf" in schema:
        return any(fits(value, choice) for choice in schema["anyOf"])
    match schema["type"]:
        case "object":
            return set(schema["required"]) <= set(value) and all(
                fits(v, schema["properties"][k]) for k, v in value.items()
            )
        case "array":
            return len(value) >= schema.get("minItems", 0) and all(fits(item, schema["items"]) for item in value)
        case "integer":
            return type(value) is int and schema.get("minimum", value) <= value <= schema.get("maximum", value)
        case "string":
            return isinstance(value, str) and len(value) >= schema.get("minLength", 0)
        case kind:
            return {"number": float, "boolean": bool, "null": type(None)}[kind] is type(value)


def objects(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from("abc"), inner).flatmap(
        lambda fields: st.lists(st.sampled_from(sorted(fields) or ["a"]), unique=True).map(
            lambda required: {"type": "object", "properties": fields, "required": [n for n in required if n in fields]}
        )
    )


schemas = st.recursive(
    st.sampled_from(["number", "boolean", "null"]).map(lambda kind: {"type": kind})
    | st.integers(-9, 9).flatmap(
        lambda low: st.integers(low, 20).map(lambda high: {"type": "integer", "minimum": low, "maximum": high})
    )
    | st.integers(0, 4).map(lambda length: {"type": "string", "minLength": length})
    | st.lists(st.integers() | st.text(max_size=3), min_size=1).map(lambda values: {"enum": values}),
    lambda inner: (
        st.builds(lambda item, least: {"type": "array", "items": item, "minItems": least}, inner, st.integers(0, 2))
        | st.lists(inner, min_size=1, max_size=3).map(lambda choices: {"anyOf": choices})
        | objects(inner)
    ),
    max_leaves=6,
)


@given(schemas)
def test_the_smallest_instance_fits_its_schema(schema: dict[str, Any]) -> None:
    assert fits(smallest_instance(schema), schema)


def test_a_schema_that_holds_itself_ends_where_it_may() -> None:
    schema = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
        "required": ["next"],
        "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}},
    }
    assert smallest_instance(schema) == {"next": None}
    with pytest.raises(ValueError, match="without end"):
        smallest_instance(schema["$defs"]["node"] | {"$defs": schema["$defs"]})  # type: ignore[index]
