"""Links into Jaeger's user interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

URL_VARIABLE: Final = "JAEGER_UI_URL"
"""Environment variable with the address of Jaeger's user interface, as http://127.0.0.1:16686."""


def trace_url(trace_id: str, environ: Mapping[str, str]) -> str | None:
    """Give the address of a trace, if the environment says where Jaeger is."""
    base = environ.get(URL_VARIABLE, "").strip().rstrip("/")
    return f"{base}/trace/{trace_id}" if base.startswith(("http://", "https://")) else None
