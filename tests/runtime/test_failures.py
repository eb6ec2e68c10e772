"""How runs end badly: the error that the caller gets, and what is kept of it."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.outputs import ChatResult

from _both_ways import both_ways
from _runs import Run, asks, calls, chain, field, kept
from _workflows import make
from configurable_agents import (
    ConfigurableAgentsError,
    InputError,
    NodeExecutionError,
    Workflow,
    WorkflowExecutionError,
    arun_workflow,
    run_workflow,
)
from configurable_agents.errors import OutputError


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def line(retry: Any = None, timeout: float | None = None) -> Workflow:
    """`first`, then `bad`, then `never`."""
    bad = calls("bad", "x") | {key: value for key, value in (("retry", retry), ("timeout", timeout)) if value}
    return make(
        [calls("first", "x"), bad, calls("never", "x")],
        chain("START first bad never END"),
        {"x": field("int")},
        name="line",
    )


def fan_out() -> Workflow:
    """`bad` beside `beside`, which joins it in `never`."""
    return make(
        [calls("bad", "x"), calls("beside", "y"), calls("never")],
        [
            {"from": "START", "to": ["beside", "bad"]},
            {"from": "bad", "to": "never"},
            {"from": "beside", "to": "never"},
            {"from": "never", "to": "END"},
        ],
        {"x": field("int"), "y": field("int")},
        name="fan-out",
    )


def map_of_two() -> Workflow:
    """`bad` for each of two items, at once."""
    parallel = {"items_field": "items", "target_node": "bad", "collect_field": "all"}
    return make(
        [calls("bad", "x")],
        [{"from": "START", "parallel": parallel}, {"from": "bad", "to": "END"}],
        {"items": field("list[int]", [1, 2]), "x": field("int"), "all": field("list[int]", [])},
        name="map",
    )


WORKFLOWS: dict[str, Callable[[], Workflow]] = {"line": line, "fan-out": fan_out, "map": map_of_two}
everywhere = pytest.mark.parametrize("place", ["line", "fan-out", "map"])


def plain(error: BaseException) -> Callable[[], int]:
    def bad() -> int:
        raise error

    return bad


def coroutine(error: BaseException) -> Callable[[], Any]:
    async def bad() -> int:
        raise error

    return bad


async def slow() -> int:
    await asyncio.sleep(10)
    return 1


def functions(bad: Any) -> dict[str, Any]:
    return {"first": lambda: 1, "bad": bad, "beside": slow, "never": lambda: 1}


def ended(store: Path) -> tuple[str, dict[str, set[str]]]:
    """Give the status of the last run, and the statuses that each node's executions have."""
    stored = kept(store)
    statuses: dict[str, set[str]] = {}
    for record in stored.nodes:
        statuses.setdefault(record.node_id, set()).add(str(record.status))
        assert record.status_code == ("OK" if record.status == "completed" else "ERROR")
        assert record.end_time_unix_nano is not None
    assert stored.run.status_code == ("OK" if stored.run.status == "completed" else "ERROR")
    return str(stored.run.status), statuses


@both_ways
@everywhere
@pytest.mark.parametrize("make_bad", [plain, coroutine])
def test_a_failing_node_fails_the_run_and_its_exception_is_the_cause(
    run: Run, place: str, make_bad: Any, store: Path
) -> None:
    root, context = OSError("the disk"), KeyError("context")
    error = ValueError("bad value")
    error.__cause__, error.__context__ = root, context
    with pytest.raises(NodeExecutionError) as caught:
        run(WORKFLOWS[place](), functions=functions(make_bad(error)), store=store)
    raised = caught.value
    assert raised.__cause__ is error
    assert (error.__cause__, error.__context__) == (root, context)
    assert (raised.node_id, raised.workflow) == ("bad", place)
    assert str(raised) == "node 'bad' failed: bad value"
    assert isinstance(raised, WorkflowExecutionError)
    assert isinstance(raised, ConfigurableAgentsError)
    stored = kept(store)
    assert stored.run.run_id == raised.run_id
    assert (stored.run.error_type, stored.run.error_message) == ("ValueError", "bad value")
    failed = next(record for record in stored.nodes if record.status == "failed")
    assert (failed.seq, failed.error_type, failed.error_message) == (raised.seq, "ValueError", "bad value")
    status, statuses = ended(store)
    assert status == "failed"
    expected: dict[str, Any] = {
        "line": {"first": {"completed"}, "bad": {"failed"}},
        "fan-out": {"beside": {"cancelled"}, "bad": {"failed"}},
    }
    if place == "map":
        assert "failed" in statuses["bad"]
        assert "completed" not in statuses["bad"]
    else:
        assert statuses == expected[place]


