"""The callables that `--functions MODULE` offers to function nodes."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from configurable_agents.errors import ConfigurableAgentsError


class FunctionsError(ConfigurableAgentsError):
    """The module of `--functions` cannot be used; nothing ran."""


def load_functions(module: str) -> Mapping[str, Callable[..., Any]]:
    """Import a module and give the callables that its `__all__` names.

    Args:
        module: A dotted name, found in the working directory too, or the path of a `.py` file.

    Raises:
        FunctionsError: It cannot be imported, or has no `__all__`, or one that names what is not there.
    """
    loaded = _import(module)
    names = getattr(loaded, "__all__", None)
    if not isinstance(names, list | tuple):
        raise FunctionsError(f"{module!r} has no __all__: name the functions it offers there, as __all__ = ['check']")
    missing = [name for name in names if not hasattr(loaded, str(name))]
    if missing:
        raise FunctionsError(f"{module!r} names {missing[0]!r} in its __all__, but does not define it")
    functions = {str(name): getattr(loaded, str(name)) for name in names if callable(getattr(loaded, str(name)))}
    if not functions:
        raise FunctionsError(f"{module!r} offers no function: its __all__ names nothing that can be called")
    return functions


def _import(module: str) -> ModuleType:
    try:
        if module.endswith(".py"):
            return _import_file(Path(module))
        _make_working_directory_importable()
        return importlib.import_module(module)
    except FunctionsError:
        raise
    except Exception as error:  # the module's own code may raise anything
        reason = str(error) if isinstance(error, ModuleNotFoundError) else f"{type(error).__name__}: {error}"
        raise FunctionsError(f"cannot import {module!r}: {reason}") from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FunctionsError(f"there is no file {str(path)!r}")
    # Its neighbours can be imported by it, as if it had been started as a program.
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise FunctionsError(f"{str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses and pickle look their module up
    spec.loader.exec_module(module)
    return module


def _make_working_directory_importable() -> None:
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.insert(0, str(Path.cwd()))
