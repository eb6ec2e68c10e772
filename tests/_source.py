"""Reads what our own source imports, without running it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "configurable_agents"
SOURCE = ROOT / "src" / PACKAGE


@dataclass(frozen=True, slots=True)
class Import:
    """One import of one module, also where it stands inside a function."""

    importer: str
    """Dotted name of the module that imports, without the package: `storage.factory`."""
    target: str
    """Dotted name of what is imported: `configurable_agents.config.schema.Edge`, `sqlalchemy.orm`."""
    for_types_only: bool
    """Whether it stands under `if TYPE_CHECKING:`, and so is never run."""

    @property
    def layer(self) -> str:
        """The package that imports, as `storage`; a module at the root is a layer of its own."""
        return self.importer.split(".")[0]


def module_name(path: Path, source: Path = SOURCE) -> str:
    """Give a module's dotted name without the package; the package's own `__init__` is `__init__`."""
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports_of(text: str, importer: str) -> Iterator[Import]:
    """List the imports in one module's text."""
    tree = ast.parse(text)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        for target in _targets(node):
            yield Import(importer, target, id(node) in typing_only)


def _targets(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert not node.level, "relative imports hide who imports whom"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}:
        return [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    return []


@functools.cache  # the source does not change while the tests run
def all_imports(source: Path = SOURCE) -> list[Import]:
    """List the imports of every module of the package."""
    return [
        found
        for path in sorted(source.rglob("*.py"))
        for found in imports_of(path.read_text(encoding="utf-8"), module_name(path, source))
    ]


def is_in(target: str, module: str) -> bool:
    """Tell whether a dotted name is the module or something in it."""
    return target == module or target.startswith(f"{module}.")


def layers_importing(library: str) -> set[str]:
    """Name the layers that load a library; imports for types only do not load it."""
    return {found.layer for found in all_imports() if is_in(found.target, library) and not found.for_types_only}


def names_used(text: str) -> Iterator[tuple[ast.Name | ast.Attribute, str]]:
    """List the names and dotted names that one module's text uses, as `print` and `sys.exit`."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name | ast.Attribute):
            yield node, ast.unparse(node)
