"""Forks at any moment, in a program whose threads write into the store."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from pathlib import Path

import pytest

from _runs import PATIENCE_SECONDS, run_program, start_program
from _timing import in_one_of_a_few_tries, timely
from configurable_agents import create_storage_backend

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

FORK_WHILE_WRITING = """
import os, sys, threading, warnings
from _records import node_record, run_record
from configurable_agents import create_storage_backend

warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads forks is the point
store = create_storage_backend(sys.argv[1], busy_timeout_seconds=5)
stop = threading.Event()

def write(run):
    seq = 0
    while not stop.is_set():
        seq += 1
        store.write([node_record(seq, run=run)])

threads = [threading.Thread(target=write, args=(run,)) for run in (1, 2)]
for thread in threads:
    thread.start()
for number in range(40):
    child = os.fork()
    if child == 0:
        store.write([run_record(100 + number)])
        os._exit(0)
    os.waitpid(child, 0)
stop.set()
for thread in threads:
    thread.join()
print(len(store.runs.list_runs(limit=1000)))
"""


def test_a_child_can_use_the_store_whatever_the_parents_threads_did_at_the_fork(tmp_path: Path) -> None:
    """SQLite has locks of its own: one that a thread holds at the fork would stay locked in the child for ever."""
    code, out, err = run_program(FORK_WHILE_WRITING, tmp_path / "runs.db")
    assert (code, out) == (0, "40\n"), err


FORK_WHILE_A_CHECKER_IS_MADE = """
import os, signal, threading, time, warnings
from configurable_agents.config.types import parse_type

warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads forks is the point
names = [f"f{number}" for number in range(3000)]
kind = parse_type("object", schema=dict.fromkeys(names, "list[dict[str, int]]"))
thread = threading.Thread(target=kind.validate, args=(dict.fromkeys(names, []),))
thread.start()
children = []
while not children or (thread.is_alive() and len(children) < 4):  # it takes longer than a moment, mostly
    time.sleep(0.05 * bool(children))
    children.append(os.fork())
    if children[-1] == 0:
        signal.alarm(30)
        parse_type("object", schema={"a": "int"}).validate({"a": 1})
        os._exit(0)
print({os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children})
thread.join()
"""


def test_a_child_can_check_values_whatever_the_parents_threads_did_at_the_fork(tmp_path: Path) -> None:
    """A type's checker is made when it is first used, perhaps in another thread just then."""
    assert run_program(FORK_WHILE_A_CHECKER_IS_MADE) == (0, "{0}\n", "")


INTERRUPTED = """
import functools, os, signal, sys, threading
torn = []
sys.unraisablehook = lambda report: torn.append(report.exc_type.__name__)
from configurable_agents.forks import begin_anew_in_children, hold_in_forks

lock, begun, now = threading.RLock(), [], sys.argv[1]
signal.signal(signal.SIGALRM, signal.default_int_handler)
interrupt = functools.partial(signal.raise_signal, signal.SIGALRM)
# The signal comes in the second one, which hears none: it is heard as the code that comes next is entered.
interrupt_soon = functools.partial(signal.setitimer, signal.ITIMER_REAL, 0.001), functools.partial(sum, range(1_000_000))

def held():
    if now == "before it is held":
        interrupt()
    with lock:
        if now == "while it is held":
            interrupt()
        yield

if now == "after the fork":
    for hook in reversed(interrupt_soon):
        os.register_at_fork(before=hook)
hold_in_forks(held)
if now == "in the child":
    for hook in interrupt_soon:
        os.register_at_fork(after_in_child=hook)
begin_anew_in_children(lambda: begun.append(now))

def is_free():
    found = []
    def take():
        if lock.acquire(timeout=10):
            found.append(True)
            lock.release()
    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return bool(found)

try:
    child = os.fork()
except KeyboardInterrupt:  # after all hooks
    torn.append("at last")
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    child = os.fork()
if not child:
    os._exit(0 if is_free() and begun else 1)
print(os.waitpid(child, 0)[1], is_free(), begun, len(torn) > 0 or now == "in the child")
"""


@pytest.mark.parametrize("now", ["before it is held", "while it is held", "after the fork", "in the child"])
def test_ctrl_c_amid_the_hooks_of_a_fork_leaves_no_lock_to_nobody(now: str) -> None:
    """Python prints what a hook raises, and never does the rest of it: neither in the parent nor in the child."""
    assert run_program(INTERRUPTED, now) == (0, "0 True [] True\n", "")


