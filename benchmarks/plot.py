"""Draws a result as a picture: `python -m benchmarks.plot RESULT.json PICTURE.svg`. Nothing but text is needed for that."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

from benchmarks.contenders import CONTENDERS, OURS, OURS_ASYNC, OURS_BARE, OURS_POOL, SPAN, SQLITE3
from benchmarks.work import CHAIN

_WIDTH: Final = 900
_LABELS: Final = 350
_ROW: Final = 24
_HEAD: Final = 58
_COLOURS: Final = {"ours": "#2563eb", "limit": "#9ca3af", "ours-bare": "#93c5fd", "kept": "#ea580c", "bare": "#fdba74"}
_LIMITS: Final = (SPAN, SQLITE3)
_OURS: Final = (OURS, OURS_ASYNC, OURS_POOL, OURS_BARE)
_STYLE: Final = """\
text { font: 13px system-ui, sans-serif; fill: #111827 }
.head { font-size: 15px; font-weight: 600 }
.note, .tick { font-size: 11px; fill: #6b7280 }
.ground { fill: #ffffff }
.grid { stroke: #e5e7eb }"""


@dataclass(frozen=True)
class Bar:
    """One contender's figure."""

    name: str
    value: float
    low: float
    high: float


def main() -> None:
    """Draw a result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    options.picture.write_text(draw(json.loads(options.result.read_text(encoding="utf-8"))), encoding="utf-8")


def draw(result: Mapping[str, Any]) -> str:
    """Give the picture of a result: the chain's CPU, and a thousand runs at once, as SVG."""
    charts: list[tuple[str, str, list[Bar]]] = []
    if CHAIN in result.get("engine", {}):
        figures = result["engine"][CHAIN]
        note = "µs for one node execution of a chain of 10, logarithmic; the line is from 10 % to 90 % of the rounds"
        charts.append(("CPU of a node", note, _bars({name: each["cpu_us"] for name, each in figures.items()})))
    if "concurrency" in result:
        found = result["concurrency"]["contenders"]
        note = "seconds until all have ended, logarithmic; each run sleeps for 0.5 s in 10 nodes"
        walls = {name: each["wall_seconds"] for name, each in found.items() if name not in (OURS_ASYNC, OURS_POOL)}
        charts.append((f"{result['concurrency']['runs']:,} runs at once", note, _bars(walls)))
    parts, top = [], 12
    for head, note, bars in charts:
        parts.append(_chart(head, note, bars, top))
        top += _HEAD + _ROW * len(bars) + 30
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}" viewBox="0 0 {_WIDTH} {top}">\n'
        f'<style>{_STYLE}</style>\n<rect class="ground" width="{_WIDTH}" height="{top}"/>\n{body}\n</svg>\n'
    )


def _bars(figures: Mapping[str, Mapping[str, float]]) -> list[Bar]:
    bars = [Bar(name, each["median"], each["low"], each["high"]) for name, each in figures.items()]
    return sorted(bars, key=lambda bar: bar.value)


def _chart(head: str, note: str, bars: Sequence[Bar], top: int) -> str:
    least, most = min(bar.low for bar in bars), max(bar.high for bar in bars)
    first, last = 10 ** math.floor(math.log10(least)), most * 1.9  # room for the last one's number

    def at(value: float) -> float:
        share = (math.log10(value) - math.log10(first)) / (math.log10(last) - math.log10(first))
        return _LABELS + share * (_WIDTH - _LABELS - 20)

    lines = [
        f'<text class="head" x="16" y="{top + 16}">{escape(head)}</text>',
        f'<text class="note" x="16" y="{top + 34}">{escape(note)}</text>',
    ]
    bottom = top + _HEAD + _ROW * len(bars)
    tick = float(first)
    while tick < last:
        lines.append(
            f'<line class="grid" x1="{at(tick):.1f}" x2="{at(tick):.1f}" y1="{top + _HEAD - 6}" y2="{bottom}"/>'
        )
        lines.append(f'<text class="tick" x="{at(tick):.1f}" y="{bottom + 13}" text-anchor="middle">{tick:g}</text>')
        tick *= 10
    for number, bar in enumerate(bars):
        lines.append(_bar(bar, top + _HEAD + _ROW * number, at(first), at(bar.value), at(bar.low), at(bar.high)))
    return "\n".join(lines)


def _bar(bar: Bar, top: float, start: float, end: float, low: float, high: float) -> str:
    middle = top + _ROW / 2 - 2
    return (
        f'<text x="{_LABELS - 8}" y="{middle + 4.5}" text-anchor="end">{escape(_label(bar.name))}</text>'
        f'<rect x="{start:.1f}" y="{top}" width="{max(1.0, end - start):.1f}" height="{_ROW - 6}" rx="2"'
        f' fill="{_COLOURS[_kind(bar.name)]}"/>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="#111827" stroke-width="1.5"/>'
        f'<text x="{max(end, high) + 6:.1f}" y="{middle + 4.5}">{_number(bar.value)}</text>'
    )


def _label(name: str) -> str:
    label = CONTENDERS[name].label
    return label.replace("…", "configurable-agents,") if name in _OURS else label


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _kind(name: str) -> str:
    if name in _LIMITS:
        return "limit"
    if name in _OURS:
        return "ours-bare" if name == OURS_BARE else "ours"
    return "bare" if "nothing kept" in CONTENDERS[name].label else "kept"


if __name__ == "__main__":
    main()
