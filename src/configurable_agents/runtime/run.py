"""One run: wires the parts together, makes the run's span, and says what came of it."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.util.types import AttributeValue

from configurable_agents import semconv
from configurable_agents.config.schema import RuntimeConfig, StorageConfig
from configurable_agents.core.node_executor import NodeExecutor
from configurable_agents.core.secrets import encoder
from configurable_agents.core.spans import Recorder, describe, record_failure, with_span
from configurable_agents.core.waiting import Interruption, in_a_loop, within
from configurable_agents.errors import NodeExecutionError, RunTimeoutError, WorkflowExecutionError
from configurable_agents.llm.base import ChatModel
from configurable_agents.observability.destinations import Destination
from configurable_agents.observability.exporter import StoreSpanExporter
from configurable_agents.observability.ids import IDS
from configurable_agents.observability.route import RunRoute
from configurable_agents.observability.telemetry import open_telemetry
from configurable_agents.observability.tracing import start_run
from configurable_agents.runtime.engine import CANCEL_SECONDS, Engine, Final, RunError
from configurable_agents.runtime.result import RunObserver, RunResult
from configurable_agents.runtime.stores import OpenStore, StoreChoice, open_store
from configurable_agents.runtime.workflow import Workflow
from configurable_agents.spans import RecordedSpan
from configurable_agents.storage.records import RunId

END_SECONDS = 0.2
"""How long a run's end waits for its last records, so that what was just run can be read."""


@dataclass(slots=True)  # nobody changes one; making a frozen one takes three times as long
class Ready:
    """A run that nothing but running it can still make fail."""

    workflow: Workflow
    config: RuntimeConfig
    given: Mapping[str, Any]
    defaults: Mapping[str, Any]
    functions: Mapping[str, Callable[..., Any]]
    models: Mapping[str, ChatModel]
    mask: Callable[[str], str]
    """Hides the known secrets in a text."""
    store: StoreChoice
    timeout_seconds: float | None
    observers: Sequence[RunObserver]
    destinations: Sequence[Destination]
    """Endpoints of ours that its spans are shipped to."""
    ship_to_host: bool
    environ: Mapping[str, str]
    parent: Context
    """Where it was called, with the span that it belongs below."""


def run(ready: Ready, *, inline: Interruption | None) -> Coroutine[Any, Any, RunResult]:
    """Begin a run, and give what goes on with it when it is awaited.

    Args:
        inline: Given where this thread is the run's alone, so that a plain function may be called on it.
    """
    if ready.timeout_seconds is not None:
        inline = None  # nobody could end what blocks this thread
    storage = ready.config.storage
    if storage is not None and storage.required:
        return _run_with_required_store(ready, storage, inline)
    return _Run(ready, open_store(ready.store, storage, ready.environ)).run(inline=inline)


async def _run_with_required_store(ready: Ready, storage: StorageConfig, inline: Interruption | None) -> RunResult:
    # It is opened here and now, which may take seconds; the caller's loop goes on meanwhile.
    await in_a_loop()
    store = await asyncio.to_thread(open_store, ready.store, storage, ready.environ)
    return await _Run(ready, store).run(inline=inline)


