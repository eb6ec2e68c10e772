"""The ids of runs and traces: whatever a program does with chance, or forks, no two are the same."""

from __future__ import annotations

import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from _runs import calls, chain, field, run_program
from _workflows import make
from configurable_agents import RunResult, run_workflow


def run() -> RunResult:
    workflow = make([calls("look", "x")], chain("START look END"), {"x": field("int")})
    return run_workflow(workflow, functions={"look": lambda: 1}, store=False)


def by_chance(result: RunResult) -> tuple[str, str]:
    """Give what no clock decides: the trace's id, and the last parts of the run's."""
    return result.trace_id, result.run_id[-17:]


def test_a_run_id_is_a_uuid_of_version_7_that_tells_when_the_run_began() -> None:
    before = time.time_ns() // 1_000_000
    found = [uuid.UUID(run().run_id) for _ in range(3)]
    after = time.time_ns() // 1_000_000
    assert [(each.version, each.variant) for each in found] == [(7, uuid.RFC_4122)] * 3
    times = [each.int >> 80 for each in found]
    assert before <= times[0] <= times[-1] <= after
    assert found == sorted(found), "so that the store's keys stay in the order of time"


SEEDS = """
import random
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow

workflow = make([calls("look", "x")], chain("START look END"), {"x": field("int")})
for _ in range(2):
    random.seed(1)
    result = run_workflow(workflow, functions={"look": lambda: 1}, store=False)
    print(result.trace_id, result.run_id[-17:], random.random())
"""


def test_a_program_that_seeds_its_chances_gets_other_ids_each_time() -> None:
    """It does so to get the same results again; its runs are different ones."""
    code, out, err = run_program(SEEDS)
    assert (code, err) == (0, "")
    (*first, here), (*second, again) = (line.split() for line in out.splitlines())
    assert all(mine != other for mine, other in zip(first, second, strict=True))
    assert here == again, "nor do ids take from the program's own chances"


def test_threads_that_begin_runs_at_once_get_different_ids() -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: by_chance(run()), range(200)))
    for parts in zip(*found, strict=True):
        assert len(set(parts)) == len(found)


FORKS = """
import os, random
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow

workflow = make([calls("look", "x")], chain("START look END"), {"x": field("int")})

def run():
    result = run_workflow(workflow, functions={"look": lambda: 1}, store=False)
    print(result.trace_id, result.run_id[-17:], flush=True)

run()
for number in range(4):
    child = os.fork()
    if child == 0:
        random.seed(1)
        run()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_children_get_ids_of_their_own() -> None:
    """Each begins as its parent stands: with the same chances they would all get the same ids."""
    code, out, err = run_program(FORKS)
    assert (code, err) == (0, "")
    found = [line.split() for line in out.splitlines()]
    assert len(found) == 5
    for parts in zip(*found, strict=True):
        assert len(set(parts)) == 5
