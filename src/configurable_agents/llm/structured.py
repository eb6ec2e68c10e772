"""Asking for JSON of a given shape, by the model's own means where it has any, else by words.

Nothing is validated here: the engine knows the types and asks again.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable

MAX_TEXT: Final = 4_000_000
"""Characters of an answer that are searched for JSON."""
MAX_CANDIDATES: Final = 100
"""Braces that are tried as the beginning of an object: each failure costs the decoder a count of the lines before it."""

_STRICT_KEYWORDS: Final = frozenset(
    {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "enum",
        "const",
        "anyOf",
        "title",
        "description",
    }
)
"""What every server that enforces schemas strictly knows."""


def supports_structured_output(model: BaseChatModel) -> bool:
    """Tell whether the model's class has means of its own: `with_structured_output`, or tools to build it from."""
    from langchain_core.language_models.chat_models import BaseChatModel

    kind = type(model)
    return (
        kind.with_structured_output is not BaseChatModel.with_structured_output
        or kind.bind_tools is not BaseChatModel.bind_tools
    )


async def ask_structured(model: BaseChatModel, messages: Sequence[BaseMessage], schema: Mapping[str, Any]) -> Any:
    """Ask the model for JSON and give what came: a message, or the value itself where the model hides its message.

    Args:
        schema: JSON Schema of an object.
    """
    titled = with_title(schema)
    if supports_structured_output(model):
        try:
            runnable = model.with_structured_output(titled, include_raw=True, **_options(model, titled))
        except NotImplementedError:
            pass  # a class may override it only to say so
        else:
            answer = await runnable.ainvoke(list(messages))
            return answer["raw"] if isinstance(answer, Mapping) and "raw" in answer else answer
    return await model.ainvoke(instructed(messages, schema))


def _options(model: BaseChatModel, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Choose how the model is held to the schema, where its class lets us choose."""
    parameters = inspect.signature(model.with_structured_output).parameters
    profile = getattr(model, "profile", None)
    native = isinstance(profile, Mapping) and profile.get("structured_output") is True
    options: dict[str, Any] = {}
    if "method" in parameters and (native or parameters["method"].default == "json_schema"):
        # Tool calls, the older way, are not enforced by every provider, and some models cannot be made to call.
        options["method"] = "json_schema"
        if "strict" in parameters and is_strict(schema):
            options["strict"] = True
    return options


def with_title(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Give the schema a title that providers take as a name; langchain-core refuses one without."""
    title = re.sub(r"[^A-Za-z0-9_-]+", "_", str(schema.get("title") or "answer"))[:60] or "answer"
    return {**schema, "title": title}


def is_strict(schema: Any) -> bool:
    """Tell whether a schema leaves nothing open, so that a server may enforce it as a grammar."""
    if not isinstance(schema, Mapping):
        return False
    if not schema.keys() <= _STRICT_KEYWORDS:
        return False
    children = [*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else [])]
    if schema.get("type") == "array" and "items" not in schema:
        return False
    if schema.get("type") == "object":
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(properties):
            return False
        children += properties.values()
    return all(is_strict(child) for child in children)


def instructed(messages: Sequence[BaseMessage], schema: Mapping[str, Any]) -> list[BaseMessage]:
    """Add the schema to the messages in words, for models that have no means of their own."""
    from langchain_core.messages import SystemMessage

    text = (
        "Answer with one JSON object and nothing else: no explanation, no code fence. "
        f"It must be valid against this JSON Schema:\n{json.dumps(schema, ensure_ascii=False)}"
    )
    first, rest = (messages[:1], messages[1:]) if messages and messages[0].type == "system" else ([], messages)
    # One system message: several are more than some chat templates take.
    return [SystemMessage("\n\n".join([*(str(message.content) for message in first), text])), *rest]


def read_json(text: str, schema: Mapping[str, Any]) -> tuple[Any, str | None]:
    """Find the JSON value in an answer, fenced or with words around it: the value, and why there is none.

    A value that is cut off is not mended and no part of it is taken for the whole. Time grows with the text's length.
    """
    if not text.strip():
        return None, "the answer is empty; answer with a JSON object"
    wanted: type = dict if schema.get("type", "object") == "object" else object
    reason = "the answer holds no JSON object"
    for value, problem in _candidates(text[:MAX_TEXT]):
        if problem is None and isinstance(value, wanted):
            return value, None
        reason = problem or f"the answer must be a JSON object, not {_name(value)}"
    return None, reason


def answered_in_json(asked: Runnable[Any, Any], schema: Mapping[str, Any], *, include_raw: bool) -> Runnable[Any, Any]:
    """Make what `with_structured_output` gives, for a model of our own that has been bound to a schema.

    langchain-core's own parser mends broken JSON, and its time grows with the square of an answer's length.
    """
    from langchain_core.exceptions import OutputParserException

    def whole(message: BaseMessage) -> dict[str, Any]:
        value, problem = read_json(str(message.content), schema)
        error = None if problem is None else OutputParserException(problem, llm_output=str(message.content))
        return {"raw": message, "parsed": value, "parsing_error": error}

    def value_alone(message: BaseMessage) -> Any:
        answer = whole(message)
        if answer["parsing_error"] is not None:
            raise answer["parsing_error"]
        return answer["parsed"]

    return asked | (whole if include_raw else value_alone)


def _candidates(text: str) -> Iterator[tuple[Any, str | None]]:
    whole = _decode(text.strip())
    yield whole[:2]
    if whole[1] is None:
        return
    position = text.find("{")
    for _ in range(MAX_CANDIDATES):
        if position < 0:
            return
        value, problem, stopped = _decode(text, position, whole=False)
        yield value, problem
        # On from where it stopped, not from the next brace: else a part of a broken object would pass for the answer.
        position = text.find("{", max(stopped, position + 1))


def _decode(text: str, start: int = 0, *, whole: bool = True) -> tuple[Any, str | None, int]:
    decoder = json.JSONDecoder(strict=False, parse_constant=_refuse)
    try:
        value, end = decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        return None, f"the answer is not JSON: {error.msg} at character {error.pos}", error.pos
    except (ValueError, RecursionError) as error:  # NaN, a number of thousands of digits, thousands of brackets
        return None, f"the answer is not JSON: {str(error)[:100]}", len(text)
    if whole and text[end:].strip():
        return None, "the answer holds more than one JSON value", end
    return value, None, end


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON value")


def _name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
