"""The house around the code: who may import whom, what the public face is, and that the papers tell the truth."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import configurable_agents
from _documents import Snippet, anchors, links, name_of, pages, snippets
from _source import PACKAGE, ROOT, SOURCE, Import, all_imports, imports_of, is_in, layers_importing, names_used
from _timing import in_one_of_a_few_tries, timely

LEAVES = {"errors", "semconv", "deltas", "environ", "forks", "logs", "once", "spans", "_version"}
"""Modules at the root that anybody may use, and that use at most each other."""

MAY_USE: dict[str, set[str]] = {
    "config": set(),
    "llm": {"config"},
    "core": {"config", "llm"},
    "storage": {"config"},
    "observability": {
        "config",
        "storage.attributes",
        "storage.base",
        "storage.factory",
        "storage.lifetime",
        "storage.records",
        "storage.writer",
    },
    "runtime": {"config", "llm", "core", "storage", "observability"},
    "cli": {"config", "llm", "core", "storage", "observability", "runtime"},
    # The public face names its homes for type checkers, and loads them by name when they are used.
    "__init__": {
        "config.schema",
        "observability.exporter",
        "observability.propagation",
        "runtime",
        "storage.base",
        "storage.factory",
        "storage.records",
    },
}
"""Downwards only (ARCHITECTURE.md, "Layers")."""

HOMES: dict[str, set[str]] = {
    "yaml": {"config"},
    "sqlalchemy": {"storage"},
    "alembic": {"storage"},
    "psycopg": {"storage"},
    "opentelemetry.sdk": {"observability"},
    "opentelemetry.exporter": {"observability"},
    "langchain_core": {"llm"},
    "langchain_openai": {"llm"},
    "langchain_anthropic": {"llm"},
    "langchain_google_genai": {"llm"},
    "langchain_ollama": {"llm"},
    "xllamacpp": {"llm"},
    "genai_prices": {"llm"},
    "typer": {"cli"},
    "click": set(),  # typer ships its own, or uses one, as its version goes
    "rich": {"cli"},
}

PROGRAMS = {"llm/_engine_worker.py"}
"""Modules that run as a process of their own, and so have arguments of their own."""

PUBLIC = [
    "AbstractExecutionStateRepository",
    "AbstractWorkflowRunRepository",
    "ConfigError",
    "ConfigurableAgentsError",
    "ExecutionStateRecord",
    "InputError",
    "ModelSetupError",
    "NodeExecutionError",
    "Problem",
    "RunNotFoundError",
    "RunObserver",
    "RunResult",
    "StorageBackend",
    "StorageConfig",
    "StorageError",
    "StoreSpanExporter",
    "Workflow",
    "WorkflowExecutionError",
    "WorkflowRunRecord",
    "__version__",
    "arun_workflow",
    "arun_workflow_from_config",
    "child_environment",
    "create_storage_backend",
    "load_workflow",
    "run_workflow",
    "run_workflow_from_config",
]


# --- layers --------------------------------------------------------------------------------------------------------------


def breaks_the_layers(found: Import) -> bool:
    """Tell whether an import runs upwards or sideways."""
    if not is_in(found.target, PACKAGE):
        return False
    path = found.target.removeprefix(PACKAGE).removeprefix(".")
    # A name that is no module of ours is one that the public face defines, as `__version__`.
    top = path.split(".")[0]
    if found.layer in LEAVES:
        return top not in LEAVES
    allowed = MAY_USE[found.layer] | LEAVES | {found.layer}
    return not any(is_in(path, module) for module in allowed)


def test_imports_run_one_way_down() -> None:
    """So that a layer can be understood, tested and replaced without those above it."""
    wrong = [f"{found.importer} imports {found.target}" for found in all_imports() if breaks_the_layers(found)]
    assert wrong == []


def test_no_modules_name_each_other_in_a_ring() -> None:
    """Also for types alone: each can be read and replaced knowing only what stands below it."""
    imports = all_imports()
    below: dict[str, set[str]] = {found.importer: set() for found in imports}
    for found in imports:
        target = found.target.removeprefix(f"{PACKAGE}.") if is_in(found.target, PACKAGE) else ""
        below[found.importer] |= {name for name in (target, target.rpartition(".")[0]) if name in below}
    TopologicalSorter({name: used - {name} for name, used in below.items()}).prepare()  # raises, and names the ring


def test_every_package_has_its_place_among_the_layers() -> None:
    """A new package is a decision about who may use it."""
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")} | {"__init__"}
    modules = {path.stem for path in SOURCE.glob("*.py")} - {"__init__"}
    assert (packages, modules) == (set(MAY_USE), LEAVES)


@pytest.mark.parametrize(("library", "homes"), HOMES.items(), ids=HOMES)
def test_a_library_has_one_home(library: str, homes: set[str]) -> None:
    """So that one layer can replace it."""
    assert layers_importing(library) <= homes, f"{library} has one home, so that one layer can replace it"


def test_core_knows_the_opentelemetry_api_only() -> None:
    """The engine makes spans; what becomes of them is not its concern."""
    used = {found.target for found in all_imports() if found.layer == "core" and is_in(found.target, "opentelemetry")}
    api = ("opentelemetry.trace", "opentelemetry.context", "opentelemetry.util.types")
    assert [target for target in used if not any(is_in(target, module) for module in api)] == []


def test_only_the_command_line_prints_exits_or_reads_the_arguments() -> None:
    """A library that prints or exits takes its host along."""
    loud = {"print", "input", "sys.exit", "sys.argv", "sys.stdout", "sys.stderr"}
    wrong = [
        f"{path.relative_to(SOURCE)}:{node.lineno}: {name}"
        for path in SOURCE.rglob("*.py")
        if path.relative_to(SOURCE).parts[0] != "cli" and path.relative_to(SOURCE).as_posix() not in PROGRAMS
        for node, name in names_used(path.read_text(encoding="utf-8"))
        if name in loud
    ]
    assert wrong == []


def test_what_logs_never_raises_what_a_host_has_put_into_the_log() -> None:
    """A module's own logger is that of `logs`; the other two look at those of others."""
    homes = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        for _, name in names_used(path.read_text(encoding="utf-8"))
        if name == "logging.getLogger"
    }
    assert homes == {"logs.py", "cli/log.py", "observability/exporter_log.py"}


