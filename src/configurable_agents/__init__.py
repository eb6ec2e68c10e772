"""Run workflows of language-model nodes from one YAML file and keep every run as a trace.

    from configurable_agents import run_workflow

    result = run_workflow("hello.yaml", {"name": "Ada"})
    print(result.outputs["greeting"], result.total_cost_usd)

The names in `__all__` are the public face: what is not there may change in any release. Each is loaded when it is
first used, so that `import configurable_agents` costs nothing and loads no database, provider or exporter.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from configurable_agents._version import __version__

if TYPE_CHECKING:
    from configurable_agents.config.schema import StorageConfig
    from configurable_agents.errors import (
        ConfigError,
        ConfigurableAgentsError,
        InputError,
        ModelSetupError,
        NodeExecutionError,
        Problem,
        RunNotFoundError,
        StorageError,
        WorkflowExecutionError,
    )
    from configurable_agents.observability.exporter import StoreSpanExporter
    from configurable_agents.observability.propagation import child_environment
    from configurable_agents.runtime.executor import (
        arun_workflow,
        arun_workflow_from_config,
        run_workflow,
        run_workflow_from_config,
    )
    from configurable_agents.runtime.result import RunObserver, RunResult
    from configurable_agents.runtime.workflow import Workflow, load_workflow
    from configurable_agents.storage.base import (
        AbstractExecutionStateRepository,
        AbstractWorkflowRunRepository,
        StorageBackend,
    )
    from configurable_agents.storage.factory import create_storage_backend
    from configurable_agents.storage.records import ExecutionStateRecord, WorkflowRunRecord

__all__ = [
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

_NAMES_OF_MODULES = {
    "config.schema": ("StorageConfig",),
    "errors": (
        "ConfigError",
        "ConfigurableAgentsError",
        "InputError",
        "ModelSetupError",
        "NodeExecutionError",
        "Problem",
        "RunNotFoundError",
        "StorageError",
        "WorkflowExecutionError",
    ),
    "observability.exporter": ("StoreSpanExporter",),
    "observability.propagation": ("child_environment",),
    "runtime.executor": (
        "arun_workflow",
        "arun_workflow_from_config",
        "run_workflow",
        "run_workflow_from_config",
    ),
    "runtime.result": ("RunObserver", "RunResult"),
    "runtime.workflow": ("Workflow", "load_workflow"),
    "storage.base": (
        "AbstractExecutionStateRepository",
        "AbstractWorkflowRunRepository",
        "StorageBackend",
    ),
    "storage.factory": ("create_storage_backend",),
    "storage.records": ("ExecutionStateRecord", "WorkflowRunRecord"),
}
_HOMES = {name: module for module, names in _NAMES_OF_MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name from its home (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Name what is public, loaded or not."""
    return sorted(__all__)
