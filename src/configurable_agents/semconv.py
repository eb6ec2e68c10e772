"""Span names, attribute names and statuses, each once.

`gen_ai.*`, `error.type` and `server.*` follow the OpenTelemetry semantic conventions 1.41.1
(https://github.com/open-telemetry/semantic-conventions/tree/v1.41.1/docs/gen-ai, status Development): the last release
that holds those for GenAI. They have moved to a registry of their own, open-telemetry/semantic-conventions-genai, which
has released nothing yet; what changed there since (`cache_write` for `cache_creation`, `top_k` as an int) is not followed
before it has. `openinference.span.kind`, `input.*`, `output.*` and `llm.cost.total` follow the OpenInference
specification (https://arize-ai.github.io/openinference/spec). Our own names begin with `configurable_agents.`
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

SCOPE_NAME: Final = "configurable_agents"
"""Name of our instrumentation scope."""


class Status(StrEnum):
    """What became of a run or of a node execution. The rank rule of upserts follows this order."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


COMPLETED: Final = Status.COMPLETED.value
"""As a plain str, for what is compared and written for each node."""


class Operation(StrEnum):
    """Values of `gen_ai.operation.name`; `execute_node` is ours, the conventions have none for a plain node."""

    INVOKE_WORKFLOW = "invoke_workflow"
    EXECUTE_NODE = "execute_node"
    CHAT = "chat"
    EXECUTE_TOOL = "execute_tool"


# --- OpenTelemetry: spans for generative AI ----------------------------------------------------------------------------
# Of the conventions' attributes `gen_ai.request.stream` and `gen_ai.response.time_to_first_chunk` are missing: no answer
# is streamed. `gen_ai.conversation.id` is too: a run is no conversation.
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_WORKFLOW_NAME: Final = "gen_ai.workflow.name"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_OUTPUT_TYPE: Final = "gen_ai.output.type"
"""`text`, or `json` where the answer has a schema."""
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
GEN_AI_REQUEST_TOP_P: Final = "gen_ai.request.top_p"
GEN_AI_REQUEST_TOP_K: Final = "gen_ai.request.top_k"
"""A double, as strange as that is."""
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_FREQUENCY_PENALTY: Final = "gen_ai.request.frequency_penalty"
GEN_AI_REQUEST_PRESENCE_PENALTY: Final = "gen_ai.request.presence_penalty"
GEN_AI_REQUEST_STOP_SEQUENCES: Final = "gen_ai.request.stop_sequences"
GEN_AI_REQUEST_SEED: Final = "gen_ai.request.seed"
GEN_AI_REQUEST_CHOICE_COUNT: Final = "gen_ai.request.choice.count"
"""Absent where it is 1."""
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_RESPONSE_ID: Final = "gen_ai.response.id"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
"""As the provider says it."""
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
"""Includes cached tokens."""
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
"""Includes reasoning tokens."""
GEN_AI_USAGE_CACHE_READ: Final = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_USAGE_CACHE_WRITE: Final = "gen_ai.usage.cache_creation.input_tokens"
GEN_AI_USAGE_REASONING: Final = "gen_ai.usage.reasoning.output_tokens"
GEN_AI_TOOL_NAME: Final = "gen_ai.tool.name"
GEN_AI_TOOL_TYPE: Final = "gen_ai.tool.type"
"""`function`: a tool that runs on our side."""
GEN_AI_TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
GEN_AI_INPUT_MESSAGES: Final = "gen_ai.input.messages"
"""JSON text by the conventions' schema; only where content may leave. The store keeps it under a name of ours."""
GEN_AI_OUTPUT_MESSAGES: Final = "gen_ai.output.messages"

# --- OpenTelemetry: everything else ------------------------------------------------------------------------------------
ERROR_TYPE: Final = "error.type"
"""The exception's class, with its module unless it is built in; also `exception.type`."""
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"

# --- OpenInference, and what else backends look for --------------------------------------------------------------------
OPENINFERENCE_SPAN_KIND: Final = "openinference.span.kind"
CHAIN: Final = "CHAIN"
LLM: Final = "LLM"
TOOL: Final = "TOOL"
INPUT_VALUE: Final = "input.value"
INPUT_MIME_TYPE: Final = "input.mime_type"
OUTPUT_VALUE: Final = "output.value"
OUTPUT_MIME_TYPE: Final = "output.mime_type"
MIME_JSON: Final = "application/json"
LLM_COST_TOTAL: Final = "llm.cost.total"
"""USD, by OpenInference; only behind a switch."""
GEN_AI_USAGE_COST: Final = "gen_ai.usage.cost"
"""USD; in no convention, but several backends read it; only behind a switch."""

