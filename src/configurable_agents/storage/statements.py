"""The statements that write records: text made once, values as plain tuples.

Building an `insert()` construct for every commit costs more than the commit itself; the text depends only on the table,
the number of rows, and whether they say more than most do. Batches go in as multi-row VALUES of certain sizes, so that few texts exist:
`executemany` gives the interpreter's lock away at each row, which is slow in a program with other threads.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import islice
from operator import itemgetter, lt
from typing import Any, Final, Literal

import sqlalchemy as sa

from configurable_agents.semconv import Operation
from configurable_agents.storage import usage
from configurable_agents.storage.models import execution_states, plain_names, spans, workflow_configs, workflow_runs
from configurable_agents.storage.records import ExecutionStateRecord, SpanRecord, WorkflowRunRecord, status_rank
from configurable_agents.storage.sqlite_driver import changing_on_driver

Row = tuple[Any, ...]
_Fields = dict[str, Any]
"""What a record was made with, its `__dict__`; the rest it has from its class."""
Where = Literal["absent", "not later", "earlier"]
"""Which stored rows give way: none, those of no higher rank, those of a lower rank."""

Statement = tuple[str, Row]
"""Its text, and the values of all its rows, one after another."""
_Change = Callable[[str, Row], int]
"""Executes a statement, and says how many rows that made or changed."""

_CHUNK_SIZES: Final = (96, 64, 48, 32, 24, *range(20, 0, -1))
"""A statement of 256 rows keeps 1.5 MB for itself, one of 96 a seventh of that. The sizes between the powers of two
save statements: around each of them the interpreter's lock is given away and waited for, while other processes wait too.
A short run alone is one statement."""
_ONE_CHUNK: Final = frozenset(_CHUNK_SIZES)
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_PLACEHOLDER: Final = {"sqlite": "?", "postgresql": "%s"}


def of_configs(dialect: str, records: Sequence[WorkflowRunRecord]) -> list[Statement]:
    """Make ready what keeps the texts of runs' workflow files by their hashes; what is there stays."""
    texts = {run.config_sha256: run.config_text for run in records if run.config_sha256 and run.config_text is not None}
    return [(_CONFIG_TEXT[dialect], row) for row in sorted(texts.items())]


def of_runs(dialect: str, records: Sequence[WorkflowRunRecord], *, where: Where = "not later") -> list[Statement]:
    """Make ready what writes runs by the rank rule, so that a transaction, which keeps others waiting, is short."""
    return _inserts(dialect, _RUN_SHAPES, _merged(records, _RUN_KEY), where)


def of_states(dialect: str, records: Sequence[ExecutionStateRecord], *, where: Where = "not later") -> list[Statement]:
    """Make ready what writes node executions by the rank rule, as `of_runs` does."""
    return _inserts(dialect, _STATE_SHAPES, _merged(records, _STATE_KEY), where)


def execute(connection: sa.Connection, made: Sequence[Statement], change: _Change | None = None) -> int:
    """Execute what was made ready for the connection's dialect; give how many rows that made or changed.

    Args:
        change: Executes one statement, and says how many; as the driver says by default.
    """
    if change is None:
        # SQLite's driver is spoken to directly: each execution through SQLAlchemy costs as much as several rows.
        is_sqlite = connection.dialect.name == "sqlite"
        change = changing_on_driver(connection) if is_sqlite else partial(_changed, connection)
    changed = 0
    for text, values in made:
        try:
            changed += change(text, values)
        except _UNSTORABLE_ERRORS as error:
            changed += change(text, _cleaned(values, error))
    return changed


def insert_spans(connection: sa.Connection, records: Sequence[SpanRecord], tally: usage.Tally) -> int:
    """Write spans that are not there yet; give how many that were.

    Args:
        tally: Takes the model calls among them, to be written at the transaction's end.
    """
    by_key = {(record.span_id, record.trace_id): record for record in records}
    calls, others = list[SpanRecord](), list[SpanRecord]()
    for key in sorted(by_key):
        record = by_key[key]
        (calls if record.operation == Operation.CHAT else others).append(record)
    return _insert_spans(connection, others) + _insert_calls(connection, calls, tally)


