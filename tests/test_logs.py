"""A host's log that raises: nothing but the log is the worse for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from _records import node_record, run_record, span_record
from _runs import PATIENCE_SECONDS as SECONDS
from _runs import calls, chain, field, kept
from _workflows import Spans, make
from configurable_agents import create_storage_backend, run_workflow
from configurable_agents.logs import logger_of
from configurable_agents.storage.backlog import MEMORY_BYTES
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.codec import encode_record
from configurable_agents.storage.journal import Journal
from configurable_agents.storage.recovery import segments
from configurable_agents.storage.writer import Writer


class Raises(logging.Handler):
    """A handler that leaves its faults to whoever logs, as one that a person wrote may; and a filter."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.asked += 1
        raise LookupError(record.name)

    def filter(self, record: logging.LogRecord) -> bool:
        self.emit(record)
        return True


@pytest.fixture(params=["filter", "handler"])
def fault(request: pytest.FixtureRequest) -> Iterator[Raises]:
    """Have each message of ours raise, in a filter of its logger or in a handler."""
    raises = Raises()
    ours = [name for name in logging.root.manager.loggerDict if name.startswith("configurable_agents")]
    loggers = [logging.getLogger(name) for name in ours]
    for logger in loggers:
        if request.param == "filter":
            logger.addFilter(raises)
        else:
            logger.addHandler(raises)
    yield raises
    for logger in loggers:
        logger.removeFilter(raises)
        logger.removeHandler(raises)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StorageBackend]:
    with closing(create_storage_backend(tmp_path / "runs.db", busy_timeout_seconds=SECONDS)) as backend:
        yield backend


def test_a_record_that_the_store_refuses_holds_nothing_else_up(
    fault: Raises, store: StorageBackend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = Writer(None, journals=[tmp_path / "journal"], backend=store)
    try:
        writer.write([span_record(1, cost_usd=["free", "of charge"]), span_record(2)])
        assert writer.flush(SECONDS)
        assert (writer.dropped_records, writer.is_away) == (1, False)
    finally:
        writer.close()
    assert len(store.execution_states.list_spans(run_record().run_id)) == 1
    assert (tmp_path / "journal" / "quarantine.jsonl").read_text().count("of charge") == 1
    said = capsys.readouterr().err
    assert (fault.asked, said.count("--- Logging error ---"), said.count("LookupError: configurable_agents")) == (
        1,
        1,
        1,
    )
    assert "the store refused a record of %s" in said


def test_a_record_that_cannot_be_read_back_holds_nothing_else_up(
    fault: Raises, store: StorageBackend, tmp_path: Path
) -> None:
    """The disk has failed where it stands, and memory had no room for it."""
    writer = Writer(None, journals=[tmp_path / "journal"], backend=store)
    try:
        with writer._lock:
            for seq in (1, 2, 3):
                writer.write([node_record(seq, outputs={"x": "x" * (MEMORY_BYTES // 2)})])
            (path,) = segments(tmp_path / "journal")[-1:]
            path.write_bytes(b"")
            writer.write([node_record(4)])
        assert writer.flush(SECONDS)
        assert not writer.is_away
        assert writer.dropped_records > 0
    finally:
        writer.close()
    assert fault.asked > 0
    assert 4 in [record.seq for record in store.execution_states.get_state_history(run_record().run_id)]


def test_what_a_later_version_wrote_is_put_aside_once(fault: Raises, store: StorageBackend) -> None:
    """Whoever looks for runs takes up what the dead have left; else each look would put it aside again."""
    journal = Journal(store.journals[0])
    journal.append(b'{"record": "of a kind to come"}')
    journal.append(encode_record(run_record()))
    journal.close(remove=False)
    for _ in range(2):
        assert len(store.runs.list_runs()) == 1
    assert (store.journals[0] / "quarantine.jsonl").read_bytes() == b'{"record": "of a kind to come"}\n'
    assert fault.asked > 0


def test_a_run_ends_as_without_it(fault: Raises, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is much to tell of: who watches fails, and the environment is not what it should be."""

    class Fails(Spans):
        def on_end(self, span: object) -> None:
            raise ValueError

    monkeypatch.setenv("TRACEPARENT", "odd")
    workflow = make([calls("a", "x")], chain("START a END"), {"x": field("int")})
    result = run_workflow(workflow, functions={"a": lambda: 1}, store=tmp_path / "runs.db", observers=[Fails()])
    assert (result.outputs, kept(tmp_path / "runs.db").said()) == ({"x": 1}, [("a", "completed")])
    assert fault.asked >= 2


def test_a_message_is_told_as_from_where_it_was_logged(caplog: pytest.LogCaptureFixture) -> None:
    logger_of("configurable_agents.some").warning("%d spans", 3)
    (record,) = caplog.records
    assert (record.name, record.getMessage()) == ("configurable_agents.some", "3 spans")
    assert (record.pathname, record.funcName) == (__file__, "test_a_message_is_told_as_from_where_it_was_logged")


def test_an_interrupt_is_no_fault_of_a_log(fault: Raises, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while something is logged is meant for the program."""

    def interrupted(record: logging.LogRecord) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(fault, "emit", interrupted)
    logger = logger_of("configurable_agents.runtime.stores")
    with pytest.raises(KeyboardInterrupt):
        logger.warning("away")
