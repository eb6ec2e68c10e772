"""Loads workflow files: reads, checks, and gives every problem of a file at once, each with its place and remedy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import orjson

from configurable_agents.config.draft import draft_of, salvage
from configurable_agents.config.findings import ENOUGH, Findings
from configurable_agents.config.positions import Positions, marks_of
from configurable_agents.config.published import prepare
from configurable_agents.config.reader import MAX_BYTES, MAX_DEPTH, MAX_VALUES, Unreadable, read
from configurable_agents.config.schema import WorkflowConfig
from configurable_agents.config.schema_check import check
from configurable_agents.config.validator import check_rules
from configurable_agents.errors import ConfigError, Problem


@dataclass(frozen=True)
class LoadedConfig:
    """A workflow that is right, with where it came from."""

    config: WorkflowConfig
    text: str
    """Exactly the file's text; of a mapping, its canonical JSON."""
    sha256: str
    """Of `text` in UTF-8, as hex digits."""
    path: Path | None = None
    warnings: tuple[Problem, ...] = ()
    """Keys of the published schema that have no effect here."""
    _positions: Positions | None = field(default=None, repr=False, compare=False)
    _name: str = field(default="", repr=False, compare=False)

    def place(self, error: ConfigError) -> ConfigError:
        """Give the same error with file, line and column in problems that have a path only."""
        return ConfigError([self._placed(problem) for problem in error.problems])

    def _placed(self, problem: Problem) -> Problem:
        if problem.line is not None or self._positions is None or self._positions.text is None:
            return problem
        line, column = self._positions.place(_path_of(problem.path))
        return replace(problem, file=self._name, line=line, column=column)


def load_config(path: str | PathLike[str]) -> LoadedConfig:
    """Load a workflow file, YAML or JSON.

    Raises:
        ConfigError: The file cannot be read, or is wrong; with all its problems.
    """
    name = str(path)
    text = _read_text(Path(path), name)
    return replace(_load(text, name), path=Path(path))


def parse_config(text: str, *, name: str = "<text>") -> LoadedConfig:
    """Load a workflow from a text, YAML or JSON.

    Args:
        name: What problems name as the file.

    Raises:
        ConfigError: It is wrong; with all its problems.
    """
    return _load(text, name)


def config_from_mapping(mapping: Mapping[str, Any]) -> LoadedConfig:
    """Load a workflow from what a program made: dicts, lists, texts, numbers, bools and None.

    Raises:
        ConfigError: It is wrong; with all its problems, by path, without lines.
    """
    findings, warnings = Findings(), Findings()
    document = _plain(mapping, (), findings, [0])
    if findings:
        raise findings.error(None, file="")
    text = orjson.dumps(document, option=orjson.OPT_SORT_KEYS).decode()
    if len(text) > MAX_BYTES:
        raise ConfigError([Problem(f"a workflow has at most {MAX_BYTES} bytes, this one has {len(text)}")])
    positions = Positions(marks_of(document), None)
    return _checked(document, text, findings, warnings, positions, "")


def _read_text(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError([Problem(f"the file cannot be read: {reason}", file=name)]) from error
    if len(raw) > MAX_BYTES:
        raise ConfigError([_too_large(name)])
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        problem = Problem("the file is not UTF-8", remedy="Save it as UTF-8.", file=name, line=line, column=column)
        raise ConfigError([problem]) from None


def _too_large(name: str) -> Problem:
    return Problem(f"the file has more than {MAX_BYTES} bytes", remedy="Pass large texts as inputs.", file=name)


def _load(text: str, name: str) -> LoadedConfig:
    findings, warnings = Findings(), Findings()
    if len(text) > MAX_BYTES:
        raise ConfigError([_too_large(name)])
    try:
        document, positions = read(text, findings)
    except Unreadable:
        raise findings.error(None, file=name) from None
    return _checked(document, text, findings, warnings, positions, name)


def _checked(
    document: Any, text: str, findings: Findings, warnings: Findings, positions: Positions, name: str
) -> LoadedConfig:
    if not isinstance(document, dict):
        findings.add((), "a workflow is a mapping: 'schema_version', 'flow', 'state', 'nodes', 'edges'")
        raise findings.error(positions, file=name)
    prepare(document, findings, warnings)
    config, wrong = check(document, findings)
    if len(findings) < ENOUGH:
        whole = config is not None and not findings.muted
        draft = draft_of(config) if config is not None and whole else salvage(document, {*wrong, *findings.muted})
        check_rules(draft, findings)
    if findings or config is None:
        raise findings.error(positions, file=name)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    told = warnings.problems(positions, file=name)
    return LoadedConfig(config, text, sha256, None, told, positions, name)


def _path_of(text: str) -> tuple[str | int, ...]:
    parts = text.replace("[", ".").replace("]", "").split(".")
    return tuple(int(part) if part.isdecimal() else part for part in parts if part)


def _plain(value: Any, path: tuple[str | int, ...], findings: Findings, count: list[int]) -> Any:
    """Copy what a program gave, so that checking it changes nothing of theirs."""
    count[0] += 1
    if len(path) > MAX_DEPTH or count[0] > MAX_VALUES:
        findings.add((), f"a workflow is nested at most {MAX_DEPTH} deep, and has at most {MAX_VALUES} values")
        return None
    if isinstance(value, Mapping):
        return {_key(key): _plain(item, (*path, _key(key)), findings, count) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, (*path, index), findings, count) for index, item in enumerate(value)]
    if value is None or isinstance(value, str | bool | float):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    findings.add(path, f"expected a JSON value, got {type(value).__name__}")
    return None


def _key(key: Any) -> str:
    return key if isinstance(key, str) else str(key).lower() if isinstance(key, bool) else str(key)
