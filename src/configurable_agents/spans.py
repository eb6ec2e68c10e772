"""What the engine asks of the spans that it makes, beyond OpenTelemetry's API. What becomes of them is not its concern."""

from __future__ import annotations

from abc import abstractmethod

from opentelemetry.trace import Span, SpanKind
from opentelemetry.util.types import AttributeValue


class RecordedSpan(Span):
    """A span of a run, or of something in it."""

    @abstractmethod
    def begin_child(
        self,
        name: str,
        attributes: dict[str, AttributeValue],
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        trusted: bool = False,
    ) -> RecordedSpan:
        """Start a span below this one, which takes the dict over.

        Args:
            trusted: Every value is a str, int, float or bool, or a tuple of one of them: it is not looked at again.
        """

    @abstractmethod
    def complete(self, attributes: dict[str, AttributeValue], *, trusted: bool = False) -> None:
        """Set the last attributes, and the status that they come to, and end: nothing can be set after.

        Args:
            attributes: What says how it went (`semconv.STATUS`, `semconv.ERROR_MESSAGE`) is among them: without, it failed.
            trusted: As for `begin_child`.
        """
