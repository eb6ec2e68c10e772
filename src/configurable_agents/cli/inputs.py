"""Inputs of a run, as the command line gives them: `-i key=value`, `-i key=@file`, `--inputs FILE`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from configurable_agents.errors import InputError

if TYPE_CHECKING:
    from configurable_agents.config.schema import StateField

STDIN: Final = "-"


def read_text(place: str) -> str:
    """Read a whole text, from a file or (`-`) from stdin.

    Raises:
        InputError: It cannot be read, or is not UTF-8.
    """
    try:
        data = sys.stdin.buffer.read() if place == STDIN else Path(place).expanduser().read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise InputError([f"cannot read {place!r}: {error.strerror or error}"]) from error
    except UnicodeDecodeError as error:
        raise InputError([f"{_name_of(place)} is not UTF-8 text (byte {error.start})"]) from error


def gather_inputs(
    pairs: Sequence[str],
    inputs_file: str | None,
    fields: Mapping[str, StateField],
    *,
    read: Callable[[str], str] = read_text,
) -> dict[str, Any]:
    """Give the inputs of a run: those of the file, with each `key=value` laid over them.

    Args:
        pairs: As `topic=refunds`: the text itself for a field of type `str`, JSON for any other; `topic=@file` reads
            the file (without the line end at its very end), `topic=@-` stdin, and `topic=@@name` is the text `@name`.
        inputs_file: A JSON or YAML mapping; `-` is stdin.
        fields: The workflow's state fields.

    Raises:
        InputError: With everything that is wrong, at once. Names and types are checked by the run.
    """
    if (inputs_file == STDIN) + sum(pair.partition("=")[2] == "@-" for pair in pairs) > 1:
        raise InputError(["stdin ('-') can be read only once"])
    problems: list[str] = []
    given = _mapping(inputs_file, read) if inputs_file is not None else {}
    seen: set[str] = set()
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip()
        if not equals or not name:
            problems.append(f"input {pair!r} is not of the form key=value")
        elif name in seen:
            problems.append(f"input {name!r} is given twice")
        else:
            seen.add(name)
            _set(given, name, text, fields.get(name), read, problems)
    if problems:
        raise InputError(problems)
    return given


def _set(
    given: dict[str, Any],
    name: str,
    text: str,
    field: StateField | None,
    read: Callable[[str], str],
    problems: list[str],
) -> None:
    source = name
    try:
        if text.startswith("@@"):
            text = text[1:]
        elif text.startswith("@"):
            source = f"{name} (from {_name_of(text[1:])})"
            # As in a shell's $(…): the line end that every editor puts there is not part of the text.
            text = read(text[1:]).removesuffix("\n").removesuffix("\r")
        # A name that is no field is refused by the run, which knows the names and has a suggestion.
        given[name] = text if field is None or field.type.strip() == "str" else _json(text)
    except InputError as error:
        problems += [f"input {name!r}: {problem}" for problem in error.problems]
    except ValueError as error:
        assert field is not None  # noqa: S101 - only the JSON of a known field raises this
        problems.append(f"input {source}: the field's type is {field.type}, so its value is read as JSON: {error}")


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _mapping(place: str, read: Callable[[str], str]) -> dict[str, Any]:
    name, text = _name_of(place), read(place)
    try:
        value = _json(text)  # any size; the YAML reader has the limits of workflow files
    except ValueError:
        value = _yaml(text, name)
    if not isinstance(value, dict):
        raise InputError([f"{name} holds no mapping of inputs, as topic: refunds"])
    return value


def _yaml(text: str, name: str) -> Any:
    from configurable_agents.config.findings import Findings
    from configurable_agents.config.reader import Unreadable, read

    findings = Findings()
    positions = None
    value = None
    with suppress(Unreadable):
        value, positions = read(text, findings)
    if findings:
        raise InputError([str(problem) for problem in findings.problems(positions, file=name)])
    return value


def _name_of(place: str) -> str:
    return "stdin" if place == STDIN else place
