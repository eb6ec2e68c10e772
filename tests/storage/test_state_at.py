"""The state after any node execution, from records made by hand."""

from __future__ import annotations

import pytest

from _records import node_record, run_id, run_record
from configurable_agents.errors import RunNotFoundError
from configurable_agents.storage.base import StorageBackend


def test_the_state_after_each_execution_of_a_fork_and_its_join(store: StorageBackend) -> None:
    store.write(
        [
            run_record(
                inputs_json='{"topic": "refunds"}',
                defaults_json='{"notes": [], "summary": null}',
                reducers_json='{"notes": "append"}',
                reads_from_json="[4]",
            ),
            node_record(1, outputs={"topic": "refunds, again"}),
            node_record(2, reads_from=[1], branch="1.0", outputs={"notes": ["l"]}),
            node_record(3, reads_from=[1], branch="1.1", outputs={"notes": ["r"]}),
            node_record(4, reads_from=[3, 2], outputs={"summary": "done"}),
        ]
    )
    at = {seq: store.execution_states.get_state_at(run_id(), seq) for seq in (1, 2, 3, 4)}
    assert at[1] == {"topic": "refunds, again", "notes": [], "summary": None}
    assert at[2] == {"topic": "refunds, again", "notes": ["l"], "summary": None}
    assert at[3] == {"topic": "refunds, again", "notes": ["r"], "summary": None}
    assert at[4] == {"topic": "refunds, again", "notes": ["r", "l"], "summary": "done"}
    assert store.execution_states.get_state_at(run_id()) == at[4]


def test_the_items_of_a_map_show_the_state_they_saw_and_their_successor_the_whole_list(store: StorageBackend) -> None:
    store.write(
        [
            run_record(defaults_json='{"found": null}', reads_from_json="[4]"),
            node_record(1, outputs={}),
            node_record(2, reads_from=[1], map_index=0, outputs={"found": "a"}),
            node_record(3, reads_from=[1], map_index=1, outputs={"found": "b"}),
            node_record(4, reads_from=[2, 3], outputs={}),
        ]
    )
    assert store.execution_states.get_state_at(run_id(), 3) == {"found": None}
    assert store.execution_states.get_state_at(run_id(), 4) == {"found": ["a", "b"]}


@pytest.mark.parametrize("status", ["failed", "cancelled", "running", "interrupted"])
def test_an_execution_that_did_not_complete_leaves_the_state_it_saw(store: StorageBackend, status: str) -> None:
    store.write(
        [
            run_record(defaults_json='{"draft": null}', status="failed", reads_from_json="[1]"),
            node_record(1, outputs={"draft": "a"}),
            node_record(2, reads_from=[1], outputs={"draft": "half"}, status=status),
        ]
    )
    assert store.execution_states.get_state_at(run_id(), 2) == {"draft": "a"}
    assert store.execution_states.get_state_at(run_id()) == {"draft": "a"}


def test_a_run_that_is_still_going_shows_its_state_so_far(store: StorageBackend) -> None:
    store.write([run_record(status="running", defaults_json='{"draft": null}'), node_record(1, outputs={"draft": "a"})])
    assert store.execution_states.get_state_at(run_id()) == {"draft": "a"}


def test_a_state_that_never_was_is_an_error(store: StorageBackend) -> None:
    with pytest.raises(RunNotFoundError):
        store.execution_states.get_state_at(run_id())
    store.write([run_record(), node_record(1)])
    with pytest.raises(KeyError, match="no node execution 7"):
        store.execution_states.get_state_at(run_id(), 7)
