"""What a node's code, and the libraries that it calls, may do to the current span: it is theirs to add to, not to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN_CONTEXT, Span, Status, StatusCode

from _otlp import OtlpReceiver, otlp_receiver, settle_environment
from _otlp_decode import ReceivedSpan
from _runs import calls, chain, field, kept
from _workflows import make
from configurable_agents import NodeExecutionError, run_workflow

Hand = Callable[[Span], object]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    with otlp_receiver("http/protobuf") as server:
        settle_environment(monkeypatch, server)
        yield server


def touched(hand: Hand, store: Path, receiver: OtlpReceiver) -> ReceivedSpan:
    """Run three nodes, of which the second lays a hand on its span, and give what was received of that one."""

    def second() -> str:
        hand(trace.get_current_span())
        return "done"

    nodes = [calls("first", "x"), calls("second", "x"), calls("third", "x")]
    workflow = make(nodes, chain("START first second third END"), {"x": field("str")})
    functions: dict[str, Callable[..., str]] = {"first": lambda: "1", "second": second, "third": lambda: "3"}
    try:
        run_workflow(workflow, functions=functions, store=store, otlp=receiver.endpoint)
    except NodeExecutionError:
        spans = receiver.wait_for(3)
    else:
        spans = receiver.wait_for(4)
    (found,) = [span for span in spans if span.attributes.get("configurable_agents.node.id") == "second"]
    return found


def end(span: Span) -> None:
    span.end()


def say_that_it_failed_and_end_it(span: Span) -> None:
    span.set_attribute("configurable_agents.status", "failed")
    span.end()


def use_as_a_context(span: Span) -> None:
    with span:
        pass


def call_it_a_model_call(span: Span) -> None:
    span.set_attributes({"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"})


def call_it_a_run(span: Span) -> None:
    span.set_attribute("gen_ai.operation.name", "invoke_workflow")


def give_it_to_another_run(span: Span) -> None:
    span.set_attributes({"configurable_agents.run.id": "another", "configurable_agents.node.seq": "one"})


def set_odd_names(span: Span) -> None:
    span.set_attributes({7: "a", "": "b", None: "c"})  # type: ignore[dict-item]  # as code without types does


def rename_to_nothing(span: Span) -> None:
    span.update_name(None)  # type: ignore[arg-type]  # as above


def rename_to_a_lone_surrogate(span: Span) -> None:
    span.update_name("name \ud800")


def link_to_nothing(span: Span) -> None:
    span.add_link(None)  # type: ignore[arg-type]  # as above
    span.add_link(INVALID_SPAN_CONTEXT)


def add_events_at_odd_times(span: Span) -> None:
    for moment in ("now", -5, 2**70, float("nan"), 12.5):
        span.add_event("event", timestamp=moment)  # type: ignore[arg-type]  # as above
    span.add_event(None)  # type: ignore[arg-type]  # as above


def call_it_an_error(span: Span) -> None:
    span.set_status(Status(StatusCode.ERROR, "something minor"))


def say_nonsense_of_the_status(span: Span) -> None:
    span.set_status("fine")  # type: ignore[arg-type]  # as above
    span.set_status(StatusCode.ERROR, "something minor")
    span.set_status(StatusCode.OK, "but well")


def put_values_into_values(span: Span) -> None:
    for depth in (200, 900):  # orjson writes 254
        value: Any = "x"
        for _ in range(depth):
            value = {"k": value}
        span.set_attribute(f"deep.{depth}", value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "hand",
    [
        end,
        say_that_it_failed_and_end_it,
        use_as_a_context,
        call_it_a_model_call,
        call_it_a_run,
        give_it_to_another_run,
        set_odd_names,
        rename_to_nothing,
        rename_to_a_lone_surrogate,
        link_to_nothing,
        add_events_at_odd_times,
        call_it_an_error,
        say_nonsense_of_the_status,
        put_values_into_values,
    ],
)
def test_nobody_takes_a_node_out_of_the_history(hand: Hand, tmp_path: Path, receiver: OtlpReceiver) -> None:
    """A library that gets the current span wrong costs its own entry at most: what the node wrote is kept and shipped."""
    store = tmp_path / "runs.db"
    span = touched(hand, store, receiver)
    found = kept(store)
    assert found.said() == [("first", "completed"), ("second", "completed"), ("third", "completed")]
    assert found.node("second").outputs_json == '{"x":"done"}'
    assert (found.node("second").status_code, found.node("second").status_message) == ("OK", None)
    assert (span.status, span.attributes["configurable_agents.status"]) == ("OK", "completed")
    assert span.attributes["gen_ai.operation.name"] == "execute_node"


def test_a_node_that_failed_is_an_error_whatever_was_said_before(tmp_path: Path, receiver: OtlpReceiver) -> None:
    def too_early(span: Span) -> None:
        span.set_status(StatusCode.OK)
        raise ValueError("then this")

    span = touched(too_early, tmp_path / "runs.db", receiver)
    assert (span.status, kept(tmp_path / "runs.db").node("second").status_code) == ("ERROR", "ERROR")


def test_what_a_library_adds_to_the_current_span_is_kept_and_shipped(tmp_path: Path, receiver: OtlpReceiver) -> None:
    def add(span: Span) -> None:
        span.set_attributes({"library.count": 3, "library.tags": ["a", "b"]})
        span.add_event("cache miss", {"key": "k"}, timestamp=12)
        span.add_link(span.get_span_context(), {"why": "itself"})
        span.update_name("execute_node second (cached)")

    span = touched(add, tmp_path / "runs.db", receiver)
    assert span.name == kept(tmp_path / "runs.db").node("second").name == "execute_node second (cached)"
    assert (span.attributes["library.count"], span.attributes["library.tags"]) == (3, ("a", "b"))
    assert [(event.name, event.time_unix_nano) for event in span.events] == [("cache miss", 12)]
    assert [link.attributes for link in span.links] == [{"why": "itself"}]
