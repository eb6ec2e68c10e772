"""Reads YAML and JSON as data with positions: own composer over PyYAML's events, no tags, aliases or merge keys.

Scalars mean what YAML 1.2's core schema says, so that `on`, `no`, dates and `12:30` stay texts; keys are always texts.
Limits hold while reading, so that a hostile file is answered at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

from configurable_agents.config.findings import Findings, quoted
from configurable_agents.config.positions import Mark, Path, Positions, line_and_column

MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 50
MAX_VALUES: Final = 20_000
"""Keys and values in one file: what can be read and checked within a second."""

# libyaml reads some thirty times faster than the reader in Python; wheels of PyYAML bring it.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
MAX_NUMBER_LENGTH: Final = 400
_SURROGATES = re.compile(r"(?<!\\)((?:\\\\)*)\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})", re.IGNORECASE)


class Unreadable(Exception):  # noqa: N818  # no error of its own: the findings hold what is wrong
    """The text cannot be read to its end; the findings say why."""


def read(text: str, findings: Findings) -> tuple[Any, Positions]:
    """Read one document.

    Returns:
        dict, list, str, int, float, bool and None, with the positions of all of them. What could not be read is in the
        findings, and its path is muted.

    Raises:
        Unreadable: Nothing can be said about the document as a whole.
    """
    reader = _Reader(text, findings)
    document, root = reader.document()
    return document, Positions(root, reader.text)


class _Reader:
    def __init__(self, text: str, findings: Findings) -> None:
        self.text = _readable_surrogates(text.removeprefix("\ufeff"))
        self._findings = findings
        self._values = 0
        self._events = self._guarded_events()

    def document(self) -> tuple[Any, Mark]:
        self._next()
        if isinstance(self._next(), yaml.StreamEndEvent):
            self._fail((1, 1), "the file is empty", "A workflow begins with 'schema_version: \"1.0\"'.")
        value, mark = self._value(self._next(), (), 0)
        self._next()
        following = self._next()
        if not isinstance(following, yaml.StreamEndEvent):
            self._fail(_place(following), "a file holds one workflow; here begins a second document", "Remove '---'.")
        return value, mark

    def _guarded_events(self) -> Iterator[Any]:
        try:
            yield from yaml.parse(self.text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            self._fail(*_syntax_error(error, self.text))
        except yaml.reader.ReaderError as error:
            place = line_and_column(self.text, min(int(error.position), len(self.text)))
            self._fail(place, f"not valid YAML: {error.reason}", "Remove the control character, or write it as \\u….")
        except (UnicodeEncodeError, ValueError):
            self._fail((1, 1), "the text holds characters that are no Unicode text", "Save the file as UTF-8.")

    def _next(self) -> Any:
        return next(self._events)

    def _fail(self, place: tuple[int, int], message: str, remedy: str = "") -> None:
        self._findings.add_at(place, message, remedy)
        raise Unreadable

    def _value(self, event: Any, path: Path, depth: int) -> tuple[Any, Mark]:
        self._values += 1
        if self._values > MAX_VALUES:
            self._fail(_place(event), f"the file holds more than {MAX_VALUES} values")
        mark = Mark(*_place(event), event.start_mark.index, event.end_mark.index)
        if isinstance(event, yaml.AliasEvent):
            self._refuse(path, event, f"aliases are not read: '*{event.anchor}'", "Write the value out.")
            self._findings.mute(path)
            return None, mark
        self._refuse_decoration(event, path)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path), mark
        if depth >= MAX_DEPTH:
            self._fail(_place(event), f"the file is nested more than {MAX_DEPTH} deep")
        collect = self._mapping if isinstance(event, yaml.MappingStartEvent) else self._sequence
        return collect(mark, path, depth + 1), mark

    def _refuse(self, path: Path, event: Any, message: str, remedy: str) -> None:
        self._findings.add_at(_place(event), message, remedy, path=path)

    def _refuse_decoration(self, event: Any, path: Path) -> None:
        if event.tag is not None:
            self._refuse(path, event, f"tags are not read: {quoted(event.tag)}", "Remove it; put text in quotes.")
        if event.anchor is not None:
            self._refuse(path, event, f"anchors are not read: '&{event.anchor}'", "Remove it.")

    def _sequence(self, mark: Mark, path: Path, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            index = len(items)
            value, mark.items[index] = self._value(event, (*path, index), depth)
            items.append(value)
        return items

    def _mapping(self, mark: Mark, path: Path, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            self._entry(event, made, mark, path, depth)
        return made

    def _entry(self, event: Any, made: dict[str, Any], mark: Mark, path: Path, depth: int) -> None:
        place = _place(event)
        key = self._key(event, path, depth)
        value, value_mark = self._value(self._next(), (*path, key or ""), depth)
        if key is None:
            return
        if key in made:
            first = mark.keys[key].line
            message, remedy = f"the key {quoted(key)} is given twice", f"It stands on line {first} already."
            self._findings.add_at(place, message, remedy, path=(*path, key))
            return
        mark.keys[key] = Mark(*place, event.start_mark.index, event.end_mark.index)
        mark.items[key] = value_mark
        made[key] = value

    def _key(self, event: Any, path: Path, depth: int) -> str | None:
        """Read a key as a text; None if it is none, which the findings then say."""
        if isinstance(event, yaml.ScalarEvent):
            self._refuse_decoration(event, path)
            self._values += 1
            if event.value == "<<" and event.implicit[0]:
                self._refuse(path, event, "merge keys are not read: '<<'", "Write the keys out.")
                self._findings.mute(path)
                return None
            return str(event.value)
        self._value(event, path, depth)
        self._refuse(path, event, "a key is a text", "A text that begins with '{', '[' or '*' needs quotes.")
        self._findings.mute(path)
        return None

    def _scalar(self, event: Any, path: Path) -> Any:
        text = event.value
        if not event.implicit[0] or event.style not in {None, ""}:
            return text
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        if text[0] not in _NUMBER_STARTS:
            return text
        return self._number(text, event, path)

    def _number(self, text: str, event: Any, path: Path) -> Any:
        value = _number(text)
        if value is None:
            self._refuse(
                path,
                event,
                "this number cannot be kept: it has more than 64 bits, or is not finite",
                "Put it in quotes.",
            )
            self._findings.mute(path)
        return value


_NUMBER_STARTS: Final = frozenset("+-.0123456789")


def _number(text: str) -> int | float | str | None:
    """Read a number; a text that is none stays a text, and a number that cannot be kept is None."""
    if len(text) > MAX_NUMBER_LENGTH:
        return None if _INT.fullmatch(text) or _FLOAT.fullmatch(text) else text
    if _INT.fullmatch(text):
        value = int(text, 0) if text.startswith(("0o", "0x")) else int(text)
        return value if -(2**63) <= value < 2**63 else None
    if _FLOAT.fullmatch(text):
        number = float(text)
        return number if math.isfinite(number) else None
    return None if _NOT_FINITE.fullmatch(text) else text


def _place(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _readable_surrogates(text: str) -> str:
    r"""Join `\ud83d\ude00`, as JSON writes what is beyond the first plane, to what YAML reads.

    Spaces would be data here, so the columns after such a pair move by two.
    """
    if not text.lstrip().startswith(("{", "[")):
        return text

    def joined(match: re.Match[str]) -> str:
        high, low = int(match[2], 16), int(match[3], 16)
        return f"{match[1]}\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08X}"

    return _SURROGATES.sub(joined, text)


_REMEDIES: Final = (
    ("cannot start any token", "Indent with spaces, and put a text that begins with '@', '%' or '`' in quotes."),
    ("mapping values are not allowed", "Put a text that holds ': ' in quotes, and check the indentation."),
    ("expected ',' or", "Inside of { } and [ ] a text that holds brackets or commas needs quotes: 'list[str]'."),
    ("did not find expected", "Check the indentation; put a text that begins with '{', '[', '*' or '&' in quotes."),
    ("unexpected end of stream", "A quotation mark or a bracket is not closed."),
    ("could not find expected ':'", "A key is followed by ': '. Check the indentation of a text of several lines."),
    ("unknown escape character", "Use single quotation marks, or write '\\\\' for a backslash."),
)


def _syntax_error(error: yaml.MarkedYAMLError, text: str) -> tuple[tuple[int, int], str, str]:
    mark = error.problem_mark or error.context_mark
    place = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    problem = error.problem or error.context or "it cannot be read"
    remedy = next((remedy for part, remedy in _REMEDIES if part in problem), "")
    return place, f"not valid YAML: {problem}", remedy
