"""Who takes part: ours, the peers in their usual form, and the limits that nobody can be below.

Each module has `take_part(variant, folder) -> Ready`. A peer that is not installed does not take part, and that is said.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

One = Callable[[], Awaitable[object]]
"""One asynchronous run of a chain of nodes that sleep."""


@dataclass(frozen=True)
class Ready:
    """A contender that has opened and compiled what it needs."""

    works: Mapping[str, Callable[[], object]] = field(default_factory=dict)
    """One run of each work that it can do, blocking; each checks its result."""
    asleep: Callable[[], AbstractAsyncContextManager[One]] | None = None
    """Opens the asynchronous form, inside of a running event loop."""
    settle: Callable[[], object] = lambda: None
    """Waits until what was left to threads is done; its CPU counts, its time does not."""


@dataclass(frozen=True)
class Contender:
    """Who takes part."""

    name: str
    label: str
    module: str
    variant: str = ""
    packages: tuple[str, ...] = ()
    """Distributions whose versions belong to the result."""

    def absent(self) -> str | None:
        """Say why it cannot take part here; None if it can."""
        for package in self.packages:
            try:
                metadata.version(package)
            except metadata.PackageNotFoundError:
                return f"{package} is not installed (pip install -e '.[bench]')"
        return None

    def versions(self) -> dict[str, str]:
        """Give the versions of its packages."""
        return {package: metadata.version(package) for package in self.packages}

    def take_part(self, folder: Path) -> Ready:
        """Open it; what it keeps it keeps in the folder."""
        ready: Any = importlib.import_module(f"benchmarks.contenders.{self.module}").take_part(self.variant, folder)
        assert isinstance(ready, Ready)
        return ready


SPAN: Final = "span"
SQLITE3: Final = "sqlite3"
OURS: Final = "ours"
OURS_POOL: Final = "ours-pool"
OURS_ASYNC: Final = "ours-async"
OURS_BARE: Final = "ours-bare"
LANGGRAPH: Final = "langgraph"
LANGGRAPH_SQLITE: Final = "langgraph-sqlite"
LANGGRAPH_TRACED: Final = "langgraph-sqlite-openinference"
BURR: Final = "burr"
BURR_SQLITE: Final = "burr-sqlite"
DBOS: Final = "dbos"
PYDANTIC_GRAPH: Final = "pydantic-graph"
HAYSTACK: Final = "haystack"

_LANGGRAPH: Final = ("langgraph", "langgraph-checkpoint-sqlite")
_TRACED: Final = (*_LANGGRAPH, "openinference-instrumentation-langchain")

CONTENDERS: Final[Mapping[str, Contender]] = {
    contender.name: contender
    for contender in (
        Contender(SPAN, "limit: a bare span of the OpenTelemetry SDK", "limits", "span", ("opentelemetry-sdk",)),
        Contender(SQLITE3, "limit: the same rows by bare sqlite3", "limits", "sqlite3"),
        Contender(OURS, "configurable-agents, everything on", "ours", "on", ("configurable-agents",)),
        Contender(OURS_ASYNC, "… with async functions", "ours", "async"),
        Contender(OURS_POOL, "… with plain functions in the pool", "ours", "pool"),
        Contender(OURS_BARE, "… nothing kept", "ours", "off"),
        Contender(LANGGRAPH_TRACED, "LangGraph + SqliteSaver + openinference", "langgraph_peer", "traced", _TRACED),
        Contender(LANGGRAPH_SQLITE, "LangGraph + SqliteSaver", "langgraph_peer", "sqlite", _LANGGRAPH),
        Contender(LANGGRAPH, "LangGraph, nothing kept", "langgraph_peer", "off", _LANGGRAPH),
        Contender(BURR_SQLITE, "Burr + SQLite", "burr_peer", "sqlite", ("apache-burr", "aiosqlite")),
        Contender(BURR, "Burr, nothing kept", "burr_peer", "off", ("apache-burr",)),
        Contender(DBOS, "DBOS on SQLite", "dbos_peer", packages=("dbos",)),
        Contender(PYDANTIC_GRAPH, "pydantic-graph, nothing kept", "pydantic_graph_peer", packages=("pydantic-graph",)),
        Contender(HAYSTACK, "Haystack, nothing kept", "haystack_peer", packages=("haystack-ai",)),
    )
}


def present(names: tuple[str, ...] = ()) -> tuple[list[Contender], dict[str, str]]:
    """Give who takes part of those named (all without names), and why the others do not."""
    wanted = [CONTENDERS[name] for name in names or CONTENDERS]
    absent = {contender.name: reason for contender in wanted if (reason := contender.absent())}
    return [contender for contender in wanted if contender.name not in absent], absent