def _insert_spans(connection: sa.Connection, records: Sequence[SpanRecord]) -> int:
    return execute(connection, _inserts(connection.dialect.name, _SPAN_SHAPES, [*map(vars, records)], "absent"))


def _insert_calls(connection: sa.Connection, records: Sequence[SpanRecord], tally: usage.Tally) -> int:
    if not records:
        return 0
    if connection.dialect.name == "sqlite":
        return usage.count_inserted(connection, lambda: _insert_spans(connection, records), tally)
    inserts = _inserts(connection.dialect.name, _SPAN_SHAPES, [*map(vars, records)], "absent")
    made = [(_counting(text), values) for text, values in inserts]
    return execute(connection, made, lambda text, values: tally.count(connection.exec_driver_sql(text, values)))


def storable(value: Any) -> Any:
    """Replace what no text column takes: NUL characters and halves of surrogate pairs."""
    return _UNSTORABLE.sub("\ufffd", value) if isinstance(value, str) else value


class _Shape:
    """How records of one kind become rows: which columns have a value for each record, and which the same for all.

    Args:
        kind: Of the records.
        table: Where they go.
        unset: Columns that these records leave as their class has them, which then stands in the statement's text: to
            bind 42 values costs more than the rest of a node's row, and a node that asks no model sets 16 of them. NULL
            costs most, since the driver looks for somebody who makes a value of it.
    """

    def __init__(self, kind: type[Any], table: sa.Table, unset: frozenset[str] = frozenset()) -> None:
        self.table = table
        self.literals = {name: _literal(getattr(kind, name)) for name in unset}
        bound = [name for name in plain_names(table.columns.keys()) if name not in unset]
        self._read = itemgetter(*bound)
        self._statuses = slice(bound.index("status"), None, len(bound)) if "status" in bound else None
        # Besides a record may have what is no column: the text of a run's workflow file.
        taken = dict.fromkeys([*bound, *(name for name in kind.__dataclass_fields__ if name not in unset)])
        self._defaults = {name: getattr(kind, name, None) for name in taken}
        self._exact, self._most = (len(bound), len(taken)) if unset else (-1, sys.maxsize)

    def values(self, records: Sequence[_Fields]) -> Row | None:
        """Give the values of records, one row after another; None if one of them has more than this shape takes."""
        found: list[Any] = []
        exact, read = self._exact, self._read
        try:
            for given in records:
                if len(given) == exact:  # most nodes set just what is bound, which is read at half the price
                    found += read(given)
                    continue
                taken = self._defaults | given
                if len(taken) > self._most:
                    return None
                found += read(taken)
        except KeyError:  # as many, but others
            return None
        if self._statuses is not None:
            # A driver takes a member of an enum for something else than its text.
            found[self._statuses] = map(str, found[self._statuses])
        return tuple(found)


def _literal(value: float | str | None) -> str:
    return "NULL" if value is None else repr(value)


