"""What a run gave, and the run itself, shown on stdout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from rich.cells import cell_len
from rich.text import Text

from configurable_agents.cli.screen import Screen
from configurable_agents.cli.text import one_line
from configurable_agents.cli.tree import RunView, header, named_values, tree
from configurable_agents.cli.values import outline

if TYPE_CHECKING:
    from configurable_agents.config.schema import WorkflowConfig

_MAX_NAME: Final = 24
"""Columns for the names beside the values; a value with a longer name, and an outline, stand below theirs."""


def show_outputs(screen: Screen, config: WorkflowConfig, state: Mapping[str, Any]) -> None:
    """Show the fields of the final state that nodes write; what the caller gave, the caller knows."""
    written = {name for node in config.nodes for name in node.outputs}
    written |= {edge.parallel.collect_field for edge in config.edges if edge.parallel is not None}
    shown = {name: value for name, value in state.items() if name in written}
    pad = max((cell_len(name) for name in shown if cell_len(name) <= _MAX_NAME), default=0)
    for name, value in shown.items():
        lines = [screen.signs.nothing] if value is None else outline(value)
        if cell_len(name) > pad or (len(lines) > 1 and not isinstance(value, str)):
            _line(screen, Text(one_line(name), "bold"))
            pairs = [(Text("  "), line) for line in lines]
        else:
            head = Text(name + " " * (pad - cell_len(name)) + "  ", "bold")
            pairs = [(head if number == 0 else Text(" " * (pad + 2)), line) for number, line in enumerate(lines)]
        for head, line in pairs:
            _line(screen, Text(line), head=head)
    screen.show()


def _line(screen: Screen, text: Text, *, head: Text | None = None) -> None:
    """Show a line, in a terminal wrapped below its own beginning; in a file or a pipe it stays one line."""
    head = head or Text()
    if not screen.out.is_terminal:
        screen.write((head.plain + text.plain).rstrip())
        return
    room = max(screen.out.width - head.cell_len, 10)
    for number, part in enumerate(text.wrap(screen.out, room)):
        screen.show((head if number == 0 else Text(" " * head.cell_len)) + part)


def show_view(screen: Screen, view: RunView, *, with_inputs: bool = True, link: str | None = None) -> None:
    """Show a run: its header, with the address of its trace if that is known, its inputs and its tree."""
    width, signs = screen.out.width, screen.signs
    for line in header(view, signs=signs, link=link):
        screen.out.print(line, soft_wrap=not screen.out.is_terminal)
    if with_inputs and view.run.inputs:
        screen.show()
        screen.show(Text("inputs", "bold"))
        for line in named_values(view.run.inputs, width=width - 2, signs=signs):
            screen.show(Text("  ") + line)
    screen.show()
    for line in tree(view, width=width, signs=signs):
        screen.show(line)
