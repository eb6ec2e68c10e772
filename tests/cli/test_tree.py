"""A run's tree: what happened, in any width, with any text in it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from _odd_records import node_records
from _records import START_UNIX_NANO, node_record, run_record, span_record
from configurable_agents.cli.results import show_view
from configurable_agents.cli.screen import ASCII, Screen, Signs
from configurable_agents.cli.tree import RunView, tree

SECOND = 1_000_000_000


def used(calls: int, into: int, out: int, cost: float | None = 0.0, **more: Any) -> dict[str, Any]:
    """Give the totals of a node execution."""
    return {"model_calls": calls, "input_tokens": into, "output_tokens": out, "cost_usd": cost, **more}


def call(seq: int, **values: Any) -> Any:
    """Make a model call of a node execution."""
    return span_record(seq, parent_span_id=f"{1:08x}{seq:08x}", duration_seconds=0.4, **values)


def view(*nodes: Any, spans: Any = (), **values: Any) -> RunView:
    """Put a run together, seen two minutes after its start."""
    run = run_record(**{"node_executions": len(nodes), **values})
    return RunView(run, nodes, spans, START_UNIX_NANO + 120 * SECOND)


def shown(what: RunView, *, width: int = 100, encoding: str = "utf-8") -> str:
    """Show a run as on a stream of that width and encoding."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    screen = Screen(out=Console(file=stream, width=width, markup=False, highlight=False, emoji=False))
    show_view(screen, what)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


COMPLETED = view(
    node_record(1, node_id="classify", edge="draft", outputs={"category": "billing"}, **used(1, 143, 12)),
    node_record(2, node_id="note", node_kind="function", edge="draft", outputs={"seen": True}, duration_seconds=0.0001),
    node_record(
        3,
        node_id="draft",
        edge="END",
        attempts=2,
        outputs={"reply": "Dear Ada,\n\nthank you"},
        **used(1, 1500, 40, 0.00012),
    ),
    spans=[
        call(1, name="chat tiny", model="tiny", input_tokens=143, output_tokens=12, cost_usd=0.0),
        call(
            3,
            name="chat big",
            model="big-2",
            input_tokens=1500,
            output_tokens=40,
            cache_read_tokens=1000,
            cost_usd=0.00012,
        ),
    ],
    workflow_name="triage",
    inputs_json='{"ticket": "I was charged twice"}',
    duration_seconds=12.41,
    **used(2, 1643, 52, 0.00012),
)


def test_a_completed_run_reads_as_a_tree_with_its_figures_in_columns() -> None:
    """The picture that people look at most."""
    assert (
        shown(COMPLETED)
        == """\
✓ triage  completed
run      0199c82c-c07c-7000-8000-000000000001
started  2025-10-09T08:53:20Z
took     12.4 s · 3 node executions · 2 model calls
tokens   1,643 → 52
cost     $0.00012

inputs
  ticket  I was charged twice

triage                           12.4 s                 1,643 → 52  $0.00012
├─ ✓ 1 classify → draft          500 ms                   143 → 12     $0.00
│  └─ chat tiny                  400 ms                   143 → 12     $0.00
│     category: billing
├─ ✓ 2 note → draft               <1 ms                          –         –
│     seen: true
└─ ✓ 3 draft → END (2 attempts)  500 ms                 1,500 → 40  $0.00012
   └─ chat big (big-2)           400 ms  1,500 (1,000 cached) → 40  $0.00012
      reply: Dear Ada, thank you
"""
    )


def test_a_failed_run_shows_where_and_why_and_what_was_stopped() -> None:
    """Error, siblings of a map and what was finished, at one glance."""
    text = shown(
        view(
            node_record(1, node_id="split", edge="sum_up", outputs={}),
            node_record(2, node_id="sum_up", map_index=0, outputs={"notes": "short"}),
            node_record(
                3,
                node_id="sum_up",
                map_index=1,
                status="failed",
                outputs_json=None,
                error_type="ValueError",
                error_message="no\nnews",
            ),
            node_record(
                4, node_id="sum_up", map_index=2, status="cancelled", outputs_json=None, error_type="CancelledError"
            ),
            status="failed",
            error_type="ValueError",
            error_message="no\nnews",
        )
    )
    assert "✗ support  failed" in text
    assert "error    ValueError: no\n         news\n" in text
    assert "├─ ✓ 2 sum_up[0]" in text
    assert "├─ ✗ 3 sum_up[1]" in text
    assert "│     ValueError: no\n│     news\n" in text
    assert "└─ ■ 4 sum_up[2] (cancelled)" in text
    assert text.count("CancelledError") == 0


