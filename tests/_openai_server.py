"""A small server that speaks OpenAI's chat completions over HTTP, for tests: real sockets, no account.

with openai_server() as server:
    server.replies.append("hello")
    server.failures.append(429)
    ChatOpenAI(model="gpt-4o-mini", base_url=server.url, api_key="test-key")
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from configurable_agents.llm.smallest import smallest_instance


@dataclass
class OpenAIServer:
    """What the server shall do, and what it was asked."""

    url: str = ""
    """Base URL, with `/v1`."""
    replies: deque[Any] = field(default_factory=deque)
    """What to answer, in turn: a text, or a JSON value. Without one: the smallest instance of the schema that is asked
    for, else `hello`."""
    failures: deque[int] = field(default_factory=deque)
    """HTTP statuses to fail with, in turn, before anything is answered."""
    usage: Mapping[str, Any] = field(
        default_factory=lambda: {
            "prompt_tokens": 1000,
            "completion_tokens": 100,
            "total_tokens": 1100,
            "prompt_tokens_details": {"cached_tokens": 400},
            "completion_tokens_details": {"reasoning_tokens": 60},
        }
    )
    model: str | None = None
    """The model that says it answered; None repeats the one asked for."""
    finish_reason: str = "stop"
    delay_seconds: float = 0
    keep_alive: bool = False
    """True keeps connections open between requests, as providers do."""
    connections: int = 0
    """How many were opened."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the requests, failed ones included."""
    keys: list[str] = field(default_factory=list)
    """The key of each request."""
    headers: list[list[tuple[str, str]]] = field(default_factory=list)
    """The headers of each request, with names in lower case, repeated ones too."""


@contextlib.contextmanager
def openai_server() -> Iterator[OpenAIServer]:
    """Run a server on a free port of 127.0.0.1."""
    state = OpenAIServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            state.connections += 1

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            state.requests.append(body)
            state.headers.append([(name.lower(), value) for name, value in self.headers.items()])
            state.keys.append((self.headers.get("authorization") or "").removeprefix("Bearer "))
            time.sleep(state.delay_seconds)
            if state.failures:
                status = state.failures.popleft()
                self._send(status, _error(status, state.keys[-1]))
            else:
                self._send(200, _completion(state, body))

        def _send(self, status: int, body: Mapping[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            if not state.keep_alive:
                self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that went away in the middle is what some tests are about

    with Server(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


def _completion(state: OpenAIServer, body: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{len(state.requests)}",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": state.model or body["model"],
        "choices": [{"index": 0, "message": _message(state, body), "finish_reason": state.finish_reason}],
        "usage": state.usage,
    }


def _message(state: OpenAIServer, body: Mapping[str, Any]) -> dict[str, Any]:
    schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
    tool = body["tools"][0]["function"] if body.get("tools") else None
    given = state.replies.popleft() if state.replies else None
    if tool is not None:
        arguments = smallest_instance(tool["parameters"]) if given is None else given
        call = {"name": tool["name"], "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments)}
        return {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": call}]}
    if given is None:
        given = smallest_instance(schema) if schema is not None else "hello"
    return {"role": "assistant", "content": given if isinstance(given, str) else json.dumps(given)}


def _error(status: int, key: str) -> dict[str, Any]:
    texts = {401: f"Incorrect API key provided: {key}", 429: "Rate limit reached", 500: "The server had an error"}
    return {"error": {"message": texts.get(status, f"error {status}"), "type": "test", "code": None, "param": None}}
