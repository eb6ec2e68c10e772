"""The spans that a run makes: spans of the OpenTelemetry API, readable by every exporter of the SDK.

The SDK's own span takes some 20 µs, most of it for limits that we do not have, copies, and locks around single
attributes; ours a third of that. A run has one for each node, so that this is worth a class.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.util.types import Attributes, AttributeValue

from configurable_agents import semconv
from configurable_agents._version import __version__
from configurable_agents.spans import RecordedSpan

if TYPE_CHECKING:
    from configurable_agents.observability.tracing import RunTracer

logger = logging.getLogger(__name__)

SCOPE: Final = InstrumentationScope(semconv.SCOPE_NAME, __version__)
PARENT_IS_REMOTE: Final = 0x200
"""Bit 9 of OTLP's span flags (opentelemetry-proto, `SpanFlags`). Bit 8, which says that bit 9 means something, is understood."""
_PLAIN: Final = frozenset({str, int, float, bool})
_FLAT: Final = _PLAIN | {tuple}
_GIVEN_ONCE: Final = frozenset(
    {"", semconv.GEN_AI_OPERATION_NAME, semconv.RUN_ID, semconv.SEQ, semconv.NODE_ID, semconv.NODE_KIND}
)
"""What a span is does not change after its start: a node whose code calls its span a model call is a node still."""
_UNSET: Final = Status(StatusCode.UNSET)
_OK: Final = Status(StatusCode.OK)


