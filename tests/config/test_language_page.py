"""The page that tells the language is true: every workflow on it loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from configurable_agents.config.conditions import FUNCTIONS
from configurable_agents.config.loader import parse_config
from configurable_agents.config.reader import MAX_DEPTH, MAX_VALUES
from configurable_agents.config.validator import MAX_EDGES, MAX_FIELDS, MAX_NODES

PAGE = (Path(__file__).parents[2] / "docs" / "workflow-language.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", SNIPPETS, ids=lambda text: re.findall(r"name: (\w+)", text)[0])
def test_every_workflow_on_the_page_loads(text: str) -> None:
    """A reader copies them."""
    assert parse_config(text).warnings == ()


def test_the_page_names_the_limits_and_functions_that_hold() -> None:
    """Numbers in prose grow old unseen."""
    words = " ".join(PAGE.split())
    for count, what in [
        (MAX_VALUES, "values"),
        (MAX_DEPTH, "levels"),
        (MAX_NODES, "nodes"),
        (MAX_FIELDS, "state fields"),
        (MAX_EDGES, "edges"),
    ]:
        assert f"{count:,} {what}" in words
    assert " ".join(FUNCTIONS) in words
