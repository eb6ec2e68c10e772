"""The statements that write records: text made once, values as plain tuples.

Building an `insert()` construct for every commit costs more than the commit itself; the text depends only on the table,
the number of rows, and whether they say more than most do. Batches go in as multi-row VALUES of certain sizes, so that few texts exist:
`executemany` gives the interpreter's lock away at each row, which is slow in a program with other threads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import Any, Final, Literal, TypeVar

import sqlalchemy as sa

from configurable_agents.semconv import Operation
from configurable_agents.storage import usage
from configurable_agents.storage.models import execution_states, spans, workflow_configs, workflow_runs
from configurable_agents.storage.records import ExecutionStateRecord, SpanRecord, WorkflowRunRecord, status_rank
from configurable_agents.storage.sqlite_driver import changed_on_driver

Row = tuple[Any, ...]
_Ranked = TypeVar("_Ranked", WorkflowRunRecord, ExecutionStateRecord)
Where = Literal["absent", "not later", "earlier"]
"""Which stored rows give way: none, those of no higher rank, those of a lower rank."""

Statement = tuple[str, Row]
"""Its text, and the values of all its rows, one after another."""
_Result = TypeVar("_Result")

_CHUNK_SIZES: Final = (96, 64, 48, 32, 24, *range(20, 0, -1))
"""A statement of 256 rows keeps 1.5 MB for itself, one of 96 a seventh of that. The sizes between the powers of two
save statements: around each of them the interpreter's lock is given away and waited for, while other processes wait too.
A short run alone is one statement."""
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_PLACEHOLDER: Final = {"sqlite": "?", "postgresql": "%s"}


def of_configs(dialect: str, texts: dict[str, str]) -> list[Statement]:
    """Make ready what keeps texts of workflow files by their hashes; what is there stays."""
    return [(_CONFIG_TEXT[dialect], row) for row in sorted(texts.items())]


def of_runs(dialect: str, records: Sequence[WorkflowRunRecord], *, where: Where = "not later") -> list[Statement]:
    """Make ready what writes runs by the rank rule, so that a transaction, which keeps others waiting, is short."""
    return _inserts(dialect, _RUN_SHAPES, _merged(records, _RUN_KEY), where)


def of_states(dialect: str, records: Sequence[ExecutionStateRecord], *, where: Where = "not later") -> list[Statement]:
    """Make ready what writes node executions by the rank rule, as `of_runs` does."""
    return _inserts(dialect, _STATE_SHAPES, _merged(records, _STATE_KEY), where)


def execute(connection: sa.Connection, made: Sequence[Statement]) -> int:
    """Execute what was made ready for the connection's dialect; give how many rows that made or changed."""
    # SQLite's driver is spoken to directly: each execution through SQLAlchemy costs as much as several rows.
    run = changed_on_driver if connection.dialect.name == "sqlite" else _changed
    return sum([_cleaned_if_need_be(connection, run, text, values) for text, values in made])


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
    return execute(connection, _inserts(connection.dialect.name, _SPAN_SHAPES, records, "absent"))


def _insert_calls(connection: sa.Connection, records: Sequence[SpanRecord], tally: usage.Tally) -> int:
    if not records:
        return 0
    if connection.dialect.name == "sqlite":
        return usage.count_inserted(connection, lambda: _insert_spans(connection, records), tally)
    written = 0
    for text, values in _inserts(connection.dialect.name, _SPAN_SHAPES, records, "absent"):
        written += tally.count(_execute(connection, _counting(text), values))
    return written


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
        self._is_whole = not unset
        self._bound = [column.name for column in table.columns if column.name not in unset]
        self._defaults = [getattr(kind, name, None) for name in self._bound]
        self._read = itemgetter(*self._bound)
        self._taken = frozenset(kind.__dataclass_fields__) - unset
        self._status = self._bound.index("status") if "status" in self._bound else None

    def values(self, records: Sequence[Any]) -> Row | None:
        """Give the values of records, one row after another; None if one of them has more than this shape takes."""
        found = list[Any]()
        for record in records:
            # A record has what it was made with in its `__dict__`, and the rest from its class.
            given = record.__dict__
            row = self._exact(given) or self._filled(given)
            if row is None:
                return None
            found += row
        return tuple(found)

    def _exact(self, given: dict[str, Any]) -> Row | None:
        """Give the row of a record that sets just what is bound, as those of most nodes do: at half the price."""
        if len(given) != len(self._bound):
            return None
        try:
            row: Row = self._read(given)
        except KeyError:
            return None
        return row if self._status is not None and type(row[self._status]) is str else None

    def _filled(self, given: dict[str, Any]) -> list[Any] | None:
        if not (self._is_whole or self._taken.issuperset(given)):
            return None
        row = [*map(given.get, self._bound, self._defaults)]
        if self._status is not None:
            # A driver takes a member of an enum for something else than its text.
            row[self._status] = str(row[self._status])
        return row


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
_Key = Callable[[Any], tuple[Any, ...]]
_RUN_KEY: Final[_Key] = attrgetter(*workflow_runs.primary_key.columns.keys())
_STATE_KEY: Final[_Key] = attrgetter(*execution_states.primary_key.columns.keys())


def _merged(records: Sequence[_Ranked], key: _Key) -> list[_Ranked]:
    """Give each row once, the last record of the highest rank; in the order of keys, so that writers never deadlock."""
    if len(records) == 1:
        return list(records)
    kept = {key(record): record for record in records}
    if len(kept) < len(records):
        # In a stable order by rank the last one of the highest rank is the last one.
        by_rank = sorted(records, key=lambda record: status_rank(record.status))
        kept = {key(record): record for record in by_rank}
    return [kept[row] for row in sorted(kept)]


def _inserts(dialect: str, shapes: Sequence[_Shape], records: Sequence[Any], where: Where) -> list[Statement]:
    return [_insert(dialect, shapes, chunk, where) for chunk in _chunks(records)]


def _insert(dialect: str, shapes: Sequence[_Shape], records: Sequence[Any], where: Where) -> Statement:
    shape, values = next((shape, values) for shape in shapes if (values := shape.values(records)) is not None)
    return _insert_text(shape, len(records), _PLACEHOLDER[dialect], where), values


def _changed(connection: sa.Connection, text: str, values: Row) -> int:
    return connection.exec_driver_sql(text, values).rowcount


def _execute(connection: sa.Connection, text: str, values: Row) -> sa.CursorResult[Any]:
    return _cleaned_if_need_be(connection, sa.Connection.exec_driver_sql, text, values)


def _cleaned_if_need_be(
    connection: sa.Connection, execute: Callable[[sa.Connection, str, Row], _Result], text: str, values: Row
) -> _Result:
    try:
        return execute(connection, text, values)
    except (UnicodeEncodeError, sa.exc.DataError):
        # Drivers refuse such values before they send anything: the transaction is whole, and the usual case pays nothing.
        cleaned = tuple(storable(value) for value in values)
        if cleaned == values:
            raise
        return execute(connection, text, cleaned)


def _chunks(records: Sequence[Any]) -> Iterator[Sequence[Any]]:
    start, left = 0, len(records)
    if left in _CHUNK_SIZES:
        yield records
        return
    for size in _CHUNK_SIZES:
        while size <= left:
            yield records[start : start + size]
            start, left = start + size, left - size
        if not left:
            return


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
