"""The two ways in."""

from __future__ import annotations

import pytest

from _runs import run_async
from configurable_agents import run_workflow

both_ways = pytest.mark.parametrize("run", [run_workflow, run_async], ids=["sync", "async"])
"""Run the test with the blocking and with the async call."""
