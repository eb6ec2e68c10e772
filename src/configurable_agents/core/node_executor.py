"""Executes one node once: its span, its attempts, its body, what it wrote, and where the run goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.util.types import AttributeValue

from configurable_agents import semconv
from configurable_agents.core.encoding import encode
from configurable_agents.core.functions import (
    Function,
    FunctionPool,
    awaited,
    call_function,
    call_inline,
    is_awaited,
    named_outputs,
)
from configurable_agents.core.graph import Decision, Plan, settle_maps
from configurable_agents.core.meter import Meter
from configurable_agents.core.model_call import ModelCaller, ProviderError
from configurable_agents.core.nodes import CompiledNode, Item, collected
from configurable_agents.core.spans import Recorder, end_span, error_type, record_failure
from configurable_agents.core.templates import Scope, render
from configurable_agents.core.waiting import in_a_loop, within
from configurable_agents.deltas import Delta, apply
from configurable_agents.errors import ModelAnswerError, NodeTimeoutError, OutputError
from configurable_agents.llm.base import ChatModel, Message
from configurable_agents.semconv import Status
from configurable_agents.spans import RecordedSpan

_COMPLETED: Final = Status.COMPLETED.value
MAX_ANSWERS: Final = 3
"""How often a model is asked for an answer that fits: once, and twice more with the reason."""


# Nobody changes a visit or an outcome; making frozen ones takes three times as long, and each node has one of each.
@dataclass(slots=True)
class Visit:
    """One execution of a node, as scheduled."""

    node: CompiledNode
    seq: int
    state: Mapping[str, Any]
    reads_from: tuple[int, ...]
    branch: str | None = None
    loops: Mapping[int, int] = field(default_factory=dict)
    item: Item | None = None
    """Set for an execution of a map's target."""
    alone: bool = False
    """Nothing else is live, here or on this thread: a plain function may run on it."""


@dataclass(slots=True)
class Outcome:
    """What came of a visit: an error, or what was written and where the run goes on."""

    visit: Visit
    delta: Delta
    state: Mapping[str, Any] = field(default_factory=dict)
    decision: Decision | None = None
    """None for an item of a map, and after an error."""
    error: BaseException | None = None
    edge_error: Exception | None = None
    """The node completed, but its edge cannot be taken."""


@dataclass(slots=True)
class _Asked:
    """What a visit's model calls come to."""

    meter: Meter = field(default_factory=Meter)
    models: list[str] = field(default_factory=list)
    provider: str = ""


@dataclass(slots=True)
class _Open:
    """A visit whose span is open."""

    visit: Visit
    span: RecordedSpan
    started: float
    asked: _Asked | None = None
    """None until it asks a model."""
    inputs: str | None = None
    """The resolved inputs as JSON, once they are known and if they are kept."""
    attempts: int = 0


