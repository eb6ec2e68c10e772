"""What models were used for, by day: a rollup of the model calls among the spans, in the table `model_usage`.

It changes in the transaction that changes the spans, by the difference that really was made: a span that is there already
adds nothing, one that is deleted is taken out. Each number is whole (money in billionths of a dollar), so that adding and
taking away in any order leaves no trace, and is computed by the database from the row as it is stored. So the table can be
compared with the spans, and made anew from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date
from functools import lru_cache
from itertools import chain
from typing import Any, Final

import sqlalchemy as sa

from configurable_agents.semconv import Operation
from configurable_agents.storage.base import ModelUsage
from configurable_agents.storage.models import model_usage, spans
from configurable_agents.storage.sqlite_driver import on_driver

Key = tuple[int, str, str]
"""Day, provider, model."""

_EPOCH: Final = date(1970, 1, 1).toordinal()
_DAY_NANO: Final = 86_400_000_000_000
_NAME_LENGTH: Final = 200
"""Of a provider's or a model's name; PostgreSQL refuses longer keys."""
_MOST_TOKENS: Final = 1_000_000_000_000
_MOST_USD: Final = 1_000_000
"""Of one call. A bigger number is a mistake in somebody's span; added up, it would leave no room for true ones."""


def _tokens(column: str) -> str:
    return f"CASE WHEN {column} BETWEEN 0 AND {_MOST_TOKENS} THEN CAST({column} AS BIGINT) ELSE 0 END"


_IS_PRICED: Final = f"cost_usd BETWEEN 0 AND {_MOST_USD}"
_KEY: Final = {
    "unix_day": f"start_time_unix_nano / {_DAY_NANO}",
    "provider": f"substr(coalesce(provider, ''), 1, {_NAME_LENGTH})",
    "model": f"substr(coalesce(model, ''), 1, {_NAME_LENGTH})",
}
_COUNTS: Final = {
    "model_calls": "1",
    "failed_calls": "CASE WHEN error_type IS NULL THEN 0 ELSE 1 END",
    **{
        column: _tokens(column)
        for column in (
            "input_tokens",
            "output_tokens",
            "cache_read_tokens",
            "cache_write_tokens",
            "reasoning_tokens",
        )
    },
    "priced_nano_usd": f"CASE WHEN {_IS_PRICED} THEN CAST(round(cost_usd * 1e9) AS BIGINT) ELSE 0 END",
    "unpriced_calls": f"CASE WHEN {_IS_PRICED} THEN 0 ELSE 1 END",
}
"""What one span counts for, in words that SQLite and PostgreSQL understand alike."""
_NAMES: Final = (*_KEY, *_COUNTS)
_IS_CALL: Final = f"operation = '{Operation.CHAT.value}'"
_SUMS: Final = _KEY | {name: f"sum({text})" for name, text in _COUNTS.items()}
COUNTED_COLUMNS: Final = (
    *("operation", "start_time_unix_nano", "provider", "model", "error_type", "cost_usd"),
    *("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"),
)
"""What must be known of a span to count it."""
_ROWS_AT_ONCE: Final = 64


def sums_of(source: str, *, where: str = _IS_CALL) -> str:
    """Give the query that adds up model calls: rows of `model_usage`."""
    sums = ", ".join(f"{text} AS {name}" for name, text in _SUMS.items())
    return f"SELECT {sums} FROM {source} WHERE {where} GROUP BY 1, 2, 3"  # noqa: S608 - names are our own


_LAST_ROW: Final = f"SELECT coalesce(max(rowid), 0) FROM {spans.name}"  # noqa: S608 - names are our own
_SUMS_AFTER_ROW: Final = sums_of(spans.name, where=f"rowid > ? AND {_IS_CALL}")


class Tally:
    """The difference that one transaction makes, until it is written."""

    def __init__(self) -> None:
        self._counts: dict[Key, list[int]] = {}

    def count(self, rows: Iterable[Sequence[Any]], *, sign: int = 1) -> int:
        """Add what `sums_of` gave, or take it away; gives the number of model calls in it."""
        calls = 0
        for day, provider, model, *counts in rows:
            numbers = [sign * int(count) for count in counts]
            calls += abs(numbers[0])
            known = self._counts.get((day, provider, model))
            if known is not None:
                numbers = [old + new for old, new in zip(known, numbers, strict=True)]
            self._counts[day, provider, model] = numbers
        return calls

    def write(self, connection: sa.Connection) -> None:
        """Change the table; last among a transaction's spans, since others may wait for the same day's rows."""
        # In the order of keys, so that writers never deadlock.
        changes = [(key, counts) for key, counts in sorted(self._counts.items()) if any(counts)]
        self._counts.clear()
        for start in range(0, len(changes), _ROWS_AT_ONCE):
            part = changes[start : start + _ROWS_AT_ONCE]
            values = tuple(chain.from_iterable((*key, *counts) for key, counts in part))
            if connection.dialect.name == "sqlite":
                on_driver(connection, _upsert_text(len(part), "?"), values)
            else:
                connection.exec_driver_sql(_upsert_text(len(part), "%s"), values)
        emptied = sorted({key[0] for key, counts in changes if counts[0] < 0})
        if emptied:
            usage = model_usage.c
            connection.execute(model_usage.delete().where(usage.unix_day.in_(emptied), usage.model_calls <= 0))


