"""HTTP headers that let a model server continue the trace of the call that reaches it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator


class TraceHeaders(Mapping[str, str]):
    """Reads as the `traceparent` (and `tracestate`) of whatever span is current when it is read.

    The providers' packages take headers once, when a model is made, and copy them into each request: a mapping that is
    computed when read is current in each of them, without a hook into anybody's HTTP client.

    Args:
        others: Headers that go along.
    """

    def __init__(self, others: Mapping[str, str] | None = None) -> None:
        self._others = dict(others or {})

    def __getitem__(self, name: str) -> str:
        return self._now()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def __repr__(self) -> str:
        """Say the same at all times: langchain-core's caches tell calls apart by the text of their parameters."""
        return f"TraceHeaders({sorted(self._others)})"

    def _now(self) -> dict[str, str]:
        return current_trace_headers() | self._others


def current_trace_headers() -> dict[str, str]:
    """Give the W3C headers of the current span; none if there is no current span."""
    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return headers


async def add_trace_headers(request: Any) -> None:
    """Add the headers to a request of httpx, as one of its request hooks."""
    for name, value in current_trace_headers().items():
        request.headers.setdefault(name, value)