@both_ways
def test_a_traceback_shows_the_failure_and_nothing_of_the_engines_own_errors(run: Run, store: Path) -> None:
    with pytest.raises(NodeExecutionError) as caught:
        run(line(), functions=functions(lambda: 1 / 0), store=store)
    text = "".join(traceback.format_exception(caught.value))
    assert "ZeroDivisionError: division by zero" in text
    assert text.count("Error: ") == 2, text


class FailingModel(BaseChatModel):
    """Fails as integrations do: with an error of theirs that came from another one."""

    error: Any

    @property
    def _llm_type(self) -> str:
        return "failing"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise self.error


@both_ways
def test_the_error_of_a_model_keeps_its_cause_and_context(run: Run, store: Path) -> None:
    error, cause, context = ValueError("refused"), OSError("cause"), KeyError("context")
    error.__cause__, error.__context__ = cause, context
    workflow = make([asks("ask", "text")], chain("START ask END"), {"text": field("str")})
    with pytest.raises(NodeExecutionError, match="node 'ask' failed: refused") as caught:
        run(workflow, models={"default": FailingModel(error=error)}, store=store)
    assert caught.value.__cause__ is error
    assert (error.__cause__, error.__context__) == (cause, context)
    assert kept(store).run.error_type == "ValueError"


@both_ways
@everywhere
@pytest.mark.parametrize("make_bad", [plain, coroutine])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SystemExit(3), "failed"),
        (KeyboardInterrupt("mine"), "cancelled"),
        (asyncio.CancelledError("mine"), "cancelled"),
        (GeneratorExit("odd"), "failed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_what_is_no_exception_passes_through_unchanged_and_never_completes(
    run: Run, place: str, make_bad: Any, error: BaseException, status: str, store: Path
) -> None:
    error = type(error)(*error.args)
    with pytest.raises(type(error)) as caught:
        run(WORKFLOWS[place](), functions=functions(make_bad(error)), store=store)
    if not isinstance(error, asyncio.CancelledError):  # asyncio makes a new one where a task ends
        assert caught.value is error
    assert caught.value.args == error.args
    assert caught.value.__cause__ is None
    got, statuses = ended(store)
    assert got == status
    assert status in statuses["bad"]
    assert not statuses["bad"] - {status, "cancelled"}
    assert statuses.get("beside", {"cancelled"}) == {"cancelled"}
    assert "never" not in statuses


@both_ways
@pytest.mark.parametrize("make_bad", [plain, coroutine])
@pytest.mark.parametrize("place", ["line", "fan-out"])
def test_a_stop_iteration_fails_the_node_and_is_in_the_chain(run: Run, place: str, make_bad: Any, store: Path) -> None:
    """Python turns it into RuntimeError where it leaves a coroutine; it must neither hang the run nor look like a result."""
    error = StopIteration("done")
    with pytest.raises(NodeExecutionError) as caught:
        run(WORKFLOWS[place](), functions=functions(make_bad(error)), store=store)
    chain_of_causes = [caught.value.__cause__]
    while chain_of_causes[-1] is not None:
        chain_of_causes.append(chain_of_causes[-1].__cause__)
    assert error in chain_of_causes
    assert ended(store)[0] == "failed"


