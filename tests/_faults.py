"""Faults for tests: a store that fails, programs that die, and the question whether anything was lost."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import select
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan

from _runs import chain, field, rows, start_program
from _workflows import make
from configurable_agents import Workflow, create_storage_backend, run_workflow, semconv
from configurable_agents.storage.backend import SqlAlchemyStorageBackend
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.records import AnyRecord, SpanKey
from configurable_agents.storage.recovery import segments


def chain_with(storage: Mapping[str, Any]) -> Workflow:
    """A chain of nodes that the function `act` is called by, with one that asks a model, and a `storage` block."""
    return make(
        [
            {"id": "a", "function": "act", "outputs": ["x"]},
            {"id": "b", "function": "act", "outputs": ["x"]},
            {"id": "ask", "prompt": "{x}", "outputs": ["y"]},
            {"id": "c", "function": "act", "outputs": ["x"]},
            {"id": "d", "function": "act", "outputs": ["x"]},
        ],
        chain("START a b ask c d END"),
        {"x": field("int"), "y": field("str")},
        {
            "llm": {
                "provider": "scripted",
                "params": {"replies": [{"text": "yes", "usage": {"input_tokens": 10, "output_tokens": 5}}]},
                "price": {"input_per_mtok": 1.0, "output_per_mtok": 2.0},
            },
            "storage": dict(storage),
        },
        name="chain",
    )


CHAIN = chain_with({})


class FaultyBackend(StorageBackend):
    """A store whose n-th write fails: once, from then on for ever, or after it was done."""

    def __init__(
        self,
        inner: StorageBackend,
        *,
        nth: int,
        how: Literal["once", "for ever", "after"],
        error: Callable[[], BaseException],
    ) -> None:
        self._inner, self._nth, self._how, self._error = inner, nth, how, error
        self.writes = 0
        self.runs, self.execution_states = inner.runs, inner.execution_states
        self.location, self.journals = inner.location, inner.journals
        self.was_reached = False

    def write(self, records: Sequence[AnyRecord]) -> None:
        """Write, or fail."""
        self.writes += 1
        if self.writes == self._nth or (self._how == "for ever" and self.writes > self._nth):
            self.was_reached = True
            if self._how == "after":
                self._inner.write(records)
            raise self._error()
        self._inner.write(records)

    def mark_interrupted(self, runs: Sequence[SpanKey], nodes: Sequence[SpanKey]) -> None:
        """Pass it on."""
        self._inner.mark_interrupted(runs, nodes)

    def heal(self) -> None:
        """Fail no more."""
        self._nth, self._how = -1, "once"

    def close(self) -> None:
        """Close the real store."""
        self._inner.close()


# --- the oracle: what a program knew to be finished ----------------------------------------------------------------


class Oracle:
    """A file to which a program says, before it goes on, what must survive it; one write each, so that no line is cut."""

    def __init__(self, path: str | Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def finished(self, run_id: str, what: object) -> None:
        """Say that a node execution (its seq) or the whole run (`run`) had finished."""
        os.write(self._fd, f"{run_id} {what}\n".encode())

    def act(self) -> int:
        """Be a node's function: its first act says that the node before had finished."""
        span = trace.get_current_span()
        assert isinstance(span, ReadableSpan)
        attributes = span.attributes or {}
        seq = int(str(attributes[semconv.SEQ]))
        if seq > 1:
            self.finished(str(attributes[semconv.RUN_ID]), seq - 1)
        return seq


def run_chains(store: str, oracle_path: str, *, count: int = 10**9, act: Callable[[], None] | None = None) -> None:
    """Run chains of nodes, one after another."""
    oracle = Oracle(oracle_path)

    def node() -> int:
        seq = oracle.act()
        if act is not None:
            act()
        return seq

    for _ in range(count):
        result = run_workflow(CHAIN, functions={"act": node}, store=store)
        oracle.finished(result.run_id, "run")


