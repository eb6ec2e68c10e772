"""What a run is doing, live on stderr; nothing where stderr is no terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from configurable_agents import semconv
from configurable_agents.cli import figures
from configurable_agents.cli.screen import Signs, signs_of
from configurable_agents.cli.text import one_line
from configurable_agents.semconv import Operation

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_MAX_ROWS: Final = 8
"""Nodes shown at once; a map of a thousand items must not fill the terminal."""
_REFRESHES_PER_SECOND: Final = 8


@dataclass
class _Node:
    label: str
    since: float


@dataclass
class Tally:
    """What has happened in a run so far, counted from its spans."""

    started: float
    running: dict[int, _Node] = field(default_factory=dict)
    finished_nodes: int = 0
    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    unpriced_calls: int = 0

    def start(self, span_id: int, attributes: Mapping[str, Any], now: float) -> None:
        """Count a span that has started."""
        if attributes.get(semconv.GEN_AI_OPERATION_NAME) != Operation.EXECUTE_NODE:
            return
        index = attributes.get(semconv.MAP_INDEX)
        label = one_line(attributes.get(semconv.NODE_ID, ""))
        self.running[span_id] = _Node(label if index is None else f"{label}[{index}]", now)

    def end(self, span_id: int, attributes: Mapping[str, Any]) -> None:
        """Count a span that has ended. Tokens and money are counted on model calls only."""
        if self.running.pop(span_id, None) is not None:
            self.finished_nodes += 1
        if attributes.get(semconv.GEN_AI_OPERATION_NAME) != Operation.CHAT:
            return
        self.model_calls += 1
        self.input_tokens += attributes.get(semconv.GEN_AI_USAGE_INPUT_TOKENS) or 0
        self.output_tokens += attributes.get(semconv.GEN_AI_USAGE_OUTPUT_TOKENS) or 0
        cost = attributes.get(semconv.COST_USD)
        self.cost_usd += cost or 0.0
        self.unpriced_calls += cost is None

    def summary(self, now: float) -> str:
        """Say it in one line."""
        parts = [figures.duration(now - self.started), figures.count(self.finished_nodes, "node") + " done"]
        if self.model_calls:
            parts.append(figures.tokens(self.input_tokens, self.output_tokens) + " tokens")
            parts.append(
                figures.usd(self.cost_usd) + (f" + {self.unpriced_calls} unpriced" if self.unpriced_calls else "")
            )
        return " · ".join(parts)


class LiveProgress:
    """Shows a run while it runs, and is gone when it ends. Watches it as a `RunObserver`."""

    def __init__(self, console: Console, workflow: str) -> None:
        self._workflow = one_line(workflow)
        self._tally = Tally(time.monotonic())
        self._lock = threading.Lock()
        self._signs = signs_of(console)
        self._spinner = Spinner("dots" if self._signs == Signs() else "line", style="cyan")
        self._live = Live(
            get_renderable=self.render,
            console=console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._shown = console.is_terminal and not console.is_dumb_terminal

    def __enter__(self) -> LiveProgress:
        if self._shown:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            self._live.stop()

    def on_start(self, span: ReadableSpan) -> None:
        """Take a span that has started."""
        with self._lock:
            self._tally.start(_id(span), span.attributes or {}, time.monotonic())

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended."""
        with self._lock:
            self._tally.end(_id(span), span.attributes or {})

    def render(self) -> RenderableType:
        """Draw what is happening now."""
        now = time.monotonic()
        with self._lock:
            summary = self._tally.summary(now)
            nodes = list(self._tally.running.values())
        head = Text.assemble((self._workflow, "bold"), "  ", (self._signs.spell(summary), "dim"))
        head.no_wrap, head.overflow = True, "ellipsis"
        rows = Table.grid(padding=(0, 1))
        for node in nodes[:_MAX_ROWS]:
            name = Text(node.label, no_wrap=True, overflow="ellipsis")
            rows.add_row(self._spinner, name, Text(figures.duration(now - node.since), "dim", justify="right"))
        more = len(nodes) - _MAX_ROWS
        return Group(head, rows, *([Text(f"  and {more} more", "dim")] if more > 0 else []))


def _id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    return context.span_id if context else 0