class NodeExecutor:
    """Executes the nodes of one run."""

    def __init__(
        self,
        plan: Plan,
        recorder: Recorder,
        *,
        functions: Mapping[str, Function],
        models: Mapping[str, ChatModel],
        pool: FunctionPool,
        capture_content: bool = True,
    ) -> None:
        self._plan = plan
        self._recorder = recorder
        self._functions = functions
        self._models = models
        self._pool = pool
        self._capture_content = capture_content
        self._open: dict[int, _Open] = {}
        self.meter = Meter()
        """Totals of the run so far."""
        self.executions = 0
        """Node executions that have ended."""

    async def execute(self, visit: Visit) -> Outcome:
        """Execute the node; every exception, of whatever kind, comes back in the outcome."""
        opened = self._start(visit)
        token = otel_context.attach(trace.set_span_in_context(opened.span, self._recorder.context))
        try:
            writes = await (self._call(opened) if visit.node.is_called_once else self._attempts(opened))
            outcome = self._completed(visit, writes)
            end = self._written(outcome)
        except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt too must never look completed
            outcome = Outcome(visit, Delta(visit.seq, visit.reads_from), error=error)
            left_behind = visit.seq not in self._open  # its span has ended as cancelled
            end = {} if left_behind else self._failed(opened, error)
        finally:
            otel_context.detach(token)
        self._end(opened, end)
        return outcome

    def cancelled(self, visit: Visit) -> None:
        """Record a visit that never began, or that did not let itself be cancelled, as cancelled."""
        opened = self._open.get(visit.seq) or self._start(visit)
        self._end(opened, self._failed(opened, asyncio.CancelledError()))

    def abandon(self) -> None:
        """Record every visit that is still open as cancelled: the run ends, and does not wait for them."""
        for opened in list(self._open.values()):
            self.cancelled(opened.visit)

    def _start(self, visit: Visit) -> _Open:
        node = visit.node
        recorder = self._recorder
        attributes: dict[str, AttributeValue] = {**recorder.common, **node.attributes, semconv.SEQ: visit.seq}
        if visit.reads_from:
            attributes[semconv.READS_FROM] = visit.reads_from
        if visit.branch is not None:
            attributes[semconv.BRANCH] = visit.branch
        if visit.item is not None:
            attributes[semconv.MAP_INDEX] = visit.item.index
        span = recorder.parent.begin_child(node.span_name, attributes, trusted=True)
        opened = self._open[visit.seq] = _Open(visit, span, time.perf_counter())
        return opened

    def _end(self, opened: _Open, end: dict[str, AttributeValue]) -> None:
        if self._open.pop(opened.visit.seq, None) is None:
            return  # it was left behind, and has been recorded as cancelled
        self.executions += 1
        end[semconv.DURATION_SECONDS] = time.perf_counter() - opened.started
        if opened.inputs is not None:
            end[semconv.CONTENT_INPUTS] = opened.inputs
        if opened.attempts > 1:
            end[semconv.ATTEMPTS] = opened.attempts
        if opened.asked is not None:
            end.update(self._counted(opened.asked))
        # What a provider or an exception said may be of any kind.
        end_span(opened.span, end, trusted=opened.asked is None and end.get(semconv.STATUS) is _COMPLETED)

    def _counted(self, asked: _Asked) -> dict[str, AttributeValue]:
        self.meter.include(asked.meter)
        end: dict[str, AttributeValue] = {**asked.meter.attributes()}
        if asked.models:
            end[semconv.MODEL] = asked.models[-1]
            end[semconv.PROVIDER] = asked.provider
            distinct = tuple(dict.fromkeys(asked.models))
            if len(distinct) > 1:
                end[semconv.MODELS] = distinct
        return end

    def _completed(self, visit: Visit, writes: dict[str, Any]) -> Outcome:
        if visit.item is not None:
            value = collected(writes, visit.node.config.outputs)
            delta = Delta(visit.seq, visit.reads_from, {visit.item.parallel.collect_field: value}, visit.item.index)
            return Outcome(visit, delta)
        state = dict(visit.state)
        delta = Delta(visit.seq, visit.reads_from, writes)
        apply(state, delta, self._plan.reducers)
        try:
            decision, emptied = settle_maps(self._plan, visit.node.id, state, visit.loops)
        except Exception as error:  # noqa: BLE001 - a condition that cannot be computed: the run fails, the node did not
            return Outcome(visit, delta, state, edge_error=error)
        if emptied:
            state.update(emptied)
            delta = Delta(visit.seq, visit.reads_from, {**writes, **emptied})
        return Outcome(visit, delta, state, decision)

    def _written(self, outcome: Outcome) -> dict[str, AttributeValue]:
        end: dict[str, AttributeValue] = {semconv.STATUS: _COMPLETED}
        if self._captures(outcome.visit.node):
            end[semconv.CONTENT_OUTPUTS] = self._recorder.mask(encode(outcome.delta.writes))
        if outcome.decision is not None:
            end[semconv.EDGE] = outcome.decision.label
            if outcome.decision.exhausted:
                end[semconv.LOOP_EXHAUSTED] = True
        return end

    def _failed(self, opened: _Open, error: BaseException) -> dict[str, AttributeValue]:
        captures = self._captures(opened.visit.node)
        return record_failure(opened.span, error, mask=self._recorder.mask, capture=captures)

    def _captures(self, node: CompiledNode) -> bool:
        return self._capture_content and node.config.capture_content

    async def _attempts(self, opened: _Open) -> dict[str, Any]:
        retry = opened.visit.node.config.retry
        await in_a_loop()
        while True:
            opened.attempts += 1
            try:
                return await self._attempt(opened)
            except ProviderError as failed:
                provider_error = failed.error  # model calls have had their own retries
                break
            except Exception as error:
                if opened.attempts >= retry.max_attempts:
                    raise
                opened.span.add_event("retry", {semconv.EXCEPTION_TYPE: error_type(error)})
            await asyncio.sleep(min(retry.initial_delay * 2 ** (opened.attempts - 1), retry.max_delay))
        raise provider_error  # here and not where it was caught, so that it keeps the context it came with

    def _attempt(self, opened: _Open) -> Coroutine[Any, Any, dict[str, Any]]:
        node = opened.visit.node
        body = self._ask(opened) if node.kind == "model" else self._call(opened)
        seconds = node.config.timeout
        if seconds is None:
            return body
        late = NodeTimeoutError(f"node {node.id!r} took longer than its timeout of {seconds:g} s")
        return within(seconds, body, error=late)

    def _inputs(self, opened: _Open) -> dict[str, Any]:
        visit = opened.visit
        if not visit.node.inputs:
            return {}
        inputs = visit.node.resolve_inputs(Scope(visit.state, _locals(visit)))
        if self._captures(visit.node):
            opened.inputs = self._recorder.mask(encode(inputs))
        return inputs

    async def _call(self, opened: _Open) -> dict[str, Any]:
        node = opened.visit.node
        inputs = self._inputs(opened)
        function = self._functions[node.config.function]  # type: ignore[union-attr]  # `kind` says that it is one
        inline = opened.visit.alone and node.config.timeout is None
        if inline and not function.is_async:
            result = call_inline(function.call, inputs)
            if is_awaited(result):
                result = await awaited(result)
        else:
            await in_a_loop()
            result = await call_function(function, inputs, pool=self._pool)
        return node.checked(named_outputs(result, node.config.outputs))

    async def _ask(self, opened: _Open) -> dict[str, Any]:
        node = opened.visit.node
        inputs = self._inputs(opened)
        scope = Scope(opened.visit.state, {**_locals(opened.visit), **inputs})
        messages = [Message("system", render(node.system, scope))] if node.system else []
        messages.append(Message("user", render(node.prompt, scope)))  # type: ignore[arg-type]  # a model node has one
        asked = opened.asked = opened.asked or _Asked()
        for answers_left in range(MAX_ANSWERS - 1, -1, -1):
            reply = await self._reply(opened, asked, messages)
            try:
                return self._answer(node, reply.text, reply.value, reply.parse_error)
            except OutputError as error:
                if not answers_left:
                    text = f"the model's answer did not fit after {MAX_ANSWERS} tries: {error}"
                    raise ModelAnswerError(text) from error
                messages += [Message("assistant", reply.text), Message("user", _again(error))]
        raise AssertionError("unreachable: the last answer returns or raises")

    async def _reply(self, opened: _Open, asked: _Asked, messages: list[Message]) -> Any:
        node, model = opened.visit.node, self._models[opened.visit.node.id]
        caller = ModelCaller(model, self._recorder.below(opened.span), self._plan.config.config.execution.max_retries)
        asked.provider = model.info.provider or ""
        reply = await caller.call(messages, schema=node.answer_schema, meter=asked.meter, capture=self._captures(node))
        asked.models.append(reply.model or model.info.model)
        return reply

    @staticmethod
    def _answer(node: CompiledNode, text: str, value: Any, parse_error: str | None) -> dict[str, Any]:
        if node.answer_schema is None:
            return node.checked(dict.fromkeys(node.config.outputs, text))
        if parse_error is not None:
            raise OutputError(parse_error)
        missing = [name for name in node.config.outputs if not isinstance(value, Mapping) or name not in value]
        if missing:
            raise OutputError(f"the answer has no {', '.join(map(repr, missing))}")
        return node.checked(value)


def _locals(visit: Visit) -> Mapping[str, Any]:
    return visit.item.locals if visit.item else {}


def _again(error: OutputError) -> str:
    return f"That answer does not fit: {error}. Answer again, with nothing but the JSON object that was asked for."
