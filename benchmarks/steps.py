"""What each step of keeping a node execution costs: `python -m benchmarks.steps [--rounds N] [--json FILE]`.

Every figure is for one node execution with a record of about 2 kB, in one process, the steps in turns. Compare the
ratios: microseconds are the machine's, ratios are ours. Beside the steps stand what they can be held against: a bare
span of the OpenTelemetry SDK with the same attributes, a bare `os.pwrite` of the same bytes, and a bare `sqlite3` commit of the same row.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import sqlite3
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import StatusCode

from benchmarks.measuring import Figure, Step, measure
from configurable_agents import Workflow, create_storage_backend, run_workflow
from configurable_agents.observability.records import to_record
from configurable_agents.runtime.workflow import workflow_from_config
from configurable_agents.semconv import GEN_AI_OPERATION_NAME, Operation
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.codec import encode_record
from configurable_agents.storage.journal import MARKER, Journal
from configurable_agents.storage.records import ExecutionStateRecord, NodeStart
from configurable_agents.storage.writer import Writer

ROUNDS = 60
CHAIN, LONG_CHAIN = 10, 50
RECORD_BYTES = 2_000
SPAN, APPEND, COMMIT = "a bare span of the SDK", "a bare os.pwrite", "a bare sqlite3 commit"
"""What the others are held against."""


def main() -> None:
    """Measure, and print a table; with `--json` write the figures too."""
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.directory) as folder, contextlib.ExitStack() as stack:
        span = _node_span()
        # In two turns: a run leaves work behind for its store's thread, which would fall into the step after it.
        rounds = measure(_steps(span, Path(folder), stack), rounds=options.rounds)
        rounds |= measure(_runs(Path(folder)), rounds=options.rounds)
        url = options.postgresql or stack.enter_context(_server())
        if url is not None:
            rounds |= measure(_commits(_record(span), url, "PostgreSQL", stack), rounds=max(10, options.rounds // 3))
    figures = [Figure.of(name, found) for name, found in _with_differences(rounds).items()]
    print(_table(figures))
    if options.json:
        options.json.write_text(json.dumps(_document(figures, options.rounds), indent=2) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each step takes its turn")
    parser.add_argument("--json", type=Path, help="where to write the figures as JSON")
    parser.add_argument(
        "--postgresql", metavar="URL", help="a database that may be written; else the tests' own server"
    )
    parser.add_argument("--directory", type=Path, help="where the files are; the disk matters")
    return parser.parse_args()


# --- what is measured --------------------------------------------------------------------------------------------------


class _Capture:
    """Keeps a node's span as it was at its start, and as it ended."""

    def __init__(self) -> None:
        self.at_start: dict[str, Any] = {}
        self.ended: ReadableSpan | None = None

    def on_start(self, span: ReadableSpan) -> None:
        if (span.attributes or {}).get(GEN_AI_OPERATION_NAME) == Operation.EXECUTE_NODE:
            self.at_start = dict(span.attributes or {})

    def on_end(self, span: ReadableSpan) -> None:
        if (span.attributes or {}).get(GEN_AI_OPERATION_NAME) == Operation.EXECUTE_NODE:
            self.ended = span


def _node_span() -> _Capture:
    """Run a node whose record is about 2 kB."""
    capture = _Capture()
    text = "x" * (RECORD_BYTES - 750)
    run_workflow(_chain(1), functions={"f0": lambda x: text}, store=False, observers=[capture])
    return capture


def _chain(nodes: int) -> Workflow:
    names = ["START", *(f"f{number}" for number in range(nodes)), "END"]
    return workflow_from_config(
        {
            "schema_version": "1.0",
            "flow": {"name": "chain"},
            "state": {"fields": {"x": {"type": "str", "default": "1"}}},
            "nodes": [{"id": name, "function": name, "inputs": {"x": "{x}"}, "outputs": ["x"]} for name in names[1:-1]],
            "edges": [{"from": here, "to": there} for here, there in itertools.pairwise(names)],
        }
    )


def _record(capture: _Capture) -> ExecutionStateRecord:
    assert capture.ended is not None
    record = to_record(capture.ended)
    assert isinstance(record, ExecutionStateRecord)
    return record


def _start(capture: _Capture, record: ExecutionStateRecord) -> NodeStart:
    names = ("trace_id", "span_id", "parent_span_id", "name", "start_time_unix_nano", "trace_flags")
    return NodeStart({name: getattr(record, name) for name in names}, capture.at_start)


def _new_ids(record: ExecutionStateRecord) -> Iterator[ExecutionStateRecord]:
    """Give the record again and again, each time as another execution."""
    first = int(record.span_id, 16)
    for number in itertools.count(1):
        yield replace(record, span_id=f"{first + number:016x}", seq=number)


# --- the steps ---------------------------------------------------------------------------------------------------------


def _steps(capture: _Capture, folder: Path, stack: contextlib.ExitStack) -> list[Step]:
    span, record = capture.ended, _record(capture)
    assert span is not None
    payload, start = encode_record(record), _start(capture, record)
    backend = stack.enter_context(contextlib.closing(create_storage_backend(folder / "writer.db")))
    writer = Writer(None, journals=[folder / "writer"], backend=backend)
    stack.callback(writer.close)
    journal = Journal(folder / "journal")
    stack.callback(journal.close, remove=True)
    records = _new_ids(record)
    made = iter([next(records) for _ in range(20_000)])
    return [
        Step(SPAN, _bare_span(capture), times=200),
        Step("note its start (encode_record)", lambda: encode_record(start), times=200),
        Step("make the record (to_record)", lambda: to_record(span), times=200),
        Step("encode it (encode_record)", lambda: encode_record(record), times=200),
        Step(APPEND, _bare_append(payload, folder / "bare", stack), times=200),
        Step("append it to the journal", lambda: journal.append(payload), times=200),
        Step(
            "emit: encode, append, hand to the thread (Writer.write)",
            lambda: writer.write([next(made)]),
            times=100,
            after=lambda: writer.flush(10),
        ),
        *_commits(record, folder / "store.db", "SQLite", stack),
    ]


