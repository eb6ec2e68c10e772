"""What a template gives: values read by path from locals and state, as text or with their type.

Reads the keys of dicts and the indexes of lists and nothing else; what it reads is data and never looked at as a
template again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from configurable_agents.config.templates import STATE, Placeholder, Template, TemplateValue
from configurable_agents.errors import TemplateError

MAX_RENDERED: Final = 16 * 1024 * 1024
"""Characters of a rendered text: no prompt is longer, and a template of many placeholders must not fill the memory."""

_NOTHING: Final[Mapping[str, Any]] = {}
_MISSING: Final = object()


@dataclass(slots=True)  # nobody changes one; making a frozen one takes three times as long, and each node has two
class Scope:
    """What a template may read: `{name}` is a local, else a state field; `{state.name}` is always a state field."""

    state: Mapping[str, Any]
    locals: Mapping[str, Any] = field(default_factory=dict)


def render(template: Template, scope: Scope) -> str:
    """Fill a template in, in one pass: braces in values stay as they are.

    Texts go in as they are, null as an empty text, everything else as JSON.

    Raises:
        TemplateError: A path leads nowhere, a value is no JSON, or the text grows beyond 16 Mi characters.
    """
    pieces: list[str] = []
    size = 0
    for piece in template.pieces:
        text = piece if isinstance(piece, str) else _text(_read(piece, scope), piece)
        size += len(text)
        if size > MAX_RENDERED:
            raise TemplateError(f"the text of a template grows beyond {MAX_RENDERED} characters")
        pieces.append(text)
    return "".join(pieces)


def resolve(template: Template, scope: Scope) -> Any:
    """Give the value with its type if the template is exactly one placeholder, else the rendered text.

    Raises:
        TemplateError: As `render` does.
    """
    only = template.only
    return render(template, scope) if only is None else _read(only, scope)


def resolve_value(value: TemplateValue, scope: Scope) -> Any:
    """Resolve a value of `inputs`, as `config.templates.parse_value` made it, with the templates inside of it.

    Raises:
        TemplateError: As `render` does.
    """
    if isinstance(value, Template):
        return resolve(value, scope)
    if isinstance(value, dict):
        return {key: resolve_value(item, scope) for key, item in value.items()}
    if isinstance(value, list):
        return [resolve_value(item, scope) for item in value]
    return value


def _read(placeholder: Placeholder, scope: Scope) -> Any:
    path = placeholder.path
    if path[0] == STATE:
        return _walk(scope.state, path, 1, placeholder)
    return _walk(scope.locals if path[0] in scope.locals else scope.state, path, 0, placeholder)


def _walk(value: Any, path: tuple[str, ...], start: int, placeholder: Placeholder) -> Any:
    for position in range(start, len(path)):
        found = part_of(value, path[position])
        if found is _MISSING:
            where = ".".join(path[:position]) or "the state"
            raise TemplateError(f"{placeholder.text}: {missing(where, value, path[position])}")
        value = found
    return value


def part_of(value: Any, part: str) -> Any:
    """Read a key of a dict or an index of a list; `is_missing` tells whether there was one."""
    if type(value) is dict or isinstance(value, Mapping):  # the first saves the second, which is slow
        return value.get(part, _MISSING)
    if isinstance(value, list | tuple) and part.isascii() and part.isdecimal() and len(part) < 10:
        index = int(part)
        return value[index] if index < len(value) else _MISSING
    return _MISSING


def is_missing(value: Any) -> bool:
    """Tell whether `part_of` found nothing."""
    return value is _MISSING


def missing(where: str, value: Any, part: str) -> str:
    """Say why a part was not found: what is there instead."""
    if isinstance(value, Mapping):
        names = ", ".join(repr(str(key)[:40]) for key in list(value)[:8])
        return f"{where} has no {part[:60]!r}; it has {names + (', …' if len(value) > 8 else '') or 'nothing'}"
    if isinstance(value, list | tuple):
        return f"{where} is a list of {len(value)} and has no {part[:60]!r}"
    kind = "null" if value is None else type(value).__name__
    return f"{where} is {kind} and has no parts (looking for {part[:60]!r})"


def _text(value: Any, placeholder: Placeholder) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise TemplateError(f"{placeholder.text}: {type(value).__name__} cannot be written as JSON: {error}") from None
