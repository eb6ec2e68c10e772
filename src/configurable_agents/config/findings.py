"""Collects what is wrong in a file, to be told all at once, in the order of the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import islice
from typing import Final

from configurable_agents.config.positions import Fragment, Path, Positions, text_of
from configurable_agents.errors import ConfigError, Problem

MAX_PROBLEMS: Final = 100
"""Told of one file; a further line says how many more there are."""

ENOUGH: Final = 500
"""Of a file with more problems than this not everything is looked at: an answer is due at once."""

Remedy = str | Callable[[], str]
"""A text, or what makes it: looking for similar names costs time that only problems that are told should take."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, before its place is looked up."""

    path: Path
    message: str
    remedy: Remedy = ""
    on_key: bool = False
    """Whether the place is the key's rather than the value's."""
    fragment: Fragment | None = None
    """The part of a text value that is meant."""
    place: tuple[int, int] | None = None
    """Line and column, where they are known already."""


class Findings:
    """What was found so far."""

    def __init__(self) -> None:
        self._found: dict[tuple[Path, str], Finding] = {}
        self._muted: set[Path] = set()
        self._around: set[Path] = set()
        self._written: dict[Path, Path] = {}

    def add(
        self, path: Path, message: str, remedy: Remedy = "", *, on_key: bool = False, fragment: Fragment | None = None
    ) -> None:
        """Add a problem; the same message for the same path counts once."""
        self._found.setdefault((path, message), Finding(path, message, remedy, on_key, fragment))

    def add_at(self, place: tuple[int, int], message: str, remedy: Remedy = "", *, path: Path = ()) -> None:
        """Add a problem of the text itself, by line and column."""
        self._found.setdefault((path, f"{place}{message}"), Finding(path, message, remedy, place=place))

    def rename(self, path: Path, written: Path) -> None:
        """Say that what is looked at as `path` stands in the file as `written`."""
        self._written[path] = written

    def _as_written(self, finding: Finding) -> Finding:
        for length in range(1, len(finding.path) + 1) if self._written else ():
            written = self._written.get(finding.path[:length])
            if written is not None:
                return replace(finding, path=(*written, *finding.path[length:]))
        return finding

    def mute(self, path: Path) -> None:
        """Leave out further problems in, at and around `path`: its value could not be read, and that has been told."""
        self._muted.add(path)
        self._around.update(path[:length] for length in range(len(path)))

    def add_unless_muted(self, path: Path, message: str, remedy: Remedy = "", *, on_key: bool = False) -> None:
        """Add a problem unless it follows from one that has been told."""
        below = any(path[:length] in self._muted for length in range(len(path) + 1))
        if not below and path not in self._around:
            self.add(path, message, remedy, on_key=on_key)

    @property
    def muted(self) -> frozenset[Path]:
        """Paths whose values could not be read."""
        return frozenset(self._muted)

    def __len__(self) -> int:
        return len(self._found)

    def problems(self, positions: Positions | None, *, file: str) -> tuple[Problem, ...]:
        """Give the problems in the order of the file, at most `MAX_PROBLEMS` and one line for the rest."""
        found = [self._as_written(finding) for finding in self._found.values()]
        ordered = sorted(found, key=lambda finding: _order(finding, positions))
        problems = [_problem(finding, positions, file) for finding in ordered[:MAX_PROBLEMS]]
        if len(ordered) > MAX_PROBLEMS:
            problems.append(Problem(f"and at least {len(ordered) - MAX_PROBLEMS} more problems", file=file))
        return tuple(problems)

    def error(self, positions: Positions | None, *, file: str) -> ConfigError:
        """Make the error that tells them all."""
        return ConfigError(self.problems(positions, file=file))


def _order(finding: Finding, positions: Positions | None) -> tuple[int, int, int]:
    if finding.place is not None or positions is None:
        return (*(finding.place or (0, 0)), 0)
    mark = positions.mark(finding.path, on_key=finding.on_key)
    return mark.line, mark.column, finding.fragment.offset if finding.fragment else -1


def _problem(finding: Finding, positions: Positions | None, file: str) -> Problem:
    line, column = _place(finding, positions)
    remedy = finding.remedy if isinstance(finding.remedy, str) else finding.remedy()
    return Problem(finding.message, text_of(finding.path), remedy, file, line, column)


def _place(finding: Finding, positions: Positions | None) -> tuple[int | None, int | None]:
    if finding.place is not None:
        return finding.place
    if positions is None or positions.text is None:
        return None, None
    return positions.place(finding.path, on_key=finding.on_key, fragment=finding.fragment)


MAX_CANDIDATES: Final = 300
"""Names that a misspelt one is compared with: each comparison takes some ten microseconds."""


def close_to(word: str, candidates: Iterable[str]) -> str | None:
    """Find the name that was probably meant."""
    if len(word) > 60:
        return None
    near = [name for name in islice(candidates, 50_000) if abs(len(name) - len(word)) <= 1 + len(word) // 2]
    lower = {name.lower(): name for name in reversed(near[:MAX_CANDIDATES])}
    found = get_close_matches(word.lower(), lower, 1)
    return lower[found[0]] if found else None


def did_you_mean(word: str, candidates: Sequence[str], otherwise: str = "") -> Callable[[], str]:
    """Make a remedy that names what was probably meant, and what there is.

    Args:
        otherwise: A further sentence; `{names}` in it stands for the candidates.
    """

    def remedy() -> str:
        meant = close_to(word, candidates)
        known = otherwise.replace("{names}", listed(candidates)) if candidates else ""
        return " ".join(part for part in (f"Did you mean {meant!r}?" if meant else "", known) if part)

    return remedy


def repeated(names: Sequence[str]) -> list[tuple[int, str]]:
    """List the names that have been named before, with their indexes."""
    first: dict[str, int] = {}
    return [(index, name) for index, name in enumerate(names) if first.setdefault(name, index) != index]


def listed(names: Sequence[str], *, at_most: int = 24) -> str:
    """Write names as people do: `a, b and c`; many of them cut."""
    shown = [quoted(name, marks=False) for name in names[:at_most]]
    if len(names) > at_most:
        return ", ".join(shown) + f" and {len(names) - at_most} more"
    return " and ".join(part for part in (", ".join(shown[:-1]), *shown[-1:]) if part)


def quoted(name: object, *, marks: bool = True) -> str:
    """Write a name in a message, cut if it is long."""
    text = name if isinstance(name, str) else str(name)
    short = text if len(text) <= 60 else f"{text[:57]}..."
    return repr(short) if marks else short
