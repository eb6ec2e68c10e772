"""Fixtures for every part's tests."""

from __future__ import annotations

# One definition for the whole session: a second import elsewhere would start a second server.
from _postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]
