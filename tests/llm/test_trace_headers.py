"""A model server that the file names can continue the trace; a provider's public host learns nothing of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from _openai_server import OpenAIServer, openai_server
from configurable_agents.config.schema import LLMConfig
from configurable_agents.llm.base import ChatModel, Message
from configurable_agents.llm.providers import open_model

SCHEMA = {
    "type": "object",
    "properties": {"urgent": {"type": "boolean"}},
    "required": ["urgent"],
    "additionalProperties": False,
}
HELLO = [Message("user", "hi")]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server() as running:
        yield running


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> Iterator[TracerProvider]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider
    provider.shutdown()


def at(server: OpenAIServer, provider: str = "openai_compatible", **params: Any) -> ChatModel:
    llm = {"provider": provider, "model": "m", "api_base": server.url, "api_key_env": "KEY", "params": params}
    return open_model(LLMConfig.model_validate(llm), environ={"KEY": "k"})


def traceparents(server: OpenAIServer) -> list[list[str]]:
    return [[value for name, value in headers if name == "traceparent"] for headers in server.headers]


def header(span: trace.Span) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


@pytest.mark.parametrize("name", ["openai", "openai_compatible"])
@pytest.mark.parametrize("schema", [None, SCHEMA], ids=["text", "json"])
def test_each_request_names_the_span_that_it_is_made_in(
    name: str, schema: Any, server: OpenAIServer, provider: TracerProvider
) -> None:
    """The model is made once and asked many times: a header fixed when it is made would name the wrong span."""
    model, tracer, wanted = at(server, name), provider.get_tracer("test"), []
    for _ in range(2):
        with tracer.start_as_current_span("chat") as span:
            asyncio.run(model.ask(HELLO, schema=schema))
        wanted.append([header(span)])
    assert traceparents(server) == wanted


def test_requests_side_by_side_name_each_their_own_span(server: OpenAIServer, provider: TracerProvider) -> None:
    model, tracer = at(server), provider.get_tracer("test")

    async def one() -> str:
        with tracer.start_as_current_span("chat") as span:
            await model.ask(HELLO)
        return header(span)

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(one() for _ in range(5)))

    wanted = asyncio.run(all_of_them())
    assert sorted(traceparents(server)) == sorted([text] for text in wanted)


def test_without_a_span_nothing_is_said(server: OpenAIServer) -> None:
    asyncio.run(at(server).ask(HELLO))
    assert traceparents(server) == [[]]


def test_headers_that_the_file_asks_for_go_along(server: OpenAIServer, provider: TracerProvider) -> None:
    model = at(server, model_kwargs={"extra_headers": {"x-team": "blue"}})
    with provider.get_tracer("test").start_as_current_span("chat") as span:
        asyncio.run(model.ask(HELLO))
    assert ("x-team", "blue") in server.headers[0]
    assert traceparents(server) == [[header(span)]]


def test_the_hosts_instrumentation_has_the_last_word(
    server: OpenAIServer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    """Two headers would be none (W3C: more than one traceparent is invalid), and its client span is the nearer parent."""
    instrumentor = HTTPX2ClientInstrumentor()  # the openai package speaks through httpx2
    instrumentor.instrument(tracer_provider=provider)
    try:
        with provider.get_tracer("test").start_as_current_span("chat") as span:
            asyncio.run(at(server).ask(HELLO))
    finally:
        instrumentor.uninstrument()
    http, chat = exporter.get_finished_spans()
    assert (http.parent, chat.name) == (span.get_span_context(), "chat")
    assert http.context is not None
    assert traceparents(server) == [[header(trace.NonRecordingSpan(http.context))]]


CLIENTS = """
import asyncio, socket, sys
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from configurable_agents.config.schema import LLMConfig
from configurable_agents.llm.base import Message
from configurable_agents.llm.providers import open_model

# Every name leads to this machine's test server, and TLS is left out: what is asked is what would be sent where.
import httpx2
sent = []
real = httpx2.AsyncHTTPTransport.handle_async_request
async def look(self, request):
    sent.append((request.url.host, request.headers.get("traceparent")))
    return httpx2.Response(500, request=request)
httpx2.AsyncHTTPTransport.handle_async_request = look

for api_base in sys.argv[1:]:
    llm = {"provider": "openai", "model": "m", "api_key_env": "KEY", **({"api_base": api_base} if api_base != "-" else {})}
    model = open_model(LLMConfig.model_validate(llm), environ={"KEY": "k"})
    with trace.use_span(NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1))), record_exception=False):
        try:
            asyncio.run(model.ask([Message("user", "hi")]))
        except Exception:
            pass
for host, traceparent in sent:
    print(host, traceparent is not None)
"""


def test_a_providers_public_host_gets_no_id_of_the_trace(tmp_path: Path) -> None:
    hosts = ["api.openai.com", "eu.api.openai.com", "gateway.example", "not-openai.com"]
    done = subprocess.run(
        [sys.executable, "-c", CLIENTS, "-", *(f"https://{host}/v1" for host in hosts)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "api.openai.com False",
        "api.openai.com False",
        "eu.api.openai.com False",
        "gateway.example True",
        "not-openai.com True",
    ]
