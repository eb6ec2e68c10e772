"""What we promise of speed, as ratios and bounds; `--check` compares a result with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.contenders import (
    BURR,
    BURR_SQLITE,
    DBOS,
    HAYSTACK,
    LANGGRAPH,
    LANGGRAPH_SQLITE,
    LANGGRAPH_TRACED,
    OURS,
    OURS_BARE,
    PYDANTIC_GRAPH,
    SPAN,
)
from benchmarks.turns import ratio
from benchmarks.work import CHAIN

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """A figure and its bound."""

    text: str
    part: str
    """The part of the benchmark that measures it."""
    figure: Callable[[Result], float | None]
    """Reads the figure; None (or KeyError) where it was not measured."""
    bound: float
    at_least: bool = False
    """The figure must not be below the bound; else not above."""
    aim: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class Verdict:
    """What became of a target."""

    target: Target
    figure: float | None
    """None where it was not measured."""

    @property
    def holds(self) -> bool | None:
        """Whether it holds; None where it was not measured."""
        return self._within(self.target.bound)

    @property
    def reaches_aim(self) -> bool:
        """Whether it is as good as we want it to be, not only as we promise."""
        return bool(self.holds) and (self.target.aim is None or bool(self._within(self.target.aim)))

    def _within(self, bound: float) -> bool | None:
        if self.figure is None:
            return None
        return self.figure >= bound if self.target.at_least else self.figure <= bound


def verdicts(result: Result) -> list[Verdict]:
    """Compare a result with every target."""
    return [Verdict(target, _figure(target, result)) for target in TARGETS]


def _figure(target: Target, result: Result) -> float | None:
    try:
        return target.figure(result)
    except KeyError:
        return None


def _chain(name: str, against: str) -> Callable[[Result], float | None]:
    return lambda result: ratio(result["engine"][CHAIN], name, against)


def _worst(name: str, others: Iterable[str]) -> Callable[[Result], float | None]:
    def figure(result: Result) -> float | None:
        found = (ratio(result["engine"][CHAIN], name, other) for other in others)
        return max((each for each in found if each is not None), default=None)

    return figure


def _seconds(name: str, against: str) -> Callable[[Result], float | None]:
    def figure(result: Result) -> float:
        of = result["concurrency"]["contenders"]
        return float(of[name]["wall_seconds"]["median"] / of[against]["wall_seconds"]["median"])

    return figure


def _reading(name: str) -> Callable[[Result], float]:
    return lambda result: float(result["reading"][name])


def _growth(result: Result) -> float:
    memories = result["sustaining"]["one_process"]["memory_mb"]
    return float(memories[-1] - memories[len(memories) // 2])


_BARE_PEERS: Final = (LANGGRAPH, BURR, PYDANTIC_GRAPH, HAYSTACK)

TARGETS: Final = (
    Target("chain, CPU of a node: by a bare SDK span", "engine", _chain(OURS, SPAN), 3.0, aim=2.5, unit="×"),
    Target(
        "… by LangGraph + SqliteSaver + openinference",
        "engine",
        _chain(OURS, LANGGRAPH_TRACED),
        1 / 15,
        aim=1 / 25,
        unit="×",
    ),
    Target("… by LangGraph + SqliteSaver", "engine", _chain(OURS, LANGGRAPH_SQLITE), 1 / 10, unit="×"),
    Target("… by Burr + SQLite", "engine", _chain(OURS, BURR_SQLITE), 1 / 8, unit="×"),
    Target("… by DBOS on SQLite", "engine", _chain(OURS, DBOS), 1 / 20, unit="×"),
    Target("… nothing kept: by the cheapest peer's", "engine", _worst(OURS_BARE, _BARE_PEERS), 1.0, unit="×"),
    Target(
        "sustained by one process, everything on",
        "sustaining",
        lambda result: float(result["sustaining"]["one_process"]["nodes_per_second"]),
        6_000,
        at_least=True,
        aim=10_000,
        unit=" nodes/s",
    ),
    Target(
        "… commit lag, p99",
        "sustaining",
        lambda result: float(result["sustaining"]["one_process"]["commit_lag_ms"]["p99"]),
        100,
        unit=" ms",
    ),
    Target("… memory's growth in the second half", "sustaining", _growth, 10, unit=" MB"),
    Target(
        "4 processes together by one",
        "sustaining",
        lambda result: float(
            result["sustaining"]["processes_together"]["nodes_per_second"]
            / result["sustaining"]["one_process"]["nodes_per_second"]
        ),
        1.0,
        at_least=True,
        unit="×",
    ),
    Target(
        "1,000 runs at once, wall: by LangGraph + AsyncSqliteSaver",
        "concurrency",
        _seconds(OURS, LANGGRAPH_SQLITE),
        1 / 15,
        unit="×",
    ),
    *(
        Target(f"… by {label} with nothing on", "concurrency", _seconds(OURS, name), 1.0, unit="×")
        for name, label in ((LANGGRAPH, "LangGraph"), (HAYSTACK, "Haystack"), (PYDANTIC_GRAPH, "pydantic-graph"))
    ),
    Target(
        "… memory of a run",
        "concurrency",
        lambda result: float(result["concurrency"]["contenders"][OURS]["memory_bytes_per_run"]["median"] / 1e3),
        30,
        aim=20,
        unit=" kB",
    ),
    Target(
        "kept runs with a 4 kB state: by SqliteSaver's file",
        "storing",
        lambda result: float(result["storing"]["carried"]["ratio_to_langgraph"]),
        1 / 5,
        unit="×",
    ),
    Target("latest 20 runs, in-process", "reading", _reading("latest_20_ms"), 5, unit=" ms"),
    Target("`runs list`, cold, CPU", "reading", _reading("runs_list_cpu_seconds"), 0.6, unit=" s"),
    Target("`import configurable_agents`, CPU", "reading", _reading("import_cpu_seconds"), 0.5, unit=" s"),
    Target("cost by model and day", "reading", _reading("cost_by_model_and_day_ms"), 50, unit=" ms"),
    Target(
        "opening: this store by a small one",
        "reading",
        lambda result: float(result["reading"]["open_ms"] / result["reading"]["open_small_ms"]),
        1.5,
        unit="×",
    ),
)
