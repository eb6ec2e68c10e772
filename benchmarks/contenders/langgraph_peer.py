"""LangGraph: bare, with its SQLite checkpoint saver, and with openinference's spans as a program usually ships them."""

from __future__ import annotations

import asyncio
import contextlib
import operator
import uuid
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TypedDict

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from benchmarks.contenders import One, Ready
from benchmarks.work import (
    BRANCHES,
    CHAIN,
    CHAIN_NODES,
    DOCUMENT,
    DOCUMENT_CHAIN,
    FAN_OUT,
    LOOP,
    ROUNDS,
    SLEEP_SECONDS,
    check,
)


class Count(TypedDict):
    """The state of a chain."""

    x: int


class Document(TypedDict):
    """The state of a chain that carries a document."""

    x: int
    document: str


class Sum(TypedDict):
    total: Annotated[int, operator.add]
    x: int


def take_part(variant: str, folder: Path) -> Ready:
    """Compile the graphs once; every run is a thread of its own."""
    settle = _trace_into(folder / "spans.bin") if variant == "traced" else lambda: True
    saver = None
    if variant != "off":
        # Held open as long as the process lives.
        saver = import_module("langgraph.checkpoint.sqlite").SqliteSaver.from_conn_string(str(folder / "saver.db"))
    checkpointer = saver.__enter__() if saver is not None else None

    def work(graph: Any, given: dict[str, Any], expected: int) -> Callable[[], object]:
        compiled = graph.compile(checkpointer=checkpointer)

        def run() -> None:
            assert saver is not None or checkpointer is None
            check(compiled.invoke(given, _thread())["x"], expected)

        return run

    return Ready(
        works={
            CHAIN: work(chain(Count, add), {"x": 0}, CHAIN_NODES),
            DOCUMENT_CHAIN: work(chain(Document, add), {"x": 0, "document": DOCUMENT}, CHAIN_NODES),
            FAN_OUT: work(_fan_out(), {"total": 0, "x": 0}, BRANCHES),
            LOOP: work(_loop(), {"x": 0}, ROUNDS),
        },
        asleep=lambda: _asleep(folder / "async.db" if variant != "off" else None),
        settle=settle,
    )


def add(state: Any) -> dict[str, int]:
    """Do what a trivial node does."""
    return {"x": state["x"] + 1}


async def _sleep_and_add(state: Any) -> dict[str, int]:
    await asyncio.sleep(SLEEP_SECONDS)
    return {"x": state["x"] + 1}


def _thread() -> dict[str, Any]:
    return {"configurable": {"thread_id": str(uuid.uuid4())}, "recursion_limit": 2 * ROUNDS}


def chain(kind: type, add: Callable[..., Any]) -> Any:
    """Give the graph of a chain, not compiled yet."""
    graphs = import_module("langgraph.graph")
    graph, before = graphs.StateGraph(kind), graphs.START
    for number in range(CHAIN_NODES):
        name = f"f{number}"
        graph.add_node(name, add)
        graph.add_edge(before, name)
        before = name
    graph.add_edge(before, graphs.END)
    return graph


def _fan_out() -> Any:
    graphs = import_module("langgraph.graph")
    graph = graphs.StateGraph(Sum)
    graph.add_node("last", lambda state: {"x": state["total"]})
    for number in range(BRANCHES):
        name = f"branch_{number}"
        graph.add_node(name, lambda state: {"total": 1})
        graph.add_edge(graphs.START, name)
        graph.add_edge(name, "last")
    graph.add_edge("last", graphs.END)
    return graph


def _loop() -> Any:
    graphs = import_module("langgraph.graph")
    graph = graphs.StateGraph(Count)
    graph.add_node("add", add)
    graph.add_edge(graphs.START, "add")
    graph.add_conditional_edges("add", lambda state: graphs.END if state["x"] >= ROUNDS else "add", ["add", graphs.END])
    return graph


def _trace_into(path: Path) -> Callable[[], object]:
    """Instrument, with a provider whose batches are encoded as for OTLP and go to a file in place of a socket."""
    encode = import_module("opentelemetry.exporter.otlp.proto.common.trace_encoder").encode_spans

    class ToFile(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            with path.open("ab") as file:
                file.write(encode(spans).SerializeToString())
            return SpanExportResult.SUCCESS

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(ToFile()))
    import_module("openinference.instrumentation.langchain").LangChainInstrumentor().instrument(
        tracer_provider=provider
    )
    return provider.force_flush


@contextlib.asynccontextmanager
async def _asleep(path: Path | None) -> AsyncIterator[One]:
    async with contextlib.AsyncExitStack() as stack:
        saver = None
        if path is not None:
            kind = import_module("langgraph.checkpoint.sqlite.aio").AsyncSqliteSaver
            saver = await stack.enter_async_context(kind.from_conn_string(str(path)))
        graph = chain(Count, _sleep_and_add).compile(checkpointer=saver)

        async def one() -> None:
            check((await graph.ainvoke({"x": 0}, _thread()))["x"], CHAIN_NODES)

        yield one
