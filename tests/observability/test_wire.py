"""What a receiver gets over a real socket: the same tree as the store's, with the conventions' names, kinds and types."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from _both_ways import both_ways
from _conventions import wrongly_typed
from _openai_server import openai_server
from _otlp import PROTOCOLS, OtlpReceiver, otlp_receiver, settle_environment
from _otlp_decode import ReceivedSpan
from _runs import Kept, Run, asks, calls, chain, field, kept, scripted
from _workflows import make
from configurable_agents import NodeExecutionError, RunResult, arun_workflow, run_workflow, semconv
from configurable_agents._version import __version__

EXAMPLES = Path(__file__).parents[2] / "examples"

TREES = {
    "hello": """\
invoke_workflow hello
  execute_node greet
    chat scripted
""",
    "triage": """\
invoke_workflow triage
  execute_node summarise
    chat scripted
  execute_node classify
    chat scripted
  execute_node prioritise
    chat scripted
  execute_node draft
    chat scripted
  execute_node check
    chat scripted
  execute_node shorten
    chat scripted
  execute_node check
    chat scripted
  execute_node shorten
    chat scripted
  execute_node check
    chat scripted
""",
    "digest": """\
invoke_workflow digest
  execute_node shorten
    chat scripted
  execute_node shorten
    chat scripted
  execute_node shorten
    chat scripted
  execute_node shorten
    chat scripted
  execute_node sum_up
    chat scripted
""",
}


@pytest.fixture(params=PROTOCOLS)
def receiver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    with otlp_receiver(request.param) as running:
        settle_environment(monkeypatch, running)
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def inputs_of(example: str) -> dict[str, Any]:
    folder = EXAMPLES / example
    if example == "digest":
        found: dict[str, Any] = json.loads((folder / "newsletter.json").read_text())
        return found
    return {"name": "Ada"} if example == "hello" else {"ticket": (folder / "ticket.txt").read_text()}


def run_example(example: str, receiver: OtlpReceiver, store: Path) -> RunResult:
    path = EXAMPLES / example / f"{example}.yaml"
    return run_workflow(path, inputs_of(example), models={"default": "scripted"}, store=store, otlp=receiver.endpoint)


def by_name(spans: list[ReceivedSpan]) -> dict[str, ReceivedSpan]:
    found = {span.name: span for span in spans}
    assert len(found) == len(spans), "names are unique in this test"
    return found


@pytest.mark.parametrize("example", TREES)
def test_the_receiver_gets_exactly_the_tree_of_an_example(example: str, receiver: OtlpReceiver, store: Path) -> None:
    result = run_example(example, receiver, store)
    spans = receiver.wait_for(TREES[example].count("\n"))
    assert receiver.tree() == TREES[example]
    assert {span.trace_id for span in spans} == {result.trace_id}
    assert {span.attributes[semconv.RUN_ID] for span in spans} == {result.run_id}
    assert_same_as_kept(spans, kept(store, result.run_id))


def assert_same_as_kept(spans: list[ReceivedSpan], stored: Kept) -> None:
    """What is shipped and what is kept are one history: ids, times and statuses are the same."""
    there = {
        (s.span_id, s.parent_span_id, s.name, s.kind, s.status, s.start_time_unix_nano, s.end_time_unix_nano)
        for s in spans
    }
    assert there == {
        (r.span_id, r.parent_span_id, r.name, r.kind, r.status_code, r.start_time_unix_nano, r.end_time_unix_nano)
        for r in [stored.run, *stored.nodes, *stored.spans]
    }


def test_a_model_that_is_asked_over_the_network_is_a_client_span(
    receiver: OtlpReceiver, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what was asked for and what came back; `temperature: 0` in the file is a double on the wire."""
    monkeypatch.setenv("MY_KEY", "sk-secret-4711")
    with openai_server() as server:
        llm = {"provider": "openai", "model": "gpt-4o-mini", "api_base": server.url, "api_key_env": "MY_KEY"}
        asked = {"temperature": 0, "max_tokens": 77, "params": {"top_p": 1, "seed": 7, "stop": ["END"]}}
        config = {"llm": {**llm, **asked}}
        workflow = make([asks("ask", "text")], chain("START ask END"), {"text": field("str")}, config)
        run_workflow(workflow, store=store, otlp=receiver.endpoint)
        port = int(server.url.split(":")[2].split("/")[0])
    chat = ordered(receiver.wait_for(3))[0]
    assert (chat.name, chat.kind) == ("chat gpt-4o-mini", "CLIENT")
    assert wrongly_typed(chat.attributes) == {}
    wanted = {
        semconv.GEN_AI_PROVIDER_NAME: "openai",
        semconv.GEN_AI_REQUEST_TEMPERATURE: 0.0,
        semconv.GEN_AI_REQUEST_MAX_TOKENS: 77,
        semconv.GEN_AI_REQUEST_TOP_P: 1.0,
        semconv.GEN_AI_REQUEST_SEED: 7,
        semconv.GEN_AI_REQUEST_STOP_SEQUENCES: ("END",),
        semconv.GEN_AI_RESPONSE_MODEL: "gpt-4o-mini",
        semconv.GEN_AI_RESPONSE_ID: "chatcmpl-1",
        semconv.GEN_AI_RESPONSE_FINISH_REASONS: ("stop",),
        semconv.GEN_AI_USAGE_INPUT_TOKENS: 1000,
        semconv.GEN_AI_USAGE_OUTPUT_TOKENS: 100,
        semconv.GEN_AI_USAGE_CACHE_READ: 400,
        semconv.GEN_AI_USAGE_REASONING: 60,
        semconv.SERVER_ADDRESS: "127.0.0.1",
        semconv.SERVER_PORT: port,
    }
    assert {key: chat.attributes.get(key) for key in wanted} == wanted


