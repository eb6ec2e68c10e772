"""Small workflows for tests, and ways to look at what a run left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan

from configurable_agents import semconv
from configurable_agents.config.loader import parse_config
from configurable_agents.runtime.workflow import Workflow, compile_workflow


def workflow(text: str) -> Workflow:
    """Read a workflow from YAML text."""
    return compile_workflow(parse_config(text))


def workflow_file(folder: Path, text: str, name: str = "workflow.yaml") -> Path:
    """Write a workflow file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def make(
    nodes: Sequence[Mapping[str, Any]],
    edges: Sequence[Mapping[str, Any]],
    fields: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    name: str = "made",
) -> Workflow:
    """Put a workflow together from its parts, through the loader, as a file would be."""
    document = {
        "schema_version": "1.0",
        "flow": {"name": name},
        "state": {"fields": dict(fields)},
        "nodes": [dict(node) for node in nodes],
        "edges": [dict(edge) for edge in edges],
        "config": dict(config or {}),
    }
    # JSON is YAML too; a YAML dump would write what stands twice as an alias, which files may not have.
    return workflow(json.dumps(document, indent=1))


class Spans:
    """An observer that keeps every finished span."""

    def __init__(self) -> None:
        self.started: list[ReadableSpan] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: ReadableSpan) -> None:
        self.started.append(span)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)

    def nodes(self) -> list[dict[str, Any]]:
        """The attributes of the node spans, by seq."""
        found = [dict(s.attributes or {}) for s in self.ended if semconv.SEQ in (s.attributes or {})]
        return sorted(found, key=lambda attributes: int(attributes[semconv.SEQ]))

    def tree(self) -> str:
        """The spans as text, children below their parents, in the order of their start."""
        below: dict[int | None, list[ReadableSpan]] = {}
        for span in self.started:
            below.setdefault(span.parent.span_id if span.parent else None, []).append(span)

        def lines(parent: int | None, depth: int) -> list[str]:
            return [
                line
                for span in below.get(parent, [])
                for line in ["  " * depth + span.name, *lines(_id(span), depth + 1)]
            ]

        return "\n".join(lines(None, 0)) + "\n"


def _id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id
