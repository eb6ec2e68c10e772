"""`${env:NAME}` in the texts of `config`: checked when a file is loaded, filled in when it runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from configurable_agents.config.draft import Draft
from configurable_agents.config.findings import Findings
from configurable_agents.config.positions import Fragment, Path, text_of
from configurable_agents.config.schema import ModelNode, RuntimeConfig
from configurable_agents.errors import ConfigError, Problem

_REFERENCE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
_ANY = re.compile(r"\$\{[^}]*\}?")
_HOW: Final = "Write '${env:NAME}', with the name of an environment variable."


class Filled(NamedTuple):
    """A configuration to run with."""

    config: RuntimeConfig
    secrets: frozenset[str]
    """Every value that was filled in: to be masked wherever text is kept, shown or shipped."""


class Reference(NamedTuple):
    """One `${env:NAME}` in a file."""

    name: str
    path: Path


def fill_environment(config: RuntimeConfig, environ: Mapping[str, str]) -> Filled:
    """Fill `${env:NAME}` in, in every text of `config`.

    Raises:
        ConfigError: Variables that are not set, each by its name and the path where it stands; or a value that does not
            fit where it was put. No message holds a value.
    """
    missing = [reference for reference in references(config) if reference.name not in environ]
    if missing:
        raise ConfigError([_missing(reference) for reference in missing])
    used = {environ[reference.name] for reference in references(config)}
    if not used:
        return Filled(config, frozenset())
    filled = _filled(_plain(config), environ)
    try:
        return Filled(RuntimeConfig.model_validate(filled), frozenset(value for value in used if value))
    except ValidationError as error:
        problems = [Problem("what the environment gives does not fit here", _place(e["loc"])) for e in error.errors()]
        raise ConfigError(problems) from None  # the original error would show the value


def _place(location: tuple[str | int, ...]) -> str:
    return text_of(("config", *location))


def _missing(reference: Reference) -> Problem:
    return Problem(
        f"the environment variable {reference.name!r} is not set",
        text_of(reference.path),
        f"Set it before the run: export {reference.name}=…",
    )


def references(config: RuntimeConfig) -> list[Reference]:
    """List every `${env:NAME}` of a configuration, in the order of the schema."""
    return [
        Reference(match.group(1), path)
        for path, text in _texts(_plain(config), ("config",))
        for match in _REFERENCE.finditer(text)
    ]


def _plain(config: RuntimeConfig) -> Any:
    return config.model_dump(by_alias=True, exclude_unset=True)


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))


def _filled(value: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _REFERENCE.sub(lambda match: environ[match.group(1)], value)
    if isinstance(value, Mapping):
        return {key: _filled(item, environ) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(item, environ) for item in value]
    return value


def check_references(draft: Draft, findings: Findings) -> None:
    """Check the writing of references in `config`, and that there are none where they would stay as they are."""
    for path, text in _texts(_plain(draft.config), ("config",)):
        wrong = next((match for match in _ANY.finditer(text) if not _REFERENCE.fullmatch(match.group())), None)
        if wrong is not None:
            fragment = Fragment(text, wrong.start(), wrong.group())
            findings.add(path, f"{wrong.group()[:60]!r} names no environment variable", _HOW, fragment=fragment)
    for index, (_, node) in enumerate(draft.nodes):
        if isinstance(node, ModelNode) and node.llm is not None:
            _refuse_in_node(node.llm.model_dump(exclude_unset=True), ("nodes", index, "llm"), findings)


def _refuse_in_node(llm: Any, path: Path, findings: Findings) -> None:
    for below, text in _texts(llm, path):
        if "${env:" in text:
            remedy = "It is filled in under 'config' only; 'api_key_env' names a variable here too."
            findings.add(below, "a node's 'llm' is not filled in from the environment", remedy)
