"""Time limits, retries and cancellation: what is promised holds even where a node does not help."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from _runs import Run, asks, calls, chain, field, kept, run_program, scripted
from _timing import LateError, in_one_of_a_few_tries, timely, within
from _workflows import Spans, make
from configurable_agents import (
    NodeExecutionError,
    Workflow,
    WorkflowExecutionError,
    arun_workflow,
    create_storage_backend,
    run_workflow,
)
from configurable_agents.errors import NodeTimeoutError, RunTimeoutError
from configurable_agents.llm.scripted import ScriptedModelError

pytestmark = pytest.mark.alone

LATE = 0.5
"""Seconds that a run may take beyond its limit."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store whose tables have been made: to make them is no part of what is measured here."""
    create_storage_backend(tmp_path / "runs.db").close()
    return tmp_path / "runs.db"


def one(timeout: float | None = None, retry: Any = None, **execution: Any) -> Workflow:
    """A single node `slow`."""
    given = {key: value for key, value in {"timeout": timeout, "retry": retry}.items() if value is not None}
    return make(
        [calls("slow", "x") | given],
        chain("START slow END"),
        {"x": field("int")},
        {"execution": execution},
    )


def several(kind: str, **execution: Any) -> Workflow:
    """`slow` in two branches, or for two items."""
    config = {"execution": execution}
    if kind == "map":
        parallel = {"items_field": "items", "target_node": "slow", "collect_field": "all"}
        return make(
            [calls("slow", "x")],
            [{"from": "START", "parallel": parallel}, {"from": "slow", "to": "END"}],
            {"items": field("list[int]", [1, 2]), "x": field("int"), "all": field("list[int]", [])},
            config,
        )
    fields = {"x": field("int"), "y": field("int")}
    ends = [{"from": "slow", "to": "END"}, {"from": "other", "to": "END"}]
    nodes = [calls("slow", "x"), calls("other", "y") | {"function": "slow"}]
    return make(nodes, [{"from": "START", "to": ["slow", "other"]}, *ends], fields, config)


