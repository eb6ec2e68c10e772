"""The spans that a run makes: spans of the OpenTelemetry API, readable by every exporter of the SDK.

The SDK's own span takes some 20 µs, most of it for limits that we do not have, copies, and locks around single
attributes; ours a third of that. A run has one for each node, so that this is worth a class.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Protocol

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.util.types import Attributes, AttributeValue

from configurable_agents import semconv
from configurable_agents._version import __version__
from configurable_agents.logs import logger_of
from configurable_agents.observability.ids import IDS
from configurable_agents.spans import RecordedSpan

logger = logger_of(__name__)

SCOPE: Final = InstrumentationScope(semconv.SCOPE_NAME, __version__)
PARENT_IS_REMOTE: Final = 0x200
"""Bit 9 of OTLP's span flags (opentelemetry-proto, `SpanFlags`). Bit 8, which says that bit 9 means something, is understood."""
_PLAIN: Final = frozenset({str, int, float, bool})
_FLAT: Final = _PLAIN | {tuple}
_GIVEN_ONCE: Final = frozenset(
    {"", semconv.GEN_AI_OPERATION_NAME, semconv.RUN_ID, semconv.SEQ, semconv.NODE_ID, semconv.NODE_KIND, semconv.STATUS}
)
"""What a span is does not change after its start: a node whose code calls its span a model call is a node still. What
became of it is said at its end, and no earlier."""
_UNSET, _OK, _ERROR = StatusCode.UNSET.name, StatusCode.OK.name, StatusCode.ERROR.name
_INTERNAL: Final = SpanKind.INTERNAL
_SETTABLE: Final = (StatusCode.OK, StatusCode.ERROR)
_new_span_id: Final = IDS.generate_span_id


class SpanRoute(Protocol):
    """Where the spans of one run go."""

    def on_start(self, span: ReadableSpan) -> None:
        """Take a span that has started."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended."""


class SpanKeeper(Protocol):
    """Takes every span of one run, before anybody else. It never raises: telemetry breaks no run."""

    def on_start(self, span: RunSpan) -> None:
        """Take a span that has started."""

    def on_end(self, span: RunSpan) -> None:
        """Take a span that has ended."""