def lost_or_wrong(store: Path | str, oracles: Collection[Path], *, by_the_dead: bool = True) -> list[str]:
    """List once, as a user would, and say what is not as it must be; an empty list is what we want.

    Args:
        store: A SQLite file, or the URL of a server.
        oracles: What the programs knew to be finished.
        by_the_dead: All programs have died, so that no journal may be left.
    """
    backend = create_storage_backend(store, busy_timeout_seconds=5)
    assert isinstance(backend, SqlAlchemyStorageBackend)

    def ask(query: str) -> list[Any]:
        return backend.database.run(lambda connection: [tuple(row) for row in connection.exec_driver_sql(query)])

    try:
        listed = len(backend.runs.list_runs(limit=1_000_000))
        problems = [f"journal left: {path}" for each in backend.journals for path in segments(each) if by_the_dead]
        if isinstance(store, Path):
            problems += [f"integrity: {row[0]}" for row in ask("PRAGMA integrity_check") if row != ("ok",)]
        problems += [f"twice: {row}" for row in ask(_TWICE)]
        problems += [f"still running: {row}" for row in ask(_RUNNING)]
        problems += [f"totals: {row}" for row in ask(_TOTALS)]
        nodes = dict(ask("SELECT run_id || ' ' || seq, status FROM execution_states"))
        runs = dict(ask("SELECT run_id || ' run', status FROM workflow_runs"))
    finally:
        backend.close()
    known = {**nodes, **runs}
    for oracle in oracles:
        said = oracle.read_text().splitlines() if oracle.exists() else []
        problems += [f"lost: {line} is {known.get(line)}" for line in said if known.get(line) != "completed"]
    if listed != len(runs):
        problems.append(f"listed {listed} of {len(runs)} runs")
    return problems


