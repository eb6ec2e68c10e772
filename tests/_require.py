"""Parts that a machine may lack: tests that need one skip with a printed reason, or fail where the part is required."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NoReturn

import pytest

REQUIRE_VARIABLE = "CONFIGURABLE_AGENTS_TEST_REQUIRE"
"""Names of parts, with commas between: `postgres,local_model`. A part named here must be there."""


def required_parts(environ: Mapping[str, str] = os.environ) -> frozenset[str]:
    """Give the names of the parts whose absence is a failure."""
    return frozenset(name.strip() for name in environ.get(REQUIRE_VARIABLE, "").split(",") if name.strip())


def require_part(name: str, reason: str) -> NoReturn:
    """Say that a part is missing: skip the test, or fail it where the part is required.

    Args:
        name: `postgres`, `local_model` or `browser`, as in the markers.
        reason: What is missing and how to get it, in one line.
    """
    if name in required_parts():
        pytest.fail(f"{REQUIRE_VARIABLE} names {name!r}, but {reason}", pytrace=False)
    pytest.skip(f"{name}: {reason}")
