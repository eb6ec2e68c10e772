"""Fixtures for the tests of observability."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest

from configurable_agents.observability.shipping import SHIPPERS


@pytest.fixture(autouse=True)
def _what_waits_is_given_up_after_each_test() -> Iterator[None]:
    """So that an endpoint which is dead in one test is not told of in another, whose port may be the same."""
    yield
    if SHIPPERS._by_destination:
        shipping = logging.getLogger("configurable_agents.observability.shipper")
        shipping.disabled = True
        try:
            SHIPPERS.begin_to_end()
            SHIPPERS.end(time.monotonic())
        finally:
            shipping.disabled = False
        SHIPPERS._by_destination.clear()
