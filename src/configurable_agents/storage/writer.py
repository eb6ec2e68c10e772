"""Brings records into the store: at once into the journal, which is durable, then in groups into the database.

`Writer.write` returns when the journal has the records; a thread commits them. Nothing here ever raises into a run, and
nothing waits for a database that is away. Where no journal can be written, records wait in memory, and that is said.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

from configurable_agents.logs import logger_of
from configurable_agents.storage.backlog import Backlog, Group, run_of
from configurable_agents.storage.base import StorageBackend
from configurable_agents.storage.codec import encode_record
from configurable_agents.storage.journals import Journals
from configurable_agents.storage.lifetime import live_with_the_process
from configurable_agents.storage.records import AnyRecord, NodeStart, Record
from configurable_agents.storage.target import TEND_BYTES, Target, write_or_quarantine

logger = logger_of(__name__)

ENOUGH_RECORDS: Final = 256
"""A group that is so big waits for no others: rows are hardly cheaper in a bigger one."""
FEW_BYTES: Final = 1024 * 1024
"""Of a group that a run commits itself: it takes some 10 ms, for which an event loop can be held up now and then. Mostly
it is the few records of one run."""
COMPANY_RECORDS: Final = 64
"""As many are worth a commit; where less waits at the end of a run among others, the next ones to end join it."""
CROWDED_SECONDS: Final = 1.0
"""Where another process was found writing, this one gathers bigger groups for so long: they leave more room to the others."""
MOST_RECORDS: Final = 1024
MOST_BYTES: Final = 4 * 1024 * 1024
"""Of a group, where more has come than was committed: what a transaction costs besides is paid less often then, and so is
the wait for other processes that write the same file."""
BATCH_SECONDS: Final = 0.02
"""How long the first record of a group waits for others: a row of a group costs a fifth of a commit of its own."""
LOOK_SECONDS: Final = 0.01
"""How often the thread looks for a first record while there is something to do. To be woken by each one would cost the run
that writes it more than the write: the two pass the interpreter's lock to and fro."""
AWAKE_SECONDS: Final = 1.0
"""For so long after the last record it looks; then it sleeps until the next one wakes it."""
SOON_SECONDS: Final = 0.05
"""The same, at most, where a run waits for its commit but more runs go on, which may end soon as well: a group is then
gathered for as long as the last one took. So a file that many processes write is left to the others half of the time."""
BUSY_SECONDS: Final = 0.15
"""A store that has taken a group within this time, shorter than any wait for it, is not away."""
COMMIT_WAIT_SECONDS: Final = 0.25
"""How long a record waits for its commit where there is no journal."""
RETRY_SECONDS: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses between tries while the store is away; the last one repeats."""
IDLE_SECONDS: Final = 5.0
"""The thread ends when it has had nothing to do for so long."""
EXIT_JOURNAL_SECONDS: Final = 0.25
EXIT_AWAY_SECONDS: Final = 0.5
EXIT_SECONDS: Final = 2.0
"""How long the end of the process waits for a store that is away, with a journal and without, and for one that is only busy."""
_EXIT_SLICE_SECONDS: Final = 0.05


class Writer:
    """The way of all records of one process into one store.

    Args:
        open_backend: Opens the store; called again after a failure, and when another file stands at its place. None for
            an open `backend` that is the caller's.
        journals: Where the journal may be; the first that can be written is taken.
    """

    def __init__(
        self,
        open_backend: Callable[[], StorageBackend] | None,
        *,
        journals: Sequence[Path] = (),
        power: bool = False,
        backend: StorageBackend | None = None,
    ) -> None:
        self._target = Target(open_backend, backend)
        self._directories = tuple(journals)
        self._power = power
        self._closed = False
        self._begin()
        live_with_the_process(self)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._work = threading.Condition(self._lock)
        """What the thread waits for; `_changed` is what others wait for."""
        self._journals = Journals(self._directories, power=self._power)
        self._backlog = Backlog(self._journals)
        self._watchers: dict[str, list[Callable[[], object]]] = {}
        self._hurry = False
        self._wants_all = False
        self._away = False
        self._late = False
        self._gave_up = False
        self._commit_seconds = 0.0
        self._committed_at = 0.0
        self._committer: int | None = None
        """The thread that commits: the writer's own, or that of a run which ends."""
        self._is_next = False
        """Whether the writer's thread waits to do so, so that nobody else begins."""
        self._is_asleep = False
        self._has_waited = False
        self._crowded_until = 0.0
        self._left_to_others_until = 0.0
        self._thread: threading.Thread | None = None

    @property
    def dropped_records(self) -> int:
        """Records that the store never got: it refused them, or was away and there was no journal."""
        return self._backlog.dropped_records

    @property
    def is_away(self) -> bool:
        """Whether the store missed the last try: nothing waits for it until one succeeds."""
        return self._away

    @property
    def is_open(self) -> bool:
        """Whether the store has been opened; before that the first try to write does it."""
        return self._target.backend is not None

    @property
    def is_at_work_here(self) -> bool:
        """Whether this thread is amid a write or a commit, which a signal's handler may find."""
        return self._changed._is_owned() or self._committer == threading.get_ident()  # type: ignore[attr-defined]  # noqa: SLF001 - a lock's own way to tell

    def stop_waiting(self) -> None:
        """Have nobody wait for the store until a commit succeeds: it did not do so while somebody waited.

        One that has just taken another group is only busy, and waited for by whoever is next: else runs would outrun it.
        """
        self._late = time.monotonic() - self._committed_at > BUSY_SECONDS

    def write(self, records: Sequence[AnyRecord | NodeStart]) -> None:
        """Make records durable, and have them committed soon."""
        lines = [*map(encode_record, records)]
        with self._lock:
            if (self._backlog.append(records, lines) and len(self._backlog) >= ENOUGH_RECORDS) or self._is_asleep:
                self._work.notify()
            if self._thread is None:
                self._keep_a_thread()
        # Without a journal only a commit makes these durable; a store that is away is not waited for.
        if self._journals.current is None and not self._away and self.flush(COMMIT_WAIT_SECONDS):
            self._say_that_there_is_no_journal()

    def commit(self, run_id: str, seconds: float) -> None:
        """Have everything of a run committed at once, and wait for that; not longer, and not for a store that is away."""
        deadline = time.monotonic() + seconds
        while self.commit_here() or self._wait_for_a_try(run_id, deadline):
            if not self.waits_for(run_id):
                return

    def _wait_for_a_try(self, run_id: str, deadline: float) -> bool:
        """Wait until the thread has tried; give False if there is nothing to wait for, or no more time."""
        tried = threading.Lock()
        tried.acquire()
        if self.when_tried(run_id, tried.release):
            return False
        if not tried.acquire(timeout=max(0.0, deadline - time.monotonic())):
            self.stop_waiting()
            return False
        return True

    def waits_for(self, run_id: str) -> bool:
        """Say whether something of a run is not committed yet, and will be."""
        with self._lock:
            return self._backlog.waits_for(run_id)

    @property
    def expects_company(self) -> bool:
        """Whether little waits to be committed, and other runs go on, of which some may end in a moment."""
        with self._lock:
            return bool(self._backlog.starts.runs) and len(self._backlog) < COMPANY_RECORDS

    def commit_here(self) -> bool:
        """Commit what has waited longest on this thread, if nobody else is at it, and nothing has to be waited for.

        To wake the writer's own thread costs more, and holds this one up for longer: they share the interpreter. Never
        raises; what is wrong with a store shows when that thread writes.

        Returns:
            Whether something was committed.
        """
        is_mine = is_written = False
        try:
            with self._lock:
                if not self._is_free:
                    return False
                group = self._backlog.group(MOST_RECORDS, FEW_BYTES)
                if not group:
                    return False
                is_mine = True
                self._committer = threading.get_ident()
            records, lost = self._backlog.read(group)
            is_written = not lost and self._target.write_at_once(records)
            if is_written:
                self._committed(group, ())
                is_mine = False
            else:
                self._crowded_until = time.monotonic() + CROWDED_SECONDS
        except Exception:
            logger.debug("the end of a run could not be committed at once", exc_info=True)
        finally:
            if is_mine:
                self._give_way()
        return is_written

    @property
    def _is_free(self) -> bool:
        """Whether a run may commit its end itself: nobody else does, and nothing would have to be waited for."""
        if self._committer is not None or self._is_next or self._away or self._late or self._closed:
            return False
        if self._target.backend is None or self._target.is_replaced or self._journals.current is None:
            return False
        return time.monotonic() >= self._crowded_until

    def _give_way(self) -> None:
        """Let others at it."""
        # Before the lock is had: a run that ends just now need not wait until this thread, beside a busy loop, has it.
        self._step_back()
        with self._lock:
            told = self._let_look_again()
        _tell(told)

    def _step_back(self) -> None:
        if self._committer == threading.get_ident():
            self._committer = None

    def _let_look_again(self) -> Sequence[Callable[[], object]]:
        """Have all who wait look again, and give what tells them: whoever comes first commits the rest itself.

        Else, once runs had waited for the thread, they would for ever, in step with it, and it is slow beside a busy loop.
        """
        self._hurry = self._wants_all
        self._changed.notify_all()
        if not self._watchers:
            return ()
        told = [*chain.from_iterable(self._watchers.values())]
        self._watchers.clear()
        self._left_to_others_until = time.monotonic() + LOOK_SECONDS
        return told

    def when_tried(self, run_id: str, call: Callable[[], object]) -> bool:
        """Have the thread commit what waits at once, and be called when it has tried: then look again.

        Returns:
            True if there is nothing to wait for; `call` is then not called.
        """
        with self._lock:
            if self._away or self._late or self._thread is None or not self._backlog.waits_for(run_id):
                return True
            self._watchers.setdefault(run_id, []).append(call)
            self._hurry = True
            self._work.notify()
        return False

    def flush(self, seconds: float) -> bool:
        """Have everything committed within `seconds`; say whether it is."""
        deadline = time.monotonic() + seconds
        is_told = False
        with self._lock:
            while not self._backlog.is_said:
                left = deadline - time.monotonic()
                is_amid_a_commit = self._committer == threading.get_ident()  # a signal's handler asks
                if left <= 0 or is_amid_a_commit:
                    return False
                self._hurry = self._wants_all = True
                self._keep_a_thread()
                if self._thread is None:
                    return False
                if not is_told:  # again after each try that has failed, the thread would never pause between them
                    self._work.notify()
                is_told = True
                self._changed.wait(left)
        return True

    def lacks(self, run_id: str) -> bool:
        """Say whether the database lacks a record of this run."""
        with self._lock:
            return self._backlog.lacks(run_id)

    def close(self, *, since: float | None = None) -> None:
        """Commit what waits, for a bounded time; what then still waits stays in the journal for whoever opens it next.

        Args:
            since: When the waiting began, on the monotonic clock; None for now.
        """
        if self._closed or self._pid != os.getpid():
            return
        began = time.monotonic() if since is None else since
        with self._lock:
            self._closed = True
            thread = self._thread
            self._work.notify()
        if thread is None:
            self._drain(began + self._exit_seconds())  # here: at the interpreter's end no thread can be begun
        elif thread is not threading.current_thread():
            # A try may last longer than anybody waits at the end, so it stays on the thread, which is left alone then.
            # In slices: a store that is opened only now, for the last spans of a short program, may turn out to be away.
            while thread.is_alive() and (left := began + self._exit_seconds() - time.monotonic()) > 0:
                thread.join(timeout=min(left, _EXIT_SLICE_SECONDS))
        with self._lock:
            self._gave_up = True
            self._work.notify()
            self._backlog.close()
            waiting = len(self._backlog)
        if waiting:
            self._say_what_is_left(waiting)

    def _exit_seconds(self) -> float:
        if self._away and self._journals.directory is not None:
            return EXIT_JOURNAL_SECONDS
        # `_late`: a run has waited for it to be opened, and in vain.
        return EXIT_AWAY_SECONDS if self._away or (self._late and not self.is_open) else EXIT_SECONDS

    def _drain(self, deadline: float) -> None:
        with self._lock:
            # For a run that ends only now, on a thread of its own.
            while self._committer is not None and time.monotonic() < deadline:
                self._changed.wait(_EXIT_SLICE_SECONDS)
        while group := self._next_at_the_end():
            try:
                self._committed(group, self._commit(group))
            except Exception as error:  # noqa: BLE001 - the end of a program is no place to fail
                self._went_away(error)
                if time.monotonic() + RETRY_SECONDS[2] >= deadline:
                    return
                time.sleep(RETRY_SECONDS[2])

    def _next_at_the_end(self) -> Group:
        with self._lock:
            return self._backlog.group(MOST_RECORDS, MOST_BYTES)

    # --- committing: on the writer's thread ----------------------------------------------------------------------------

    def _keep_a_thread(self) -> None:
        if self._thread is None and not self._backlog.is_said and not self._closed:
            name = "configurable-agents-store"
            thread = threading.Thread(target=_commit_for_ever, args=(weakref.ref(self),), name=name, daemon=True)
            with contextlib.suppress(RuntimeError):  # no thread can be had now, or the interpreter is ending
                thread.start()
                self._thread = thread

    def _turn(self, failures: int) -> int | None:
        """Commit one group; give the failures in a row, or None when the thread is not needed any more."""
        group = self._next_group(failures)
        if group is None:
            return None
        self._hold_runs()
        if group:
            began = time.monotonic()
            try:
                lost = self._commit(group)
            except BaseException as error:  # noqa: BLE001 - no fault of a store changes a run, and the thread must live
                self._went_away(error)
                self._give_way()
                return failures + 1
            self._commit_seconds = time.monotonic() - began
            self._committed(group, lost)
        self._tend()
        return 0

    def _next_group(self, failures: int) -> Group | None:
        with self._lock:
            if failures:
                self._work.wait(RETRY_SECONDS[2 if self._closed else min(failures, len(RETRY_SECONDS)) - 1])
            elif not self._is_idle:  # else it has waited, and only tidied up since
                self._wait_for_work()
                self._wait_for_company()
            while self._committer is not None:  # the thread of a run that waits for it
                self._changed.wait()
            if self._is_tending_due and not (failures or self._hurry or self._closed):
                return Group([], [])  # those who end commit it themselves, when this thread has tended
            group = self._backlog.group(MOST_RECORDS, MOST_BYTES, hurried=self._watchers, whole=self._wants_all)
            if group and not self._gave_up:
                self._committer = threading.get_ident()
                return group
            if not (self._gave_up or self._closed or self._is_idle):
                return group
            self._thread = None
            if not self._closed:
                self._backlog.rest()
            return None

    def _wait_for_work(self) -> None:
        seconds = min(IDLE_SECONDS, self._target.renew_seconds or IDLE_SECONDS)
        began, gone = time.monotonic(), self._backlog.gone
        while not self._has_work and (left := began + seconds - time.monotonic()) > 0:
            # What goes on and has no row yet is waited for, too: it is due soon.
            self._is_asleep = time.monotonic() > self._committed_at + AWAKE_SECONDS and self._backlog.is_said
            self._work.wait(left if self._is_asleep else LOOK_SECONDS)
            self._is_asleep = False
            if gone != self._backlog.gone:
                began, gone = time.monotonic(), self._backlog.gone
        self._has_waited = not self._has_work

    @property
    def _has_work(self) -> bool:
        if self._backlog or self._closed or self._hurry or self._target.untended >= TEND_BYTES:
            return True
        return self._backlog.starts.is_due

    @property
    def _is_idle(self) -> bool:
        if self._target.untended or self._has_leases_to_renew:
            return False
        return self._has_waited and self._backlog.is_said

    @property
    def _has_leases_to_renew(self) -> bool:
        return self._target.renew_seconds is not None and bool(self._backlog.starts.runs)

    def _wait_for_company(self) -> None:
        # Those who have just been told look whether they can commit the rest themselves; if not they hurry this thread.
        while not (self._hurry or self._closed) and (left := self._left_to_others_until - time.monotonic()) > 0:
            self._work.wait(left)
        began, gone = time.monotonic(), self._backlog.gone
        while 0 < len(self._backlog) < ENOUGH_RECORDS and not self._closed:
            if gone != self._backlog.gone:  # what waited has been committed meanwhile: others are the first ones now
                if self._target.untended >= TEND_BYTES:
                    return
                began, gone = time.monotonic(), self._backlog.gone
            left = began + self._company_seconds - time.monotonic()
            if left <= 0:
                return
            self._work.wait(left)

    @property
    def _company_seconds(self) -> float:
        if not self._hurry:
            return BATCH_SECONDS
        # As many as go on already wait: hardly anybody is left who could join them.
        return min(self._commit_seconds, SOON_SECONDS) if 0 < len(self._watchers) < self._backlog.starts.runs else 0

    def _hold_runs(self) -> None:
        if self._target.is_lease_due():
            with self._lock:
                runs = self._backlog.starts.open_runs()
            self._target.hold(runs)

    def _commit(self, group: Group) -> list[str | None]:
        """Write a group, and give the runs of those records that can never be written."""
        backend = self._target.opened(self._journals.unforget, self._of_runs_that_go_on)
        records, lost = self._backlog.read(group)
        refused = write_or_quarantine(backend, records, self._journals.quarantine_directory)
        return lost + [run_of(record) for record in refused]

    def _of_runs_that_go_on(self) -> Iterator[Record]:
        with self._lock:
            return self._backlog.of_runs_that_go_on()

    @property
    def _is_tending_due(self) -> bool:
        return self.is_open and self._target.untended >= (1 if self._has_waited else TEND_BYTES)

    def _tend(self) -> None:
        """Have the store tidy up, now and then: runs that end meanwhile wait, so what takes long is done before."""
        with self._lock:
            if not self._is_tending_due:
                return
        self._target.prepare_tending()
        with self._lock:
            self._is_next = True  # else one run after the other would be faster than this thread
            while self._committer is not None:
                self._changed.wait()
            self._is_next = False
            self._committer = threading.get_ident()
        try:
            self._target.tend()
        finally:
            self._give_way()

    def _committed(self, group: Group, lost: Sequence[str | None]) -> None:
        self._committed_at = time.monotonic()
        with self._lock:
            self._target.note_growth(group.size)
            self._backlog.take_out(group)
            if lost:
                self._backlog.lose(lost)
            was_away = self._away
            self._away = self._late = False
            self._wants_all = self._wants_all and not self._backlog.is_said
            self._step_back()
            told = self._let_look_again()
        _tell(told)
        if was_away:
            logger.info("the trace store is back")

    def _went_away(self, error: BaseException) -> None:
        with self._lock:
            was_away, self._away = self._away, True
            directory = self._journals.directory
        if not was_away:
            # Not with the lock held: a handler of the host's may itself wait for somebody who writes a span.
            where = "memory" if directory is None else f"{directory} until it is within reach again"
            logger.warning("the trace store is away; runs go on and their records wait in %s: %s", where, error)
        with self._lock:
            self._changed.notify_all()

    def _say_that_there_is_no_journal(self) -> None:
        if self._journals.refusal is not None:
            logger.warning("there is no journal, so each record waits for its commit: %s", self._journals.refusal)
            self._journals.refusal = None

    def _say_what_is_left(self, left: int) -> None:
        if self._journals.directory is not None:
            # One warning is enough: where the store is away, where the records wait has been said.
            logger.log(
                logging.INFO if self._away else logging.WARNING,
                "%d records are not in the store yet; they are kept in %s and taken up when the store is opened next",
                left,
                self._journals.directory,
            )
        else:
            logger.warning("%d records are lost: the store was away until the end, and there was no journal", left)

    def begin_anew_in_child(self) -> None:
        """Forget what waits: it, the journal and the locks belong to the parent."""
        self._target.begin()
        # Here, too: whose journals are forgotten before the hook of journals comes would hold the parent's locks for ever.
        self._journals.after_fork_in_child()
        self._begin()


def _tell(calls: Sequence[Callable[[], object]]) -> None:
    for call in calls:
        with contextlib.suppress(RuntimeError):  # its event loop has closed meanwhile
            call()


def _commit_for_ever(writer_ref: weakref.ref[Writer]) -> None:
    """Commit group after group, until there has been nothing to do for a while."""
    failures: int | None = 0
    while failures is not None:
        writer = writer_ref()
        if writer is None:
            return
        try:
            failures = writer._turn(failures)  # noqa: SLF001 - the thread is the writer's own
        except BaseException:  # noqa: BLE001 - as a host's filter of what is logged may raise; nobody else would commit
            failures = (failures or 0) + 1
            writer._give_way()  # noqa: SLF001
            # Told as Python tells of what ends a thread, by the host's hook.
            with contextlib.suppress(BaseException):
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
