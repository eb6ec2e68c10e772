"""Templates as text: literal pieces and placeholders. What they give is told by `core.templates`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MAX_PATH_PARTS: Final = 50
STATE: Final = "state"
"""`{state.field}` reads the state even where a local name hides the field."""

MAX_PIECES: Final = 4_000
"""Placeholders and the texts between them."""

_PIECE = re.compile(r"(?P<literal>(?:[^{}]+|(?:\{\{)+|(?:\}\})+)+)|\{[^{}]*\}?|\}")
_PATH = re.compile(r"[^\W\d]\w*(?:\.[\w-]+)*")


class TemplateSyntaxError(ValueError):
    """A text that is no template."""

    def __init__(self, message: str, *, offset: int, fragment: str, remedy: str) -> None:
        self.message = message
        self.offset = offset
        """Characters before the place."""
        self.fragment = fragment
        """What stands there, as it is written."""
        self.remedy = remedy
        super().__init__(f"{message}. {remedy}")


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A dotted path in braces."""

    path: tuple[str, ...]
    offset: int

    @property
    def text(self) -> str:
        """The placeholder as it is written."""
        return "{" + ".".join(self.path) + "}"


@dataclass(frozen=True, slots=True)
class Template:
    """A text taken apart."""

    text: str
    pieces: tuple[str | Placeholder, ...]
    only: Placeholder | None = field(init=False)
    """The placeholder, if the template is exactly one and nothing else: it then passes a value with its type."""

    def __post_init__(self) -> None:
        first = self.pieces[0] if len(self.pieces) == 1 else None
        object.__setattr__(self, "only", first if isinstance(first, Placeholder) else None)

    @property
    def placeholders(self) -> tuple[Placeholder, ...]:
        """All placeholders, in order."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Placeholder))


TemplateValue = Any
"""A value of `inputs`: a `Template`, a list or dict of such values, or a constant."""


def parse_template(text: str) -> Template:
    """Take a template apart.

    Raises:
        TemplateSyntaxError: With the offset of the first place that is wrong.
    """
    template, errors = scan_template(text)
    if errors:
        raise errors[0]
    return template


def scan_template(text: str) -> tuple[Template, list[TemplateSyntaxError]]:
    """Take a template apart as far as it is one, and list all that is wrong in it."""
    pieces: list[str | Placeholder] = []
    errors: list[TemplateSyntaxError] = []
    for match in _PIECE.finditer(text):
        literal = match["literal"]
        if literal is not None:
            pieces.append(literal.replace("{{", "{").replace("}}", "}"))
            continue
        try:
            pieces.append(_placeholder(match.group(), match.start()))
        except TemplateSyntaxError as error:
            errors.append(error)
        if len(pieces) + len(errors) > MAX_PIECES:
            errors.append(_too_many(match.start()))
            break
    return Template(text, tuple(pieces)), errors


def _too_many(offset: int) -> TemplateSyntaxError:
    message = f"a template has at most {MAX_PIECES // 2} placeholders"
    return TemplateSyntaxError(message, offset=offset, fragment="", remedy="Pass a list or an object in one.")


def _placeholder(text: str, offset: int) -> Placeholder:
    if text == "}":
        raise TemplateSyntaxError("a '}' without its '{'", offset=offset, fragment="}", remedy=_LITERAL)
    if text[-1] != "}":
        raise TemplateSyntaxError("a '{' without its '}'", offset=offset, fragment=text[:20], remedy=_LITERAL)
    inside = text[1:-1]
    # A text of dots alone must not be matched again and again: the length is looked at first.
    if len(inside) > 1000 or not _PATH.fullmatch(inside) or inside.count(".") >= MAX_PATH_PARTS:
        raise TemplateSyntaxError(
            f"{_short(text)} is no placeholder", offset=offset, fragment=text, remedy=_remedy(inside[:200])
        )
    if inside == STATE:
        raise TemplateSyntaxError(
            "'{state}' names no field", offset=offset, fragment=text, remedy="Write '{state.field}'."
        )
    return Placeholder(tuple(inside.split(".")), offset)


_LITERAL = "Write '{{' and '}}' for literal braces."


def _remedy(inside: str) -> str:
    if not inside.strip():
        return f"Put a name between the braces. {_LITERAL}"
    if _PATH.fullmatch(inside.strip()):
        return f"Write it without spaces: '{{{_inner(inside.strip())}}}'. {_LITERAL}"
    if re.match(r"[\w.\s-]*[:!]", inside) and not re.match(r'\s*["\n]', inside):
        return f"A placeholder is a name alone, without a format. {_LITERAL}"
    if "(" in inside:
        return f"A template calls nothing. {_LITERAL}"
    if "[" in inside:
        return f"Write parts with dots, as '{{items.0.name}}'. {_LITERAL}"
    return f"A placeholder is a dotted path, as '{{field}}' or '{{state.field.part}}'. {_LITERAL}"


def _inner(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def parse_value(value: Any) -> TemplateValue:
    """Take a value of `inputs` apart: texts are templates, also inside of lists and dicts; all else is itself.

    Raises:
        TemplateSyntaxError: The first text that is no template.
    """
    if isinstance(value, str):
        return parse_template(value)
    if isinstance(value, Mapping):
        return {key: parse_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [parse_value(item) for item in value]
    return value


def texts(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """List the texts in a value of `inputs`, each with its path below the value."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from texts(item, (*path, index))
