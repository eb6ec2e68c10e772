"""The list of runs as people read it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from configurable_agents.cli import figures
from configurable_agents.cli.screen import Signs
from configurable_agents.cli.text import fit, one_line
from configurable_agents.cli.tree import STYLES, mark_of
from configurable_agents.semconv import Status
from configurable_agents.storage.records import WorkflowRunRecord

_ID_LENGTHS: Final = (13, 18, 23, 36)
"""A run id's first 13 characters are its millisecond; the groups after them tell apart what began in the same one."""
_LEAST_NEEDED: Final = ("tokens", "cost", "started", "took", "workflow")
"""The columns that a narrow terminal goes without, the first one first."""
_RIGHT: Final = frozenset({"took", "tokens", "cost"})
_WORKFLOW_WIDTH: Final = 24
_GAP: Final = "  "


def listing(runs: Sequence[WorkflowRunRecord], *, now_unix_nano: int, width: int, signs: Signs) -> list[Text]:
    """Give a line of names, then a line for each run, in columns that fit the width."""
    length = id_length([run.run_id for run in runs])
    rows = [_cells(run, length, now_unix_nano, signs) for run in runs]
    widths = {name: max(len(name), *(cell.cell_len for cell in (row[name] for row in rows))) for name in rows[0]}
    for name in _LEAST_NEEDED:
        if sum(widths.values()) + len(_GAP) * (len(widths) - 1) > width:
            del widths[name]
    head = {name: Text(name, "dim") for name in widths}
    return [_row(row, widths) for row in (head, *rows)]


def _cells(run: WorkflowRunRecord, length: int, now_unix_nano: int, signs: Signs) -> dict[str, Text]:
    tokens = figures.tokens(run.input_tokens, run.output_tokens) if run.model_calls else figures.NOTHING
    cost = "unknown" if run.cost_usd is None else figures.cost_of(run)
    return {
        "run": Text(run.run_id[:length]),
        "workflow": Text(fit(one_line(run.workflow_name), _WORKFLOW_WIDTH, ellipsis=signs.ellipsis)),
        "status": Text(f"{mark_of(run.status, signs)} {run.status}", STYLES.get(run.status, "")),
        "started": Text(figures.instant(run.start_time_unix_nano)),
        "took": Text(_took(run, now_unix_nano)),
        "tokens": Text(signs.spell(tokens)),
        "cost": Text(signs.spell(cost)),
    }


def _took(run: WorkflowRunRecord, now_unix_nano: int) -> str:
    if run.status == Status.RUNNING:
        return f"for {figures.duration((now_unix_nano - run.start_time_unix_nano) / 1e9)}"
    return figures.duration(run.duration_seconds)


def _row(cells: dict[str, Text], widths: dict[str, int]) -> Text:
    line = Text()
    for name, width in widths.items():
        padding = " " * (width - cell_len(cells[name].plain))
        line.append(_GAP if line else "")
        line.append(padding if name in _RIGHT else "")
        line.append_text(cells[name])
        line.append("" if name in _RIGHT else padding)
    line.rstrip()
    return line


def id_length(run_ids: Sequence[str]) -> int:
    """Say how many characters of the ids tell them apart."""
    for length in _ID_LENGTHS:
        if len({run_id[:length] for run_id in run_ids}) == len(set(run_ids)):
            return length
    return _ID_LENGTHS[-1]