def count_inserted(connection: sa.Connection, insert: Callable[[], int], tally: Tally) -> int:
    """Insert spans into SQLite and count the model calls that were not there; gives what `insert` gives."""
    # New rows are numbered upwards, and there is only one writer. Not RETURNING: it gives the interpreter's lock away
    # for each row, and needs a newer SQLite.
    ((last,),) = on_driver(connection, _LAST_ROW)
    written = insert()
    if written:
        tally.count(on_driver(connection, _SUMS_AFTER_ROW, (last,)))
    return written


@lru_cache(maxsize=2 * _ROWS_AT_ONCE)
def _upsert_text(rows: int, place: str) -> str:
    table = model_usage.name
    row = f"({', '.join([place] * len(_NAMES))})"
    changes = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in _COUNTS)
    return (
        f"INSERT INTO {table} ({', '.join(_NAMES)}) VALUES {', '.join([row] * rows)}"  # noqa: S608 - names are our own
        f" ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET {changes}"
    )


def delete_spans(connection: sa.Connection, where: sa.ColumnElement[bool]) -> None:
    """Delete spans, and take the model calls among them out of the rollup."""
    tally = Tally()
    if connection.dialect.name == "sqlite":
        tally.count(connection.execute(_selected_sums(spans).where(where)), sign=-1)
        connection.execute(spans.delete().where(where))
    else:
        # What it really deletes: another process may be deleting the same.
        gone = spans.delete().where(where).returning(*(spans.c[name] for name in COUNTED_COLUMNS)).cte("gone")
        tally.count(connection.execute(_selected_sums(gone)), sign=-1)
    tally.write(connection)


def _selected_sums(source: sa.FromClause) -> sa.Select[Any]:
    columns: list[sa.ColumnElement[Any]] = [sa.literal_column(text).label(name) for name, text in _SUMS.items()]
    return (
        sa.select(*columns)
        .select_from(source)
        .where(sa.literal_column("operation") == Operation.CHAT.value)
        .group_by(sa.text("1, 2, 3"))
    )


# --- reading ---------------------------------------------------------------------------------------------------------------


def read(connection: sa.Connection, *, since: date | None, until: date | None) -> list[ModelUsage]:
    """Give the rows of the days from `since` to `until`, both included, the newest day first."""
    first, last = _unix_day(since or date.min), _unix_day(until or date.max)
    # Past SQLAlchemy's rows: a year of many models is ten thousand rows.
    rows: Sequence[Any]
    if connection.dialect.name == "sqlite":
        rows = on_driver(connection, _READ.format("?"), (first, last))
    else:
        rows = connection.exec_driver_sql(_READ.format("%s"), (first, last)).cursor.fetchall()
    days = {day: date.fromordinal(_EPOCH + day) for day in {row[0] for row in rows}}
    return [ModelUsage._make((days[row[0]], *row[1:])) for row in rows]


_READ: Final = (
    f"SELECT unix_day, nullif(provider, ''), nullif(model, ''), {', '.join(list(_COUNTS)[:-2])},"  # noqa: S608 - names are our own
    f" CAST(priced_nano_usd AS DOUBLE PRECISION) / 1e9, unpriced_calls FROM {model_usage.name}"
    " WHERE unix_day BETWEEN {0} AND {0} ORDER BY unix_day DESC, provider, model"
)


def day_of(key: Key) -> date:
    """Give the day of a row."""
    return date.fromordinal(_EPOCH + key[0])


def _unix_day(day: date) -> int:
    return day.toordinal() - _EPOCH


# --- upkeep ----------------------------------------------------------------------------------------------------------------


def compare(connection: sa.Connection) -> list[Key]:
    """Give the rows that are not the sums of the spans, and those that are missing."""
    take_time(connection)
    return [(row[0], row[1], row[2]) for row in connection.exec_driver_sql(_COMPARISON)]


# One statement: its parts see the same moment, also on a server that is written meanwhile.
_COMPARISON: Final = (
    f"SELECT {', '.join(_KEY)} FROM ({sums_of(spans.name)} UNION ALL"  # noqa: S608 - names are our own
    f" SELECT {', '.join(_KEY)}, {', '.join('-' + name for name in _COUNTS)} FROM {model_usage.name}) AS sides"
    f" GROUP BY {', '.join(_KEY)} HAVING {' OR '.join(f'sum({name}) <> 0' for name in _COUNTS)} ORDER BY 1, 2, 3"
)


def make_anew(connection: sa.Connection) -> int:
    """Make the rollup from the spans; gives how many rows were not as they should be."""
    take_time(connection)
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"LOCK TABLE {spans.name} IN SHARE ROW EXCLUSIVE MODE")  # whoever writes spans waits
    wrong = len(compare(connection))
    if wrong:
        connection.execute(model_usage.delete())
        connection.exec_driver_sql(f"INSERT INTO {model_usage.name} ({', '.join(_NAMES)}) {sums_of(spans.name)}")
    return wrong


def take_time(connection: sa.Connection) -> None:
    """Let a server look through all spans for as long as that takes, for the rest of the transaction."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL statement_timeout = '600s'")
