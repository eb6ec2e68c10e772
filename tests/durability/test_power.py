"""`durability: power`: each record is synced before the next node starts."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from _faults import chain_with
from _files import is_below
from configurable_agents import run_workflow


@pytest.mark.skipif(not hasattr(os, "fdatasync"), reason="macOS has another call")
def test_durability_power_syncs_before_the_next_node_starts_and_the_usual_one_never_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    seen: list[int] = []
    real = os.fdatasync

    def sync(fd: int) -> None:
        # SQLite's log is synced, too, now and then, by whoever tidies a store up.
        if is_below(fd, *tmp_path.glob("*.journal")):
            synced.append(fd)
        real(fd)

    def act() -> int:
        seen.append(len(synced))
        return 1

    monkeypatch.setattr(os, "fdatasync", sync)  # the seam to the operating system
    run_workflow(chain_with({}), functions={"act": act}, store=tmp_path / "usual.db")
    assert synced == []
    seen.clear()
    result = run_workflow(chain_with({"durability": "power"}), functions={"act": act}, store=tmp_path / "power.db")
    assert result.status == "completed"
    # The start of the run and of the first node; then the end of each node with the start of the next, in one write.
    assert seen[0] >= 2
    assert all(later - earlier >= 1 for earlier, later in pairwise(seen))
