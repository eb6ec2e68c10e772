"""What a workflow file may say, as frozen models. A model here does nothing: meaning is given by `core`.

The language (schema 1.0) is told in docs/workflow-language.md; rules between nodes stand in `validator`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

START = "START"
"""Where every run enters; an edge from it names the first node."""
END = "END"
"""Where a token is gone; the run ends when none is left."""

Name = Annotated[str, Field(min_length=1, max_length=200)]
Reduce = Literal["replace", "append", "merge", "sum", "min", "max"]
PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ConfigModel(BaseModel):
    """Base of every config model: a misspelt key is an error and a loaded value never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, populate_by_name=True)


class FlowMetadata(ConfigModel):
    """Who the workflow is."""

    name: Name
    """Names the workflow and its spans: keep it free of ids and dates."""
    description: str | None = None
    version: str | None = None
    tags: tuple[str, ...] = ()
    author: str | None = None


class StateField(ConfigModel):
    """One field of the state that nodes read and write."""

    type: str
    """`str int float bool list dict object list[T] dict[K, V]`, nested to any depth."""
    required: bool = False
    """True: every run must give a value as input."""
    default: Any = None
    description: str | None = None
    schema_: Mapping[str, Any] | None = Field(default=None, alias="schema")
    """For `object`: its fields, each a type or a field of its own."""
    enum: tuple[Any, ...] | None = None
    """The allowed values."""
    reduce: Reduce = "replace"
    """How a write combines with what is there, and how branches that both wrote are combined."""


class StateConfig(ConfigModel):
    """The state: every value that passes between nodes."""

    fields: Annotated[dict[str, StateField], Field(min_length=1)]


class PriceConfig(ConfigModel):
    """A price in USD per million tokens that overrides the price list; 0 is a price."""

    input_per_mtok: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    output_per_mtok: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    cache_read_per_mtok: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Without it cached input costs what input costs."""
    cache_write_per_mtok: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Without it written cache costs what input costs."""


class LLMConfig(ConfigModel):
    """Which model answers, and how it is asked. A node's `llm` is merged over `config.llm`, key by key."""

    provider: str | None = None
    """`openai anthropic google ollama openai_compatible local scripted`, or `package.module:ChatModelClass`."""
    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Field(gt=0)] | None = None
    api_base: str | None = None
    api_key_env: str | None = None
    """Name of the environment variable that holds the key."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Passed on to the chat model as they are."""
    price: PriceConfig | None = None


class RetryConfig(ConfigModel):
    """Repeats a whole node after an exception (provider errors have their own retries)."""

    max_attempts: Annotated[int, Field(ge=1, le=100)] = 1
    """Executions of the node's body, the first included."""
    initial_delay: Annotated[float, Field(ge=0, le=3600)] = 1.0
    """Seconds before the second attempt; doubled for each further one."""
    max_delay: Annotated[float, Field(ge=0, le=3600)] = 30.0
    """Seconds at most between attempts."""


class OutputField(ConfigModel):
    """One field of a node's output."""

    name: Name
    type: str
    description: str | None = None
    enum: tuple[Any, ...] | None = None
    schema_: Mapping[str, Any] | None = Field(default=None, alias="schema")


class OutputSchema(ConfigModel):
    """The shape of what a node gives back: `type: object` with `fields`, or one simple type."""

    type: str
    fields: tuple[OutputField, ...] | None = None
    description: str | None = None
    enum: tuple[Any, ...] | None = None
    schema_: Mapping[str, Any] | None = Field(default=None, alias="schema")


class Node(ConfigModel):
    """What every kind of node has."""

    id: Annotated[str, Field(min_length=1, max_length=100)]
    description: str | None = None
    inputs: dict[str, Any] = Field(default_factory=dict)
    """Local names and their templates."""
    output_schema: OutputSchema | None = None
    """Without it the types of the state fields named in `outputs` hold."""
    outputs: tuple[str, ...] = ()
    """The state fields that the node writes."""
    timeout: PositiveSeconds | None = None
    """Seconds for each attempt."""
    retry: RetryConfig = RetryConfig()
    capture_content: bool = True
    """False keeps inputs, outputs and messages of this node out of the store."""


class ModelNode(Node):
    """Asks a language model."""

    prompt: str
    system: str | None = None
    llm: LLMConfig | None = None
    tools: tuple[Any, ...] | None = None
    max_tool_rounds: Annotated[int, Field(ge=1, le=100)] | None = None
    fallbacks: tuple[LLMConfig, ...] | None = None


class FunctionNode(Node):
    """Calls a function of the caller's."""

    function: Name
    """Name of a callable that the caller registered."""


class ToolNode(Node):
    """Calls a tool."""

    tool: Name


class WorkflowNode(Node):
    """Runs another workflow file."""

    workflow: Name


NODE_KINDS: Mapping[str, type[Node]] = {
    "prompt": ModelNode,
    "function": FunctionNode,
    "tool": ToolNode,
    "workflow": WorkflowNode,
}
"""The key that makes a node what it is, and its model."""


def kind_of(node: Any) -> str | None:
    """Name the key that makes a node what it is; None if there is none, or more than one."""
    if isinstance(node, Node):
        return next(key for key, model in NODE_KINDS.items() if type(node) is model)
    keys = [key for key in NODE_KINDS if isinstance(node, Mapping) and key in node]
    return keys[0] if len(keys) == 1 else None