@pytest.fixture(autouse=True, scope="module")
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Load what a first run loads, which is no part of what is measured here."""
    workflow = make([asks("ask", "text")], chain("START ask END"), {"text": field("str")}, scripted())
    run_workflow(workflow, store=tmp_path_factory.mktemp("warm") / "runs.db")


released = threading.Event()
"""Set at the end of each test, so that abandoned threads go away."""


@pytest.fixture(autouse=True)
def _release() -> Iterator[None]:
    released.clear()
    yield
    released.set()


async def sleeping() -> int:
    await asyncio.sleep(30)
    return 1


def blocking() -> int:
    released.wait(30)
    return 1


async def stubborn() -> int:
    """Swallows every cancellation; ends by itself, so that the test does."""
    end = time.monotonic() + 3
    while time.monotonic() < end and not released.is_set():
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            continue
    return 1


SLOW = [sleeping, blocking, stubborn]


def run_async(*args: Any, **options: Any) -> Any:
    """Run on a loop that others use too: what is left behind there ends later (`asyncio.run` would wait for it)."""

    async def program() -> Any:
        try:
            return await arun_workflow(*args, **options)
        finally:
            released.set()

    return asyncio.run(program())


both_ways = pytest.mark.parametrize("run", [run_workflow, run_async], ids=["sync", "async"])


def within_limit(seconds: float) -> AbstractContextManager[None]:
    released.clear()
    return within(seconds + LATE, least=seconds)


@both_ways
@pytest.mark.parametrize("slow", SLOW)
@in_one_of_a_few_tries
def test_a_nodes_timeout_fails_the_node_within_half_a_second(run: Run, slow: Any, store: Path) -> None:
    with within_limit(0.2), pytest.raises(NodeExecutionError, match=r"timeout of 0.2 s") as caught:
        run(one(timeout=0.2), functions={"slow": slow}, store=store)
    assert isinstance(caught.value.__cause__, NodeTimeoutError)
    assert isinstance(caught.value.__cause__, TimeoutError)
    stored = kept(store)
    assert (stored.run.status, stored.said()) == ("failed", [("slow", "failed")])
    assert stored.node("slow").error_type == "configurable_agents.errors.NodeTimeoutError"


@both_ways
@pytest.mark.parametrize("slow", SLOW)
@pytest.mark.parametrize("place", ["line", "fan-out", "map"])
@in_one_of_a_few_tries
def test_a_runs_timeout_fails_the_run_within_half_a_second(run: Run, slow: Any, place: str, store: Path) -> None:
    workflow = one(timeout=None) if place == "line" else several(place)
    with within_limit(0.2), pytest.raises(WorkflowExecutionError, match=r"timeout of 0.2 s") as caught:
        run(workflow, functions={"slow": slow}, store=store, timeout_seconds=0.2)
    assert isinstance(caught.value.__cause__, RunTimeoutError)
    assert type(caught.value) is WorkflowExecutionError
    stored = kept(store)
    assert (stored.run.status, stored.run.error_type) == ("failed", "configurable_agents.errors.RunTimeoutError")
    assert {str(record.status) for record in stored.nodes} == {"cancelled"}
    assert [record.seq for record in stored.nodes] == list(range(1, len(stored.nodes) + 1))


@both_ways
@in_one_of_a_few_tries
def test_the_files_timeout_holds_and_the_calls_wins(run: Run, store: Path) -> None:
    with within_limit(0.2), pytest.raises(WorkflowExecutionError, match=r"timeout of 0.2 s"):
        run(make_timed(0.2), functions={"slow": sleeping}, store=store)
    with within_limit(0.3), pytest.raises(WorkflowExecutionError, match=r"timeout of 0.3 s"):
        run(make_timed(30), functions={"slow": sleeping}, store=store, timeout_seconds=0.3)


def make_timed(seconds: float) -> Workflow:
    return make([calls("slow", "x")], chain("START slow END"), {"x": field("int")}, {"execution": {"timeout": seconds}})


@both_ways
@in_one_of_a_few_tries
def test_a_model_that_does_not_answer_is_stopped_by_the_nodes_timeout(run: Run, store: Path) -> None:
    workflow = make(
        [asks("ask", "text", timeout=0.2)],
        chain("START ask END"),
        {"text": field("str")},
        scripted({"text": "late", "delay_seconds": 30}),
    )
    with within_limit(0.2), pytest.raises(NodeExecutionError, match="timeout"):
        run(workflow, store=store)
    stored = kept(store)
    (call,) = stored.spans
    assert call.status_code == "ERROR"
    assert call.parent_span_id == stored.node("ask").span_id
    assert stored.node("ask").status == "failed"


@both_ways
@in_one_of_a_few_tries
def test_a_timeout_is_for_each_attempt(run: Run, store: Path) -> None:
    tries = itertools.count(1)

    async def slow() -> int:
        number = next(tries)
        await asyncio.sleep(30 if number < 3 else 0)
        return number

    retry = {"max_attempts": 3, "initial_delay": 0}
    try:
        result = run(one(timeout=0.1, retry=retry), functions={"slow": slow}, store=store)
    except NodeExecutionError as error:  # the third attempt has nothing to wait for, but for a stall of the machine
        raise LateError from error
    assert result.outputs == {"x": 3}
    assert kept(store).node("slow").attempts == 3


ABANDONED = """
import sys, time
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import WorkflowExecutionError, run_workflow

workflow = make([calls("slow", "x") | {"timeout": 0.2}], chain("START slow END"), {"x": field("int")})
try:
    run_workflow(workflow, functions={"slow": lambda: time.sleep(60)}, store=sys.argv[1])
except WorkflowExecutionError as error:
    print(error)