class Mute(Exception):  # noqa: N818 - its name is not the point
    """An exception that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Odd(Exception):  # noqa: N818 - its name is not the point
    """Says what no database takes."""

    def __str__(self) -> str:
        return "a lone surrogate \ud800, a NUL \0, and an end"


@both_ways
@everywhere
@pytest.mark.parametrize(
    ("error", "message"),
    [(Mute(), "Mute"), (Odd(), "a lone surrogate \\ud800, a NUL \0, and an end"), (ValueError(), "ValueError")],
)
def test_an_exception_with_a_text_that_is_none_fails_the_run_like_any_other(
    run: Run, place: str, error: Exception, message: str, store: Path
) -> None:
    with pytest.raises(NodeExecutionError) as caught:
        run(WORKFLOWS[place](), functions=functions(plain(error)), store=store)
    assert caught.value.__cause__ is error
    stored = kept(store)
    assert stored.run.status == "failed"
    assert stored.run.error_message == message


def test_a_long_error_text_is_cut_in_the_store(store: Path) -> None:
    with pytest.raises(NodeExecutionError):
        run_workflow(line(), functions=functions(plain(ValueError("x" * 5_000_000))), store=store)
    assert len(str(kept(store).run.error_message)) < 20_000
    assert store.stat().st_size < 500_000


@both_ways
def test_an_exception_group_keeps_its_parts(run: Run, store: Path) -> None:
    error = ExceptionGroup("two", [ValueError("a"), KeyError("b")])
    with pytest.raises(NodeExecutionError) as caught:
        run(line(), functions=functions(coroutine(error)), store=store)
    assert caught.value.__cause__ is error
    assert kept(store).run.error_type == "ExceptionGroup"


@both_ways
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("many", "'x'"),
        ({"x": 1, "y": 2}, "'x'"),
        ([], "'x'"),
        (object(), "'x'"),
    ],
)
def test_an_output_of_the_wrong_type_fails_the_node(run: Run, value: Any, said: str, store: Path) -> None:
    with pytest.raises(NodeExecutionError, match=said) as caught:
        run(line(), functions=functions(lambda: value), store=store)
    assert isinstance(caught.value.__cause__, OutputError)
    assert ended(store) == ("failed", {"first": {"completed"}, "bad": {"failed"}})


@both_ways
@pytest.mark.parametrize("given", [{}, {"a": 1}, {"a": 1, "b": 2, "c": 3}, 5, None])
def test_several_outputs_need_a_mapping_with_just_their_names(run: Run, given: Any, store: Path) -> None:
    workflow = make(
        [calls("bad", "a", "b")], chain("START bad END"), {"a": field("int"), "b": field("int"), "c": field("int")}
    )
    with pytest.raises(NodeExecutionError, match="outputs") as caught:
        run(workflow, functions={"bad": lambda: given}, store=store)
    assert isinstance(caught.value.__cause__, OutputError)


@both_ways
def test_wrong_inputs_and_missing_functions_are_told_together_and_nothing_runs(run: Run, store: Path) -> None:
    workflow = make(
        [calls("a", "x"), calls("b", "x")],
        chain("START a b END"),
        {"x": field("int", required=True), "y": field("int", required=True), "length": field("int", 1)},
    )
    with pytest.raises(InputError) as caught:
        run(workflow, {"x": "many", "lenght": 1}, functions={}, store=store)
    text = str(caught.value)
    assert "'x'" in text
    assert "'y' is missing" in text
    assert "did you mean 'length'" in text
    with pytest.raises(InputError, match="'b' is not registered") as caught:
        run(workflow, {"x": 1, "y": 2}, functions={"a": int}, store=store)
    assert not store.exists(), "nothing ran"


@both_ways
def test_a_function_that_is_called_wrongly_fails_its_node(run: Run, store: Path) -> None:
    with pytest.raises(NodeExecutionError, match="missing 1 required positional argument"):
        run(line(), functions=functions(lambda needed: needed), store=store)


def test_two_failures_at_once_give_the_first_in_the_order_of_their_start(store: Path) -> None:
    barrier = threading.Barrier(2, timeout=5)

    def fail(text: str) -> Any:
        def bad() -> int:
            barrier.wait()
            raise ValueError(text)

        return bad

    with pytest.raises(NodeExecutionError):
        run_workflow(
            fan_out(), functions={"bad": fail("bad"), "beside": fail("beside"), "never": lambda: 1}, store=store
        )
    status, statuses = ended(store)
    assert status == "failed"
    assert set(statuses) == {"bad", "beside"}


def test_a_failing_run_leaves_no_task_behind_on_the_callers_loop(store: Path) -> None:
    async def program() -> set[str]:
        with pytest.raises(NodeExecutionError):
            await arun_workflow(fan_out(), functions=functions(coroutine(ValueError("bad"))), store=store)
        return {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()}

    assert asyncio.run(program()) == set()
