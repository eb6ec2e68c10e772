"""Views for people with a plain database shell: what ran, in what order, how long, at what cost, and what it wrote."""

from __future__ import annotations

from typing import Final

_STARTED_AT: Final = {
    "sqlite": "strftime('%Y-%m-%dT%H:%M:%S', start_time_unix_nano / 1000000000, 'unixepoch')"
    " || printf('.%06dZ', start_time_unix_nano / 1000 % 1000000)",
    "postgresql": "to_char(timestamp 'epoch' + start_time_unix_nano / 1000 * interval '1 microsecond',"
    """ 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')""",
}
_DAY: Final = {
    "sqlite": "date(unix_day * 86400, 'unixepoch')",
    "postgresql": "to_char(date '1970-01-01' + unix_day::integer, 'YYYY-MM-DD')",
}
_USD: Final = {"sqlite": "priced_nano_usd / 1e9", "postgresql": "priced_nano_usd / 1e9::double precision"}
_OBJECT: Final = {"sqlite": "json_object", "postgresql": "json_build_object"}
_OUTPUTS: Final = {
    # A text that is no JSON (nothing of ours writes one) must not make the whole view unreadable.
    "sqlite": "CASE WHEN json_valid(outputs_json) THEN json(outputs_json) ELSE json('{}') END",
    "postgresql": "coalesce(outputs_json, '{}')::json",
}


def create_views(dialect: str) -> tuple[str, ...]:
    """Give the statements that create the views.

    Args:
        dialect: `sqlite` or `postgresql`.
    """
    runs = f"""\
CREATE VIEW runs AS
SELECT run_id, workflow_name AS workflow, status, {_STARTED_AT[dialect]} AS started_at, duration_seconds,
    node_executions, input_tokens, output_tokens, input_tokens + output_tokens AS total_tokens, cost_usd,
    error_message AS error
FROM workflow_runs"""  # noqa: S608 - the parts are our own
    nodes = f"""\
CREATE VIEW node_executions AS
SELECT run_id, seq, node_id, status, {_STARTED_AT[dialect]} AS started_at, duration_seconds, model,
    input_tokens, output_tokens, input_tokens + output_tokens AS total_tokens, cost_usd,
    outputs_json AS outputs, error_message AS error,
    {_OBJECT[dialect]}('node_id', node_id, 'status', status, 'duration_seconds', duration_seconds,
        'input_tokens', input_tokens, 'output_tokens', output_tokens, 'total_tokens', input_tokens + output_tokens,
        'model', model, 'cost_usd', cost_usd, 'outputs', {_OUTPUTS[dialect]}, 'error', error_message) AS state_data
FROM execution_states"""  # noqa: S608 - the parts are our own
    costs = f"""\
CREATE VIEW costs AS
SELECT {_DAY[dialect]} AS day, nullif(provider, '') AS provider, nullif(model, '') AS model, model_calls, failed_calls,
    input_tokens, output_tokens, input_tokens + output_tokens AS total_tokens,
    CASE WHEN unpriced_calls = 0 THEN {_USD[dialect]} END AS cost_usd,
    {_USD[dialect]} AS priced_cost_usd, unpriced_calls
FROM model_usage"""  # noqa: S608 - the parts are our own
    return runs, nodes, costs
