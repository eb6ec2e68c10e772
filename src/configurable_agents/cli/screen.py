"""The two streams of a command: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, Final

from rich.console import Console, RenderableType
from rich.text import Text

from configurable_agents.cli.text import clean
from configurable_agents.once import Once

PIPE_WIDTH: Final = 100
"""Columns of what is written into a file or a pipe, unless COLUMNS says otherwise."""

_UNSAFE_IN_JSON: Final = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""JSON need not escape these, but a terminal may obey them, and lone surrogates cannot be written."""


@dataclass(frozen=True, slots=True)
class Signs:
    """The signs that a stream can show."""

    completed: str = "✓"
    failed: str = "✗"
    cancelled: str = "■"
    interrupted: str = "!"
    running: str = "●"
    arrow: str = "→"
    dot: str = "·"
    nothing: str = "–"
    ellipsis: str = "…"
    branch: str = "├─ "
    last: str = "└─ "
    line: str = "│  "
    gap: str = "   "

    def spell(self, text: str) -> str:
        """Give our own signs in a text as this stream can show them."""
        if self.arrow == "→":
            return text
        return text.replace("→", self.arrow).replace("·", self.dot).replace("–", self.nothing).replace("…", "...")


ASCII: Final = Signs("+", "x", "#", "!", "*", "->", "-", "-", "...", "|- ", "`- ", "|  ", "   ")


class _Stream(Console):
    """A console that lets a reader go away: `| head` ends the writing, not the program."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        silence(self.file)


def silence(stream: IO[str]) -> None:
    """Send what a stream still holds to nowhere, so that closing it at exit does not complain either."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class Screen:
    """Where a command writes. Nothing written here is read as markup, and what comes from outside is cleaned."""

    def __init__(self, out: Console | None = None, err: Console | None = None) -> None:
        self.out = out or _console(sys.stdout)
        self.err = err or _console(sys.stderr)
        self.debug = False

    @Once
    def signs(self) -> Signs:
        """The signs that stdout can show."""
        return signs_of(self.out)

    def show(self, renderable: RenderableType = "") -> None:
        """Write a result for people."""
        self.out.print(renderable)

    def write_json(self, value: Mapping[str, Any]) -> None:
        """Write a result for programs: one object, one line."""
        self.write(json_line(value, ascii_only=not _is_unicode(self.out)))

    def write(self, text: str) -> None:
        """Write a text as it is, with a line end."""
        if self.out.quiet:  # its reader has gone
            return
        try:
            self.out.file.write(text + "\n")
        except BrokenPipeError:
            self.out.on_broken_pipe()

    def tell(self, text: str | Text, *, style: str = "") -> None:
        """Write a line on stderr."""
        signs = signs_of(self.err)
        line = text if isinstance(text, Text) else Text(signs.spell(clean(text)), style)
        self.err.print(line, soft_wrap=True)

    def complain(self, message: str, *, kind: str = "error") -> None:
        """Write an error or a warning on stderr: one message."""
        style = "bold red" if kind == "error" else "yellow"
        signs = signs_of(self.err)
        self.err.print(Text.assemble((f"{kind}: ", style), signs.spell(clean(message))), soft_wrap=True)


def json_line(value: Any, *, ascii_only: bool = False) -> str:
    """Give a value as one line of JSON that no terminal obeys."""
    text = json.dumps(value, ensure_ascii=ascii_only, default=str)
    return _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def signs_of(console: Console) -> Signs:
    """Choose the signs that a stream's encoding can show."""
    return Signs() if _is_unicode(console) else ASCII


def _is_unicode(console: Console) -> bool:
    return console.encoding.lower().replace("_", "-").startswith("utf")


def _console(stream: Any) -> Console:
    # A name in a foreign script must not end the program where the locale cannot spell it.
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    plain = not stream.isatty() and "COLUMNS" not in os.environ
    width = PIPE_WIDTH if plain else None
    return _Stream(file=stream, markup=False, highlight=False, emoji=False, width=width)