NodeConfig = Annotated[
    Annotated[ModelNode, Tag("prompt")]
    | Annotated[FunctionNode, Tag("function")]
    | Annotated[ToolNode, Tag("tool")]
    | Annotated[WorkflowNode, Tag("workflow")],
    Discriminator(kind_of),
]


class Condition(ConfigModel):
    """A condition over the state, in the small language of `config.conditions`."""

    logic: Annotated[str, Field(min_length=1, max_length=4096)]
    """An expression, or `default`."""

    @property
    def is_default(self) -> bool:
        """Whether this is the route to take when no other holds."""
        return self.logic.strip() == "default"


class Route(ConfigModel):
    """One way on, taken if its condition is the first that holds."""

    condition: Condition
    to: str


class Loop(ConfigModel):
    """After `from`: leave when the condition holds, else go back."""

    condition_field: str | None = None
    """A bool state field that ends the loop."""
    condition: Condition | None = None
    max_iterations: Annotated[int, Field(ge=1, le=100)] = 10
    """Executions of `from` since the loop was entered, the first included; reaching it leaves normally."""
    exit_to: str = END
    restart_at: str | None = None
    """Where to go back to; `from` itself if not given."""

    @field_validator("condition", mode="before")
    @classmethod
    def _a_text_is_its_logic(cls, value: Any) -> Any:
        return {"logic": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _exactly_one_condition(self) -> Loop:
        if (self.condition_field is None) == (self.condition is None):
            raise ValueError("a loop has either 'condition_field' or 'condition'")
        return self


class Parallel(ConfigModel):
    """A map: run one node for each item of a list and collect what each gives."""

    items_field: str
    target_node: str
    collect_field: str
    max_concurrency: Annotated[int, Field(ge=1)] | None = None
    """Items at once; `config.execution.max_concurrency` if not given."""


class Edge(ConfigModel):
    """How a run goes on after a node."""

    from_: str = Field(alias="from")
    to: str | tuple[str, ...] | None = None
    routes: Annotated[tuple[Route, ...], Field(min_length=1)] | None = None
    loop: Loop | None = None
    parallel: Parallel | None = None

    @model_validator(mode="after")
    def _exactly_one_way_on(self) -> Edge:
        given = [key for key in ("to", "routes", "loop", "parallel") if getattr(self, key) is not None]
        if len(given) != 1:
            said = " and ".join(repr(key) for key in given) or "none"
            raise ValueError(f"an edge has exactly one of 'to', 'routes', 'loop' and 'parallel'; this one has {said}")
        return self


class ExecutionConfig(ConfigModel):
    """Limits of a run."""

    timeout: PositiveSeconds | None = None
    """Seconds for the whole run; none by default."""
    max_retries: Annotated[int, Field(ge=0, le=20)] = 2
    """Tries after the first for provider errors of each model call."""
    max_concurrency: Annotated[int, Field(ge=1)] = 16
    """Node executions at once."""
    max_node_executions: Annotated[int, Field(ge=1)] = 1000
    """Bounds a run whose routes go back."""


class BudgetConfig(ConfigModel):
    """What a run may spend."""

    max_cost_usd: Annotated[float, Field(ge=0)] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    max_model_calls: Annotated[int, Field(ge=0)] | None = None
    on_unpriced: Literal["warn", "fail"] = "warn"


class StorageConfig(ConfigModel):
    """Where runs are kept."""

    backend: str = "sqlite"
    """`sqlite`, `postgresql`, or a database URL."""
    path: str = "./workflows.db"
    """For SQLite, relative to the working directory; for `postgresql`, a database URL."""
    enabled: bool = True
    required: bool = False
    """True: a run does not start without a store."""
    durability: Literal["process", "power"] = "process"
    """What a finished node survives: the death of its process, or with `power` (each record is synced) that of the machine."""
    capture_content: bool = True


class OtlpConfig(ConfigModel):
    """Where spans are shipped."""

    endpoint: str
    """A URL, as `http://localhost:4318`."""
    protocol: Literal["grpc", "http/protobuf"] | None = None
    """Without one port 4317 means gRPC, and any other HTTP."""
    headers_env: str | None = None
    """Name of an environment variable that holds `key=value,key2=value2`."""


class LoggingConfig(ConfigModel):
    """What the package logs."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "WARNING"

    @field_validator("level", mode="before")
    @classmethod
    def _small_letters_are_accepted(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value


class ObservabilityConfig(ConfigModel):
    """What is shipped and logged."""

    otlp: OtlpConfig | None = None
    logging: LoggingConfig | None = None


class RuntimeConfig(ConfigModel):
    """The `config` block: how the workflow runs, apart from what it does."""

    llm: LLMConfig = LLMConfig()
    execution: ExecutionConfig = ExecutionConfig()
    budget: BudgetConfig | None = None
    storage: StorageConfig | None = None
    observability: ObservabilityConfig = ObservabilityConfig()


class WorkflowConfig(ConfigModel):
    """One workflow file."""

    schema_version: Literal["1.0"]
    flow: FlowMetadata
    state: StateConfig
    nodes: Annotated[tuple[NodeConfig, ...], Field(min_length=1)]
    edges: Annotated[tuple[Edge, ...], Field(min_length=1)]
    config: RuntimeConfig = RuntimeConfig()

    @field_validator("schema_version", mode="before")
    @classmethod
    def _a_number_is_accepted(cls, value: Any) -> Any:
        return "1.0" if isinstance(value, float) and value == 1.0 else value