@dataclass(slots=True)  # nobody changes one; making a frozen one takes three times as long, and each run makes one
class RunTrace:
    """What the spans of one run have in common."""

    keeper: SpanKeeper
    trace_id: str
    """32 lower-case hex digits."""
    flags: int
    """What is shipped of a run is decided once, at its own span, and told here."""
    state: TraceState | None
    header: str | None
    """The same as the header says it; None if there is none."""

    def context_of(self, span_id: str) -> SpanContext:
        """Give what identifies a span of the run, by its 16 hex digits."""
        return SpanContext(int(self.trace_id, 16), int(span_id, 16), False, TraceFlags(self.flags), self.state)


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
    _events: Sequence[Event] = ()
    _links: Sequence[Link] = ()
    _attributes: dict[str, Any]
    _known_context: SpanContext | None = None

    def __init__(
        self,
        trace: RunTrace,
        parent: RunSpan | SpanContext | None,
        attributes: dict[str, Any],
        fields: dict[str, Any],
    ) -> None:
        """Begin.

        Args:
            attributes: Plain ones; its own from now on.
            fields: What its record has that is no attribute (`storage.records`), as far as it is known. Its own, too.
        """
        self._trace = trace
        self._above = parent
        self.fields = fields
        self._attributes = self.known_attributes = attributes
        self.operation = attributes.get(semconv.GEN_AI_OPERATION_NAME)
        """What kind of span it is, for good."""
        self.is_plain = True
        """Whether it has no events and no links, as most."""

    # A ReadableSpan has these in attributes; here they stand in `fields`, as the record has them.

    @property
    def _name(self) -> str:  # type: ignore[override]
        return self.fields["name"]  # type: ignore[no-any-return]

    @property
    def _kind(self) -> SpanKind:  # type: ignore[override]
        return SpanKind[self.fields.get("kind", SpanKind.INTERNAL.name)]

    @property
    def _start_time(self) -> int:  # type: ignore[override]
        return self.fields["start_time_unix_nano"]  # type: ignore[no-any-return]

    @property
    def _end_time(self) -> int | None:  # type: ignore[override]
        return self.fields.get("end_time_unix_nano")

    @property
    def _status(self) -> Status:  # type: ignore[override]
        return Status(StatusCode[self.fields.get("status_code", _UNSET)], self.fields.get("status_message"))

    @property
    def trace_id(self) -> str:
        """32 lower-case hex digits."""
        return self._trace.trace_id

    @property
    def _context(self) -> SpanContext:  # type: ignore[override]
        # Made when it is asked for: of most nodes nobody does.
        if self._known_context is None:
            self._known_context = self._trace.context_of(self.fields["span_id"])
        return self._known_context

    @property
    def _parent(self) -> SpanContext | None:  # type: ignore[override]
        return self._above.get_span_context() if isinstance(self._above, RunSpan) else self._above

    def begin_child(
        self,
        name: str,
        attributes: dict[str, AttributeValue],
        *,
        kind: SpanKind = _INTERNAL,
        trusted: bool = False,
    ) -> RunSpan:
        """Start a span below this one (see the base class)."""
        trace, now = self._trace, time.time_ns()
        fields = {
            "trace_id": trace.trace_id,
            "span_id": _new_span_id(now),
            "parent_span_id": self.fields["span_id"],
            "name": name,
            "start_time_unix_nano": now,
            "trace_flags": trace.flags,
        }
        if trace.header is not None:
            fields["trace_state"] = trace.header
        if kind is not _INTERNAL:
            fields["kind"] = kind.name
        span = RunSpan(trace, self, attributes if trusted else plain(attributes), fields)
        trace.keeper.on_start(span)
        return span

    def complete(self, attributes: dict[str, AttributeValue], *, trusted: bool = False) -> None:
        """Set the last attributes and the status, and end (see the base class)."""
        self._attributes.update(attributes if trusted else plain(attributes))
        fields = self.fields
        fields.pop("status_message", None)  # of an error that a node's code spoke of
        # Always a status: a span left by CancelledError, KeyboardInterrupt or SystemExit would look like success.
        if attributes.get(semconv.STATUS) == semconv.COMPLETED:
            fields["status_code"] = _OK
        else:
            fields["status_code"] = _ERROR
            if message := str(attributes.get(semconv.ERROR_MESSAGE, "")):
                fields["status_message"] = message
        fields["end_time_unix_nano"] = time.time_ns()
        self._trace.keeper.on_end(self)

    def get_span_context(self) -> SpanContext:
        """Give what identifies the span."""
        return self._context

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Set attributes; a value that OpenTelemetry does not know is made one, or dropped, as the SDK does."""
        if not self._is_over("attributes"):
            self._attributes.update(plain(attributes if _may_be_set(attributes) else _settable(attributes)))

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
            self.fields["name"] = str(name).encode("utf-8", "backslashreplace").decode()

    def is_recording(self) -> bool:
        """Say whether the span has not ended yet."""
        return "end_time_unix_nano" not in self.fields

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status; OK is final, and UNSET changes nothing (OpenTelemetry trace API, "Set Status")."""
        given = status if isinstance(status, Status) else Status(status, description)
        if self._is_over("the status") or given.status_code not in _SETTABLE:
            return
        if self.fields.get("status_code") != _OK:
            self.fields |= {"status_code": given.status_code.name, "status_message": given.description}

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
        self.fields["end_time_unix_nano"] = time.time_ns() if end_time is None else end_time
        self._trace.keeper.on_end(self)

    def _is_over(self, what: str) -> bool:
        if "end_time_unix_nano" not in self.fields:
            return False
        logger.warning("the span %r has ended: %s cannot be set any more", self._name, what)
        return True


def plain(attributes: Mapping[str, AttributeValue]) -> dict[str, Any]:
    """Give attributes as OpenTelemetry knows them: each a str, int, float or bool, or a tuple of one of them."""
    kinds = set(map(type, attributes.values()))
    # What the engine sets is plain, or a tuple of numbers. Here, as far as it goes, nothing looks at each value in Python.
    if kinds <= _PLAIN or (kinds <= _FLAT and _PLAIN.issuperset(map(type, _parts_of_tuples(attributes)))):
        return dict(attributes)
    found: dict[str, Any] = {}
    for key, value in attributes.items():
        if type(value) in _PLAIN or (type(value) is tuple and all(type(part) in _PLAIN for part in value)):
            found[key] = value
        else:
            found.update(BoundedAttributes(attributes={key: value}))
    return found


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
