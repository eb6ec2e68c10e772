"""Says what of a span may leave this machine, and makes the copy that leaves: filtered and capped. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass, replace
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, Status
from opentelemetry.util.types import AttributeValue

from configurable_agents import errors, semconv
from configurable_agents.observability.caps import bytes_of, bytes_of_all, capped, cut, cut_messages
from configurable_agents.semconv import Operation

CAPTURE_VARIABLE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""As OpenTelemetry's GenAI instrumentations read it: content leaves only where this asks for it."""
COST_VARIABLE: Final = "CONFIGURABLE_AGENTS_COST_ATTRIBUTES"

MAX_REQUEST_BYTES: Final = 1_000_000
"""Of one OTLP request, and so of one span: what is larger, proxies and collectors refuse."""
MAX_ITEMS: Final = 128
"""Attributes, events and links of one span, as OpenTelemetry's own limits have it; the store keeps all of them."""

_OUR_NAMES: Final = ("configurable_agents.", "gen_ai.", "openinference.", "error.")
_CAPTURE_VALUES: Final = frozenset({"true", "1", "span_only", "span_and_event"})
_OURS_ALONE: Final = semconv.CONTENT_PREFIX
_OWN_TEXTS: Final = frozenset(
    f"{kind.__module__}.{kind.__qualname__}"
    for kind in (errors.ExecutionLimitError, errors.MapError, errors.NodeTimeoutError, errors.RunTimeoutError)
)
"""Types of errors whose texts are our own and hold no value of the run's: node ids and limits."""

_CAPTURED: Final[Mapping[object, Mapping[str, tuple[str, ...]]]] = {
    Operation.CHAT: {
        semconv.CONTENT_INPUT_MESSAGES: (semconv.GEN_AI_INPUT_MESSAGES, semconv.INPUT_VALUE),
        semconv.CONTENT_OUTPUT_MESSAGES: (semconv.GEN_AI_OUTPUT_MESSAGES, semconv.OUTPUT_VALUE),
    },
    Operation.EXECUTE_NODE: {
        semconv.CONTENT_INPUTS: (semconv.INPUT_VALUE,),
        semconv.CONTENT_OUTPUTS: (semconv.OUTPUT_VALUE,),
    },
    Operation.INVOKE_WORKFLOW: {semconv.CONTENT_INPUTS: (semconv.INPUT_VALUE,)},
}
"""By operation: under which names content leaves, where it may. The file's text and the defaults never do.

A model call's goes under two, each for readers that do not look at the other: what Phoenix lists as a span's input and output is
`input.value` and `output.value` alone. Since 15.10 it makes messages of `gen_ai.*`, but no `input.value`, and where `output.value`
is missing it puts the answer's id and model there.
"""
_MESSAGES: Final = frozenset({semconv.CONTENT_INPUT_MESSAGES, semconv.CONTENT_OUTPUT_MESSAGES})
_MIME_TYPES: Final = {semconv.INPUT_VALUE: semconv.INPUT_MIME_TYPE, semconv.OUTPUT_VALUE: semconv.OUTPUT_MIME_TYPE}


@dataclass(frozen=True, slots=True)
class ShipRules:
    """What may leave."""

    capture_content: bool = False
    """Whether inputs, outputs, messages and the texts of errors leave."""
    cost_attributes: bool = False
    """Whether cost also stands under `gen_ai.usage.cost` and `llm.cost.total`."""
    max_value_bytes: int = 8192
    """A longer text is cut."""


def ship_rules(environ: Mapping[str, str]) -> ShipRules:
    """Read the rules from the environment."""
    return ShipRules(
        capture_content=environ.get(CAPTURE_VARIABLE, "").strip().lower() in _CAPTURE_VALUES,
        cost_attributes=environ.get(COST_VARIABLE, "").strip().lower() in {"true", "1"},
    )