print(time.time())
"""


@in_one_of_a_few_tries
def test_an_abandoned_thread_does_not_keep_the_program_from_ending(store: Path) -> None:
    code, out, err = run_program(ABANDONED, store)
    ended = time.time()
    assert code == 0, err
    message, finished = out.splitlines()
    assert "timeout of 0.2 s" in message
    assert err == ""
    timely(ended - float(finished) < 1.5)


@both_ways
@pytest.mark.parametrize(("max_retries", "requests"), [(0, 1), (2, 3)])
def test_a_provider_error_is_tried_again_as_often_as_max_retries_says(
    run: Run, max_retries: int, requests: int, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("configurable_agents.core.model_call._FIRST_DELAY_SECONDS", 0.01)
    failures = [{"error": {"status_code": 503, "message": f"overloaded {number}"}} for number in range(1, 9)]
    workflow = make(
        [asks("ask", "text", retry={"max_attempts": 5, "initial_delay": 0})],
        chain("START ask END"),
        {"text": field("str")},
        scripted(*failures, max_retries=max_retries),
    )
    with pytest.raises(NodeExecutionError, match=f"overloaded {requests}$") as caught:
        run(workflow, store=store)
    assert isinstance(caught.value.__cause__, ScriptedModelError)
    stored = kept(store)
    assert len(stored.spans) == 1, "one span covers all tries"
    assert stored.node("ask").attempts == 1, "a node's own retries are for other exceptions"
    assert str(stored.spans[0].events_json).count('"retry"') == max_retries


@both_ways
@in_one_of_a_few_tries
def test_a_retry_that_helps_is_counted_on_the_call(run: Run, store: Path) -> None:
    workflow = make(
        [asks("ask", "text")],
        chain("START ask END"),
        {"text": field("str")},
        scripted({"error": {"status_code": 429}}, {"text": "at last"}),
    )
    with within(1.5, least=0.4):  # it waits a moment before it tries again
        assert run(workflow, store=store).outputs == {"text": "at last"}
    (call,) = kept(store).spans
    assert '"configurable_agents.model_call.retries":1' in call.attributes_json


@both_ways
def test_an_error_that_will_not_pass_is_not_tried_again(run: Run, store: Path) -> None:
    workflow = make(
        [asks("ask", "text")],
        chain("START ask END"),
        {"text": field("str")},
        scripted({"error": {"status_code": 401, "message": "wrong key"}}, {"text": "never"}),
    )
    with pytest.raises(NodeExecutionError, match="wrong key"):
        run(workflow, store=store)


@both_ways
@pytest.mark.parametrize("slow_kind", ["plain", "async"])
@in_one_of_a_few_tries
def test_a_nodes_retry_repeats_it_with_growing_delays(run: Run, slow_kind: str, store: Path) -> None:
    times: list[float] = []

    def fail() -> int:
        times.append(time.perf_counter())
        if len(times) < 4:
            raise ValueError(f"try {len(times)}")
        return len(times)

    async def fail_async() -> int:
        return fail()

    retry = {"max_attempts": 4, "initial_delay": 0.05, "max_delay": 0.1}
    result = run(one(retry=retry), functions={"slow": fail if slow_kind == "plain" else fail_async}, store=store)
    assert result.outputs == {"x": 4}
    record = kept(store).node("slow")
    assert (record.attempts, record.status) == (4, "completed")
    assert str(record.events_json).count('"retry"') == 3
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[0] >= 0.05
    assert gaps[1] >= 0.1
    assert gaps[2] >= 0.1
    timely(gaps[2] < 0.19, "max_delay bounds it")


@both_ways
def test_a_nodes_retries_end_at_max_attempts(run: Run, store: Path) -> None:
    tries: list[int] = []

    def fail() -> int:
        tries.append(1)
        raise ValueError(f"try {len(tries)}")

    with pytest.raises(NodeExecutionError, match=r"try 3$"):
        run(one(retry={"max_attempts": 3, "initial_delay": 0}), functions={"slow": fail}, store=store)
    assert len(tries) == 3
    assert kept(store).node("slow").attempts == 3


@both_ways
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_what_is_no_exception_is_not_tried_again(run: Run, error: Any, store: Path) -> None:
    tries: list[int] = []

    def fail() -> int:
        tries.append(1)
        raise error

    with pytest.raises(error):
        run(one(retry={"max_attempts": 3, "initial_delay": 0}), functions={"slow": fail}, store=store)
    assert len(tries) == 1


# A single coroutine that swallows the cancellation of the task that awaits it is the caller's own affair, as anywhere.
PLACES = [(slow, place) for slow in SLOW for place in ("line", "fan-out", "map") if (slow, place) != (stubborn, "line")]


@pytest.mark.parametrize(("slow", "place"), PLACES)
@in_one_of_a_few_tries
def test_a_cancelled_task_ends_soon_and_its_run_is_kept_as_cancelled(slow: Any, place: str, store: Path) -> None:
    workflow = one() if place == "line" else several(place)
    begun = asyncio.Event()
    released.clear()

    class Starts(Spans):
        def on_start(self, span: Any) -> None:
            super().on_start(span)
            if len(self.started) == (2 if place == "line" else 3):
                begun.set()

    async def program() -> None:
        run = arun_workflow(workflow, functions={"slow": slow}, store=store, observers=[Starts()])
        task = asyncio.create_task(run)
        await asyncio.wait_for(begun.wait(), 30)
        task.cancel()
        try:
            with within_limit(0), pytest.raises(asyncio.CancelledError):
                await task
        finally:
            released.set()

    asyncio.run(program())
    stored = kept(store)
    assert stored.run.status == "cancelled"
    assert {str(record.status) for record in stored.nodes} == {"cancelled"}


@in_one_of_a_few_tries
def test_asyncio_timeout_around_a_run_works_as_around_anything(store: Path) -> None:
    async def program() -> None:
        async with asyncio.timeout(0.2):
            await arun_workflow(one(), functions={"slow": sleeping}, store=store)

    with within_limit(0.2), pytest.raises(TimeoutError):
        asyncio.run(program())
    assert kept(store).run.status == "cancelled"


@in_one_of_a_few_tries
def test_a_timeout_leaves_the_threads_of_other_nodes_to_work(store: Path) -> None:
    """An abandoned call takes no place in the pool for ever."""
    workflow = make(
        [calls("slow", "x") | {"timeout": 0.05, "retry": {"max_attempts": 6, "initial_delay": 0}}],
        chain("START slow END"),
        {"x": field("int")},
        {"execution": {"max_concurrency": 2}},
    )
    tries = itertools.count(1)

    def slow() -> int:
        number = next(tries)
        if number < 6:
            released.wait(30)
        return number

    try:
        result = run_workflow(workflow, functions={"slow": slow}, store=store)
    except NodeExecutionError as error:  # the sixth attempt has nothing to wait for, but for a stall of the machine
        raise LateError from error
    assert result.outputs == {"x": 6}


LEFT_BEHIND = """
import asyncio, logging, sys, threading, time
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import WorkflowExecutionError, run_workflow