FORKED_UNDER_INTERRUPTS = """
import logging, os, signal, sys, threading, warnings
from contextlib import suppress
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import create_storage_backend, run_workflow

warnings.simplefilter("ignore")  # that a process with threads forks is the point
workflow = make([calls("a", "x")], chain("START a END"), {"x": field("int")})
runs = []

def run():
    runs.append(run_workflow(workflow, functions={"a": lambda: 1}, store=sys.argv[1]).run_id)

def beside():
    while not done.is_set():
        run()
        done.wait(0.005)

def interrupt(*_):
    raise KeyboardInterrupt

run()
torn, done = [], threading.Event()
sys.unraisablehook = lambda report: torn.append(getattr(report.object, "__module__", None))
signal.signal(signal.SIGALRM, interrupt)
thread = threading.Thread(target=beside)
thread.start()
for number in range(50):
    child = None
    with suppress(KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.00002 + number * 0.00002)
        child = os.fork()
        signal.setitimer(signal.ITIMER_REAL, 0)
    if child == 0:
        os._exit(0)
    with suppress(RuntimeError):  # the hooks of `logging` end in the same way, and keep its lock
        logging._lock.release()
done.set()
thread.join()
child = os.fork()
if not child:
    signal.alarm(30)
    run()
    os._exit(0)
status = 1
with suppress(ChildProcessError):
    while (found := os.wait())[0] != child:
        pass
    status = found[1]
run()
found = {run.run_id for run in create_storage_backend(sys.argv[1]).runs.list_runs(limit=100_000)}
print(status, len(found) == len(runs) + 1, "configurable_agents.forks" in torn)
"""


def test_a_store_is_as_ever_after_forks_that_were_interrupted(tmp_path: Path) -> None:
    """Wherever Ctrl-C comes, with another thread that writes just then."""
    code, out, err = run_program(FORKED_UNDER_INTERRUPTS, tmp_path / "runs.db")
    assert (code, out) == (0, "0 True True\n"), err


FORKS_AT_ONCE = """
import os, sys, threading, time, warnings
from _records import node_record
from configurable_agents import create_storage_backend

warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads forks is the point
store = create_storage_backend(sys.argv[1], busy_timeout_seconds=5)
longest, stop = [], threading.Event()

def write():
    seq = 0
    while not stop.is_set():
        seq += 1
        store.write([node_record(seq)])

def fork():
    for _ in range(15):
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            os._exit(0)
        longest.append(time.monotonic() - began)
        os.waitpid(child, 0)

writer = threading.Thread(target=write)
forking = [threading.Thread(target=fork) for _ in range(3)]
for thread in (writer, *forking):
    thread.start()
for thread in forking:
    thread.join()
stop.set()
writer.join()
print(max(longest))
"""


@in_one_of_a_few_tries
def test_threads_that_fork_at_once_wait_for_one_another_and_for_nothing_else(tmp_path: Path) -> None:
    """What one opens again as its fork is over must not be what the next one has shut: that would wait two seconds."""
    code, out, err = run_program(FORKS_AT_ONCE, tmp_path / "runs.db")
    assert (code, err) == (0, "")
    timely(float(out) < 1.5, out)


OUTLIVED = """
import os, signal, sys, time, warnings
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow

warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads forks is the point
workflow = make([calls("a", "x")], chain("START a END"), {"x": field("int")})

def die():
    begun, begins = os.pipe()
    child = os.fork()
    if not child:
        os.write(begins, b".")  # only now has it let go of what is the parent's
        time.sleep(600)
    os.read(begun, 1)
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

run_workflow(workflow, functions={"a": die}, store=sys.argv[1])
"""


def test_what_a_dead_process_was_running_is_taken_up_though_its_child_lives(tmp_path: Path) -> None:
    """The lock of a journal is the open file's: a child that held that file would hold the lock for as long as it lives."""
    with start_program(OUTLIVED, tmp_path / "runs.db") as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            parent.wait(PATIENCE_SECONDS)
            with closing(create_storage_backend(tmp_path / "runs.db")) as store:
                assert [run.status for run in store.runs.list_runs()] == ["interrupted"]
        finally:
            os.kill(child, signal.SIGKILL)
