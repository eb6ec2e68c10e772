"""A run as people read it: its header, and its tree with latency, tokens, cost and what each node wrote. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from typing import Any, Final

import orjson
from rich.cells import cell_len
from rich.text import Text

from configurable_agents import semconv
from configurable_agents.cli import figures
from configurable_agents.cli.screen import Signs
from configurable_agents.cli.text import clean, fit, one_line
from configurable_agents.cli.values import brief
from configurable_agents.semconv import Operation, Status
from configurable_agents.storage.records import ExecutionStateRecord, SpanRecord, WorkflowRunRecord

STYLES: Final[Mapping[str, str]] = {
    Status.COMPLETED: "green",
    Status.FAILED: "red",
    Status.CANCELLED: "yellow",
    Status.INTERRUPTED: "magenta",
    Status.RUNNING: "cyan",
}
_GUIDE: Final = "dim"
_NAME: Final = "dim"
_MIN_LABEL: Final = 26
"""Columns that the tree itself needs; where the figures leave less, they go on a line of their own."""
_MAX_ERROR_LINES: Final = 20


@dataclass(frozen=True)
class RunView:
    """One run, read from the store or watched as it ran."""

    run: WorkflowRunRecord
    nodes: Sequence[ExecutionStateRecord]
    """In the order of `seq`."""
    spans: Sequence[SpanRecord]
    now_unix_nano: int
    """To tell how long what is running has been running."""

    def children(self, span_id: str) -> list[SpanRecord]:
        """List the spans below a span, in the order of their start."""
        return [span for span in self.spans if span.parent_span_id == span_id]

    def strays(self) -> list[SpanRecord]:
        """List the spans below the run itself, or below what is not here."""
        known = {node.span_id for node in self.nodes} | {span.span_id for span in self.spans}
        return [span for span in self.spans if span.parent_span_id not in known]


@dataclass(frozen=True)
class _Line:
    """A line of the tree with its figures."""

    guide: str
    mark: str
    style: str
    label: str
    time: str
    tokens: str
    cost: str
    details: tuple[Text, ...] = ()


def header(view: RunView, *, signs: Signs, link: str | None = None) -> list[Text]:
    """Say which run it is, what became of it, when, how long, how many tokens, for how much, and where its trace is."""
    run = view.run
    style = STYLES.get(run.status, "")
    rows = [("run", run.run_id), ("started", figures.instant(run.start_time_unix_nano)), _took(view)]
    rows += [("tokens", figures.tokens_of(run)), ("cost", figures.cost_of(run, note=True))]
    rows += [("trace", one_line(link))] if link else []
    version = f" {one_line(run.workflow_version)}" if run.workflow_version else ""
    title = Text.assemble((f"{mark_of(run.status, signs)} ", style), (one_line(run.workflow_name), "bold"), version)
    title.append(f"  {run.status}", style)
    lines = [title, *(Text.assemble((f"{name:<9}", _NAME), signs.spell(value)) for name, value in rows)]
    errors = _error_lines(run, "", style, signs)
    return [
        *lines,
        *(
            Text.assemble((f"{name:<9}", _NAME), text)
            for name, text in zip(chain(["error"], repeat("")), errors, strict=False)
        ),
    ]


def _took(view: RunView) -> tuple[str, str]:
    run = view.run
    parts = [figures.count(run.node_executions or len(view.nodes), "node execution")]
    parts.append(figures.count(run.model_calls, "model call"))
    if run.status == Status.RUNNING:
        return "running", " · ".join([f"for {figures.duration(_age(run, view))}", *parts])
    return "took", " · ".join([figures.duration(run.duration_seconds) or "unknown", *parts])


def named_values(values: Mapping[str, Any], *, width: int, signs: Signs) -> list[Text]:
    """Give values one a line, shortened to the width."""
    names = {name: one_line(name) for name in values}
    pad = min(max((cell_len(name) for name in names.values()), default=0), 24)
    return [_named(names[name], value, pad, width, signs) for name, value in values.items()]


def _named(name: str, value: Any, pad: int, width: int, signs: Signs) -> Text:
    head = name + " " * max(pad - cell_len(name), 0) + "  "
    rest = signs.spell(brief(value))
    return Text.assemble((head, _NAME), fit(rest, max(width - cell_len(head), 8), ellipsis=signs.ellipsis))


def tree(view: RunView, *, width: int, signs: Signs) -> list[Text]:
    """Give the run's tree: each node execution in the order of `seq`, with its model calls below it."""
    return _aligned(list(_lines(view, width, signs)), width, signs)


