"""Programs that trace themselves: a tracer provider of the SDK with exporter, resource and sampler of its own."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased

OURS = "configurable_agents"


class SameIds(RandomIdGenerator):
    """Gives the same ids in the same order, so that two hosts can be compared."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def generate_span_id(self) -> int:
        return self._random.getrandbits(64) or 1

    def generate_trace_id(self) -> int:
        return self._random.getrandbits(128) or 1


class Host:
    """A provider as a program would set it up, and what its backend got."""

    def __init__(
        self,
        *,
        sampler: Sampler | None = None,
        ratio: float = 1.0,
        ids: IdGenerator | None = None,
        limits: SpanLimits | None = None,
        processors: Sequence[SpanProcessor] = (),
    ) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(
            sampler=sampler or ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource({"service.name": "shop", "deployment.environment.name": "test"}),
            id_generator=ids or RandomIdGenerator(),
            span_limits=limits,
            shutdown_on_exit=False,
        )
        for processor in (*processors, SimpleSpanProcessor(self.exporter)):
            self.provider.add_span_processor(processor)
        self.tracer = self.provider.get_tracer("host")

    @property
    def spans(self) -> list[ReadableSpan]:
        """What the backend got, in the order of the starts."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: (span.start_time or 0, ids(span)))

    @property
    def ours(self) -> list[ReadableSpan]:
        """What it got of runs."""
        return [span for span in self.spans if scope(span) == OURS]

    @property
    def own(self) -> list[ReadableSpan]:
        """What it got of the program itself."""
        return [span for span in self.spans if scope(span) != OURS]

    def tree(self) -> str:
        """Give what it got as text, children below their parents."""
        return tree(self.spans)


@contextlib.contextmanager
def global_host(host: Host) -> Iterator[Host]:
    """Make a host's provider the global one for a while.

    A program sets it once for good; here one process stands for many programs, so the API's own variable is set.
    """
    before, trace._TRACER_PROVIDER = trace._TRACER_PROVIDER, host.provider
    try:
        yield host
    finally:
        trace._TRACER_PROVIDER = before
        host.provider.shutdown()


def scope(span: ReadableSpan) -> str:
    """Name the instrumentation scope of a span."""
    return span.instrumentation_scope.name if span.instrumentation_scope else ""


def ids(span: ReadableSpan) -> tuple[str, str]:
    """Give trace id and span id as the store has them."""
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def parent_id(span: ReadableSpan) -> str | None:
    """Give the parent's span id as the store has it."""
    return f"{span.parent.span_id:016x}" if span.parent else None


def tree(spans: Sequence[ReadableSpan]) -> str:
    """Give spans as text, children below their parents, in the given order; one whose parent is not there is a root."""
    there = {ids(span)[1] for span in spans}
    below: dict[str | None, list[ReadableSpan]] = {}
    for span in spans:
        parent = parent_id(span)
        below.setdefault(parent if parent in there else None, []).append(span)

    def lines(parent: str | None, depth: int) -> list[str]:
        return [
            line
            for span in below.get(parent, [])
            for line in ["  " * depth + span.name, *lines(ids(span)[1], depth + 1)]
        ]

    return "\n".join(lines(None, 0)) + "\n"