# --- ours: identity ----------------------------------------------------------------------------------------------------
RUN_ID: Final = "configurable_agents.run.id"
"""UUIDv7. One trace may hold several runs."""
WORKFLOW_VERSION: Final = "configurable_agents.workflow.version"
CONFIG_SHA256: Final = "configurable_agents.workflow.config_sha256"
RECORD: Final = "configurable_agents.record"
"""In files of exported runs only: JSON object of what the store's record has and the rest of the span does not tell."""
RESOURCE: Final = "configurable_agents.resource"
"""Run: JSON object of the resource's attributes that are not our defaults; for the store only, it never leaves."""
STATE_REDUCERS: Final = "configurable_agents.workflow.state_reducers"
"""JSON object of the state fields whose `reduce` is not `replace`."""
NODE_ID: Final = "configurable_agents.node.id"
NODE_KIND: Final = "configurable_agents.node.kind"
"""`model`, `function`, `tool` or `workflow`."""
SEQ: Final = "configurable_agents.node.seq"
"""Number of the node execution in its run, from 1, given when it is scheduled: order that no clock decides."""
READS_FROM: Final = "configurable_agents.node.reads_from"
"""Seqs of the node executions whose state this one (on a run: its result) reads; absent where that is the run's start."""
BRANCH: Final = "configurable_agents.node.branch"
"""Which branch of which fork, outermost first, as `1.0`; absent outside of branches."""
MAP_INDEX: Final = "configurable_agents.node.map_index"
"""Index of the item that this execution of a map's target works on."""
ATTEMPTS: Final = "configurable_agents.node.attempts"
EDGE: Final = "configurable_agents.node.edge"
"""Where the run went on to, as `review`, `a, b` or `END`."""
LOOP_EXHAUSTED: Final = "configurable_agents.node.loop_exhausted"
"""True where a loop was left because `max_iterations` was reached."""
RETRIES: Final = "configurable_agents.model_call.retries"
"""Tries after the first that a model call needed."""

# --- ours: outcome and roll-ups ----------------------------------------------------------------------------------------
STATUS: Final = "configurable_agents.status"
ERROR_MESSAGE: Final = "configurable_agents.error.message"
DURATION_SECONDS: Final = "configurable_agents.duration_seconds"
"""On the monotonic clock; the span's own times are on the wall clock."""
COST_USD: Final = "configurable_agents.cost_usd"
"""US dollars. Absent where unknown; on node and run the sum, absent if any call was unpriced."""
PRICED_COST_USD: Final = "configurable_agents.priced_cost_usd"
"""The part of the cost that is known."""
PRICE_SOURCE: Final = "configurable_agents.price.source"
"""`workflow` (the file's own price), `genai-prices`, or `provider` (a model that runs here and costs nothing)."""
PRICE_VERSION: Final = "configurable_agents.price.version"
"""Of the price list."""
UNPRICED_CALLS: Final = "configurable_agents.unpriced_calls"
MODEL_CALLS: Final = "configurable_agents.model_calls"
INPUT_TOKENS: Final = "configurable_agents.input_tokens"
OUTPUT_TOKENS: Final = "configurable_agents.output_tokens"
CACHE_READ_TOKENS: Final = "configurable_agents.cache_read_tokens"
CACHE_WRITE_TOKENS: Final = "configurable_agents.cache_write_tokens"
REASONING_TOKENS: Final = "configurable_agents.reasoning_tokens"
NODE_EXECUTIONS: Final = "configurable_agents.node_executions"
MODEL: Final = "configurable_agents.model"
"""The model that answered last in a node."""
MODELS: Final = "configurable_agents.models"
"""All models that answered in a node, each once, in the order of their first answer."""
PROVIDER: Final = "configurable_agents.provider"

# --- ours: content, as JSON text; stripped from what is shipped unless asked for ---------------------------------------
CONTENT_PREFIX: Final = "configurable_agents.content."
CONTENT_INPUTS: Final = "configurable_agents.content.inputs"
"""Run: the inputs given. Node: the resolved `inputs`."""
CONTENT_DEFAULTS: Final = "configurable_agents.content.defaults"
"""Run: the rest of the state at the start. Inputs and defaults together are the state before any node."""
CONTENT_OUTPUTS: Final = "configurable_agents.content.outputs"
"""Node: the state fields it wrote, with their values (for an item of a map: what it gave for `collect_field`)."""
CONTENT_CONFIG: Final = "configurable_agents.content.config"
"""Run: the workflow file's text; kept once by its hash."""
CONTENT_INPUT_MESSAGES: Final = "configurable_agents.content.input_messages"
CONTENT_OUTPUT_MESSAGES: Final = "configurable_agents.content.output_messages"

# --- metrics -----------------------------------------------------------------------------------------------------------
METRIC_OPERATION_DURATION: Final = "gen_ai.client.operation.duration"
METRIC_TOKEN_USAGE: Final = "gen_ai.client.token.usage"  # noqa: S105 - no password
"""In the published registry, and what dashboards ask for; the unpublished one splits it into counters."""
METRIC_WORKFLOW_DURATION: Final = "gen_ai.invoke_workflow.duration"
"""Called `gen_ai.workflow.duration` for a while, in no published registry."""
METRIC_RUNS: Final = "configurable_agents.runs"
METRIC_COST: Final = "configurable_agents.cost"
METRIC_UNPRICED_CALLS: Final = "configurable_agents.unpriced_calls"
"""So that a cost that is not known is not taken for none. On spans the attribute of the same name."""
GEN_AI_TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 - no password


class TokenType(StrEnum):
    """Values of `gen_ai.token.type`."""

    INPUT = "input"
    OUTPUT = "output"
