"""Which commands there are and where. Each is loaded when it is asked for: to load is most of what a short one takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup


class _Loaded(Mapping[str, Any]):
    """Commands by name, made when they are looked up."""

    def __init__(self, homes: Mapping[str, str]) -> None:
        self._homes = homes

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = self._homes[name].rpartition(".")
        return _command(name, getattr(import_module(f"configurable_agents.cli.{module}"), attribute))

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)


class _Group(TyperGroup):
    homes: ClassVar[Mapping[str, str]]
    """By the name of each command: its module in this package, and the function or the group in it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings | {"commands": _Loaded(self.homes)})

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the commands, without loading them."""
        return list(self.homes)


class _Runs(_Group):
    homes: ClassVar = {
        "list": "runs_commands.list_",
        "show": "runs_commands.show",
        "delete": "runs_commands.delete",
        "costs": "costs_command.costs",
        "export": "export_commands.export",
        "import": "export_commands.import_",
    }


class Commands(_Group):
    """The commands of `configurable-agents`."""

    homes: ClassVar = {
        "run": "run_command.run",
        "validate": "validate_command.validate",
        "schema": "validate_command.schema",
        "runs": "commands.runs",
        "store": "store_commands.store",
    }


runs = typer.Typer(
    name="runs", cls=_Runs, help="List, show, ship and delete the runs that are kept.", no_args_is_help=True
)


def _command(name: str, found: typer.Typer | Callable[..., Any]) -> Any:
    if isinstance(found, typer.Typer):
        return typer.main.get_group(found)
    alone = typer.Typer(add_completion=False)
    alone.command(name)(found)
    return typer.main.get_command(alone)
