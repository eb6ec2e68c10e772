"""Keys of the published 1.0 schema that have no effect here: taken out, each with one warning. And what a node is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from configurable_agents.config.findings import Findings, close_to, listed
from configurable_agents.config.positions import Path
from configurable_agents.config.schema import NODE_KINDS, StorageConfig

IGNORED_TOP: Final = frozenset({"optimization", "memory", "webhook", "webhooks", "runtime"})
IGNORED_CONFIG: Final = frozenset({"mlflow", "ab_test", "gates", "memory", "agent", "webhooks", "optimization"})
IGNORED_OBSERVABILITY: Final = frozenset({"mlflow"})
IGNORED_NODE: Final = frozenset({"name", "memory", "optimize", "mlflow", "log_prompts", "log_artifacts", "sandbox"})
KNOWN_STORAGE: Final = frozenset(StorageConfig.model_fields)


def prepare(document: dict[str, Any], findings: Findings, warnings: Findings) -> None:
    """Take out of the document, in place, what the schema below is not asked about."""
    _ignore(document, (), IGNORED_TOP, warnings)
    config = document.get("config")
    if isinstance(config, dict):
        _ignore(config, ("config",), IGNORED_CONFIG, warnings)
        _ignore(config.get("observability"), ("config", "observability"), IGNORED_OBSERVABILITY, warnings)
        storage = config.get("storage")
        if isinstance(storage, dict):
            _ignore(storage, ("config", "storage"), set(storage) - KNOWN_STORAGE, warnings)
    _refuse_python_names(document, findings)
    nodes = document.get("nodes")
    for index, node in enumerate(nodes if isinstance(nodes, list) else ()):
        if isinstance(node, dict):
            _prepare_node(node, index, findings, warnings)


def _ignore(mapping: Any, path: Path, keys: set[str] | frozenset[str], warnings: Findings) -> None:
    if not isinstance(mapping, dict):
        return
    for key in [key for key in mapping if key in keys]:
        del mapping[key]
        remedy = "Remove it."
        if path == ("config", "storage") and (meant := close_to(key, KNOWN_STORAGE)):
            remedy = f"Did you mean {meant!r}?"
        warnings.add((*path, key), "this key has no effect and is ignored", remedy, on_key=True)


def _prepare_node(node: dict[str, Any], index: int, findings: Findings, warnings: Findings) -> None:
    path = ("nodes", index)
    _refuse_code(node, path, findings)
    _ignore(node, path, IGNORED_NODE, warnings)
    kinds = [key for key in NODE_KINDS if key in node]
    if len(kinds) > 1:
        findings.add(
            path, f"a node has exactly one of {listed(list(NODE_KINDS))}; this one has {listed(kinds)}", _SPLIT
        )
        findings.mute(path)
    elif not kinds:
        _find_kind(node, path, findings)


_SPLIT = "Make a node of each, with an edge between them."


def _refuse_code(node: dict[str, Any], path: Path, findings: Findings) -> None:
    if "code" not in node:
        return
    findings.add(
        (*path, "code"),
        "a workflow file holds no code",
        "Write a Python function, give it to the caller, and name it here: 'function: name'.",
        on_key=True,
    )
    del node["code"]
    node.pop("sandbox", None)
    if not any(key in node for key in NODE_KINDS):
        node["function"] = "code"


def _find_kind(node: dict[str, Any], path: Path, findings: Findings) -> None:
    known = {name for model in NODE_KINDS.values() for name in model.model_fields}
    for key in [key for key in node if key not in known]:
        if meant := close_to(key, NODE_KINDS):
            findings.add((*path, key), "unknown key", f"Did you mean {meant!r}?", on_key=True)
            findings.rename((*path, meant), (*path, key))
            node[meant] = node.pop(key)
            return
    remedy = "A node that asks a model has a 'prompt', one that calls a function of yours has 'function'."
    findings.add_unless_muted(path, f"a node has exactly one of {listed(list(NODE_KINDS))}; this one has none", remedy)
    findings.mute(path)


def _refuse_python_names(document: dict[str, Any], findings: Findings) -> None:
    """`from_` and `schema_` are the names that our models have in Python; a file has its own."""
    for path, mapping in _with_aliases(document):
        for key, meant in (("from_", "from"), ("schema_", "schema")):
            if isinstance(mapping, dict) and key in mapping:
                findings.add((*path, key), "unknown key", f"Did you mean {meant!r}?", on_key=True)
                if meant not in mapping:
                    findings.rename((*path, meant), (*path, key))
                mapping.setdefault(meant, mapping.pop(key))


def _with_aliases(document: dict[str, Any]) -> Iterator[tuple[Path, Any]]:
    yield from _entries(document, ("state", "fields"))
    yield from _entries(document, ("edges",))
    for path, _ in list(_entries(document, ("nodes",))):
        schema = (*path, "output_schema")
        yield schema, _at(document, schema)
        yield from _entries(document, (*schema, "fields"))


def _entries(document: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    value = _at(document, path)
    if isinstance(value, list | dict):
        for key, item in enumerate(value) if isinstance(value, list) else value.items():
            yield (*path, key), item


def _at(value: Any, path: Path) -> Any:
    for part in path:
        if isinstance(value, dict):
            value = value.get(str(part))
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part]
        else:
            return None
    return value