def _bare_span(capture: _Capture) -> Any:
    tracer = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False).get_tracer("bare")
    assert capture.ended is not None
    start = capture.at_start
    end = {name: value for name, value in (capture.ended.attributes or {}).items() if name not in start}
    name = capture.ended.name

    def make() -> None:
        span = tracer.start_span(name, attributes=start)
        span.set_attributes(end)
        span.set_status(StatusCode.OK)
        span.end()

    return make


def _bare_append(payload: bytes, path: Path, stack: contextlib.ExitStack) -> Any:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    stack.callback(os.close, fd)
    frame = MARKER + len(payload).to_bytes(4, "little") + zlib.crc32(payload).to_bytes(4, "little") + payload
    end = itertools.count(0, len(frame))
    return lambda: os.pwrite(fd, frame, next(end))


def _commits(record: ExecutionStateRecord, place: Path | str, name: str, stack: contextlib.ExitStack) -> list[Step]:
    backend = stack.enter_context(contextlib.closing(create_storage_backend(place, busy_timeout_seconds=10)))
    records = _new_ids(record)

    def write(rows: int) -> Any:
        return lambda: backend.write(list(itertools.islice(records, rows)))

    steps = [
        Step(f"commit {rows} rows together, each ({name})", write(rows), times=max(1, 64 // rows), units=rows)
        for rows in (1, 64, 256)
    ]
    if isinstance(place, Path):
        return [Step(COMMIT, _bare_commit(record, place, backend, stack), times=64), *steps]
    return steps


def _bare_commit(record: ExecutionStateRecord, like: Path, backend: StorageBackend, stack: contextlib.ExitStack) -> Any:
    """Commit the same row in a file of the same schema, with nothing but the standard library."""
    backend.write([record])
    path = like.with_name("bare.db")
    create_storage_backend(path).close()
    with contextlib.closing(sqlite3.connect(like)) as source:
        cursor = source.execute("SELECT * FROM execution_states LIMIT 1")
        names, row = [column[0] for column in cursor.description], cursor.fetchone()
    connection = stack.enter_context(contextlib.closing(sqlite3.connect(path, isolation_level=None)))
    connection.execute("PRAGMA synchronous = NORMAL")
    at, numbers = names.index("span_id"), itertools.count(int(record.span_id, 16))
    insert = f"INSERT INTO execution_states VALUES ({', '.join('?' * len(names))})"

    def commit() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(insert, (*row[:at], f"{next(numbers):016x}", *row[at + 1 :]))
        connection.execute("COMMIT")

    return commit


@contextlib.contextmanager
def _server() -> Iterator[str | None]:
    """Run the tests' own PostgreSQL server, if this machine has one."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import _postgres

    programs = _postgres._find_programs()  # noqa: SLF001 - the same project
    if programs is None:
        print("no PostgreSQL on this machine: its steps are left out", file=sys.stderr)
        yield None
        return
    with _postgres._cluster(programs) as server:  # noqa: SLF001 - the same project
        yield server.url("postgres")


# --- whole runs --------------------------------------------------------------------------------------------------------


def _runs(folder: Path) -> list[Step]:
    return [
        Step(_run_name(nodes, name), _run(nodes, store), times=3)
        for name, store in (("off", False), ("on", folder / "runs.db"))
        for nodes in (CHAIN, LONG_CHAIN)
    ]


def _run(nodes: int, store: Path | bool) -> Any:
    workflow = _chain(nodes)
    functions = {f"f{number}": lambda x: x for number in range(nodes)}
    return lambda: run_workflow(workflow, functions=functions, store=store)


def _run_name(nodes: int, store: str) -> str:
    return f"a run of {nodes} trivial nodes, store {store}"


def _with_differences(rounds: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """Put what one more node costs beside the runs: the longer chain less the shorter one."""
    found = dict(rounds)
    for store in ("off", "on"):
        short, long = rounds[_run_name(CHAIN, store)], rounds[_run_name(LONG_CHAIN, store)]
        more = [(longer - shorter) / (LONG_CHAIN - CHAIN) for shorter, longer in zip(short, long, strict=True)]
        found[f"one more node in a run, store {store}"] = more
    return found


# --- the report --------------------------------------------------------------------------------------------------------


def _ratios(figures: Sequence[Figure]) -> dict[str, dict[str, float]]:
    medians = {figure.name: figure.median_us for figure in figures}
    return {
        name: {against: median / medians[against] for against in (SPAN, APPEND, COMMIT)}
        for name, median in medians.items()
    }


def _table(figures: Sequence[Figure]) -> str:
    ratios = _ratios(figures)
    lines = [
        "| step | median, µs | 10 % – 90 % | × bare span | × bare pwrite | × bare commit |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for figure in figures:
        against = " | ".join(f"{value:.2f}" for value in ratios[figure.name].values())
        spread = f"{figure.low_us:.1f} – {figure.high_us:.1f}"
        lines.append(f"| {figure.name} | {figure.median_us:.1f} | {spread} | {against} |")
    return "\n".join(lines)


def _document(figures: Sequence[Figure], rounds: int) -> dict[str, Any]:
    ratios = _ratios(figures)
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "rounds": rounds,
        "steps": [{**asdict(figure), "ratios": ratios[figure.name]} for figure in figures],
    }


if __name__ == "__main__":
    main()
