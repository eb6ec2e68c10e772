"""Measures us beside every peer that is installed: `python -m benchmarks [PART …] [--check]`.

Parts: engine (CPU of a node), concurrency (1,000 runs at once), sustaining, storing, reading; all without names. The
peers come with `pip install -c constraints.txt -e '.[bench]'`; who is not installed takes no part, and that is said.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import concurrency, filling, storing, sustaining, turns
from benchmarks.contenders import CONTENDERS, OURS_ASYNC, OURS_POOL, Contender, present
from benchmarks.work import WORKS

PARTS: Final = ("engine", "concurrency", "sustaining", "storing", "reading")


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int = turns.ROUNDS
    turn_seconds: float = turns.TURN_SECONDS
    runs_at_once: int = concurrency.RUNS
    rounds_at_once: int = concurrency.ROUNDS
    seconds: float = sustaining.SECONDS
    processes: int = sustaining.PROCESSES
    runs_stored: int = storing.RUNS
    runs_read: int = filling.RUNS
    times_read: int = 15


SIZES: Final = {
    "tiny": Size(2, 0.005, 3, 1, 0.2, 2, 3, 100, 1),
    "quick": Size(7, 0.1, 200, 1, 3.0, runs_stored=100, runs_read=2_000, times_read=5),
    "usual": Size(),
    "full": Size(runs_stored=storing.FULL_RUNS, runs_read=filling.FULL_RUNS),
}
"""Tiny is for trying the harness itself: its figures mean nothing."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write; 1 if a target that was measured does not hold."""
    from rich.console import Console

    options = _options(arguments)
    result = _read(options.result) if options.result else _measure(options)
    console = Console(width=None if sys.stdout.isatty() else 150)
    from benchmarks import plot, report, targets

    report.show(result, console)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        options.plot.write_text(plot.draw(result), encoding="utf-8")
    if not options.check:
        return 0
    found = targets.verdicts(result)
    report.show_verdicts(found, console)
    return 1 if any(verdict.holds is False for verdict in found) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default all")
    parser.add_argument("--size", choices=SIZES, default="usual", help="full reads from 1,000,000 runs, some 10 GB")
    parser.add_argument("--contender", action="append", choices=CONTENDERS, help="only these; may be repeated")
    parser.add_argument("--work", action="append", choices=WORKS, help="only these; may be repeated")
    parser.add_argument("--store", type=Path, help="a store that benchmarks.filling made, to read from")
    parser.add_argument("--directory", type=Path, help="where the files are; the disk matters")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--plot", type=Path, help="where to draw it, as SVG")
    parser.add_argument("--check", action="store_true", help="say which of our promises hold; exit 1 if one does not")
    parser.add_argument("--result", type=Path, metavar="JSON", help="measure nothing: take a result that was written")
    options = parser.parse_args(arguments)
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part is called {unknown[0]!r}; parts are {', '.join(PARTS)}")
    return options


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    contenders, absent = present(tuple(options.contender or ()))
    for name, reason in absent.items():
        say(f"{CONTENDERS[name].label} takes no part: {reason}")
    result = {**_circumstances(contenders), "size": options.size, "absent": absent}
    with tempfile.TemporaryDirectory(dir=options.directory, ignore_cleanup_errors=True) as folder:
        for part in [part for part in PARTS if part in (options.parts or PARTS)]:
            result[part] = _MEASURE[part](SIZES[options.size], contenders, Path(folder) / part, options)
    return result


def _engine(size: Size, contenders: Sequence[Contender], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    works = options.work or list(WORKS)
    return turns.measure(contenders, works, folder, rounds=size.rounds, turn_seconds=size.turn_seconds, say=say)


def _concurrency(
    size: Size, contenders: Sequence[Contender], folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    # The nodes that sleep are coroutines for everybody, so that our three ways with functions are one.
    taking_part = [each for each in contenders if each.name not in (OURS_ASYNC, OURS_POOL)]
    return concurrency.measure(taking_part, folder, runs=size.runs_at_once, rounds=size.rounds_at_once, say=say)


def _sustaining(size: Size, _: object, folder: Path, __: object) -> dict[str, Any]:
    return sustaining.measure(folder, seconds=size.seconds, processes=size.processes, say=say)


def _storing(size: Size, _: object, folder: Path, __: object) -> dict[str, Any]:
    return storing.measure(folder, runs=size.runs_stored, say=say)


def _reading(size: Size, _: object, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import reading

    return reading.measure(folder, runs=size.runs_read, store=options.store, times=size.times_read, say=say)


_MEASURE: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    "engine": _engine,
    "concurrency": _concurrency,
    "sustaining": _sustaining,
    "storing": _storing,
    "reading": _reading,
}


def _circumstances(contenders: Sequence[Contender]) -> dict[str, Any]:
    versions = {name: version for each in contenders for name, version in each.versions().items()}
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "versions": dict(sorted(versions.items())),
    }


def _read(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def say(text: str) -> None:
    """Tell how far it is; the result alone goes to stdout."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