def _lines(view: RunView, width: int, signs: Signs) -> Iterator[_Line]:
    run = view.run
    yield _Line("", "", "bold", one_line(run.workflow_name), *_figures(run, signs))
    strays = view.strays()
    for node in view.nodes:
        last = node is view.nodes[-1] and not strays
        yield from _node_lines(node, view, last, width, signs)
    for span in strays:
        yield from _span_lines(span, view, "", span is strays[-1], signs)


def _figures(record: WorkflowRunRecord | ExecutionStateRecord, signs: Signs) -> tuple[str, str, str]:
    tokens, cost = signs.spell(figures.tokens_of(record)), signs.spell(figures.cost_of(record))
    return figures.duration(record.duration_seconds), tokens, cost


def _node_lines(node: ExecutionStateRecord, view: RunView, last: bool, width: int, signs: Signs) -> Iterator[_Line]:
    style = STYLES.get(node.status, "")
    guide, below = (signs.last, signs.gap) if last else (signs.branch, signs.line)
    calls = view.children(node.span_id)
    details = _details(node, calls, below + signs.gap, width, signs)
    mark = mark_of(node.status, signs)
    figures_of_node = _figures(node, signs)
    lines = [
        _Line(guide, f"{mark} ", style, _label(node, view, signs), *figures_of_node),
        *(line for call in calls for line in _span_lines(call, view, below, call is calls[-1], signs)),
    ]
    # What a node wrote stands after the calls that it made to know it.
    yield from lines[:-1]
    yield replace(lines[-1], details=(*lines[-1].details, *details))


def _label(node: ExecutionStateRecord, view: RunView, signs: Signs) -> str:
    parts = [f"{node.seq} {one_line(node.node_id)}"]
    if node.map_index is not None:
        parts.append(f"[{node.map_index}]")
    if node.edge:
        parts.append(f" {signs.arrow} {one_line(node.edge)}")
    notes = [figures.count(node.attempts, "attempt")] if node.attempts > 1 else []
    if _attributes(node).get(semconv.LOOP_EXHAUSTED):
        notes.append("loop limit")
    if node.status == Status.RUNNING:
        notes.append(f"running for {figures.duration(_age(node, view))}")
    elif node.status not in {Status.COMPLETED, Status.FAILED}:
        notes.append(node.status)
    return "".join(parts) + (f" ({', '.join(notes)})" if notes else "")


def _span_lines(span: SpanRecord, view: RunView, guide: str, last: bool, signs: Signs) -> Iterator[_Line]:
    label = signs.spell(one_line(span.name))
    if span.model and span.operation == Operation.CHAT and one_line(span.model) not in label:
        label += f" ({one_line(span.model)})"
    if retries := _attributes(span).get(semconv.RETRIES):
        label += f", {figures.count(int(retries) + 1, 'try', 'tries')}"
    details = tuple(_span_error(span, guide + signs.gap + signs.gap, signs))
    style = "red" if span.status_code == "ERROR" else "dim"
    head = guide + (signs.last if last else signs.branch)
    figures_of_span = (figures.duration(span.duration_seconds), signs.spell(_span_tokens(span)), _span_cost(span))
    yield _Line(head, "", style, label, *figures_of_span, details)
    below = view.children(span.span_id)
    for child in below:
        yield from _span_lines(child, view, guide + (signs.gap if last else signs.line), child is below[-1], signs)


def _span_cost(span: SpanRecord) -> str:
    if span.cost_usd is not None:
        return figures.usd(span.cost_usd)
    # A call that failed before it used anything has no price to be unknown.
    return "unknown" if span.operation == Operation.CHAT and span.input_tokens is not None else ""


def _span_tokens(span: SpanRecord) -> str:
    if span.input_tokens is None and span.output_tokens is None:
        return ""
    cached, reasoning = span.cache_read_tokens or 0, span.reasoning_tokens or 0
    return figures.tokens(span.input_tokens, span.output_tokens, cached=cached, reasoning=reasoning)


def _span_error(span: SpanRecord, guide: str, signs: Signs) -> list[Text]:
    if span.status_code != "ERROR":
        return []
    if (span.error_type or "").endswith("CancelledError"):
        return []
    text = one_line(_error_text(span.error_type, span.status_message))
    return [Text.assemble((guide, _GUIDE), (signs.spell(text), "red"))] if text else []


