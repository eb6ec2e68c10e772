"""Marks the copies of spans that a store of ours must not keep, because it has the whole."""

from __future__ import annotations

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope


class KeptScope(InstrumentationScope):
    """The scope of a filtered copy whose original a store of ours holds.

    A host's processors copy and wrap spans as they like; the scope is what they hand on as it is.
    """


def kept_scope(scope: InstrumentationScope | None) -> KeptScope:
    """Give the same scope with the mark."""
    if scope is None:
        return KeptScope("")
    return KeptScope(scope.name, scope.version, scope.schema_url)


def is_kept(span: ReadableSpan) -> bool:
    """Say whether a span is such a copy."""
    return isinstance(span.instrumentation_scope, KeptScope) or getattr(span, "kept", False)