def test_an_import_inside_a_function_or_by_name_is_seen() -> None:
    """The layers' test is worth what it sees."""
    text = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import yaml\n"
        "def f():\n    from sqlalchemy import orm\n    return importlib.import_module('configurable_agents.cli.main')\n"
    )
    found = {(i.target, i.for_types_only) for i in imports_of(text, "core.graph")}
    assert {("yaml", True), ("sqlalchemy.orm", False), ("configurable_agents.cli.main", False)} <= found
    assert [i.target for i in imports_of(text, "core.graph") if breaks_the_layers(i)] == [
        "configurable_agents.cli.main"
    ]


# --- the public face -----------------------------------------------------------------------------------------------------


def test_the_public_face_is_what_reviewers_agreed_to() -> None:
    """A new public name is a decision: it is added here too."""
    assert configurable_agents.__all__ == PUBLIC == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_there_and_says_what_it_is(name: str) -> None:
    """A name that fails when used, or that help() cannot tell about, is not public."""
    value = getattr(configurable_agents, name)
    doc = inspect.getdoc(value)
    assert doc
    assert not doc.startswith(f"{name}("), "a dataclass without a docstring shows its fields instead"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """The names are loaded by code of ours, which must not swallow a misspelling."""
    with pytest.raises(AttributeError, match="'configurable_agents' has no attribute 'run_workflows'"):
        configurable_agents.run_workflows  # noqa: B018  # reading it is the test


_IMPORT_AND_WATCH = """
import json, os, sys, threading, time
touched = []
def watch(event, args):
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    if event == "open" and isinstance(args[2], int) and args[2] & writes or event in ("os.mkdir", "socket.connect"):
        touched.append([event, str(args[0])])
sys.addaudithook(watch)
before, start = set(sys.modules), time.process_time()
import configurable_agents
cpu_seconds = time.process_time() - start
loaded = sorted(set(sys.modules) - before)
print(json.dumps([touched, threading.active_count(), cpu_seconds, loaded]))
"""


