"""Executes one node once: its span, its attempts, its body, what it wrote, and where the run goes on."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry.util.types import AttributeValue

from configurable_agents import semconv
from configurable_agents.core.functions import FunctionPool, awaited, call_inline, is_async, is_awaited
from configurable_agents.core.graph import Decision, Plan, Token, decide
from configurable_agents.core.meter import Meter
from configurable_agents.core.model_call import ModelCaller, ProviderError
from configurable_agents.core.nodes import CompiledNode, Item, collected
from configurable_agents.core.spans import Recorder, error_type, record_failure, with_span
from configurable_agents.core.templates import Scope, render
from configurable_agents.core.waiting import in_a_loop, is_in_a_loop, within
from configurable_agents.deltas import apply
from configurable_agents.errors import ModelAnswerError, NodeTimeoutError, OutputError
from configurable_agents.llm.base import ChatModel, Message
from configurable_agents.once import Once
from configurable_agents.spans import RecordedSpan

MAX_ANSWERS: Final = 3
"""How often a model is asked for an answer that fits: once, and twice more with the reason."""


@dataclass(slots=True)
class _Asked:
    """What a visit's model calls come to."""

    meter: Meter = field(default_factory=Meter)
    models: list[str] = field(default_factory=list)
    provider: str = ""


# One object for all of it, and not a frozen one: making objects is much of what a short node costs.
@dataclass(slots=True, eq=False)
class Visit:
    """One execution of a node: what was scheduled, then its span, then what came of it."""

    node: CompiledNode
    seq: int
    token: Token
    """Where it stands, with the state that it sees."""
    item: Item | None = None
    """Set for an execution of a map's target."""
    alone: bool = False
    """Nothing else is live, here or on this thread: a plain function may run on it."""

    span: RecordedSpan = field(init=False, repr=False)
    started: float = field(init=False, repr=False)
    captures: bool = field(init=False, repr=False)
    """Whether content is kept of it."""
    end: dict[str, AttributeValue] = field(init=False, repr=False)
    """What its span's end will say, as far as it is known."""
    asked: _Asked | None = field(default=None, init=False, repr=False)
    """None until it asks a model."""

    writes: Mapping[str, Any] = field(init=False, repr=False)
    """What it wrote; unset if it failed, as `after`."""
    after: dict[str, Any] = field(init=False, repr=False)
    """The state with what it wrote; unset for an item of a map."""
    decision: Decision | None = field(default=None, init=False, repr=False)
    """Where the run goes on; None for an item of a map, and after an error."""
    error: BaseException | None = field(default=None, init=False)
    edge_error: Exception | None = field(default=None, init=False)
    """The node completed, but its edge cannot be taken."""

    @property
    def branch(self) -> str:
        """The branch that it is in, as text."""
        path = self.token.path if self.item is None else (*self.token.path, self.item.index)
        return ".".join(map(str, path))


