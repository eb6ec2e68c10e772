"""Secrets are planted everywhere they can be given, and every byte that is written or printed is searched for them."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from _cli import Said, run_process
from _openai_server import openai_server
from _postgres import PostgresServer

SECRETS = {
    "PLANTED_KEY": "sk-planted-key-1c9d",
    "PLANTED_HEADER": 'planted "header" 2f7a',
    "PLANTED_PARAM": "planted-param-3b6e\\with/odd'signs",
    "PLANTED_PASSWORD": "planted-password-4d1c",
}
FUNCTIONS = """
import os
__all__ = ["leak", "fail", "tidy"]
def found(answer):
    return [answer, *[os.environ[name] for name in os.environ["NAMED"].split()]]
def leak(answer):
    return {"all": found(answer)}
def fail(answer):
    raise ValueError(" ".join(found(answer)))
def tidy(x):
    return {"x": {}, "answer": "tidied"}
"""


def workflow(folder: Path, url: str, *, store: str | None = None, function: str = "leak") -> Path:
    """Write a file that names every secret, but for the password where `store` does not hold it."""
    (folder / "functions.py").write_text(FUNCTIONS)
    path = folder / "leaky.json"
    path.write_text(json.dumps(document(url, store, function)))
    return path


def document(url: str, store: str | None, function: str) -> dict[str, Any]:
    return {
        "schema_version": "1.0",
        "flow": {"name": "leaky"},
        "state": {"fields": {"answer": {"type": "str"}, "x": {"type": "dict"}}},
        "nodes": [
            {"id": "ask", "prompt": "hello", "outputs": ["answer"]},
            {"id": "leak", "function": function, "inputs": {"answer": "{answer}"}, "outputs": ["x"]},
            # What a run gives is the caller's, secrets and all; so the last node clears it away.
            {"id": "tidy", "function": "tidy", "inputs": {"x": "{x}"}, "outputs": ["x", "answer"]},
        ],
        "edges": [{"from": here, "to": there} for here, there in pairwise(["START", "ask", "leak", "tidy", "END"])],
        "config": {
            "llm": {
                "provider": "openai_compatible",
                "model": "small",
                "api_base": url,
                "api_key_env": "PLANTED_KEY",
                "params": {
                    "model_kwargs": {"user": "${env:PLANTED_PARAM}"},
                    "default_headers": {"x-token": "${env:PLANTED_HEADER}"},
                },
            },
            "execution": {"max_retries": 0},
            **({"storage": {"backend": "postgresql", "path": store}} if store else {}),
        },
    }


def spellings(secret: str) -> set[bytes]:
    """A secret as it is, as URLs have it, and as JSON has it, once and twice."""
    once = json.dumps(secret)[1:-1]
    return {
        text.encode() for text in (secret, quote(secret, safe=""), once, json.dumps(once)[1:-1], repr(secret)[1:-1])
    }


def leaks(said: Said, *folders: Path) -> list[tuple[str, str]]:
    """Search what was printed and every file; give the names of what was found, and where."""
    places = {"stdout": said.out.encode(), "stderr": said.err.encode()}
    for folder in folders:
        places |= {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return [
        (name, place)
        for place, data in places.items()
        for name, secret in SECRETS.items()
        if any(spelling in data for spelling in spellings(secret))
    ]


def run(folder: Path, file: Path, *arguments: str, **environment: str) -> Said:
    """Run the file; its functions give away the secrets that the file names, since no other can be known."""
    named = " ".join(name for name in SECRETS if name in file.read_text())
    given = {**SECRETS, "NAMED": named, "XDG_STATE_HOME": str(folder / "state"), **environment}
    return run_process(["run", str(file), "--functions", "functions.py", *arguments], folder, **given)


@pytest.mark.parametrize("how", ["completes", "fails", "is refused"])
def test_no_secret_is_in_a_file_or_in_what_is_printed(how: str, tmp_path: Path) -> None:
    """The server repeats the key in its answers and refusals, and functions give away all they find."""
    with openai_server() as server:
        server.replies.append(f"your key is {SECRETS['PLANTED_KEY']}, your header {SECRETS['PLANTED_HEADER']}")
        if how == "is refused":
            server.failures.append(401)
        file = workflow(tmp_path, server.url, function="fail" if how == "fails" else "leak")
        # With `--debug` a traceback shows the exception of a function as it was raised.
        said = run(tmp_path, file, "--store", "runs.db", *([] if how == "fails" else ["--debug"]))
        assert server.keys == [SECRETS["PLANTED_KEY"]]
        assert server.requests[0]["user"] == SECRETS["PLANTED_PARAM"]
    assert said.code == (0 if how == "completes" else 1), said.err
    assert (tmp_path / "runs.db").stat().st_size > 0
    assert leaks(said, tmp_path) == []


@pytest.fixture
def refusing() -> Iterator[int]:
    """Hold a port on which nobody listens, so that nobody else gets it meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("named", ["file", "environment", "option"])
def test_a_databases_password_is_in_no_journal_log_or_output(named: str, refusing: int, tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    place = f"@127.0.0.1:{refusing}/runs"
    url = f"postgresql://someone:{SECRETS['PLANTED_PASSWORD']}{place}?sslpassword={SECRETS['PLANTED_PASSWORD']}"
    with openai_server() as server:
        in_file = "postgresql://someone:${env:PLANTED_PASSWORD}" + place if named == "file" else None
        file = workflow(tmp_path, server.url, store=in_file)
        more = {"CONFIGURABLE_AGENTS_STORE": url} if named == "environment" else {}
        said = run(tmp_path, file, *(["--store", url] if named == "option" else []), "--debug", **more)
    assert said.code == 0, said.err
    assert "away" in said.err
    assert list((tmp_path / "state").rglob("*.segment")), "what waits for the server is in a journal"
    assert leaks(said, tmp_path) == []


@pytest.mark.postgres
def test_no_secret_is_in_a_server_that_keeps_the_runs(postgres_server: PostgresServer, tmp_path: Path) -> None:
    if not os.access(postgres_server.directory / "data", os.R_OK):
        pytest.skip("the server's files belong to another user")
    url = postgres_server.new_database().replace("postgres@", "postgres:${env:PLANTED_PASSWORD}@")
    with openai_server() as server:
        server.replies.append(f"your key is {SECRETS['PLANTED_KEY']}")
        file = workflow(tmp_path, server.url, store=url)
        said = run(tmp_path, file)
    assert said.code == 0, said.err
    assert "away" not in said.err
    assert leaks(said, tmp_path, postgres_server.directory) == []