@in_one_of_a_few_tries
def test_import_costs_and_touches_nothing() -> None:
    """A service that imports the package and never runs a workflow should not notice it."""
    command = [sys.executable, "-B", "-c", _IMPORT_AND_WATCH]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    touched, threads, cpu_seconds, loaded = json.loads(done.stdout)
    heavy = ("sqlalchemy", "alembic", "langchain", "opentelemetry", "pydantic", "yaml", "rich", "typer", "xllamacpp")
    assert [module for module in loaded if module.startswith((*heavy, "genai_prices", "openai", "httpx"))] == []
    assert (touched, threads, done.stderr) == ([], 1, "")
    timely(cpu_seconds < 0.5)


# --- papers --------------------------------------------------------------------------------------------------------------


def workflows() -> list[Snippet]:
    return [found for page in pages() for found in snippets(page) if found.is_whole_workflow]


def programs() -> list[Path]:
    return [page for page in pages() if any(found.language == "python" for found in snippets(page))]


@pytest.mark.parametrize("snippet", workflows(), ids=str)
def test_a_workflow_in_the_papers_loads(snippet: Snippet) -> None:
    """What is copied from the papers works."""
    from configurable_agents.config.loader import parse_config

    assert parse_config(snippet.text, name=str(snippet)).warnings == ()


@pytest.mark.parametrize("page", programs(), ids=name_of)
def test_the_programs_on_a_page_run(page: Path, tmp_path: Path) -> None:
    """In reading order, beside the page's workflow files; the scripted model stands in for a real one."""
    found = snippets(page)
    for snippet in found:
        if snippet.is_whole_workflow:
            (tmp_path / snippet.file_name).write_text(snippet.text.replace("local", "scripted"), encoding="utf-8")
    program = "\n".join(snippet.text for snippet in found if snippet.language == "python")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program.replace('"local"', '"scripted"')],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_the_links_on_a_page_lead_somewhere(page: Path) -> None:
    """A reader who follows one finds what it promised."""
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_readme_shows_a_workflow_a_program_and_two_commands() -> None:
    """The first thing a stranger reads; `.ci/run` carries the two commands out."""
    readme = ROOT / "README.md"
    languages = {found.language for found in snippets(readme)}
    assert {"yaml", "python", "sh"} <= languages
    assert any(found.is_whole_workflow for found in snippets(readme))
    commands = re.findall(r"^python3 -m venv .*$", readme.read_text(encoding="utf-8"), re.MULTILINE)
    assert ["run examples/triage" in command for command in commands] == [True, False]
    assert commands[1].endswith(".venv/bin/pytest -n auto --dist worksteal")


def test_the_changelog_tells_of_the_current_version() -> None:
    """What users can do now stands first."""
    sections = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sections[0] in {"Unreleased", configurable_agents.__version__}


# --- what is installed ---------------------------------------------------------------------------------------------------


def project() -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def names(requirements: object) -> list[str]:
    assert isinstance(requirements, list)
    return [re.split(r"[\[<>=!~; ]", requirement)[0].lower() for requirement in requirements]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))


def test_each_dependency_has_its_reason_in_the_architecture() -> None:
    """Every dependency is a cost to users; the reason for it is written down."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").lower()
    assert [name for name in names(project()["dependencies"]) if f"`{name}`" not in text] == []


def test_the_constraints_name_every_dependency_once_and_exactly() -> None:
    """Else a fresh install resolves slowly, or differently from one day to the next."""
    extras = project()["optional-dependencies"]
    assert isinstance(extras, dict)
    wanted = {*names(project()["dependencies"]), *(name for extra in extras.values() for name in names(extra))}
    known = {re.sub(r"[-_.]+", "-", name) for name in pins()}
    assert sorted(wanted - known) == []
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins().values())


def test_no_file_names_a_registry_or_a_developers_machine() -> None:
    """Where packages come from is the environment's business, and our machines are nobody's."""
    # In brackets, so that this file does not name them.
    places = re.compile(r"[p]ypi\.org|[p]ythonhosted|[d]ebian\.org|/[r]oot/|/[w]ork/")
    shown = {".md", ".py", ".toml", ".txt", ".yaml", ".yml", ".json", ".ini", ".mako", ""}
    folders = ["src", "tests", "docs", "examples", "benchmarks", "collector-config", ".ci"]
    files = [path for folder in folders for path in (ROOT / folder).rglob("*")] + list(ROOT.glob("*"))
    wrong = [
        name_of(path)
        for path in files
        if path.is_file()
        and path.suffix in shown
        and "__pycache__" not in path.parts
        and places.search(path.read_text(encoding="utf-8"))
    ]
    assert wrong == []
