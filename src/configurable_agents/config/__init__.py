"""What the user wrote: the language of workflow files, loaded and checked.

Modules: `schema` (models), `loader` (files), `types`, `templates`, `conditions` (syntax), `outputs` (what nodes give),
`validator` (rules between parts), `environment` and `reach` (what a file takes from outside), `editor_schema`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configurable_agents.config.editor_schema import json_schema

__all__ = ["json_schema"]


def __getattr__(name: str) -> Any:
    if name == "json_schema":
        from configurable_agents.config.editor_schema import json_schema  # light until used

        return json_schema
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
