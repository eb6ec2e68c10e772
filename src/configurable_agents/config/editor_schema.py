"""JSON Schema of the workflow language, for editors: completion, hover texts and squiggles while a file is written."""

from __future__ import annotations

from typing import Any

from configurable_agents.config.schema import WorkflowConfig


def json_schema() -> dict[str, Any]:
    """Give the JSON Schema (draft 2020-12) of a workflow file: keys as files write them, docstrings as descriptions.

    It knows keys and simple values; names, types, templates and the graph are checked when a file is loaded.
    """
    made = WorkflowConfig.model_json_schema(by_alias=True)
    # YAML reads 1.0 without quotation marks as a number, which is accepted too.
    made["properties"]["schema_version"] = {"enum": ["1.0", 1.0], "title": "Schema Version"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Workflow of configurable-agents, schema 1.0",
        **{key: value for key, value in made.items() if key != "title"},
    }