def test_a_running_node_says_for_how_long() -> None:
    """A run in flight is looked at to see what it waits for."""
    running = node_record(
        1,
        status="running",
        duration_seconds=None,
        outputs_json=None,
        start_time_unix_nano=START_UNIX_NANO + 108 * SECOND,
    )
    text = shown(view(running, status="running", duration_seconds=None))
    assert "● support  running" in text
    assert "● 1 draft (running for 12.0 s)" in text


def test_a_loop_that_was_stopped_by_its_limit_says_so() -> None:
    """It left normally, but not because its condition held."""
    limited = node_record(1, edge="END", attributes_json=json.dumps({"configurable_agents.node.loop_exhausted": True}))
    assert "1 draft → END (loop limit)" in shown(view(limited))


def test_content_that_is_not_kept_is_not_shown_as_nothing() -> None:
    """A node that wrote nothing, and one whose writes are not kept, differ."""
    assert "what it wrote is not kept" in shown(view(node_record(1, outputs_json=None)))
    assert "what it wrote is not kept" not in shown(view(node_record(1, outputs={})))


def test_an_unpriced_call_is_unknown_and_a_failed_one_costs_nothing_yet() -> None:
    """Unknown is never 0."""
    spans = [
        call(1, cost_usd=None),
        replace(
            call(2, cost_usd=None, input_tokens=None, output_tokens=None, status_code="ERROR"),
            parent_span_id=f"{1:08x}{1:08x}",
            error_type="RateLimitError",
            status_message="slow down",
        ),
    ]
    text = shown(
        view(
            node_record(1, **used(2, 10, 5, None, unpriced_calls=1)),
            spans=spans,
            **used(2, 10, 5, None, unpriced_calls=1),
        )
    )
    assert "cost     unknown (1 call unpriced, $0.00 priced)" in text
    assert text.count("unknown\n") == 1
    assert "RateLimitError: slow down" in text


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_every_line_of_the_tree_fits_the_terminal(width: int) -> None:
    """A line that wraps breaks the tree."""
    for signs in (Signs(), ASCII):
        assert all(line.cell_len <= max(width, 24) for line in tree(COMPLETED, width=width, signs=signs))


def test_a_stream_that_knows_only_ascii_gets_ascii() -> None:
    """No UnicodeEncodeError, no question marks where a sign can be spelled."""
    text = shown(COMPLETED, encoding="ascii")
    assert "|- + 1 classify -> draft" in text
    assert "\\u" not in text


HOSTILE = "\x1b[2J\x1b]0;owned\x07[red]x[/] [/nope] \u202eabc\r\nnext"


def test_names_and_texts_of_a_file_and_a_model_are_neither_markup_nor_escapes() -> None:
    """Whoever writes a workflow or an answer does not write to the terminal."""
    text = shown(
        view(
            node_record(1, node_id=HOSTILE, edge=HOSTILE, outputs={HOSTILE: HOSTILE}, model=HOSTILE),
            node_record(2, status="failed", error_type=HOSTILE, error_message=HOSTILE),
            spans=[call(1, name=HOSTILE, model=HOSTILE)],
            workflow_name=HOSTILE,
            workflow_version=HOSTILE,
            inputs_json=json.dumps({HOSTILE: HOSTILE}),
        )
    )
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.count("[red]x[/] [/nope] abc") >= 9


@settings(max_examples=60, deadline=None)
@given(st.lists(node_records, max_size=4), st.integers(10, 120))
def test_any_record_can_be_shown(nodes: list[Any], width: int) -> None:
    """A store may hold anything."""
    what = RunView(run_record(), nodes, [], START_UNIX_NANO)
    assert all(cell_len(line.plain) >= 0 for line in tree(what, width=width, signs=Signs()))