def _details(
    node: ExecutionStateRecord, calls: Sequence[SpanRecord], guide: str, width: int, signs: Signs
) -> tuple[Text, ...]:
    lines = [_wrote(name, value, guide, width, signs) for name, value in node.outputs.items()]
    if node.outputs_json is None and node.status == Status.COMPLETED:
        lines.append(Text.assemble((guide, _GUIDE), ("what it wrote is not kept", "dim italic")))
    if node.model and not calls:
        lines.insert(0, Text.assemble((guide, _GUIDE), (f"model: {one_line(node.model)}", _NAME)))
    return (*lines, *_error_lines(node, guide, STYLES.get(node.status, ""), signs))


def _wrote(name: str, value: Any, guide: str, width: int, signs: Signs) -> Text:
    head = f"{one_line(name)}: "
    room = max(width - cell_len(guide) - cell_len(head), 8)
    return Text.assemble((guide, _GUIDE), (head, _NAME), fit(signs.spell(brief(value)), room, ellipsis=signs.ellipsis))


def _error_lines(record: WorkflowRunRecord | ExecutionStateRecord, guide: str, style: str, signs: Signs) -> list[Text]:
    if record.status in {Status.COMPLETED, Status.CANCELLED} or not (record.error_type or record.error_message):
        return []  # of a cancelled one the status says all
    message = _error_text(record.error_type, record.error_message)
    lines = message.strip().split("\n")[:_MAX_ERROR_LINES]
    return [Text.assemble((guide, _GUIDE), (signs.spell(line), style)) for line in lines]


def _age(record: WorkflowRunRecord | ExecutionStateRecord, view: RunView) -> float:
    return max(view.now_unix_nano - record.start_time_unix_nano, 0) / 1e9


def _error_text(kind: str | None, message: str | None) -> str:
    kind, message = clean(kind or ""), clean(message or "")
    if not message or kind.endswith(message):  # an exception without a message is described by its class
        return kind or message
    return f"{kind}: {message}" if kind else message


def mark_of(status: str, signs: Signs) -> str:
    """Give the sign of a status."""
    return str(getattr(signs, status, signs.interrupted))


def _attributes(record: ExecutionStateRecord | SpanRecord) -> dict[str, Any]:
    value: Any = orjson.loads(record.attributes_json)
    return value if isinstance(value, dict) else {}


def _aligned(lines: Sequence[_Line], width: int, signs: Signs) -> list[Text]:
    """Set the figures in columns beside the tree, or below each line where they leave it no room."""
    widths = [max(cell_len(getattr(line, name)) for line in lines) for name in ("time", "tokens", "cost")]
    room = width - sum(widths) - 2 * len(widths)
    if room < _MIN_LABEL:
        return [text for line in lines for text in _stacked(line, width, signs)]
    label = min(max(cell_len(line.guide + line.mark + line.label) for line in lines), room)
    return [text for line in lines for text in _in_columns(line, label, widths)]


def _in_columns(line: _Line, label: int, widths: Sequence[int]) -> Iterator[Text]:
    text = _head(line, label)
    text.append(" " * (label - text.cell_len))
    for value, column in zip((line.time, line.tokens, line.cost), widths, strict=True):
        text.append("  " + " " * (column - cell_len(value)))
        text.append(value, "dim" if line.style == "dim" else "")
    text.rstrip()
    yield text
    yield from line.details


def _stacked(line: _Line, width: int, signs: Signs) -> Iterator[Text]:
    yield _head(line, width)
    below = line.guide.replace(signs.branch, signs.line).replace(signs.last, signs.gap) + "  "
    values = f" {signs.dot} ".join(value for value in (line.time, line.tokens, line.cost) if value)
    if values:
        room = width - cell_len(below)
        yield Text.assemble((below, _GUIDE), (fit(signs.spell(values), room, ellipsis=signs.ellipsis), "dim"))
    yield from line.details


def _head(line: _Line, width: int) -> Text:
    room = max(width - cell_len(line.guide + line.mark), 1)
    style = line.style if line.style in {"bold", "dim"} or not line.mark else ""
    return Text.assemble((line.guide, _GUIDE), (line.mark, line.style), (fit(line.label, room), style))
