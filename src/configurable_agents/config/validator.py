"""Checks what the schema cannot: every rule between nodes, fields and edges, each once, all problems together."""

from __future__ import annotations

from typing import Final

from configurable_agents.config.draft import Draft
from configurable_agents.config.environment import check_references
from configurable_agents.config.findings import Findings
from configurable_agents.config.positions import Path
from configurable_agents.config.rules_edges import EdgeCheck, check_edges
from configurable_agents.config.rules_fields import check_fields
from configurable_agents.config.rules_graph import check_graph
from configurable_agents.config.rules_nodes import check_nodes
from configurable_agents.config.schema import ModelNode, Node, RuntimeConfig, ToolNode, WorkflowNode

MAX_FIELDS: Final = 1000
MAX_NODES: Final = 500
MAX_EDGES: Final = 2000
"""Larger graphs are made by programs, and what may run at once is worked out for pairs of nodes."""


def check_rules(draft: Draft, findings: Findings) -> None:
    """Check a workflow, as far as it could be read, and add what is wrong to the findings."""
    if not _check_sizes(draft, findings):
        return
    _check_supported(draft, findings)
    check_references(draft, findings)
    types = check_fields(draft, findings)
    given = check_nodes(draft, types, findings)
    sound = check_edges(EdgeCheck(draft, types, given, findings))
    check_graph(draft, findings, sound=sound and draft.edges_known)


def _check_sizes(draft: Draft, findings: Findings) -> bool:
    sizes: tuple[tuple[Path, int, int, str], ...] = (
        (("state", "fields"), len(draft.fields), MAX_FIELDS, "state fields"),
        (("nodes",), len(draft.nodes), MAX_NODES, "nodes"),
        (("edges",), len(draft.edges), MAX_EDGES, "edges"),
    )
    large = [(path, size, most, what) for path, size, most, what in sizes if size > most]
    for path, size, most, what in large:
        findings.add(path, f"a workflow has at most {most} {what}, this one has {size}", on_key=True)
    return not large


def _check_supported(draft: Draft, findings: Findings) -> None:
    for index, (_, node) in enumerate(draft.nodes):
        for key, what in _unsupported_in(node) if node is not None else ():
            _refuse(findings, ("nodes", index, key), what)
    for path, what in _unsupported_in_config(draft.config):
        _refuse(findings, path, what)


def _refuse(findings: Findings, path: Path, what: str) -> None:
    findings.add(path, f"{what} not supported by this version", "Remove it.", on_key=True)


def _unsupported_in(node: Node) -> list[tuple[str, str]]:
    if isinstance(node, ToolNode):
        return [("tool", "tool nodes are")]
    if isinstance(node, WorkflowNode):
        return [("workflow", "workflow nodes are")]
    if not isinstance(node, ModelNode):
        return []
    keys = {"tools": "tools are", "max_tool_rounds": "tool rounds are", "fallbacks": "fallbacks are"}
    return [(key, what) for key, what in keys.items() if getattr(node, key) is not None]


def _unsupported_in_config(config: RuntimeConfig) -> list[tuple[Path, str]]:
    return [] if config.budget is None else [(("config", "budget"), "budgets are")]