logging.basicConfig(level="INFO")
ended = threading.Event()

async def stubborn():
    end = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        try:
            await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            continue
    ended.set()
    raise ValueError("nobody asks any more")

workflow = make(
    [calls("slow", "x"), calls("other", "y") | {"function": "slow"}],
    [{"from": "START", "to": ["slow", "other"]}, {"from": "slow", "to": "END"}, {"from": "other", "to": "END"}],
    {"x": field("int"), "y": field("int")},
)
try:
    run_workflow(workflow, functions={"slow": stubborn}, store=sys.argv[1], timeout_seconds=0.1)
except WorkflowExecutionError as error:
    print(error)
print(ended.wait(float(sys.argv[3])))
time.sleep(0.1)
"""


@pytest.mark.parametrize(("works", "waits", "ends"), [(1, 5, True), (30, 0, False)])
@in_one_of_a_few_tries
def test_a_node_that_was_left_behind_comes_to_its_own_end_and_nobody_hears_of_it(
    works: float, waits: float, ends: bool, store: Path
) -> None:
    """Torn apart in the middle it would leave half-done work and reports of asyncio's that help no one."""
    started = time.monotonic()
    code, out, err = run_program(LEFT_BEHIND, store, works, waits)
    assert (code, err) == (0, "")
    assert out.splitlines() == ["the run took longer than its timeout of 0.1 s", str(ends)]
    timely(time.monotonic() - started < 10)