_SELDOM: Final = frozenset(
    {
        *("error_type", "error_message", "status_message", "events_json", "links_json", "trace_state"),
        *("model_calls", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"),
        *("reasoning_tokens", "cost_usd", "priced_cost_usd", "unpriced_calls"),
    }
)
"""What is set by nothing that asks no model and does not fail; where a model is asked, this costs nothing beside it."""
_SELDOM_OF_STATES: Final = _SELDOM | {"provider", "model", "models_json", "attempts", "scope_json", "kind"}
_RUN_SHAPES: Final = (
    _Shape(WorkflowRunRecord, workflow_runs, _SELDOM | {"resource_json", "kind"}),
    _Shape(WorkflowRunRecord, workflow_runs),
)
_STATE_SHAPES: Final = (
    _Shape(ExecutionStateRecord, execution_states, _SELDOM_OF_STATES | {"branch", "map_index"}),
    _Shape(ExecutionStateRecord, execution_states, _SELDOM_OF_STATES),
    _Shape(ExecutionStateRecord, execution_states),
)
"""The first that takes all records of a statement is used; the last takes everything."""
_SPAN_SHAPES: Final = (_Shape(SpanRecord, spans),)
_Key = Callable[[_Fields], tuple[Any, ...]]
_RUN_KEY: Final[_Key] = itemgetter(*plain_names(workflow_runs.primary_key.columns.keys()))
_STATE_KEY: Final[_Key] = itemgetter(*plain_names(execution_states.primary_key.columns.keys()))


def _merged(records: Sequence[WorkflowRunRecord | ExecutionStateRecord], key: _Key) -> list[_Fields]:
    """Give each row once, the last record of the highest rank; in the order of keys, so that writers never deadlock."""
    rows = [*map(vars, records)]
    keys = [*map(key, rows)]
    if all(map(lt, keys, islice(keys, 1, None))):  # so it is where one run alone is committed
        return rows
    kept = dict(zip(keys, rows, strict=True))
    if len(kept) < len(rows):
        # In a stable order by rank the last one of the highest rank is the last one.
        kept = {key(row): row for row in sorted(rows, key=lambda row: status_rank(row["status"]))}
    return [kept[place] for place in sorted(kept)]


def _inserts(dialect: str, shapes: Sequence[_Shape], records: Sequence[_Fields], where: Where) -> list[Statement]:
    made: list[Statement] = []
    for chunk in _chunks(records):
        for shape in shapes:
            values = shape.values(chunk)
            if values is not None:
                made.append((_insert_text(shape, len(chunk), _PLACEHOLDER[dialect], where), values))
                break
    return made


def _changed(connection: sa.Connection, text: str, values: Row) -> int:
    return connection.exec_driver_sql(text, values).rowcount


# Drivers refuse such values before they send anything: the transaction is whole, and the usual case pays nothing.
_UNSTORABLE_ERRORS: Final = (UnicodeEncodeError, sa.exc.DataError)


def _cleaned(values: Row, error: Exception) -> Row:
    """Give the values of a statement that was refused as a text column takes them; raises what refused it if they are so."""
    cleaned = tuple(storable(value) for value in values)
    if cleaned == values:
        raise error
    return cleaned


def _chunks(records: Sequence[_Fields]) -> list[Sequence[_Fields]]:
    if len(records) in _ONE_CHUNK:
        return [records]
    chunks: list[Sequence[_Fields]] = []
    start = 0
    for size in _CHUNK_SIZES:
        while start + size <= len(records):
            chunks.append(records[start : start + size])
            start += size
    return chunks


@lru_cache(maxsize=256)
def _insert_text(shape: _Shape, rows: int, placeholder: str, where: Where) -> str:
    table = shape.table
    names = table.columns.keys()
    row = f"({', '.join(shape.literals.get(name, placeholder) for name in names)})"
    key = ", ".join(table.primary_key.columns.keys())
    text = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES {', '.join([row] * rows)} ON CONFLICT ({key}) DO "  # noqa: S608 - names are our own
    if where == "absent":
        return text + "NOTHING"
    values = ", ".join(f"{name} = excluded.{name}" for name in names if name not in table.primary_key.columns)
    sign = ">=" if where == "not later" else ">"
    return f"{text}UPDATE SET {values} WHERE {_rank('excluded')} {sign} {_rank(table.name)}"


@lru_cache(maxsize=len(_CHUNK_SIZES))
def _counting(insert: str) -> str:
    """Give the statement by which PostgreSQL inserts spans and adds up those that were not there."""
    return f"WITH made AS ({insert} RETURNING {', '.join(usage.COUNTED_COLUMNS)}) {usage.sums_of('made')}"


def _rank(row: str) -> str:
    return f"CASE {row}.status WHEN 'running' THEN 0 WHEN 'interrupted' THEN 1 ELSE 2 END"


_CONFIG_TEXT: Final = {
    dialect: f"INSERT INTO {workflow_configs.name} (sha256, text) VALUES ({place}, {place}) ON CONFLICT (sha256) DO NOTHING"  # noqa: S608 - names are our own
    for dialect, place in _PLACEHOLDER.items()
}