@pytest.mark.parametrize("example", TREES)
def test_kinds_and_types_are_those_of_the_conventions(example: str, receiver: OtlpReceiver, store: Path) -> None:
    """Jaeger and every other backend index by type: a cost of 0 is a double, a count an int."""
    run_example(example, receiver, store)
    for span in receiver.wait_for(TREES[example].count("\n")):
        assert wrongly_typed(span.attributes) == {}, span.name
        assert span.kind == "INTERNAL", "a model in this process"
        assert (span.status, span.status_message, span.events, span.links) == ("OK", "", (), ())
        operation = span.name.split()[0]
        assert span.attributes[semconv.GEN_AI_OPERATION_NAME] == operation
        assert span.attributes[semconv.OPENINFERENCE_SPAN_KIND] == ("LLM" if operation == "chat" else "CHAIN")
        usage = {key for key in span.attributes if key.startswith("gen_ai.usage.")}
        asked = {semconv.GEN_AI_USAGE_INPUT_TOKENS, semconv.GEN_AI_USAGE_OUTPUT_TOKENS}
        assert usage == (asked if operation == "chat" else set())


def test_the_resource_is_what_the_environment_says_of_the_service(
    receiver: OtlpReceiver, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "help-desk")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=staging,service.version=1.2")
    run_example("hello", receiver, store)
    for span in receiver.wait_for(3):
        assert span.resource["service.name"] == "help-desk"
        assert span.resource["deployment.environment.name"] == "staging"
        assert span.resource["service.version"] == "1.2"
        assert (span.scope, span.scope_version) == (semconv.SCOPE_NAME, __version__)


def test_without_a_name_the_service_is_called_after_the_package(receiver: OtlpReceiver, store: Path) -> None:
    run_example("hello", receiver, store)
    assert {span.resource["service.name"] for span in receiver.wait_for(3)} == {"configurable-agents"}


@both_ways
def test_a_failed_run_is_an_error_from_the_call_up_to_the_run(run: Run, receiver: OtlpReceiver, store: Path) -> None:
    """Each span on the way says the type; the exception event stands where Jaeger looks for it."""
    failing = {"error": {"status_code": 400, "message": "no such model"}}
    workflow = make([asks("ask", "text")], chain("START ask END"), {"text": field("str")}, scripted(failing))
    with pytest.raises(NodeExecutionError):
        run(workflow, store=store, otlp=receiver.endpoint)
    spans = by_name(receiver.wait_for(3))
    name = "configurable_agents.llm.scripted.ScriptedModelError"
    for span in spans.values():
        assert (span.status, span.status_message) == ("ERROR", name)
        assert span.attributes[semconv.ERROR_TYPE] == name
        assert span.attributes[semconv.STATUS] == "failed"
        (event,) = span.events
        assert (event.name, event.attributes[semconv.EXCEPTION_TYPE]) == ("exception", name)
        assert 'scripted.py", line' in event.attributes[semconv.EXCEPTION_STACKTRACE]
        assert span.start_time_unix_nano <= event.time_unix_nano <= span.end_time_unix_nano
    assert not any(key.startswith("gen_ai.usage.") for key in spans["chat scripted"].attributes)


def test_retries_are_events_in_the_span_of_the_call(receiver: OtlpReceiver, store: Path) -> None:
    """One span covers all tries, as the conventions want it."""
    busy = {"error": {"status_code": 429, "message": "too many requests"}}
    workflow = make([asks("ask", "text")], chain("START ask END"), {"text": field("str")}, scripted(busy, "hello"))
    run_workflow(workflow, store=store, otlp=receiver.endpoint)
    chat = by_name(receiver.wait_for(3))["chat scripted"]
    assert [event.name for event in chat.events] == ["retry"]
    assert chat.events[0].attributes == {semconv.EXCEPTION_TYPE: "configurable_agents.llm.scripted.ScriptedModelError"}
    assert (chat.status, chat.attributes[semconv.RETRIES]) == ("OK", 1)


