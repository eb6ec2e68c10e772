"""`runs costs`: what models were used for and cost, by day."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from configurable_agents.cli import figures
from configurable_agents.cli.options import DebugOption, JsonOption, StoreOption, screen_of
from configurable_agents.cli.runs_commands import parse_since
from configurable_agents.cli.screen import Signs
from configurable_agents.cli.text import fit, one_line

if TYPE_CHECKING:
    from configurable_agents.storage.base import ModelUsage

_HEAD: Final = ("day", "provider", "model", "calls", "tokens", "cost")
_RIGHT: Final = frozenset({"calls", "tokens"})
_NAME_WIDTH: Final = 32
_GAP: Final = "  "


def costs(
    context: typer.Context,
    since: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="Only from that day on, in UTC: 2026-01-31, or a time ago as 7d."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Only up to that day, itself included, as --since.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Show calls, tokens and cost by day and model, the newest day first."""
    from configurable_agents.storage.factory import open_for_reading

    screen, now = screen_of(context), datetime.now(UTC)
    first = _day(since, now, "--since") if since else None
    last = _day(until, now, "--until") if until else None
    with closing(open_for_reading(store)) as backend:
        found = backend.runs.usage_by_model(since=first, until=last)
    if as_json:
        for usage in found:
            screen.write_json(usage_object(usage))
    elif found:
        for line in table(found, signs=screen.signs):
            screen.show(line)
    else:
        screen.tell(f"{backend.location} holds no{' such' if since or until else ''} model call")
    return 0


def _day(text: str, now: datetime, option: str) -> date:
    return datetime.fromtimestamp(parse_since(text, now=now, option=option) // 1_000_000_000, UTC).date()


def usage_object(usage: ModelUsage) -> dict[str, Any]:
    """Give a line of what `runs costs --json` prints."""
    return {
        "day": usage.day.isoformat(),
        "provider": usage.provider,
        "model": usage.model,
        "model_calls": usage.model_calls,
        "failed_calls": usage.failed_calls,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "cost_usd": usage.cost_usd,
        "priced_cost_usd": usage.priced_cost_usd,
        "unpriced_calls": usage.unpriced_calls,
    }


def table(found: Sequence[ModelUsage], *, signs: Signs) -> list[Text]:
    """Give a line of names, a line for each model and day, and the sum of all."""
    rows = [
        (usage.day.isoformat(), _name(usage.provider, signs), _name(usage.model, signs), *_sums([usage], signs))
        for usage in found
    ]
    rows.append(("total", "", "", *_sums(found, signs)))
    cells = [[Text(value) for value in row] for row in rows]
    widths = [max(len(name), *(row[at].cell_len for row in cells)) for at, name in enumerate(_HEAD)]
    return [_line([Text(name, "dim") for name in _HEAD], widths), *(_line(row, widths) for row in cells)]


def _name(name: str | None, signs: Signs) -> str:
    return signs.spell(figures.NOTHING) if name is None else fit(one_line(name), _NAME_WIDTH, ellipsis=signs.ellipsis)


def _sums(found: Sequence[ModelUsage], signs: Signs) -> tuple[str, str, str]:
    """Say calls, tokens and cost together."""
    whole = found[0]._replace(
        model_calls=sum(usage.model_calls for usage in found),
        input_tokens=sum(usage.input_tokens for usage in found),
        output_tokens=sum(usage.output_tokens for usage in found),
        # Parts are whole billionths; floats would add up to a little more or less.
        priced_cost_usd=sum(round(usage.priced_cost_usd * 1e9) for usage in found) / 1e9,
        unpriced_calls=sum(usage.unpriced_calls for usage in found),
    )
    tokens = figures.tokens(whole.input_tokens, whole.output_tokens)
    return f"{whole.model_calls:,}", signs.spell(tokens), figures.cost_of(whole, note=True)


def _line(cells: Sequence[Text], widths: Sequence[int]) -> Text:
    line = Text()
    for name, cell, width in zip(_HEAD, cells, widths, strict=True):
        padding = " " * (width - cell.cell_len)
        line.append(_GAP if line else "")
        line.append(padding if name in _RIGHT else "")
        line.append_text(cell)
        line.append("" if name in _RIGHT else padding)
    line.rstrip()
    return line