def everything(store: Path) -> list[list[object]]:
    """All that is in the tables, in an order that does not depend on who wrote first."""
    tables = ("workflow_runs", "execution_states", "spans", "workflow_configs")
    return [rows(store, f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]


_TWICE = (
    "SELECT run_id, seq FROM execution_states GROUP BY run_id, seq HAVING count(*) > 1"
    " UNION ALL SELECT run_id, 0 FROM workflow_runs GROUP BY run_id HAVING count(*) > 1"
)
_RUNNING = (
    "SELECT run_id, 0 FROM workflow_runs WHERE status = 'running'"
    " UNION ALL SELECT run_id, seq FROM execution_states WHERE status = 'running'"
)
_TOTALS = """
SELECT r.run_id, r.status, r.node_executions, count(*), r.input_tokens, sum(e.input_tokens), r.cost_usd, sum(e.cost_usd)
FROM workflow_runs r JOIN execution_states e ON e.run_id = r.run_id
GROUP BY r.run_id, r.status, r.node_executions, r.input_tokens, r.output_tokens, r.cost_usd
HAVING r.node_executions <> count(*) OR r.input_tokens <> sum(e.input_tokens)
    OR r.output_tokens <> sum(e.output_tokens) OR abs(r.cost_usd - sum(e.cost_usd)) > 1e-12
"""


# --- programs that die ---------------------------------------------------------------------------------------------


class Nursery:
    """Starts programs quickly, to be killed: one process imports everything and forks, before any store is open.

    `end` returns when they and all their descendants are dead, and their locks are free.
    """

    def __init__(self) -> None:
        # A file: a pipe that nobody empties would stop whoever logs.
        self._log = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115 - closed with the nursery
        self._process = start_program("import sys, _faults; _faults.serve(sys.argv[1])", self._log.name)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in: IO[str] = self._process.stdin
        self._out: IO[str] = self._process.stdout
        self._ask("hello")

    def start(self, what: str, *arguments: object) -> int:
        """Start one of the programs below; gives its process id."""
        return int(self._ask("start", what, *arguments))

    def end(self, signal_number: int | None = signal.SIGKILL) -> list[int]:
        """Send a signal to all programs that were started (None lets them end by themselves); gives the exit codes."""
        return [int(code) for code in self._ask("end", signal_number or 0).split()]

    def close(self) -> None:
        """End the nursery itself, and whatever a test that failed has left."""
        self._kill(_descendants(self._process.pid))
        self._in.close()
        self._process.wait(timeout=30)
        self._out.close()
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._log.close()

    def _ask(self, *words: object) -> str:
        self._in.write("\t".join(map(str, words)) + "\n")
        self._in.flush()
        # Not `select`: a process that has run many tests has more files open than that can look at.
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        answers = poll.poll(PATIENCE_SECONDS * 1000)
        answer = self._out.readline() if answers else ""
        if not answer:
            self._kill([self._process.pid, *_descendants(self._process.pid)])
            raise AssertionError(f"a program did not end, or the nursery died: {self._log.read()}")
        return answer.strip()

    def _kill(self, processes: Sequence[int]) -> None:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def _descendants(process: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *_descendants(int(child))]
    return found


PATIENCE_SECONDS = 60
"""How long programs may take to end: longer than any of them needs on a slow machine."""


def serve(log: str) -> None:
    """Be the nursery's process."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), 2)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    warm_up()
    started: list[int] = []
    for line in sys.stdin:
        match line.rstrip("\n").split("\t"):
            case ["start", what, *arguments]:
                started.append(_forked(what, arguments))
                answer = str(started[-1])
            case ["end", number]:
                answer = " ".join(map(str, _ended(started, int(number))))
                started.clear()
            case _:
                answer = "hello"
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


def warm_up() -> None:
    """Import what a run imports, without opening a store."""

    import configurable_agents.storage.backend
    import configurable_agents.storage.schema  # noqa: F401

    run_workflow(CHAIN, functions={"act": lambda: 1}, store=False)


_PR_SET_CHILD_SUBREAPER = 36


def _forked(what: str, arguments: Sequence[str]) -> int:
    child = os.fork()
    if child:
        return child
    os.setpgid(0, 0)
    sys.stdin.close()
    code = 1
    try:
        PROGRAMS[what](*arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        _run_exit_handlers()
        os._exit(code)


def _run_exit_handlers() -> None:
    import atexit

    atexit._run_exitfuncs()


def _ended(started: Sequence[int], number: int) -> list[int]:
    for process in started if number else ():
        for kill in (os.killpg, os.kill):
            try:
                kill(process, number)
                break
            except ProcessLookupError:
                continue
    codes = {process: os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in started}
    while True:  # descendants whose parents have died are ours
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return [codes[process] for process in started]


def _chains(store: str, oracle: str) -> None:
    run_chains(store, oracle)


def _some_chains(store: str, oracle: str) -> None:
    run_chains(store, oracle, count=3)


def _chains_until(die: Callable[[], object]) -> Callable[[str, str], None]:
    def program(store: str, oracle: str) -> None:
        left = random.randint(3, 60)  # so that at least one has finished and been told of

        def act() -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                die()

        run_chains(store, oracle, act=act)

    return program


def _forking(store: str, oracle: str) -> None:
    """Run, then fork as a server does, and go on running in all of them."""
    run_chains(store, oracle, count=1)
    for _ in range(2):
        if os.fork() == 0:
            break
    run_chains(store, oracle)


def _forking_in_a_node(store: str, oracle: str) -> None:
    """Fork in the middle of a run; the child runs workflows of its own."""

    def act() -> None:
        if os.fork() == 0:
            run_chains(store, oracle, count=2)
            os._exit(0)

    run_chains(store, oracle, count=2, act=act)


def _multiprocessing(method: str) -> Callable[[str, str], None]:
    def program(store: str, oracle: str) -> None:
        import multiprocessing

        run_chains(store, oracle, count=1)
        context = multiprocessing.get_context(method)
        children = [context.Process(target=_some_chains, args=(store, oracle)) for _ in range(2)]  # type: ignore[attr-defined]  # every context has it
        for child in children:
            child.start()
        run_chains(store, oracle, count=2)
        for child in children:
            child.join()
            assert child.exitcode == 0

    return program


def _list(store: str) -> None:
    backend = create_storage_backend(store)
    backend.runs.list_runs()
    backend.close()


PROGRAMS: dict[str, Callable[..., None]] = {
    "chains": _chains,
    "chains until os._exit": _chains_until(lambda: os._exit(3)),
    "chains until a segfault": _chains_until(lambda: ctypes.string_at(0)),
    "forking": _forking,
    "forking in a node": _forking_in_a_node,
    "multiprocessing fork": _multiprocessing("fork"),
    "multiprocessing spawn": _multiprocessing("spawn"),
    "list": _list,
}
