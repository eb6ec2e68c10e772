"""What models and files say is shown, and obeyed by nothing."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from _timing import cpu_seconds
from configurable_agents.cli.screen import json_line
from configurable_agents.cli.text import clean, fit, one_line
from configurable_agents.cli.values import brief, outline

odd_texts = st.text(
    st.sampled_from(
        ["\x1b", "\x9b", "\x9d", "[", "]", "0", ";", "m", "\x07", "\\", "\u202e", "\u2066", "\x00", "\r", "\n"]
    )
    | st.characters(),
    max_size=40,
)


def is_harmless(text: str) -> bool:
    """Tell whether a text holds nothing that a terminal obeys, apart from line ends."""
    return not any(
        (unicodedata.category(char) in {"Cc", "Cs"} and char != "\n")
        or char in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
        for char in text
    )


@given(odd_texts)
def test_no_text_keeps_anything_that_a_terminal_obeys(text: str) -> None:
    """A model must not recolour the screen, move the cursor, set the title or turn names around."""
    assert is_harmless(clean(text))
    assert is_harmless(one_line(text))
    assert "\n" not in one_line(text)
    assert all(is_harmless(line) for line in outline({"a": [text]}))


@given(odd_texts)
def test_json_lines_lose_nothing_and_hold_nothing_that_a_terminal_obeys(text: str) -> None:
    """Programs get the whole text, people who look at it are safe."""
    import json

    line = json_line({"text": text})
    assert is_harmless(line)
    assert json.loads(line) == {"text": text}
    assert json_line({"text": text}, ascii_only=True).isascii()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP1$r\x1b\\dcs", "dcs"),
        ("\x9b2Jc1", "c1"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("unfinished \x1b]0;title", "unfinished 0;title"),
        ("txt.\u202eexe", "txt.exe"),
        ("a\tb", "a   b"),
        ("[red]not markup[/]", "[red]not markup[/]"),
    ],
)
def test_escapes_go_and_the_text_stays(text: str, shown: str) -> None:
    """What people wrote around an escape is still theirs to read."""
    assert clean(text) == shown


@pytest.mark.parametrize("piece", ["\x1b]", "\x9d", "\x1b[", "\x9b0", "\x1b", "\x1b]0;\x1b"])
def test_cleaning_takes_time_in_proportion(piece: str) -> None:
    """A hostile answer of a megabyte must not hang the terminal."""
    text = piece * (1_000_000 // len(piece))
    assert cpu_seconds(lambda: clean(text), limit=2) < 2


@given(st.text(max_size=50), st.integers(0, 60))
def test_a_shortened_line_fits(text: str, width: int) -> None:
    """Columns stay columns, with wide characters too."""
    assert cell_len(fit(one_line(text), width)) <= width


def test_values_read_as_an_outline() -> None:
    """A state field is no JSON blob to people."""
    value = {"name": "Ada", "tags": ["a", "b"], "more": {"text": "one\ntwo", "none": None}, "empty": []}
    lines = [
        "name: Ada",
        "tags:",
        "  - a",
        "  - b",
        "more:",
        "  text:",
        "    one",
        "    two",
        "  none: null",
        "empty: []",
    ]
    assert outline(value) == lines
    assert re.fullmatch(r"\{.*\}", brief({"a": 1}))