class _Run:
    """One run: its id, its span, and what comes of it."""

    def __init__(self, ready: Ready, store: OpenStore | None) -> None:
        self._ready = ready
        self._store = store
        self._workflow = ready.workflow
        self._run_id = RunId(IDS.generate_run_id())
        self._mask = ready.mask
        self._content = encoder(self._mask)
        exporter = store.exporter if store else None
        self._telemetry = open_telemetry(
            ready.destinations, ready.environ, run_id=self._run_id, store=exporter, ship_to_host=ready.ship_to_host
        )
        self._route = RunRoute(exporter, self._telemetry.routes, ready.observers)
        storage = ready.config.storage
        # Where nobody takes the spans, nobody need write down what is in them.
        self._captures = self._route.leads_somewhere and (storage is None or storage.capture_content)
        self._started = time.perf_counter()

    async def run(self, *, inline: Interruption | None) -> RunResult:
        """Run to the end, whatever that is, and leave a finished span behind."""
        sampler = self._telemetry.sampler
        span = start_run(self._route, self._workflow.span_name, self._ready.parent, self._attributes(), sampler)
        context = with_span(span, self._ready.parent)
        executor = self._executor(span, context)
        token = otel_context.attach(context)
        end: dict[str, AttributeValue] = {}
        outcome: Final | RunError
        try:
            await self._prepared()
            outcome = final = await self._body(executor, inline)
            end = {semconv.STATUS: semconv.COMPLETED, semconv.READS_FROM: final.heads}
        except BaseException as error:  # noqa: BLE001 - it is raised again when the run has been kept
            failure = error if isinstance(error, RunError) else RunError(error)
            outcome = failure
            captures = self._captures and (failure.visit is None or failure.visit.node.captures)
            end = record_failure(span, failure.error, mask=self._mask, capture=captures)
        finally:
            otel_context.detach(token)
            executor.abandon()
            self._end(span, executor, end)
        await self._committed(END_SECONDS, exclusive=inline is not None)
        if isinstance(outcome, RunError):
            # Not where it was caught: Python would put the carrier in place of the error's own context.
            self._raise(outcome)
        return self._result(span.trace_id, executor, outcome)

    async def _prepared(self) -> None:
        """Wait for what is needed before the first node, for a bounded time."""
        if self._store is not None and self._store.open_seconds:
            # Only the first run of a process waits, until the store is open: later ones are seen when their rows
            # come with the next group, some 20 ms on, and are durable in the journal before that.
            await self._committed(self._store.open_seconds, exclusive=False)
        if self._telemetry.senders:
            await in_a_loop()
            await self._telemetry.loaded()
        if self._ready.timeout_seconds is not None:
            await in_a_loop()  # which times it

    def _body(self, executor: NodeExecutor, inline: Interruption | None) -> Coroutine[Any, Any, Final]:
        engine = Engine(self._workflow.plan, self._workflow.nodes, executor, inline=inline)
        # In the order of the fields, whether given or not: it is the order in which people see them.
        state: dict[str, Any] = dict.fromkeys(self._workflow.inputs.fields)
        state |= self._ready.defaults
        state |= self._ready.given
        final = engine.run(state)
        seconds = self._ready.timeout_seconds
        if seconds is None:
            return final
        late = RunTimeoutError(f"the run took longer than its timeout of {seconds:g} s")
        return within(seconds, final, error=late, grace_seconds=CANCEL_SECONDS + 0.05)

    def _executor(self, span: RecordedSpan, context: Context) -> NodeExecutor:
        return NodeExecutor(
            self._workflow.plan,
            Recorder(span, context, self._run_id, self._mask, self._content),
            functions=self._ready.functions,
            models=self._ready.models,
            capture_content=self._captures,
        )

    def _attributes(self) -> dict[str, AttributeValue]:
        attributes = self._workflow.attributes.copy()
        attributes[semconv.RUN_ID] = self._run_id
        if self._telemetry.resource is not None:
            attributes[semconv.RESOURCE] = self._telemetry.resource
        if self._captures:
            attributes[semconv.CONTENT_INPUTS] = self._content(self._ready.given)
            attributes[semconv.CONTENT_DEFAULTS] = self._content(self._ready.defaults)
        return attributes

    def _end(self, span: RecordedSpan, executor: NodeExecutor, end: dict[str, AttributeValue]) -> None:
        end[semconv.NODE_EXECUTIONS] = executor.executions
        end[semconv.DURATION_SECONDS] = self._duration = time.perf_counter() - self._started
        end.update(executor.meter.attributes())
        span.complete(end, trusted=semconv.ERROR_TYPE not in end)  # what an exception said may be of any kind

    async def _committed(self, seconds: float, *, exclusive: bool) -> None:
        """Wait until the database has what the run has left so far: for a moment, and not for a store that is away."""
        if self._store is None:
            return
        if exclusive:
            # Nobody else needs this thread: it waits itself, at half the price of being called back through the loop.
            self._store.exporter.commit(self._run_id, seconds)
            return
        await in_a_loop()
        exporter = self._store.exporter
        if exporter.expects_company:
            await asyncio.sleep(0)  # others that end in this round of the loop: one of them commits for all
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while exporter.waits_for(self._run_id):
            if exporter.commit_here():
                await asyncio.sleep(0)  # a little at a time, so that the loop is not held up
            elif await self._tried(exporter, loop, deadline):
                return

    async def _tried(self, exporter: StoreSpanExporter, loop: asyncio.AbstractEventLoop, deadline: float) -> bool:
        """Wait until the writer's thread has tried; say whether there is nothing more to wait for."""
        tried = asyncio.Event()
        if exporter.when_tried(self._run_id, functools.partial(loop.call_soon_threadsafe, tried.set)):
            return True
        try:
            async with asyncio.timeout_at(deadline):
                await tried.wait()
        except TimeoutError:
            exporter.stop_waiting()
            return True
        return False

    def _raise(self, failure: RunError) -> NoReturn:
        error, visit = failure.error, failure.visit
        if not isinstance(error, Exception):
            raise error  # KeyboardInterrupt, SystemExit and CancelledError pass through unchanged
        message = self._mask(describe(error))
        if visit is None:
            raise WorkflowExecutionError(message, run_id=self._run_id, workflow=self._workflow.name) from error
        raise NodeExecutionError(
            f"node {visit.node.id!r} failed: {message}",
            run_id=self._run_id,
            workflow=self._workflow.name,
            node_id=visit.node.id,
            seq=visit.seq,
        ) from error

    def _result(self, trace_id: str, executor: NodeExecutor, final: Final) -> RunResult:
        meter, store = executor.meter, self._store
        storage = self._ready.config.storage
        wanted = self._ready.store is not False and (storage is None or storage.enabled)
        return RunResult(
            run_id=self._run_id,
            trace_id=trace_id,
            workflow=self._workflow.name,
            status=semconv.COMPLETED,
            outputs=dict(final.state),
            duration_seconds=self._duration,
            node_executions=executor.executions,
            model_calls=meter.model_calls,
            input_tokens=meter.input_tokens,
            output_tokens=meter.output_tokens,
            total_tokens=meter.input_tokens + meter.output_tokens,
            total_cost_usd=meter.cost_usd,
            priced_cost_usd=float(meter.priced_cost),
            unpriced_calls=meter.unpriced_calls,
            store=store.location if store else None,
            degraded=store.exporter.lacks(self._run_id) if store else wanted,
        )