def test_a_cancelled_run_is_an_error_that_says_cancelled(receiver: OtlpReceiver, store: Path) -> None:
    """In the SDK a span that a cancellation ends would look like success."""

    begun = asyncio.Event()

    async def wait() -> dict[str, str]:
        begun.set()
        await asyncio.sleep(60)
        return {}

    async def cancel_soon() -> None:
        workflow = make([calls("wait", "text")], chain("START wait END"), {"text": field("str")})
        running = asyncio.create_task(
            arun_workflow(workflow, functions={"wait": wait}, store=store, otlp=receiver.endpoint)
        )
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancel_soon())
    spans = receiver.wait_for(2)
    assert receiver.tree() == "invoke_workflow made\n  execute_node wait\n"
    for span in spans:
        assert (span.status, span.attributes[semconv.STATUS]) == ("ERROR", "cancelled")
        assert span.attributes[semconv.ERROR_TYPE] == "asyncio.exceptions.CancelledError"
        assert span.events == ()


def test_a_sibling_of_a_failed_node_is_shipped_as_cancelled(receiver: OtlpReceiver, store: Path) -> None:
    async def slow() -> str:
        await asyncio.sleep(60)
        return ""

    async def broken() -> str:
        await asyncio.sleep(0.05)
        raise ValueError("broken")

    edges = [{"from": "START", "to": ["slow", "broken"]}, *chain("slow END"), *chain("broken END")]
    fields = {"a": field("str"), "b": field("str")}
    workflow = make([calls("slow", "a"), calls("broken", "b")], edges, fields)
    with pytest.raises(NodeExecutionError):
        run_workflow(workflow, functions={"slow": slow, "broken": broken}, store=store, otlp=receiver.endpoint)
    spans = by_name(receiver.wait_for(3))
    said = {name: (span.status, span.attributes[semconv.STATUS]) for name, span in spans.items()}
    assert said == {
        "invoke_workflow made": ("ERROR", "failed"),
        "execute_node slow": ("ERROR", "cancelled"),
        "execute_node broken": ("ERROR", "failed"),
    }


def test_cost_stands_under_our_own_name(receiver: OtlpReceiver, store: Path) -> None:
    """What no convention names, backends would add up at their peril."""
    run_priced(receiver, store)
    call, node, run = ordered(receiver.wait_for(3))
    assert call.attributes[semconv.COST_USD] == run.attributes[semconv.COST_USD] > 0
    assert (call.attributes[semconv.PRICE_SOURCE], semconv.PRICE_SOURCE in node.attributes) == ("workflow", False)
    for span in (call, node, run):
        assert not {semconv.GEN_AI_USAGE_COST, semconv.LLM_COST_TOTAL} & set(span.attributes)


def test_a_switch_puts_cost_where_other_backends_look_for_it(
    receiver: OtlpReceiver, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On model calls only: a backend that sums it up must not count it again on node and run."""
    monkeypatch.setenv("CONFIGURABLE_AGENTS_COST_ATTRIBUTES", "true")
    run_priced(receiver, store)
    call, node, run = ordered(receiver.wait_for(3))
    cost = call.attributes[semconv.COST_USD]
    assert (call.attributes[semconv.GEN_AI_USAGE_COST], call.attributes[semconv.LLM_COST_TOTAL]) == (cost, cost)
    assert type(call.attributes[semconv.GEN_AI_USAGE_COST]) is float
    for span in (node, run):
        assert not {semconv.GEN_AI_USAGE_COST, semconv.LLM_COST_TOTAL} & set(span.attributes)


def run_priced(receiver: OtlpReceiver, store: Path) -> None:
    config = scripted("hello", price={"input_per_mtok": 1, "output_per_mtok": 2})
    workflow = make([asks("ask", "text")], chain("START ask END"), {"text": field("str")}, config)
    run_workflow(workflow, store=store, otlp=receiver.endpoint)


def ordered(spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
    """Call, node and run of a workflow with one node."""
    return sorted(spans, key=lambda span: ["chat", "execute_node", "invoke_workflow"].index(span.name.split()[0]))


def test_a_run_that_is_not_sampled_is_kept_and_not_shipped(
    receiver: OtlpReceiver, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Record and ship are two decisions. The second run shows that the first had time to arrive."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    quiet = run_example("hello", receiver, store)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    loud = run_example("hello", receiver, store)
    assert {span.trace_id for span in receiver.wait_for(3)} == {loud.trace_id}
    assert len(kept(store, quiet.run_id).spans) == 1
