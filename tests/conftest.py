"""Fixtures for every part's tests."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from _alone import let_tests_be_alone

# One definition for the whole session: a second import elsewhere would start a second server.
from _postgres import postgres_server, postgres_url
from _quiet import end_what_goes_on

__all__ = ["postgres_server", "postgres_url"]

# Properties are about values. How long an example takes is the machine's affair, and that of the other workers; and how
# many of the first ones are too large or fit nothing is chance.
_OF_CHANCE = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
settings.register_profile("ours", deadline=None, suppress_health_check=_OF_CHANCE)
settings.load_profile("ours")


def pytest_configure(config: pytest.Config) -> None:
    """Prepare for several workers, and for tests that interrupt programs."""
    let_tests_be_alone(config)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        # As in the background of a script, and then in all that is started from here, too.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Say how many workers `-n auto` is: one more than processors, since half of the time is waiting."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(processors + 1, 8)


@pytest.fixture(scope="session", autouse=True)
def _state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the journals of tests out of the person's own state directory, and let no terminal's size have a say."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("COLUMNS", "LINES"):
            patch.delenv(name, raising=False)
        patch.setitem(os.environ, "XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        if sys.dont_write_bytecode:
            # Each program that a test starts would compile all of this package anew: a third of its start.
            of_all = tmp_path_factory.getbasetemp()
            of_all = of_all.parent if "PYTEST_XDIST_WORKER" in os.environ else of_all
            patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
            patch.setenv("PYTHONPYCACHEPREFIX", str(of_all / "bytecode"))
        yield


@pytest.fixture(autouse=True)
def _nothing_goes_on_after_a_test() -> Iterator[None]:
    """Let no test hear of what another has left in this process."""
    yield
    end_what_goes_on()
