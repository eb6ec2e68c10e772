"""The script of a scripted model: what `llm.params` may say, checked, and which reply comes next."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from configurable_agents.errors import ModelSetupError

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]


class ScriptModel(BaseModel):
    """Base of the script's models."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ScriptedUsage(ScriptModel):
    """Tokens that a reply says it used; what is not given is counted (`words`)."""

    input_tokens: Count | None = None
    """Includes cached tokens."""
    output_tokens: Count | None = None
    """Includes reasoning tokens."""
    cache_read_tokens: Count = 0
    cache_write_tokens: Count = 0
    reasoning_tokens: Count = 0


class ScriptedError(ScriptModel):
    """An error in place of an answer."""

    message: str = "scripted error"
    status_code: Annotated[int, Field(ge=100, le=599)] | None = None
    """HTTP status; decides whether the call is tried again, as with any provider."""
    type: Literal["ScriptedModelError", "ConnectionError", "TimeoutError", "ValueError", "RuntimeError"] = (
        "ScriptedModelError"
    )
    retryable: bool | None = None
    """Overrides what the status or the type says."""


class ScriptedCall(ScriptModel):
    """A tool call."""

    name: str
    args: dict[str, Any] = Field(default_factory=dict)
    id: str | None = None


class ScriptedReply(ScriptModel):
    """One reply."""

    text: str | None = None
    value: Any = None
    """The answer as a JSON value, for structured output."""
    match: str | tuple[str, ...] | None = None
    """The reply is for prompts that hold this text (all of these texts)."""
    usage: ScriptedUsage | None = ScriptedUsage()
    """null: the reply says nothing of its usage."""
    delay_seconds: Seconds | None = None
    error: ScriptedError | None = None
    finish_reason: str | None = None
    model: str | None = None
    """The model that says it answered."""
    tool_calls: tuple[ScriptedCall, ...] = ()

    @property
    def answers(self) -> bool:
        """Whether it says what to answer; else it is only about time, usage or names."""
        return bool({"text", "value", "error", "tool_calls"} & self.model_fields_set)


class Script(ScriptModel):
    """What `llm.params` of a scripted model may say."""

    replies: tuple[ScriptedReply, ...] = ()
    delay_seconds: Seconds = 0
    """Before every reply that has no delay of its own."""


_REPLY_KEYS: Final = frozenset(ScriptedReply.model_fields)


def parse_script(params: Mapping[str, Any]) -> Script:
    """Check a script.

    Raises:
        ModelSetupError: It is malformed; the message names each place.
    """
    replies = params.get("replies", ())
    if isinstance(replies, str | Mapping):
        replies = [replies]
    if not isinstance(replies, Sequence):
        raise ModelSetupError(f"llm.params.replies: must be a list of replies, not {type(replies).__name__}")
    try:
        return Script(**{**params, "replies": tuple(_normal(reply, at) for at, reply in enumerate(replies))})
    except ValidationError as error:
        problems = [f"llm.params.{_path(one['loc'])}: {one['msg']}" for one in error.errors(include_url=False)]
        raise ModelSetupError("the script of a scripted model is malformed:\n" + "\n".join(problems)) from None


def _normal(reply: Any, at: int) -> Any:
    if isinstance(reply, str):
        return {"text": reply}
    if not isinstance(reply, Mapping):
        return {"value": reply}
    keys = set(reply)
    if keys <= _REPLY_KEYS:
        return dict(reply)
    if keys & _REPLY_KEYS:
        known, strange = sorted(keys & _REPLY_KEYS), sorted(map(str, keys - _REPLY_KEYS))
        raise ModelSetupError(
            f"llm.params.replies[{at}]: {known[0]!r} belongs to a reply, {strange[0]!r} does not. "
            "A JSON answer with such keys stands under 'value'"
        )
    return {"value": dict(reply)}


def _path(location: Sequence[Any]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


class Turns:
    """Gives a script's replies in turn; safe to ask from several threads."""

    def __init__(self, replies: Sequence[ScriptedReply]) -> None:
        self._queues: dict[tuple[str, ...], list[ScriptedReply]] = {}
        for reply in replies:
            self._queues.setdefault(_texts(reply), []).append(reply)
        self._taken: dict[tuple[str, ...], int] = {}
        self._lock = threading.Lock()

    def next(self, prompt: str) -> ScriptedReply | None:
        """Take the next reply for this prompt, the last one again and again; None if the script has none for it."""
        texts = self._queue_for(prompt)
        if texts is None:
            return None
        with self._lock:
            taken = self._taken.get(texts, 0)
            self._taken[texts] = taken + 1
        queue = self._queues[texts]
        return queue[min(taken, len(queue) - 1)]

    def _queue_for(self, prompt: str) -> tuple[str, ...] | None:
        matching = (texts for texts in self._queues if texts and all(text in prompt for text in texts))
        return next(matching, () if () in self._queues else None)


def _texts(reply: ScriptedReply) -> tuple[str, ...]:
    if reply.match is None:
        return ()
    return (reply.match,) if isinstance(reply.match, str) else reply.match
