"""The command line: its commands, its exit codes, and how an error is said."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from configurable_agents.cli.commands import Commands
from configurable_agents.cli.log import stop_logging
from configurable_agents.cli.options import DebugOption, screen_of
from configurable_agents.cli.screen import Screen, silence
from configurable_agents.cli.signals import Ending
from configurable_agents.errors import ConfigError, ConfigurableAgentsError, WorkflowExecutionError

DONE: Final = 0
FAILED: Final = 1
WRONG: Final = 2
"""The command or the file was wrong; nothing ran."""

_OBJECTS: Final = 100_000
"""New ones, some ten megabytes of them, before garbage is looked for."""
_EPILOG: Final = "Exit codes: 0 done, 1 the run failed, 2 the command or the file was wrong."

app = typer.Typer(
    name="configurable-agents",
    cls=Commands,
    help="Run workflows of language-model nodes from one YAML file, and read what happened in each run.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _show_version(context: typer.Context, value: bool) -> None:
    if value:
        from configurable_agents._version import __version__

        screen_of(context).write(f"configurable-agents {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
    debug: DebugOption = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code: 0 done, 1 the run failed, 2 the command or the file was wrong."""
    is_own_process = arguments is None
    if is_own_process:
        # A short command spends a sixth of its time on looking for garbage among what its libraries keep.
        gc.set_threshold(_OBJECTS, *gc.get_threshold()[1:])
    ending = Ending()
    ending.listen()
    screen = Screen()
    try:
        code = _run_command(screen, arguments)
    except KeyboardInterrupt:
        code = ending.code()
    else:
        ending.forget()
    finally:
        stop_logging()
    _flush()
    if is_own_process:
        gc.freeze()  # what is left goes with the process, without being looked through once more
    return code


def _run_command(screen: Screen, arguments: Sequence[str] | None) -> int:
    command = typer.main.get_command(app)
    try:
        code = command.main(arguments, prog_name=_program(), standalone_mode=False, obj=screen)
    except typer.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # how older releases of typer say it
            raise KeyboardInterrupt from None
        return _fail(screen, error)
    except ConfigurableAgentsError as error:
        return _fail(screen, error)
    except Exception as error:  # noqa: BLE001 - whatever it is, people get one message and --debug the rest
        if hasattr(error, "format_message"):  # a usage error; its class is click's or, in newer releases, typer's own
            return _misused(screen, error)
        return _broken(screen, error)
    if code == 130:  # how newer ones do
        raise KeyboardInterrupt
    return code if isinstance(code, int) else DONE


def _fail(screen: Screen, error: Exception) -> int:
    if screen.debug:
        traceback.print_exception(error)
    if isinstance(error, ConfigError):
        # Editors and terminals find the place at the start of the line.
        for problem in error.problems:
            screen.tell(str(problem))
    else:
        screen.complain(str(error) or "aborted")
    return FAILED if isinstance(error, WorkflowExecutionError) else WRONG


def _misused(screen: Screen, error: Exception) -> int:
    message = error.format_message()  # type: ignore[attr-defined]  # asked for above
    if not message:  # no arguments: the help has been shown
        return WRONG
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else _program()
    screen.complain(f"{message}\nSee '{path} --help'.")
    return WRONG


def _broken(screen: Screen, error: Exception) -> int:
    """Say that we are wrong, not the user."""
    if screen.debug:
        traceback.print_exception(error)
    hint = "" if screen.debug else " (--debug shows where)"
    screen.complain(f"unexpected {type(error).__name__}: {error}{hint}", kind="internal error")
    return FAILED


def _program() -> str:
    name = sys.argv[0].replace("\\", "/").rpartition("/")[2].removesuffix(".exe")
    return name if name in {"configurable-agents", "cagents"} else "configurable-agents"


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:  # `| head` has seen enough
            silence(stream)


if __name__ == "__main__":
    sys.exit(main())
