"""How what node executions wrote folds into the state, told with deltas made by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configurable_agents.deltas import REDUCERS, Delta, fold_state, lineage

FORK = [
    Delta(1, (), {"topic": "refunds"}),
    Delta(2, (1,), {"left": "L", "notes": ["l"]}),
    Delta(3, (1,), {"right": "R", "notes": ["r"]}),
    Delta(4, (2, 3), {"summary": "L+R"}),
]


def fold(deltas: list[Delta], *heads: int, reducers: dict[str, str] | None = None, **initial: Any) -> dict[str, Any]:
    return fold_state(initial, reducers or {}, deltas, heads)


def test_without_executions_the_state_is_what_the_run_began_with() -> None:
    assert fold([], topic=None) == {"topic": None}
    assert fold(FORK, topic="as given") == {"topic": "as given"}


def test_a_later_write_replaces_an_earlier_one() -> None:
    chain = [Delta(1, (), {"draft": "a"}), Delta(2, (1,), {"draft": "b"})]
    assert fold(chain, 2, draft=None) == {"draft": "b"}
    assert fold(chain, 1, draft=None) == {"draft": "a"}


def test_a_branch_sees_its_fork_and_its_own_writes_only() -> None:
    assert fold(FORK, 2, reducers={"notes": "append"}) == {"topic": "refunds", "left": "L", "notes": ["l"]}
    assert fold(FORK, 3, reducers={"notes": "append"}) == {"topic": "refunds", "right": "R", "notes": ["r"]}


def test_a_join_merges_branches_in_the_order_of_its_edges_not_of_time() -> None:
    assert fold(FORK, 4, reducers={"notes": "append"})["notes"] == ["l", "r"]
    turned = [*FORK[:3], Delta(4, (3, 2), {"summary": "R+L"})]
    assert fold(turned, 4, reducers={"notes": "append"})["notes"] == ["r", "l"]


def test_what_branches_share_counts_once() -> None:
    shared = [Delta(1, (), {"count": 1}), Delta(2, (1,), {"count": 10}), Delta(3, (1,), {"count": 100})]
    assert fold(shared, 2, 3, reducers={"count": "sum"}, count=0) == {"count": 111}


def test_the_items_of_a_map_are_collected_in_the_order_that_their_join_names() -> None:
    items = [Delta(4 - index, (1,), {"found": index * 10}, index) for index in range(3)]
    done = [Delta(1, (), {"found": ["old"]}), *items, Delta(5, (4, 3, 2), {})]
    assert fold(done, 5)["found"] == [0, 10, 20]


def test_a_map_that_runs_again_begins_a_new_list() -> None:
    first = [Delta(1, (), {"found": "a"}, 0), Delta(2, (), {"found": "b"}, 1)]
    second = [Delta(3, (1, 2), {"found": "c"}, 0)]
    assert fold([*first, *second], 3) == {"found": ["c"]}


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("append", None, [1], [1]),
        ("append", [1], [2, 3], [1, 2, 3]),
        ("append", [1], 2, [1, 2]),
        ("merge", None, {"a": 1}, {"a": 1}),
        ("merge", {"a": 1, "b": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ("merge", {"a": 1}, None, {"a": 1}),
        ("sum", None, 2, 2),
        ("sum", 2, None, 2),
        ("sum", 2, 3, 5),
        ("min", 2, 3, 2),
        ("min", None, 3, 3),
        ("max", 2, 3, 3),
        ("max", 2, None, 2),
    ],
)
def test_a_reducer_combines_a_write_with_what_is_there(name: str, old: Any, new: Any, expected: Any) -> None:
    assert REDUCERS[name](old, new) == expected


def test_folding_changes_nothing_that_it_was_given() -> None:
    initial = {"notes": ["start"], "facts": {"a": 1}}
    deltas = [Delta(1, (), {"notes": ["more"], "facts": {"b": 2}})]
    fold_state(initial, {"notes": "append", "facts": "merge"}, deltas, (1,))
    assert initial == {"notes": ["start"], "facts": {"a": 1}}
    assert deltas[0].writes == {"notes": ["more"], "facts": {"b": 2}}


def test_an_execution_that_is_not_known_counts_as_having_written_nothing() -> None:
    assert fold([Delta(2, (1,), {"a": 1})], 2, 9) == {"a": 1}


def test_a_run_far_longer_than_the_recursion_limit_folds() -> None:
    chain = [Delta(seq, (seq - 1,), {"count": 1}) for seq in range(1, 20_001)]
    assert fold(chain, 20_000, reducers={"count": "sum"}) == {"count": 20_000}


@st.composite
def graphs(draw: st.DrawFn) -> list[Delta]:
    """Executions that each read from some earlier ones."""
    count = draw(st.integers(1, 12))
    return [
        Delta(
            seq,
            tuple(draw(st.lists(st.integers(1, seq - 1), unique=True, max_size=3)) if seq > 1 else ()),
            {"n": [seq]},
        )
        for seq in range(1, count + 1)
    ]


@given(graphs(), st.randoms())
def test_everything_an_execution_descends_from_counts_once_and_before_it(deltas: list[Delta], chance: Any) -> None:
    shuffled = list(deltas)
    chance.shuffle(shuffled)
    by_seq = {delta.seq: delta for delta in shuffled}
    order = [delta.seq for delta in lineage(by_seq, (deltas[-1].seq,))]
    assert len(order) == len(set(order))
    assert set(order) == _ancestors(by_seq, deltas[-1].seq)
    for position, seq in enumerate(order):
        assert set(by_seq[seq].reads_from) <= set(order[:position])
    assert fold_state({}, {"n": "append"}, shuffled, (deltas[-1].seq,))["n"] == order


def _ancestors(deltas: dict[int, Delta], seq: int) -> set[int]:
    return {seq}.union(*(_ancestors(deltas, earlier) for earlier in deltas[seq].reads_from))
