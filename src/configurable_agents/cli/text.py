"""Text of models and files, made fit to be shown: no terminal escapes, no control characters, no more than fits."""

from __future__ import annotations

import re
from typing import Final

from rich.cells import cell_len, set_cell_size

_STRING_END: Final = r"(?:\x07|\x1b\\|\x9c)"
_ESCAPES: Final = re.compile(
    # OSC, DCS, SOS, PM and APC carry a text of their own; what never ends loses its introducer only (below).
    rf"(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x90\x98\x9c-\x9f]*{_STRING_END}"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor, screen
    r"|\x1b[ -/]*[0-~]"
)
_LINE_ENDS: Final = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
_CONTROLS: Final = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""C0 and C1 without tab and line feed, and what turns the direction of text around (a name must read as it is)."""
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


def clean(text: object) -> str:
    """Give a text that no terminal obeys: escapes and control characters are gone, lines end with a line feed."""
    plain = _LINE_ENDS.sub("\n", _ESCAPES.sub("", str(text)))
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub("", plain)).expandtabs(4)


def one_line(text: object) -> str:
    """Give a clean text as one line, with single spaces."""
    return " ".join(clean(text).split())


def fit(text: str, width: int, *, ellipsis: str = "…") -> str:
    """Shorten a clean line to `width` columns of the terminal; a wide character takes two."""
    if cell_len(text) <= width:
        return text
    if width <= cell_len(ellipsis):
        return set_cell_size(text, max(width, 0))
    return set_cell_size(text, width - cell_len(ellipsis)).rstrip() + ellipsis
