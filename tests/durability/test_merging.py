"""Whatever the order in which records, deaths and listings come, the store says what a simple model says."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from _records import node_record, run_record
from configurable_agents import create_storage_backend
from configurable_agents.semconv import Status
from configurable_agents.storage.codec import encode_record
from configurable_agents.storage.journal import Journal
from configurable_agents.storage.records import ExecutionStateRecord, WorkflowRunRecord, status_rank
from configurable_agents.storage.recovery import segments

Spanned = WorkflowRunRecord | ExecutionStateRecord
ENDS = st.sampled_from([Status.COMPLETED, Status.FAILED, Status.CANCELLED])


@dataclass(eq=False)
class Process:
    """A process of the model: its journal, and what it began and did not end."""

    journal: Journal
    open: list[Spanned] = field(default_factory=list)
    written: list[Spanned] = field(default_factory=list)
    """Everything that its journal holds."""


class Merging(RuleBasedStateMachine):
    """Processes that start, end and die, with a database that gets each record soon, late, twice, or from the journal."""

    processes = Bundle("processes")

    def __init__(self) -> None:
        super().__init__()
        self.rest = contextlib.ExitStack()
        folder = self.rest.enter_context(tempfile.TemporaryDirectory())
        self.store = create_storage_backend(Path(folder) / "runs.db")
        self.rest.callback(self.store.close)
        self.numbers = itertools.count(1)
        self.stored: dict[str, str] = {}
        """By span id: the status that the database must have."""
        self.alive: list[Process] = []
        self.dead: list[Process] = []
        """Those whose journals nobody has taken up yet."""
        self.ever_written: list[Spanned] = []

    @initialize(target=processes)
    def first(self) -> Process:
        return self.born()

    @rule(target=processes)
    def another(self) -> Process:
        return self.born()

    @rule(process=processes, is_committed=st.booleans())
    def start_run(self, process: Process, is_committed: bool) -> None:
        run = run_record(next(self.numbers), status=Status.RUNNING.value)
        self.record(process, run, is_committed)
        process.open.append(run)

    @rule(process=processes, which=st.integers(0, 9), is_committed=st.booleans())
    def start_node(self, process: Process, which: int, is_committed: bool) -> None:
        runs = [record for record in process.open if isinstance(record, WorkflowRunRecord)]
        if runs:
            number = int(runs[which % len(runs)].span_id, 16)
            node = node_record(next(self.numbers), run=number, status=Status.RUNNING.value)
            self.record(process, node, is_committed)
            process.open.append(node)

    @rule(process=processes, which=st.integers(0, 99), status=ENDS, is_committed=st.booleans())
    def end(self, process: Process, which: int, status: Status, is_committed: bool) -> None:
        if process.open:
            begun = process.open.pop(which % len(process.open))
            self.record(process, replace(begun, status=status.value), is_committed)

    @rule(which=st.integers(0, 999))
    def write_again(self, which: int) -> None:
        """A writer that does not know whether its commit was done writes again; also what is long outdated."""
        if self.ever_written:
            self.commit(self.ever_written[which % len(self.ever_written)])

    @rule(process=consumes(processes))
    def die(self, process: Process) -> None:
        process.journal.close(remove=False)
        self.alive.remove(process)
        self.dead.append(process)

    @rule(target=processes, process=consumes(processes), status=ENDS)
    def die_while_a_late_record_is_on_its_way(self, process: Process, status: Status) -> object:
        """As with a host that was thought dead: how it really ended comes after the verdict."""
        self.die(process)
        self.list()
        for begun in process.open:
            self.commit(replace(begun, status=status.value))
        return multiple()

    @rule()
    def list(self) -> None:
        listed = self.store.runs.list_runs(limit=10_000)
        for process in self.dead:
            for record in process.written:
                self.note(record.span_id, record.status)
            for begun in process.open:
                self.note(begun.span_id, Status.INTERRUPTED)
        self.dead.clear()
        assert {run.span_id: run.status for run in listed} == {
            span: status for span, status in self.stored.items() if len(span.lstrip("0")) <= 8
        }

    @invariant()
    def the_store_says_what_the_model_says(self) -> None:
        # Not through a listing, which would take up journals: what is there now.
        runs = {key[:8] for key in self.stored if len(key.lstrip("0")) > 8}
        found = {
            node.span_id: node.status
            for run in runs
            for node in self.store.execution_states.get_state_history(run_record(int(run, 16)).run_id)
        }
        assert found == {span: status for span, status in self.stored.items() if len(span.lstrip("0")) > 8}

    def born(self) -> Process:
        process = Process(Journal(self.store.journals[0], segment_bytes=3000))
        self.alive.append(process)
        return process

    def record(self, process: Process, record: Spanned, is_committed: bool) -> None:
        process.journal.append(encode_record(record))
        process.written.append(record)
        if is_committed:
            self.commit(record)

    def commit(self, record: Spanned) -> None:
        self.store.write([record])
        self.ever_written.append(record)
        self.note(record.span_id, record.status)

    def note(self, span_id: str, status: str) -> None:
        if span_id not in self.stored or status_rank(status) > status_rank(self.stored[span_id]):
            self.stored[span_id] = str(status)

    def teardown(self) -> None:
        """In the end all processes die, and one listing leaves nothing that looks alive, and no journal."""
        with self.rest:
            for process in tuple(self.alive):
                self.die(process)
            self.list()
            assert Status.RUNNING not in self.stored.values()
            assert segments(self.store.journals[0]) == []


TestMerging = Merging.TestCase
TestMerging.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
