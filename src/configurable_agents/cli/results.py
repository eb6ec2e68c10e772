"""What a run gave, and the run itself, shown on stdout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from rich.cells import cell_len
from rich.padding import Padding
from rich.text import Text

from configurable_agents.cli.screen import Screen
from configurable_agents.cli.text import one_line
from configurable_agents.cli.tree import RunView, header, named_values, tree
from configurable_agents.cli.values import outline

if TYPE_CHECKING:
    from configurable_agents.config.schema import WorkflowConfig

_INLINE: Final = 60
"""A longer value stands below its name."""


def show_outputs(screen: Screen, config: WorkflowConfig, state: Mapping[str, Any]) -> None:
    """Show the fields of the final state that nodes write; what the caller gave, the caller knows."""
    written = {name for node in config.nodes for name in node.outputs}
    written |= {edge.parallel.collect_field for edge in config.edges if edge.parallel is not None}
    shown = {name: outline(value) for name, value in state.items() if name in written}
    short = {name: lines[0] for name, lines in shown.items() if _is_short(lines)}
    pad = max((cell_len(name) for name in short), default=0)
    for name, line in short.items():
        _line(screen, Text.assemble((f"{name}{' ' * (pad - cell_len(name))}  ", "bold"), line))
    for name in shown:
        if name not in short:
            _block(screen, name, shown[name])
    screen.show()


def _is_short(lines: list[str]) -> bool:
    return len(lines) == 1 and cell_len(lines[0]) <= _INLINE and not lines[0].startswith("- ")


def _block(screen: Screen, name: str, lines: list[str]) -> None:
    _line(screen, Text(one_line(name), "bold"))
    for line in lines:
        _line(screen, Text(line), indent=2)


def _line(screen: Screen, text: Text, *, indent: int = 0) -> None:
    """Show a line, wrapped in a terminal; in a file or a pipe it stays one line."""
    if screen.out.is_terminal:
        screen.show(Padding(text, (0, 0, 0, indent), expand=False) if text.plain else "")
    else:
        screen.out.print(Text(" " * indent) + text if text.plain else "", soft_wrap=True)


def show_view(screen: Screen, view: RunView, *, with_inputs: bool = True) -> None:
    """Show a run: its header, its inputs and its tree."""
    width, signs = screen.out.width, screen.signs
    for line in header(view, signs=signs):
        screen.out.print(line, soft_wrap=not screen.out.is_terminal)
    if with_inputs and view.run.inputs:
        screen.show()
        screen.show(Text("inputs", "bold"))
        for line in named_values(view.run.inputs, width=width - 2, signs=signs):
            screen.show(Text("  ") + line)
    screen.show()
    for line in tree(view, width=width, signs=signs):
        screen.show(line)
