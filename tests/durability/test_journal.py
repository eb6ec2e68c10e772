"""The journal: what was appended comes back whatever happens to the file, and nothing else does."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _files import is_below
from _plain_user import plain_user
from _records import node_record, run_record
from _runs import run_program, start_program
from _timing import cpu_seconds
from configurable_agents.semconv import Status
from configurable_agents.storage.codec import encode_record
from configurable_agents.storage.factory import create_storage_backend
from configurable_agents.storage.journal import FRAME_BYTES, HEADER_BYTES, MARKER, Journal, JournalError, frames
from configurable_agents.storage.locks import LockedError, lock_exclusively
from configurable_agents.storage.recovery import recover, segments

payloads = st.lists(st.binary(max_size=40).map(lambda data: data.replace(MARKER, b"")), min_size=1, max_size=6)


def appended(directory: Path, records: list[bytes]) -> tuple[bytes, list[int]]:
    """Give a segment's bytes, and the offsets at which its records end."""
    journal = Journal(directory)
    try:
        ends = [
            position.offset + FRAME_BYTES + position.length for position in (journal.append(data) for data in records)
        ]
        (path,) = segments(directory)
        return path.read_bytes(), ends
    finally:
        journal.close(remove=True)


def payloads_of(data: bytes) -> list[bytes]:
    return [frame.payload for frame in frames(data)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journals")


numbers = itertools.count()


@given(records=payloads)
def test_a_journal_cut_at_any_byte_gives_every_record_before_the_cut(folder: Path, records: list[bytes]) -> None:
    data, ends = appended(folder / str(next(numbers)), records)
    for cut in range(len(data) + 1):
        assert payloads_of(data[:cut]) == [record for record, end in zip(records, ends, strict=True) if end <= cut]


@given(records=payloads, draw=st.data())
def test_flipped_bits_lose_only_the_records_that_they_hit(
    folder: Path, records: list[bytes], draw: st.DataObject
) -> None:
    """A marker and a checksum for each record: a reader finds the next whole one, and takes no damaged one for true."""
    data, ends = appended(folder / str(next(numbers)), records)
    flips = draw.draw(st.sets(st.integers(0, len(data) * 8 - 1), min_size=1, max_size=8))
    damaged = bytearray(data)
    for flip in flips:
        damaged[flip // 8] ^= 1 << flip % 8
    begins = [HEADER_BYTES, *ends[:-1]]
    whole = [
        record
        for record, begin, end in zip(records, begins, ends, strict=True)
        if not any(begin * 8 <= flip < end * 8 for flip in flips)
    ]
    assert payloads_of(bytes(damaged)) == whole


@given(records=payloads, junk=st.binary(max_size=200), at=st.integers(0, 5))
def test_junk_between_records_hides_none_of_them(folder: Path, records: list[bytes], junk: bytes, at: int) -> None:
    data, ends = appended(folder / str(next(numbers)), records)
    end = ends[min(at, len(ends) - 1)]
    assert payloads_of(data[:end] + junk.replace(MARKER[:1], b"") + data[end:]) == records


def test_a_length_that_damage_made_huge_is_passed_over_at_once() -> None:
    data = (MARKER + b"\xff\xff\xff\x0f" + b"\0\0\0\0") * 20_000
    assert payloads_of(data) == []
    assert cpu_seconds(lambda: payloads_of(data), limit=5) < 5


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size: a write then stops in the middle, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_stops_in_the_middle_is_taken_back(tmp_path: Path) -> None:
    """Half a record is none; and the next one stands where it can be read."""
    journal = Journal(tmp_path)
    journal.append(b"first")
    (path,) = segments(tmp_path)
    whole = path.read_bytes()
    with file_size_limit(len(whole) + FRAME_BYTES + 3), pytest.raises(JournalError):
        journal.append(b"does not fit")
    assert path.read_bytes() == whole
    journal.append(b"second")
    assert payloads_of(path.read_bytes()) == [b"first", b"second"]
    journal.close(remove=True)


def test_a_segment_that_cannot_even_get_its_header_leaves_no_file_behind(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with file_size_limit(10), pytest.raises(JournalError):
        journal.begin()
    assert list(tmp_path.iterdir()) == []
    journal.append(b"later")
    assert payloads_of(segments(tmp_path)[0].read_bytes()) == [b"later"]
    journal.close(remove=True)


def test_segments_are_closed_when_they_are_long_and_removed_when_nobody_needs_them(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=200)
    positions = [journal.append(b"x" * 50) for _ in range(12)]
    assert len(segments(tmp_path)) == positions[-1].segment > 3
    assert {journal.read(position) for position in positions} == {b"x" * 50}
    journal.forget_before(*journal.end)
    assert len(segments(tmp_path)) == 1
    journal.close(remove=True)
    assert segments(tmp_path) == []


def test_a_record_longer_than_a_segment_has_one_of_its_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=200)
    positions = [journal.append(data) for data in (b"a", b"b" * 1000, b"c")]
    assert [journal.read(position) for position in positions] == [b"a", b"b" * 1000, b"c"]
    journal.close(remove=True)


def test_files_and_directories_are_the_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        directory = tmp_path / "state" / "deeper" / "journals"
        journal = Journal(directory)
        journal.append(b"secret")
    finally:
        os.umask(before)
    made = [tmp_path / "state", tmp_path / "state" / "deeper", directory]
    assert {stat.S_IMODE(place.stat().st_mode) for place in made} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in segments(directory)} == {0o600}
    journal.close(remove=True)


def test_a_link_that_somebody_put_in_a_segments_place_is_not_followed(tmp_path: Path) -> None:
    """Neither when a segment is begun nor when journals of the dead are taken up."""
    journal = Journal(tmp_path / "journal")
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    (tmp_path / "journal").mkdir()
    for number in range(1, 4):
        (tmp_path / "journal" / f"{journal._name}-{number:06d}.segment").symlink_to(victim)
    journal.append(b"record")
    assert victim.read_bytes() == b"untouched"
    journal.close(remove=True)
    backend = create_storage_backend(tmp_path / "runs.db")
    recover(tmp_path / "journal", backend)
    backend.close()
    assert victim.read_bytes() == b"untouched"


def test_a_live_owners_segments_are_not_taken(tmp_path: Path) -> None:
    store = create_storage_backend(tmp_path / "runs.db")
    journal = Journal(store.journals[0])
    journal.append(encode_record(run_record()))
    assert store.runs.list_runs() == []
    assert len(segments(store.journals[0])) == 1
    for path in segments(store.journals[0]):
        with path.open("rb+") as file, pytest.raises(LockedError):
            lock_exclusively(file.fileno())
    journal.close(remove=False)
    assert len(store.runs.list_runs()) == 1
    assert segments(store.journals[0]) == []
    store.close()


def test_a_segment_that_was_removed_in_its_first_instant_is_not_written_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making a file and locking it, whoever looks for journals of the dead may take it and remove it."""
    seen: list[Path] = []

    def taken_before(fd: int) -> None:
        found = segments(tmp_path)
        if len(seen) < 2 and is_below(fd, tmp_path):
            seen.extend(found)
            found[-1].unlink()
        lock_exclusively(fd)

    # A fault at the seam to the operating system: no test could hit this instant otherwise.
    monkeypatch.setattr("configurable_agents.storage.journal.lock_exclusively", taken_before)
    journal = Journal(tmp_path)
    journal.append(b"kept")
    assert len(seen) == 2
    assert payloads_of(segments(tmp_path)[0].read_bytes()) == [b"kept"]
    journal.close(remove=True)


APPEND = """
import os, sys
from pathlib import Path
from _plain_user import plain_user
from _records import node_record, run_record
from configurable_agents.storage.codec import encode_record
from configurable_agents.storage.journal import Journal

journal = Journal(Path(sys.argv[1]))
journal.append(encode_record(run_record(status="running")))
journal.append(encode_record(node_record()))
"""


def test_a_dead_owners_records_are_taken_up(tmp_path: Path) -> None:
    store = create_storage_backend(tmp_path / "runs.db")
    code, _, err = run_program(APPEND + "os.kill(os.getpid(), 9)", store.journals[0])
    assert code == -signal.SIGKILL, err
    (run,) = store.runs.list_runs()
    assert (run.status, run.node_executions) == (Status.INTERRUPTED, 1)
    assert [node.status for node in store.execution_states.get_state_history(run.run_id)] == [Status.COMPLETED]
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_lets_go_of_its_parents_segments(tmp_path: Path) -> None:
    """The lock is the open file's: a child that kept it open would keep a dead parent's run `running` for ever."""
    store = create_storage_backend(tmp_path / "runs.db")
    program = """
if os.fork() == 0:
    print("child", flush=True)
    sys.stdin.read()
    os._exit(0)
os.kill(os.getpid(), 9)
"""
    with start_program(APPEND + program, store.journals[0]) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "child\n"
        parent.wait(timeout=30)
        (run,) = store.runs.list_runs()  # the child lives
        assert run.status == Status.INTERRUPTED
        assert parent.stdin is not None
        parent.stdin.close()
    store.close()


def test_what_was_deleted_does_not_come_back_with_a_dead_owners_journal(tmp_path: Path) -> None:
    """A segment holds more than the database lacks; only what it lacks is written when it is taken up."""
    store = create_storage_backend(tmp_path / "runs.db")
    journal = Journal(store.journals[0])
    for number in (1, 2):
        journal.append(encode_record(run_record(number)))
        store.write([run_record(number)])
    journal.forget_before(*journal.end)
    journal.append(encode_record(run_record(3)))
    store.runs.delete(run_record(1).run_id)
    journal.close(remove=False)
    assert [run.run_id for run in store.runs.list_runs()] == [run_record(number).run_id for number in (3, 2)]
    store.close()


def test_a_damaged_header_brings_everything_back_rather_than_nothing(tmp_path: Path) -> None:
    store = create_storage_backend(tmp_path / "runs.db")
    for byte in (0, 9, 24, 27, 33):
        journal = Journal(store.journals[0])
        journal.append(encode_record(run_record(byte + 1)))
        journal.forget_before(*journal.end)
        journal.append(encode_record(node_record(run=byte + 1)))
        journal.close(remove=False)
        (path,) = segments(store.journals[0])
        data = bytearray(path.read_bytes())
        data[byte] ^= 0xFF
        path.write_bytes(data)
        recover(store.journals[0], store)
        assert len(store.execution_states.get_state_history(run_record(byte + 1).run_id)) == 1
    assert len(store.runs.list_runs()) == 3  # not those whose mark was whole: they had been committed, as it says
    store.close()


def test_what_a_later_version_wrote_is_put_aside_and_not_thrown_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = create_storage_backend(tmp_path / "runs.db")
    journal = Journal(store.journals[0])
    journal.append(b'{"record": "of a kind to come"}')
    journal.append(encode_record(run_record()))
    journal.close(remove=False)
    assert len(store.runs.list_runs()) == 1
    assert (store.journals[0] / "quarantine.jsonl").read_bytes() == b'{"record": "of a kind to come"}\n'
    assert "cannot read" in caplog.text
    store.close()


def test_a_journal_that_may_not_be_read_does_not_hide_the_others() -> None:
    """A directory that several users share: what is not ours is left to its owner."""
    with plain_user() as home:
        store = create_storage_backend(home / "runs.db")
        for number in (1, 2):
            journal = Journal(store.journals[0])
            journal.append(encode_record(run_record(number)))
            journal.close(remove=False)
        segments(store.journals[0])[0].chmod(0)
        assert len(store.runs.list_runs()) == 1
        store.close()


def lacking(data: bytes) -> list[bytes]:
    """Give what whoever takes a segment up writes."""
    return [frame.payload for frame in frames(data) if frame.end > frame.committed]


steps = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 300)),
    st.tuples(st.just("commit"), st.integers(0, 9)),
    st.tuples(st.just("commit all"), st.just(0)),
)


@given(steps=st.lists(steps, max_size=40), written=st.integers(0, 400))
def test_whenever_a_process_dies_its_journal_gives_what_was_not_committed_and_nothing_else(
    folder: Path, steps: list[tuple[str, int]], written: int
) -> None:
    """Also where it has been begun anew, and what stood there before is half overwritten."""
    journal = Journal(folder / str(next(numbers)))
    journal.begin()
    (path,) = segments(journal.directory)
    needed: list[bytes] = []
    begins: list[int] = []

    def check(data: bytes, amid: bytes | None = None) -> None:
        found = lacking(data)
        if amid is not None and found[-1:] == [amid]:  # what was there before ended as it does
            found.pop()
        assert found == needed

    try:
        for number, (step, argument) in enumerate(steps):
            if step == "append":
                payload = b"%d " % number + b"x" * argument
                before = path.read_bytes()
                position = journal.append(payload)
                cut = position.offset + min(written, FRAME_BYTES + len(payload) - 1)
                check(path.read_bytes()[:cut] + before[cut:], payload)
                needed.append(payload)
                begins.append(position.offset)
            elif step == "commit" and needed:
                count = min(argument, len(needed) - 1)
                journal.forget_before(1, begins[count])
                del needed[:count], begins[:count]
            elif step == "commit all":
                journal.forget_all()
                needed.clear()
                begins.clear()
            check(path.read_bytes())
    finally:
        journal.close(remove=True)


def test_of_a_journal_begun_anew_another_store_gets_what_it_still_has(tmp_path: Path) -> None:
    """Where the store was replaced: nothing of what had been committed is in the one at its place."""
    journal = Journal(tmp_path)
    for number in range(18):
        journal.append(b"%d " % number + b"x" * 100)
        journal.forget_all()
    kept = [b"of a run", b"that goes on"]
    for payload in kept:
        journal.append(payload)
    journal.forget_before(*journal.end)
    (path,) = segments(tmp_path)
    assert list(journal.payloads()) == kept
    assert lacking(path.read_bytes()) == []
    journal.unforget()
    assert lacking(path.read_bytes()) == kept
    journal.close(remove=True)


def test_a_journal_in_which_nothing_is_needed_is_written_from_its_beginning_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for _ in range(100):
        journal.append(b"x" * 100)
        journal.forget_all()
    (path,) = segments(tmp_path)
    assert path.stat().st_size < 1000
    journal.append(b"needed")
    assert lacking(path.read_bytes()) == [b"needed"]
    assert list(journal.payloads())[-1] == b"needed"
    journal.close(remove=True)


@pytest.mark.skipif(not hasattr(os, "fdatasync"), reason="macOS has another call")
def test_with_durability_power_each_record_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def sync(fd: int) -> None:
        if is_below(fd, tmp_path):
            synced.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", sync)  # the seam to the operating system
    for power, count in ((False, 0), (True, 3)):
        journal = Journal(tmp_path, power=power)
        for _ in range(3):
            journal.append(b"record")
        journal.close(remove=True)
        assert len(synced) == count
