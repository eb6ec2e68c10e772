"""`validate` and `schema`: check workflow files, and give editors the language."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from configurable_agents.cli.figures import count
from configurable_agents.cli.options import DebugOption, FunctionsOption, screen_of
from configurable_agents.cli.screen import Screen
from configurable_agents.cli.text import clean, one_line
from configurable_agents.errors import ConfigError

if TYPE_CHECKING:
    from configurable_agents.config.loader import LoadedConfig


def validate(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Workflow files (YAML or JSON).")],
    functions: FunctionsOption = None,
    debug: DebugOption = False,
) -> int:
    """Check workflow files without running them, and list the hosts, variables and paths that they reach."""
    screen = screen_of(context)
    registered = _registered(functions)
    results = [_validate_file(screen, file, registered) for file in files]
    return 0 if all(results) else 2


def _registered(module: str | None) -> Mapping[str, Callable[..., Any]] | None:
    if module is None:
        return None
    from configurable_agents.cli.functions import load_functions

    return load_functions(module)


def _validate_file(screen: Screen, file: Path, registered: Collection[str] | None) -> bool:
    from configurable_agents.config.loader import load_config

    try:
        loaded = load_config(file)
    except ConfigError as error:
        for problem in error.problems:
            _show(screen, "", "", str(problem))
        _show(screen, "wrong", "bold red", f"{file}: {count(len(error.problems), 'problem')}")
        return False
    unknown = _unknown_functions(loaded, registered or ())
    if registered is not None and unknown:
        for node, name in unknown:
            offered = ", ".join(sorted(registered))
            _show(screen, "", "", f"{file}: node {node!r}: no function is called {name!r}\n  There are: {offered}")
        _show(screen, "wrong", "bold red", f"{file}: {count(len(unknown), 'problem')}")
        return False
    _show_sound(screen, file, loaded, unknown)
    return True


def _unknown_functions(loaded: LoadedConfig, registered: Collection[str]) -> list[tuple[str, str]]:
    from configurable_agents.config.schema import FunctionNode

    nodes = [node for node in loaded.config.nodes if isinstance(node, FunctionNode)]
    return [(node.id, node.function) for node in nodes if node.function not in registered]


def _show_sound(screen: Screen, file: Path, loaded: LoadedConfig, unknown: list[tuple[str, str]]) -> None:
    config = loaded.config
    shape = f"{count(len(config.nodes), 'node')}, {count(len(config.edges), 'edge')}"
    _show(screen, "ok", "bold green", f"{file}: {one_line(config.flow.name)}, {shape}")
    for name, values in _reached(loaded):
        listed = ", ".join(one_line(value) for value in values) or "none"
        screen.out.print(Text.assemble((f"  {name:<12}", "dim"), screen.signs.spell(listed)), soft_wrap=True)
    for problem in loaded.warnings:
        _show(screen, "warning", "yellow", str(problem))
    for node, function in unknown:
        remedy = "Register it with --functions MODULE (or functions= in a program)."
        _show(screen, "warning", "yellow", f"{file}: node {node!r} calls the function {function!r}\n  {remedy}")


def _reached(loaded: LoadedConfig) -> list[tuple[str, tuple[str, ...]]]:
    from configurable_agents.config.reach import reach

    found = reach(loaded.config)
    kinds = {
        "hosts": found.hosts,
        "variables": found.environment,
        "paths": found.paths,
        "modules": found.modules,
        "parameters": found.params,
    }
    # Hosts, variables and paths are always answered; the other two are rare.
    return [
        (kind, tuple(dict.fromkeys(named.value for named in values)))
        for kind, values in kinds.items()
        if values or kind in {"hosts", "variables", "paths"}
    ]


def _show(screen: Screen, kind: str, style: str, text: str) -> None:
    screen.out.print(
        Text.assemble((f"{kind}: " if kind else "", style), screen.signs.spell(clean(text))), soft_wrap=True
    )


def schema(context: typer.Context, debug: DebugOption = False) -> int:
    """Print the JSON Schema of the workflow language, for editors."""
    from configurable_agents.config import json_schema

    screen = screen_of(context)
    screen.write(json.dumps(json_schema(), indent=2))
    return 0