class ShippedSpan(ReadableSpan):
    """A finished span as it leaves: a copy that holds nothing which may not, and that nobody changes any more."""

    kept: bool
    """Whether a store of ours holds the whole span, so that this copy must not be kept in its place."""
    size: int
    """About how many bytes it takes in a request; rather more than fewer."""
    _dropped: tuple[int, int, int]

    @property
    def dropped_attributes(self) -> int:
        """How many attributes were left out because there were too many; filtered ones do not count."""
        return self._dropped[0]

    @property
    def dropped_events(self) -> int:
        """How many events were left out because there were too many."""
        return self._dropped[1]

    @property
    def dropped_links(self) -> int:
        """How many links were left out because there were too many."""
        return self._dropped[2]


def shippable(span: ReadableSpan, rules: ShipRules, resource: Resource, *, kept: bool) -> ShippedSpan:
    """Make the copy of a finished span that may leave, small enough for one request."""
    shipped = _copy(span, rules, resource, kept=kept)
    while shipped.size > MAX_REQUEST_BYTES and rules.max_value_bytes > 32:
        rules = replace(rules, max_value_bytes=rules.max_value_bytes // 8)
        shipped = _copy(span, rules, resource, kept=kept)
    return shipped if shipped.size <= MAX_REQUEST_BYTES else _copy(span, rules, resource, kept=kept, ours_only=True)


def _copy(
    span: ReadableSpan, rules: ShipRules, resource: Resource, *, kept: bool, ours_only: bool = False
) -> ShippedSpan:
    attributes = shippable_attributes(span.attributes, rules)
    events, links = span.events, span.links
    if ours_only:  # somebody has put a megabyte of names on it
        attributes = {key: value for key, value in attributes.items() if key.startswith(_OUR_NAMES)}
        events, links = (), ()
    dropped = _NONE_DROPPED
    if len(attributes) > MAX_ITEMS or len(events) > MAX_ITEMS or len(links) > MAX_ITEMS:
        dropped = _too_many(attributes), _too_many(events), _too_many(links)
        attributes = dict(list(attributes.items())[:MAX_ITEMS])
        events, links = events[:MAX_ITEMS], links[:MAX_ITEMS]
    shipped = ShippedSpan(
        name=cut(span.name, rules.max_value_bytes),
        context=span.get_span_context(),
        parent=span.parent,
        resource=resource,
        attributes=attributes,
        events=tuple(_event(event, rules) for event in events) if events else (),
        links=tuple(_link(link, rules) for link in links) if links else (),
        kind=span.kind,
        status=_status(span.status, attributes, rules),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )
    shipped.kept, shipped._dropped = kept, dropped  # noqa: SLF001 - the class is this module's own
    shipped.size = approximate_bytes(shipped)
    return shipped


_NONE_DROPPED: Final = (0, 0, 0)


def _too_many(items: Sized) -> int:
    return max(0, len(items) - MAX_ITEMS)


def shippable_attributes(attributes: Mapping[str, Any] | None, rules: ShipRules) -> dict[str, AttributeValue]:
    """Give the attributes that may leave, of a span that starts or has ended."""
    if not attributes:
        return {}
    # The mapping's own `copy` takes an eighth of what `dict` takes, which asks for each value through three layers.
    whole: Mapping[str, Any] = attributes.copy() if hasattr(attributes, "copy") else dict(attributes)
    limit = rules.max_value_bytes
    shipped: dict[str, Any] = {key: value for key, value in whole.items() if not key.startswith(_OURS_ALONE)}
    shipped.pop(semconv.RESOURCE, None)
    for key, value in shipped.items():
        # Most are short and plain: each call saved here is saved for every attribute of every span.
        if type(value) is str:
            if len(value) > limit or not value.isascii():
                shipped[key] = cut(value, limit)
        elif type(value) is not float:
            shipped[key] = capped(value, limit)
    if semconv.ERROR_MESSAGE in shipped:
        shipped[semconv.ERROR_MESSAGE] = _error_text(
            shipped[semconv.ERROR_MESSAGE], shipped.get(semconv.ERROR_TYPE), rules
        )
    if rules.capture_content:
        _add_content(shipped, whole, limit)
    if rules.cost_attributes and shipped.get(semconv.GEN_AI_OPERATION_NAME) == Operation.CHAT:
        cost = shipped.get(semconv.COST_USD)
        if cost is not None:  # on model calls only, so that no backend adds roll-ups to what they sum up
            shipped[semconv.GEN_AI_USAGE_COST] = shipped[semconv.LLM_COST_TOTAL] = cost
    return shipped


def _add_content(shipped: dict[str, Any], whole: Mapping[str, Any], limit: int) -> None:
    names = _CAPTURED.get(whole.get(semconv.GEN_AI_OPERATION_NAME), {})
    for kept_as, shipped_as in names.items():
        if kept_as in whole:
            cut_down = cut_messages if kept_as in _MESSAGES else capped
            text = cut_down(whole[kept_as], limit)
            for name in shipped_as:
                shipped[name] = text
                if name in _MIME_TYPES:
                    shipped[_MIME_TYPES[name]] = semconv.MIME_JSON


def _error_text(text: Any, error_type: Any, rules: ShipRules) -> Any:
    """Give an error's text, or where it could repeat a value of the run's, its type."""
    return text if rules.capture_content or error_type in _OWN_TEXTS else (error_type or "error")


def _status(status: Status, attributes: Mapping[str, Any], rules: ShipRules) -> Status:
    if not status.description:
        return status
    text = _error_text(status.description, attributes.get(semconv.ERROR_TYPE), rules)
    return Status(status.status_code, cut(str(text), rules.max_value_bytes))


def _event(event: Event, rules: ShipRules) -> Event:
    limit = rules.max_value_bytes
    whole = dict(event.attributes or {})
    attributes = {key: capped(value, limit) for key, value in list(whole.items())[:MAX_ITEMS]}
    attributes.update(_exception(whole, rules))
    return Event(cut(event.name, limit), attributes, event.timestamp)


def _exception(attributes: Mapping[str, Any], rules: ShipRules) -> dict[str, Any]:
    """Give what may leave of an exception event in place of what it holds."""
    if rules.capture_content or not (
        semconv.EXCEPTION_MESSAGE in attributes or semconv.EXCEPTION_STACKTRACE in attributes
    ):
        return {}
    kind, message = str(attributes.get(semconv.EXCEPTION_TYPE, "error")), attributes.get(semconv.EXCEPTION_MESSAGE, "")
    text = _error_text(message, kind, rules)
    frames, found, rest = str(attributes.get(semconv.EXCEPTION_STACKTRACE, "")).rpartition(f"{kind}: {message}")
    # Ours ends with type and message. Any other may have messages anywhere: those of the exceptions that caused it.
    trace = f"{frames}{kind}: {text}" if found and not rest and message else kind
    return {
        semconv.EXCEPTION_MESSAGE: capped(text, rules.max_value_bytes),
        semconv.EXCEPTION_STACKTRACE: capped(trace, rules.max_value_bytes),
    }


def _link(link: Link, rules: ShipRules) -> Link:
    whole = link.attributes or {}
    attributes = {key: capped(value, rules.max_value_bytes) for key, value in list(whole.items())[:MAX_ITEMS]}
    return Link(link.context, attributes)


def approximate_bytes(span: ReadableSpan) -> int:
    """Estimate what a span takes in an OTLP request, from above: its resource and scope, which it shares, left out."""
    size = 160 + bytes_of(span.name) + bytes_of_all(span.attributes)
    if span.status.description:
        size += bytes_of(span.status.description)
    for event in span.events:
        size += 32 + len(event.name) * 4 + bytes_of_all(event.attributes)
    for link in span.links:
        size += 64 + bytes_of_all(link.attributes)
    context = span.get_span_context()
    if context is not None and context.trace_state:
        size += len(context.trace_state.to_header())
    return size