class RunSpan(RecordedSpan, ReadableSpan):
    """One span of a run. It has no limits: what the store keeps is whole, and what is shipped has caps of its own.

    There is no lock: each method changes one thing at once, and nothing changes after `end`.

    A node's code and its libraries see it as the current span and may add to it. What it stands for, how that went and
    when it ended are the run's to say, or a slip of theirs would take the node out of the history.
    """

    # ReadableSpan's fields, whose `__init__` would cost as much as everything else here; these are the same for most.
    _instrumentation_info = None
    _instrumentation_scope = SCOPE
    _resource = Resource.get_empty()
    """Whoever ships a span gives it the resource that it is shipped with."""
    _kind = SpanKind.INTERNAL
    _status = _UNSET
    _end_time: int | None = None
    _events: Sequence[Event] = ()
    _links: Sequence[Link] = ()
    _attributes: dict[str, Any]
    _known_context: SpanContext | None = None
    is_plain = True
    """Whether it has nothing but attributes: no events, no links, no trace state, no kind of its own, as most nodes."""

    def __init__(
        self,
        tracer: RunTracer,
        parent: RunSpan | SpanContext | None,
        attributes: dict[str, Any],
        fields: dict[str, Any],
        kind: SpanKind,
        *,
        trusted: bool,
    ) -> None:
        """Begin.

        Args:
            attributes: Its own from now on.
            fields: What every record of it has (`storage.records`): made once, for its start, its end and its children.
            trusted: No attribute need be looked at.
        """
        self._tracer = tracer
        self._above = parent
        self.fields = fields
        if trusted:
            self._attributes = attributes
        else:
            self._attributes = {}
            self._take(attributes)
        if kind is not SpanKind.INTERNAL:
            self._kind = kind
            self.is_plain = False
        self.operation = attributes.get(semconv.GEN_AI_OPERATION_NAME)
        """What kind of span it is, for good."""

    @property
    def _name(self) -> str:  # type: ignore[override]  # a ReadableSpan has these in attributes; here they stand in `fields`
        return self.fields["name"]  # type: ignore[no-any-return]

    @property
    def _start_time(self) -> int:  # type: ignore[override]
        return self.fields["start_time_unix_nano"]  # type: ignore[no-any-return]

    @property
    def _context(self) -> SpanContext:  # type: ignore[override]
        # Made when it is asked for: of most nodes nobody does.
        if self._known_context is None:
            self._known_context = self._tracer.context_of(self.fields["span_id"])
        return self._known_context

    @property
    def _parent(self) -> SpanContext | None:  # type: ignore[override]
        return self._above.get_span_context() if isinstance(self._above, RunSpan) else self._above

    def begin_child(
        self,
        name: str,
        attributes: dict[str, AttributeValue],
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        trusted: bool = False,
    ) -> RunSpan:
        """Start a span below this one (see the base class)."""
        return self._tracer.start_below(self, name, attributes, kind, trusted=trusted)

    def complete(
        self, attributes: dict[str, AttributeValue], error: str | None = None, *, trusted: bool = False
    ) -> None:
        """Set the last attributes and the status, and end (see the base class)."""
        if self._is_over("the end"):
            return
        if trusted:
            self._attributes.update(attributes)
        else:
            self._take(attributes)
        if error is not None:
            self._status = Status(StatusCode.ERROR, error)
        elif self._status.status_code is not StatusCode.OK:
            self._status = _OK
        self._finish(None)

    def record_fields(self) -> dict[str, Any]:
        """Give what a record of it has that is no attribute and no content of its own (`storage.records`)."""
        values = self.fields.copy()
        if self._end_time is not None:
            values["end_time_unix_nano"] = self._end_time
            status = self._status
            if status is _OK:
                values["status_code"] = "OK"
            elif status is not _UNSET:
                values["status_code"] = status.status_code.name
                values["status_message"] = status.description
        return values

    @property
    def known_attributes(self) -> Mapping[str, Any]:
        """The attributes, not to be changed: `attributes` makes a view of them each time."""
        return self._attributes

    def get_span_context(self) -> SpanContext:
        """Give what identifies the span."""
        return self._context

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Set attributes; a value that OpenTelemetry does not know is made one, or dropped, as the SDK does."""
        if not self._is_over("attributes"):
            self._take(attributes if _may_be_set(attributes) else _settable(attributes))

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Set one attribute."""
        self.set_attributes({key: value})

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Add an event, now or at a time in Unix nanoseconds."""
        if not self._is_over("an event"):
            event = Event(str(name), BoundedAttributes(attributes=attributes), _moment(timestamp))
            self._events = (*self._events, event)
            self.is_plain = False

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Add a link to another span; one that leads nowhere and says nothing is left out, as by the SDK."""
        says = context is not None and (context.is_valid or attributes or context.trace_state)
        if says and not self._is_over("a link"):
            self._links = (*self._links, Link(context, BoundedAttributes(attributes=attributes)))
            self.is_plain = False

    def update_name(self, name: str) -> None:
        """Give the span another name."""
        if not self._is_over("the name"):
            self.fields = {**self.fields, "name": str(name).encode("utf-8", "backslashreplace").decode()}

    def is_recording(self) -> bool:
        """Say whether the span has not ended yet."""
        return self._end_time is None

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status; OK is final, and UNSET changes nothing (OpenTelemetry trace API, "Set Status")."""
        code = status.status_code if isinstance(status, Status) else status
        if self._is_over("the status") or code is StatusCode.UNSET:
            return
        if self._status.status_code is StatusCode.OK and not self._has_failed():
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
        """End the span, now or at a time in Unix nanoseconds, and hand it on; nothing can be set after.

        Before the run has said what came of it, it goes on: code that holds it as the current span does not end it.
        """
        if self._is_over("the end"):
            return
        if semconv.RUN_ID in self._attributes and semconv.STATUS not in self._attributes:
            logger.warning("the span %r goes on: it ends with what it stands for", self._name)
            return
        self._finish(end_time)

    def _finish(self, end_time: int | None) -> None:
        self._end_time = time.time_ns() if end_time is None else end_time
        self._tracer.ended(self)

    def _take(self, attributes: Mapping[str, AttributeValue]) -> None:
        own = self._attributes
        kinds = set(map(type, attributes.values()))
        # What the engine sets is plain, or a tuple of numbers. Here, as far as it goes, nothing looks at each value in Python.
        if kinds <= _PLAIN or (kinds <= _FLAT and _PLAIN.issuperset(map(type, _parts_of_tuples(attributes)))):
            own.update(attributes)
            return
        for key, value in attributes.items():
            if type(value) in _PLAIN or (type(value) is tuple and all(type(part) in _PLAIN for part in value)):
                own[key] = value
            else:
                own.update(BoundedAttributes(attributes={key: value}))

    def _has_failed(self) -> bool:
        return bool(self._attributes.get(semconv.STATUS, semconv.Status.COMPLETED) != semconv.Status.COMPLETED)

    def _is_over(self, what: str) -> bool:
        if self._end_time is None:
            return False
        logger.warning("the span %r has ended: %s cannot be set any more", self._name, what)
        return True


def _may_be_set(names: Mapping[Any, Any]) -> bool:
    # Every node pays for this: two calls whatever their number, and not a question for each name.
    try:
        "".join(names)
    except TypeError:
        return False
    return _GIVEN_ONCE.isdisjoint(names)


def _parts_of_tuples(attributes: Mapping[str, Any]) -> Iterator[Any]:
    return chain.from_iterable(filter(tuple.__instancecheck__, attributes.values()))


def _settable(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in attributes.items() if key and key not in _GIVEN_ONCE}


def _moment(nanoseconds: Any) -> int | None:
    """Give a time as OTLP can hold it; None, which is now, for anything else: one event would hold up all that is shipped."""
    is_one = isinstance(nanoseconds, int | float) and 0 <= nanoseconds < 2**63
    return int(nanoseconds) if is_one else None