class NodeExecutor:
    """Executes the nodes of one run."""

    def __init__(
        self,
        plan: Plan,
        recorder: Recorder,
        *,
        functions: Mapping[str, Callable[..., Any]],
        models: Mapping[str, ChatModel],
        capture_content: bool = True,
    ) -> None:
        self._plan = plan
        self._recorder = recorder
        self._functions = functions
        self._models = models
        self._capture_content = capture_content
        self._open: dict[int, Visit] = {}
        self.meter = Meter()
        """Totals of the run so far."""
        self.executions = 0
        """Node executions that have ended."""

    @Once
    def _pool(self) -> FunctionPool:
        return FunctionPool(self._plan.config.config.execution.max_concurrency)

    async def execute(self, visit: Visit) -> None:
        """Execute the node; every exception, of whatever kind, is the visit's `error` then."""
        self._start(visit)
        token = otel_context.attach(with_span(visit.span, self._recorder.context))
        try:
            writes = await (self._call(visit) if visit.node.is_called_once else self._attempts(visit))
            self._completed(visit, writes)
        except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt too must never look completed
            self._failed(visit, error)
        finally:
            otel_context.detach(token)
        self._end(visit)
        # A map has its visits until the last one ends, and their spans have texts of any size.
        del visit.span, visit.end

    def cancelled(self, visit: Visit) -> None:
        """Record a visit that never began, or that did not let itself be cancelled, as cancelled."""
        if visit.seq not in self._open:
            self._start(visit)
        self._failed(visit, asyncio.CancelledError())
        self._end(visit)

    def abandon(self) -> None:
        """Record every visit that is still open as cancelled: the run ends, and does not wait for them."""
        for visit in list(self._open.values()):
            self.cancelled(visit)

    def _start(self, visit: Visit) -> None:
        node, token, recorder = visit.node, visit.token, self._recorder
        attributes = node.attributes.copy()  # a third of what it takes to put them together
        attributes[semconv.RUN_ID] = recorder.run_id
        attributes[semconv.SEQ] = visit.seq
        if token.heads:
            attributes[semconv.READS_FROM] = token.heads
        if token.path or visit.item is not None:
            attributes[semconv.BRANCH] = visit.branch
            if visit.item is not None:
                attributes[semconv.MAP_INDEX] = visit.item.index
        visit.captures = self._capture_content and node.captures
        visit.end = {}
        visit.span = recorder.parent.begin_child(node.span_name, attributes, trusted=True)
        visit.started = time.perf_counter()
        self._open[visit.seq] = visit  # whole by now: a signal's handler may raise at any moment, and then it is ended

    def _end(self, visit: Visit) -> None:
        if self._open.pop(visit.seq, None) is None:
            return  # it was left behind, and has been recorded as cancelled
        self.executions += 1
        end = visit.end
        end[semconv.DURATION_SECONDS] = time.perf_counter() - visit.started
        asked = visit.asked
        if asked is not None:
            end.update(self._counted(asked))
        # What a provider or an exception said may be of any kind.
        visit.span.complete(end, trusted=asked is None and visit.error is None)

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

    def _completed(self, visit: Visit, writes: dict[str, Any]) -> None:
        visit.writes = writes
        if visit.item is None:
            self._decide(visit, writes)
        else:
            value = collected(writes, visit.node.output_names)
            visit.writes = {visit.item.parallel.collect_field: value}
        end, decision = visit.end, visit.decision
        if visit.captures:
            end[semconv.CONTENT_OUTPUTS] = self._recorder.content(visit.writes)
        # Only now: where an interrupt or a value that cannot be written ends it before, it leads nowhere.
        if decision is not None:
            end[semconv.EDGE] = decision.label
            if decision.exhausted:
                end[semconv.LOOP_EXHAUSTED] = True
        end[semconv.STATUS] = semconv.COMPLETED

    def _decide(self, visit: Visit, writes: dict[str, Any]) -> None:
        token, plan = visit.token, self._plan
        visit.after = state = token.state.copy()
        apply(state, writes, plan.reducers)
        try:
            visit.decision = decision = decide(plan, token.at, state, token.loops)
        except Exception as error:  # noqa: BLE001 - a condition that cannot be computed: the run fails, the node did not
            visit.edge_error = error
            return
        if decision.emptied:
            state.update(decision.emptied)
            visit.writes = {**writes, **decision.emptied}

    def _failed(self, visit: Visit, error: BaseException) -> None:
        visit.error, visit.decision = error, None
        if visit.seq in self._open:
            failure = record_failure(visit.span, error, mask=self._recorder.mask, capture=visit.captures)
            visit.end.update(failure)

    async def _attempts(self, visit: Visit) -> dict[str, Any]:
        retry = visit.node.config.retry
        await in_a_loop()
        for attempt in itertools.count(1):
            if attempt > 1:
                visit.end[semconv.ATTEMPTS] = attempt
            try:
                return await self._attempt(visit)
            except ProviderError as failed:
                provider_error = failed.error  # model calls have had their own retries
                break
            except Exception as error:
                if attempt >= retry.max_attempts:
                    raise
                visit.span.add_event("retry", {semconv.EXCEPTION_TYPE: error_type(error)})
            await asyncio.sleep(min(retry.initial_delay * 2 ** (attempt - 1), retry.max_delay))
        raise provider_error  # here and not where it was caught, so that it keeps the context it came with

    def _attempt(self, visit: Visit) -> Coroutine[Any, Any, dict[str, Any]]:
        node = visit.node
        body = self._ask(visit) if node.kind == "model" else self._call(visit)
        seconds = node.timeout
        if seconds is None:
            return body
        late = NodeTimeoutError(f"node {node.id!r} took longer than its timeout of {seconds:g} s")
        return within(seconds, body, error=late)

    def _inputs(self, visit: Visit) -> dict[str, Any]:
        if not visit.node.inputs:
            return {}
        inputs = visit.node.resolve_inputs(visit.token.state, visit.item)
        if visit.captures:
            visit.end[semconv.CONTENT_INPUTS] = self._recorder.content(inputs)
        return inputs

    async def _call(self, visit: Visit) -> dict[str, Any]:
        node = visit.node
        inputs = self._inputs(visit)
        call = self._functions[node.function]
        if is_async(call):
            await in_a_loop()
            result = call(**inputs)
        elif visit.alone and node.timeout is None:
            result = call_inline(call, inputs)
        else:
            await in_a_loop()
            result = await self._pool.run(partial(call, **inputs))
        if is_awaited(result):
            result = await (result if is_in_a_loop() else awaited(result))
        return node.written(result)

    async def _ask(self, visit: Visit) -> dict[str, Any]:
        node = visit.node
        inputs = self._inputs(visit)
        scope = Scope(visit.token.state, {**(visit.item.locals if visit.item else {}), **inputs})
        messages = [Message("system", render(node.system, scope))] if node.system else []
        messages.append(Message("user", render(node.prompt, scope)))  # type: ignore[arg-type]  # a model node has one
        asked = visit.asked = visit.asked or _Asked()
        for answers_left in range(MAX_ANSWERS - 1, -1, -1):
            reply = await self._reply(visit, asked, messages)
            try:
                return self._answer(node, reply.text, reply.value, reply.parse_error)
            except OutputError as error:
                if not answers_left:
                    text = f"the model's answer did not fit after {MAX_ANSWERS} tries: {error}"
                    raise ModelAnswerError(text) from error
                messages += [Message("assistant", reply.text), Message("user", _again(error))]
        raise AssertionError("unreachable: the last answer returns or raises")

    async def _reply(self, visit: Visit, asked: _Asked, messages: list[Message]) -> Any:
        node, model = visit.node, self._models[visit.node.id]
        caller = ModelCaller(model, self._recorder.below(visit.span), self._plan.config.config.execution.max_retries)
        asked.provider = model.info.provider or ""
        reply = await caller.call(messages, schema=node.answer_schema, meter=asked.meter, capture=visit.captures)
        asked.models.append(reply.model or model.info.model)
        return reply

    @staticmethod
    def _answer(node: CompiledNode, text: str, value: Any, parse_error: str | None) -> dict[str, Any]:
        if node.answer_schema is None:
            return node.checked(dict.fromkeys(node.output_names, text))
        if parse_error is not None:
            raise OutputError(parse_error)
        missing = [name for name in node.output_names if not isinstance(value, Mapping) or name not in value]
        if missing:
            raise OutputError(f"the answer has no {', '.join(map(repr, missing))}")
        return node.checked(value)


def _again(error: OutputError) -> str:
    return f"That answer does not fit: {error}. Answer again, with nothing but the JSON object that was asked for."
