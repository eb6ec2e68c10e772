"""Every command has help and stands in the docs, and none loads more than it needs."""

from __future__ import annotations

import re
import subprocess
import sys
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from _cli import environment, run_here, run_process, scripted_file
from _records import run_record
from configurable_agents import create_storage_backend
from configurable_agents.cli.main import app

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def commands(command: Any = None, path: str = "") -> Iterator[tuple[str, Any]]:
    """Walk all commands with their paths."""
    command = command or typer.main.get_command(app)
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{path} {name}".strip())


COMMANDS = dict(commands())


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_option_has_help_and_stands_in_the_docs(path: str) -> None:
    """What is not written down is not there for people."""
    command = COMMANDS[path]
    assert command.help
    if path and not hasattr(command, "commands"):
        assert f"\n## {path}\n" in PAGE
    page = PAGE.partition(f"\n## {path}\n")[2].partition("\n## ")[0] if f"\n## {path}\n" in PAGE else PAGE
    for parameter in command.params:
        assert getattr(parameter, "help", None), parameter.name
        names = [name for name in parameter.opts if name.startswith("-")]
        assert [name for name in names if not re.search(rf"(?<![\w-]){name}(?![\w-])", page)] == []


@pytest.mark.parametrize("path", COMMANDS)
def test_help_is_shown_and_is_exit_code_0(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """For every command, by both names."""
    for option in ("--help", "-h"):
        said = run_here(capsys, *path.split(), option)
        assert said.code == 0
        assert "Usage" in said.out


HEAVY = "{'sqlalchemy', 'alembic', 'langchain_core', 'opentelemetry.sdk', 'genai_prices', 'xllamacpp'}"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["validate", "support.yaml"], ["schema"]])
def test_a_command_loads_no_more_than_it_needs(tmp_path: Path, arguments: list[str]) -> None:
    """`--help` and `validate` answer at once."""
    scripted_file(tmp_path)
    program = (
        "import sys; from configurable_agents.cli.main import main; "
        f"code = main({arguments!r}); print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_runs_list_loads_no_other_command(tmp_path: Path) -> None:
    """Loading is nearly all of its time."""
    create_storage_backend(tmp_path / "workflows.db").close()
    program = (
        "import sys; from configurable_agents.cli.main import main; code = main(['runs', 'list']); "
        "print(sorted(name for name in sys.modules if name.startswith('configurable_agents')), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60
    )
    loaded = set(literal_eval(done.stderr.splitlines()[-1]))
    assert {name for name in loaded if name.endswith(("_command", "_commands"))} == {
        "configurable_agents.cli.runs_commands"
    }


def test_runs_list_is_quick(tmp_path: Path) -> None:
    """People call it all the time. (Six tenths of a second of processor time is promised; here twice that, for slow
    and busy machines.)"""
    resource = pytest.importorskip("resource")
    backend = create_storage_backend(tmp_path / "workflows.db")
    backend.write([run_record(1)])
    backend.close()
    run_process(["runs", "list"], tmp_path)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run_process(["runs", "list"], tmp_path).code == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.2


def test_both_names_start_the_same_program() -> None:
    """`cagents` is the short one."""
    from importlib.metadata import entry_points

    found = {point.name: point.value for point in entry_points(group="console_scripts") if "agents" in point.name}
    assert found["configurable-agents"] == found["cagents"] == "configurable_agents.cli.main:main"
