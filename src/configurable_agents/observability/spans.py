"""The spans that a run makes: spans of the OpenTelemetry API, readable by every exporter of the SDK.

The SDK's own span takes some 20 µs, most of it for limits that we do not have, copies, and locks around single
attributes; ours a third of that. A run has one for each node, so that this is worth a class.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.util.types import Attributes, AttributeValue

from configurable_agents._version import __version__
from configurable_agents.semconv import SCOPE_NAME

logger = logging.getLogger(__name__)

SCOPE: Final = InstrumentationScope(SCOPE_NAME, __version__)
_PLAIN: Final = frozenset({str, int, float, bool})
_UNSET: Final = Status(StatusCode.UNSET)
_OK: Final = Status(StatusCode.OK)


class RunSpan(trace.Span, ReadableSpan):
    """One span of a run. It has no limits: what the store keeps is whole, and what is shipped has caps of its own.

    There is no lock: each method changes one thing at once, and nothing changes after `end`.
    """

    def __init__(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: Attributes,
        links: Sequence[Link],
        resource: Resource,
        start_time: int | None,
        ended: Callable[[RunSpan], None],
    ) -> None:
        # The names are ReadableSpan's, whose `__init__` would cost as much as everything else here.
        self._name = name
        self._context = context
        self._parent = parent
        self._kind = kind
        self._attributes: dict[str, Any] = {}
        self._events: list[Event] = []
        self._links: Sequence[Link] = links
        self._resource = resource
        self._instrumentation_info = None
        self._instrumentation_scope = SCOPE
        self._status = _UNSET
        self._start_time = time.time_ns() if start_time is None else start_time
        self._end_time: int | None = None
        self._ended = ended
        if attributes:
            self.set_attributes(attributes)

    def get_span_context(self) -> SpanContext:
        """Give what identifies the span."""
        return self._context  # type: ignore[return-value]  # a ReadableSpan may have none, this one has

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Set attributes; a value that OpenTelemetry does not know is made one, or dropped, as the SDK does."""
        if self._is_over("attributes"):
            return
        own = self._attributes
        for key, value in attributes.items():
            if type(value) in _PLAIN or (type(value) is tuple and all(type(part) in _PLAIN for part in value)):
                own[key] = value
            else:
                own.update(BoundedAttributes(attributes={key: value}))

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Set one attribute."""
        self.set_attributes({key: value})

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Add an event, now or at a time in Unix nanoseconds."""
        if not self._is_over("an event"):
            self._events.append(Event(name, BoundedAttributes(attributes=attributes), timestamp))

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Add a link to another span."""
        if not self._is_over("a link"):
            self._links = (*self._links, Link(context, BoundedAttributes(attributes=attributes)))

    def update_name(self, name: str) -> None:
        """Give the span another name."""
        if not self._is_over("the name"):
            self._name = name

    def is_recording(self) -> bool:
        """Say whether the span has not ended yet."""
        return self._end_time is None

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status; OK is final, and UNSET changes nothing (OpenTelemetry trace API, "Set Status")."""
        code = status.status_code if isinstance(status, Status) else status
        if self._is_over("the status") or self._status.status_code is StatusCode.OK or code is StatusCode.UNSET:
            return
        if isinstance(status, Status):
            self._status = status
        else:
            self._status = _OK if code is StatusCode.OK else Status(code, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add an exception as an event."""
        kind = type(exception)
        known = {
            "exception.type": kind.__qualname__
            if kind.__module__ == "builtins"
            else f"{kind.__module__}.{kind.__qualname__}",
            "exception.message": str(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception)),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", {**known, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        """End the span, now or at a time in Unix nanoseconds, and hand it on; nothing can be set after."""
        if not self._is_over("the end"):
            self._end_time = time.time_ns() if end_time is None else end_time
            self._ended(self)

    def _is_over(self, what: str) -> bool:
        if self._end_time is None:
            return False
        logger.warning("the span %r has ended: %s cannot be set any more", self._name, what)
        return True
