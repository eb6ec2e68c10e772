"""Results for people: tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.contenders import CONTENDERS, OURS
from benchmarks.targets import Verdict
from benchmarks.turns import ratio
from benchmarks.work import WORKS

Result = Mapping[str, Any]


def show(result: Result, console: Console) -> None:
    """Print what was measured."""
    for part, tables in (
        ("engine", _engine),
        ("concurrency", _concurrency),
        ("sustaining", _sustaining),
        ("storing", _storing),
        ("reading", _reading),
    ):
        if part in result:
            for table in tables(result[part]):
                console.print(table)
    for name, reason in result.get("absent", {}).items():
        console.print(f"{CONTENDERS[name].label} took no part: {reason}")


def show_verdicts(found: Sequence[Verdict], console: Console) -> None:
    """Print which targets hold."""
    table = Table("target", "figure", "bound", "aim", "", title="What we promise", title_justify="left")
    for verdict in found:
        target = verdict.target
        sign = "≥" if target.at_least else "≤"
        table.add_row(
            target.text,
            "–" if verdict.figure is None else _number(verdict.figure) + target.unit,
            f"{sign} {_number(target.bound)}{target.unit}",
            "" if target.aim is None else f"{sign} {_number(target.aim)}{target.unit}",
            {None: "not measured", True: "holds", False: "FAILS"}[verdict.holds]
            + (" (short of the aim)" if verdict.holds and not verdict.reaches_aim else ""),
        )
    console.print(table)


def _engine(figures: Mapping[str, Any]) -> list[Table]:
    return [_work(work, found) for work, found in figures.items()]


def _work(work: str, figures: Mapping[str, Any]) -> Table:
    table = Table(title=f"{WORKS[work].label}: for one node execution", title_justify="left")
    table.add_column("")
    for column in ("CPU µs", "10 % – 90 %", "± (MAD)", "time µs", "× bare span", "× ours"):
        table.add_column(column, justify="right")
    for name in sorted(figures, key=lambda each: float(figures[each]["cpu_us"]["median"])):
        cpu, wall = figures[name]["cpu_us"], figures[name]["wall_us"]
        spans = figures[name].get("cpu_ratio_to_span")
        by_ours = ratio(figures, name, OURS)
        table.add_row(
            CONTENDERS[name].label,
            f"{cpu['median']:.1f}",
            f"{cpu['low']:.1f} – {cpu['high']:.1f}",
            f"{cpu['deviation']:.1f}",
            f"{wall['median']:.1f}",
            f"{spans['median']:.2f}" if spans else "",
            f"{by_ours:.2f}" if by_ours is not None else "",
        )
    return table


def _concurrency(figures: Mapping[str, Any]) -> list[Table]:
    title = (
        f"{figures['runs']} runs at once, each {figures['nodes']} nodes that sleep {figures['sleep_seconds'] * 1e3:.0f} ms"
        f" (nobody can be below {figures['least_seconds']:g} s)"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in ("seconds", "10 % – 90 %", "CPU seconds", "kB a run", "rounds"):
        table.add_column(column, justify="right")
    found = figures["contenders"]
    for name in sorted(found, key=lambda each: float(found[each]["wall_seconds"]["median"])):
        wall, cpu = found[name]["wall_seconds"], found[name]["cpu_seconds"]
        table.add_row(
            CONTENDERS[name].label,
            f"{wall['median']:.2f}",
            f"{wall['low']:.2f} – {wall['high']:.2f}",
            f"{cpu['median']:.2f}",
            f"{found[name]['memory_bytes_per_run']['median'] / 1e3:.1f}",
            str(found[name]["rounds"]),
        )
    return [table]


def _sustaining(figures: Mapping[str, Any]) -> list[Table]:
    table = Table(title=f"sustained for {figures['seconds']:g} s, everything on", title_justify="left")
    table.add_column("")
    for column in ("nodes/s", "CPU µs a node", "commit lag p50, p99", "MB at begin, half, end"):
        table.add_column(column, justify="right")
    for name, label in (
        ("run_after_run", "one process, run after run"),
        ("one_process", f"one process, {figures['at_once']} runs at once"),
        ("processes_together", f"{figures['processes_together']['processes']} processes together, the same store"),
    ):
        figure = figures[name]
        memories = figure.get("memory_mb")
        table.add_row(
            label,
            f"{figure['nodes_per_second']:.0f}",
            f"{figure['cpu_us_per_node']:.0f}",
            f"{figure['commit_lag_ms']['p50']:.1f}, {figure['commit_lag_ms']['p99']:.1f} ms",
            "" if memories is None else f"{memories[0]:.0f}, {memories[len(memories) // 2]:.0f}, {memories[-1]:.0f}",
        )
    return [table]


def _storing(figures: Mapping[str, Any]) -> list[Table]:
    title = (
        f"{figures['runs']} runs of {figures['nodes']} nodes with {figures['state_bytes'] / 1024:.0f} kB in the state"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("the document is")
    for column in ("bytes a run", "a node's row", "the run without nodes", "LangGraph, a run", "× LangGraph"):
        table.add_column(column, justify="right")
    for name in ("carried", "rewritten"):
        figure = figures[name]
        theirs, by = figure.get("langgraph_bytes_per_run"), figure.get("ratio_to_langgraph")
        table.add_row(
            name,
            *(f"{figure[each]:,.0f}" for each in ("bytes_per_run", "bytes_per_node", "bytes_per_run_without_nodes")),
            "" if theirs is None else f"{theirs:,.0f}",
            "" if by is None else f"{by:.3f}",
        )
    return [table]


def _reading(figures: Mapping[str, Any]) -> list[Table]:
    title = f"reading from a store of {figures['runs']:,} runs ({figures['store_mb']:,} MB)"
    table = Table("", title=title, title_justify="left")
    table.add_column("", justify="right")
    for name, value in figures.items():
        if name.endswith("_ms"):
            table.add_row(name.removesuffix("_ms").replace("_", " "), f"{value:.2f} ms")
        elif name.endswith("_seconds"):
            table.add_row(name.removesuffix("_cpu_seconds").replace("_", " ") + ", cold", f"{value:.3f} s of CPU")
    return [table]


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
