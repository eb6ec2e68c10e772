"""Where in a file a value stands: a tree of marks beside the document, looked up when there is something to say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]


class Mark:
    """Where one value begins and ends, with the marks of what is in it."""

    # A plain class with slots: a large file has a hundred thousand of them.
    __slots__ = ("column", "end", "items", "keys", "line", "start")

    def __init__(self, line: int, column: int, start: int, end: int) -> None:
        self.line = line
        self.column = column
        self.start = start
        self.end = end
        self.keys: dict[str, Mark] = {}
        """Marks of a mapping's keys."""
        self.items: dict[str | int, Mark] = {}
        """Marks of the values in it."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A part of a text value: `piece` stands in `text` at `offset`."""

    text: str
    offset: int
    piece: str


@dataclass(frozen=True, slots=True)
class Positions:
    """The marks of a document."""

    root: Mark
    text: str | None
    """The file's text; None for a mapping made by a program: it has an order, but no lines."""

    def mark(self, path: Path, *, on_key: bool = False) -> Mark:
        """Find the mark of the value at `path` (or of its key); of what is around it, where there is no such value."""
        mark = self.root
        for index, part in enumerate(path):
            last = index == len(path) - 1
            if on_key and last and isinstance(part, str) and part in mark.keys:
                return mark.keys[part]
            if part not in mark.items:
                break
            mark = mark.items[part]
        return mark

    def place(self, path: Path, *, on_key: bool = False, fragment: Fragment | None = None) -> tuple[int, int]:
        """Give line and column, counted from 1."""
        mark = self.mark(path, on_key=on_key)
        found = self._find(mark, fragment) if fragment is not None and fragment.piece else None
        if found is None or self.text is None:
            return mark.line, mark.column
        return line_and_column(self.text, found)

    def _find(self, mark: Mark, fragment: Fragment) -> int | None:
        # Quotes, escapes and indentation change a text on its way from the file: the piece is looked for as it is
        # written, the same occurrence as in the value.
        before = fragment.text.count(fragment.piece, 0, fragment.offset)
        at = mark.start - 1
        for _ in range(before + 1):
            at = (self.text or "").find(fragment.piece, at + 1, mark.end)
            if at < 0:
                return None
        return at


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Give line and column, counted from 1, of an offset in a text."""
    line_start = text.rfind("\n", 0, offset) + 1
    return text.count("\n", 0, offset) + 1, offset - line_start + 1


def marks_of(document: Any) -> Mark:
    """Number the values of a document that has no text, so that its problems can be put in order."""
    numbers = _count()

    def mark_of(value: Any) -> Mark:
        number = next(numbers)
        mark = Mark(number, 1, 0, 0)
        children = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
        for key, item in children:
            if isinstance(key, str):
                mark.keys[key] = Mark(next(numbers), 1, 0, 0)
            mark.items[key] = mark_of(item)
        return mark

    return mark_of(document)


def _count() -> Iterator[int]:
    number = 0
    while True:
        number += 1
        yield number


def text_of(path: Path) -> str:
    """Write a path as people do: `nodes[2].llm.model`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier() and len(part) <= 60:
            text += f".{part}" if text else part
        else:
            text += f"[{part if len(part) <= 60 else part[:57] + '...'!r}]"
    return text
