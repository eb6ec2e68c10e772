"""Every exception that configurable-agents raises.

ConfigurableAgentsError
├── ConfigError                the file is wrong; nothing ran
├── InputError                 the inputs do not fit the file's state; nothing ran
├── ModelSetupError            a model cannot be made: package, key or name is missing; nothing ran
├── WorkflowExecutionError     the run failed; it and its spans are kept
│   └── NodeExecutionError     … in this node
├── NodeError                  why a node or run failed, by our own rules: the cause of the two above
│   ├── OutputError            a node gave what its outputs do not take
│   ├── ModelAnswerError       the model's answer did not fit, and asking again did not help
│   ├── NodeTimeoutError       an attempt took longer than the node's `timeout`
│   ├── RunTimeoutError        the run took longer than its timeout
│   ├── ExecutionLimitError    the run reached `max_node_executions`
│   ├── MapError               the items of a map are no list
│   ├── TemplateError          a template cannot be filled in
│   └── ConditionError         a condition cannot be computed
├── TraceFileError             a file of spans cannot be read; nothing of it was taken in
├── DeliveryError              spans could not be delivered to an endpoint
├── StorageError               a store cannot be opened, read or written
└── RunNotFoundError           the store holds no such run
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class ConfigurableAgentsError(Exception):
    """Base of all errors of this package."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a workflow file, with its place and its remedy."""

    message: str
    """What is wrong, in one line."""
    path: str = ""
    """Where in the document, as `nodes[2].temprature`; empty for the whole file."""
    remedy: str = ""
    """What to do about it, in one or two sentences."""
    file: str = ""
    line: int | None = None
    """Counted from 1, as editors do; None where the document has no text (a mapping made by a program)."""
    column: int | None = None

    def __str__(self) -> str:
        place = [self.file] if self.file else []
        if self.line is not None:
            place += [str(self.line), str(self.column or 1)]
        head = ":".join(place)
        text = ": ".join(part for part in (head, self.path, self.message) if part)
        return f"{text}\n  {self.remedy}" if self.remedy else text


class ConfigError(ConfigurableAgentsError):
    """The workflow file is wrong; nothing ran. All problems of the file come together."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class InputError(ConfigurableAgentsError):
    """The inputs do not fit the workflow's state fields; nothing ran."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class ModelSetupError(ConfigurableAgentsError):
    """A model cannot be made (missing package, key or name); nothing ran."""


class WorkflowExecutionError(ConfigurableAgentsError):
    """The run failed. It is kept in the store, with the spans that finished."""

    def __init__(self, message: str, *, run_id: str, workflow: str) -> None:
        self.run_id = run_id
        self.workflow = workflow
        super().__init__(message)


class NodeExecutionError(WorkflowExecutionError):
    """A node of the run failed; `__cause__` is the exception it failed with."""

    def __init__(self, message: str, *, run_id: str, workflow: str, node_id: str, seq: int) -> None:
        self.node_id = node_id
        self.seq = seq
        super().__init__(message, run_id=run_id, workflow=workflow)


class NodeError(ConfigurableAgentsError):
    """Why a node or a run failed by our own rules; reaches the caller as the `__cause__`."""


class OutputError(NodeError):
    """A node gave what its outputs do not take."""


class ModelAnswerError(NodeError):
    """The model's answer did not fit the schema, and asking again did not help."""


class NodeTimeoutError(NodeError, TimeoutError):
    """An attempt took longer than the node's `timeout`."""


class RunTimeoutError(NodeError, TimeoutError):
    """The run took longer than its timeout."""


class ExecutionLimitError(NodeError):
    """The run reached `max_node_executions`."""


class MapError(NodeError):
    """The items of a map are no list."""


class TemplateError(NodeError):
    """A template cannot be filled in: a path that leads nowhere, or a text that grows too large."""


class ConditionError(NodeError):
    """A condition cannot be computed: null or a wrong type where a number is needed, a path that leads nowhere."""


class TraceFileError(ConfigurableAgentsError):
    """A file of spans is not what it should be; nothing of it was taken in."""


class DeliveryError(ConfigurableAgentsError):
    """Spans could not be delivered; what was delivered before stays so."""


class StorageError(ConfigurableAgentsError):
    """A store cannot be opened, read or written. The message never holds a password."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        self.refused = refused
        """True: the record itself is at fault, so writing it again will not help."""
        super().__init__(message)


class RunNotFoundError(ConfigurableAgentsError):
    """The store holds no such run, or more than one that begins so."""

    def __init__(self, run_id: str, *, candidates: Sequence[str] = ()) -> None:
        self.run_id = run_id
        self.candidates = tuple(candidates)
        if candidates:
            message = f"{run_id!r} is the beginning of {len(candidates)} runs: {', '.join(candidates[:5])}"
        else:
            message = f"the store holds no run {run_id!r}"
        super().__init__(message)
