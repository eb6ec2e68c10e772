"""The statements that write records: text made once, values as plain tuples.

Building an `insert()` construct for every commit costs more than the commit itself; the text depends only on the table
and the number of rows. Batches go in as multi-row VALUES of certain sizes, so that few texts exist:
`executemany` gives the interpreter's lock away at each row, which is slow in a program with other threads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from operator import itemgetter
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
_Result = TypeVar("_Result")

_CHUNK_SIZES: Final = (96, 64, 48, 32, 24, *range(20, 0, -1))
"""A statement of 256 rows keeps 1.5 MB for itself, one of 96 a seventh of that. The sizes between the powers of two
save statements: around each of them the interpreter's lock is given away and waited for, while other processes wait too.
A short run alone is one statement."""
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


def upsert_configs(connection: sa.Connection, texts: dict[str, str]) -> None:
    """Keep texts of workflow files by their hashes; what is there stays."""
    _insert(connection, workflow_configs, sorted(texts.items()), "absent")


def upsert_runs(connection: sa.Connection, records: Sequence[WorkflowRunRecord], *, where: Where = "not later") -> int:
    """Write runs by the rank rule; give how many rows that made or changed."""
    return writing_runs(connection.dialect.name, records, where=where)(connection)


def upsert_states(
    connection: sa.Connection, records: Sequence[ExecutionStateRecord], *, where: Where = "not later"
) -> int:
    """Write node executions by the rank rule; give how many rows that made or changed."""
    return writing_states(connection.dialect.name, records, where=where)(connection)


Writing = Callable[[sa.Connection], int]
"""Writes what was made ready for it, and gives how many rows that made or changed."""


def writing_runs(dialect: str, records: Sequence[WorkflowRunRecord], *, where: Where = "not later") -> Writing:
    """Make ready what `upsert_runs` does, so that a transaction, which keeps others waiting, is short."""
    made = _statements(dialect, workflow_runs, [_RUN_ROW(record) for record in _merged(records)], where)
    return lambda connection: _executed(connection, made)


def writing_states(dialect: str, records: Sequence[ExecutionStateRecord], *, where: Where = "not later") -> Writing:
    """Make ready what `upsert_states` does, as `writing_runs` does."""
    made = _statements(dialect, execution_states, [_STATE_ROW(record) for record in _merged(records)], where)
    return lambda connection: _executed(connection, made)


def insert_spans(connection: sa.Connection, records: Sequence[SpanRecord], tally: usage.Tally) -> int:
    """Write spans that are not there yet; give how many that were.

    Args:
        tally: Takes the model calls among them, to be written at the transaction's end.
    """
    by_key = {(record.span_id, record.trace_id): record for record in records}
    calls, others = list[Row](), list[Row]()
    for key in sorted(by_key):
        record = by_key[key]
        (calls if record.operation == Operation.CHAT else others).append(_SPAN_ROW(record))
    return _insert(connection, spans, others, "absent") + _insert_calls(connection, calls, tally)


def _insert_calls(connection: sa.Connection, rows: Sequence[Row], tally: usage.Tally) -> int:
    if not rows:
        return 0
    if connection.dialect.name == "sqlite":
        return usage.count_inserted(connection, lambda: _insert(connection, spans, rows, "absent"), tally)
    written = 0
    for chunk in _chunks(rows):
        values = tuple(chain.from_iterable(chunk))
        written += tally.count(_execute(connection, _counting_insert_text(len(chunk)), values))
    return written


def storable(value: Any) -> Any:
    """Replace what no text column takes: NUL characters and halves of surrogate pairs."""
    return _UNSTORABLE.sub("\ufffd", value) if isinstance(value, str) else value


def _row_of(kind: type[Any], table: sa.Table) -> Callable[[Any], Row]:
    names = table.columns.keys()
    # A record has what it was made with in its `__dict__`, and the rest from its class.
    defaults = {name: getattr(kind, name, None) for name in names}
    ordered: Callable[[dict[str, Any]], Row] = itemgetter(*names)

    def row(record: Any) -> Row:
        values = defaults | record.__dict__
        if "status" in values:
            # A driver takes a member of an enum for something else than its text.
            values["status"] = str(values["status"])
        return ordered(values)

    return row


_RUN_ROW: Final = _row_of(WorkflowRunRecord, workflow_runs)
_STATE_ROW: Final = _row_of(ExecutionStateRecord, execution_states)
_SPAN_ROW: Final = _row_of(SpanRecord, spans)


def _merged(records: Sequence[_Ranked]) -> list[_Ranked]:
    """Give each span once, the last record of the highest rank; in the order of keys, so that writers never deadlock."""
    if len(records) == 1:
        return list(records)
    kept: dict[tuple[str, str], _Ranked] = {}
    for record in records:
        key = (record.span_id, record.trace_id)
        if key not in kept or status_rank(record.status) >= status_rank(kept[key].status):
            kept[key] = record
    return [kept[key] for key in sorted(kept)]


def _insert(connection: sa.Connection, table: sa.Table, rows: Sequence[Row], where: Where) -> int:
    return _executed(connection, _statements(connection.dialect.name, table, rows, where))


def _statements(dialect: str, table: sa.Table, rows: Sequence[Row], where: Where) -> list[Statement]:
    placeholder = "?" if dialect == "sqlite" else "%s"
    return [
        (_insert_text(table, len(chunk), placeholder, where), tuple(chain.from_iterable(chunk)))
        for chunk in _chunks(rows)
    ]


def _executed(connection: sa.Connection, made: Sequence[Statement]) -> int:
    # SQLite's driver is spoken to directly: each execution through SQLAlchemy costs as much as several rows.
    execute = changed_on_driver if connection.dialect.name == "sqlite" else _changed
    return sum(_cleaned_if_need_be(connection, execute, text, values) for text, values in made)


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


def _chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    start, left = 0, len(rows)
    if left in _CHUNK_SIZES:
        yield rows
        return
    for size in _CHUNK_SIZES:
        while size <= left:
            yield rows[start : start + size]
            start, left = start + size, left - size
        if not left:
            return


@lru_cache(maxsize=128)
def _insert_text(table: sa.Table, rows: int, placeholder: str, where: Where) -> str:
    names = table.columns.keys()
    row = f"({', '.join([placeholder] * len(names))})"
    key = ", ".join(table.primary_key.columns.keys())
    text = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES {', '.join([row] * rows)} ON CONFLICT ({key}) DO "  # noqa: S608 - names are our own
    if where == "absent":
        return text + "NOTHING"
    values = ", ".join(f"{name} = excluded.{name}" for name in names if name not in table.primary_key.columns)
    sign = ">=" if where == "not later" else ">"
    return f"{text}UPDATE SET {values} WHERE {_rank('excluded')} {sign} {_rank(table.name)}"


@lru_cache(maxsize=len(_CHUNK_SIZES))
def _counting_insert_text(rows: int) -> str:
    """Give the statement by which PostgreSQL inserts spans and adds up those that were not there."""
    returned = ", ".join(usage.COUNTED_COLUMNS)
    return f"WITH made AS ({_insert_text(spans, rows, '%s', 'absent')} RETURNING {returned}) {usage.sums_of('made')}"


def _rank(row: str) -> str:
    return f"CASE {row}.status WHEN 'running' THEN 0 WHEN 'interrupted' THEN 1 ELSE 2 END"
