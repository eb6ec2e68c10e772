"""The environment's variables as a plain dict.

A look-up in `os.environ` encodes the name and decodes the value; a run asks for two dozen, mostly in vain.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_seen: tuple[object, Mapping[str, str]] = ({}, {})


def environment() -> Mapping[str, str]:
    """Give the variables as they are now; whoever keeps it keeps what was at this moment."""
    global _seen
    # As the system has them; the attribute is Python's own, and not trusted to be there.
    raw = getattr(os.environ, "_data", None)
    if not isinstance(raw, dict):
        return os.environ
    before, decoded = _seen
    if raw != before:
        before, decoded = dict(raw), dict(os.environ)
        _seen = (before, decoded)
    return decoded
