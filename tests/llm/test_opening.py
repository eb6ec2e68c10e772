"""From an `llm` block to a model: names, merging, keys and where they may go, and errors that say what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from configurable_agents.config.schema import LLMConfig, PriceConfig
from configurable_agents.errors import ModelSetupError
from configurable_agents.llm.providers import merge_llm, open_model, parse_model_name
from configurable_agents.llm.retries import is_retryable

KEYS = {"OPENAI_API_KEY": "sk-secret-1", "ANTHROPIC_API_KEY": "sk-secret-2", "GEMINI_API_KEY": "sk-secret-3"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("openai:gpt-4o", ("openai", "gpt-4o")),
        ("gpt-4o", ("openai", "gpt-4o")),
        ("o3-mini", ("openai", "o3-mini")),
        ("gemini-2.5-flash", ("google", "gemini-2.5-flash")),
        ("claude-sonnet-4-5", ("anthropic", "claude-sonnet-4-5")),
        ("ollama:llama3.2:1b", ("ollama", "llama3.2:1b")),
        ("openai_compatible:qwen/qwen3", ("openai_compatible", "qwen/qwen3")),
        ("local", ("local", None)),
        ("local:models/some.gguf", ("local", "models/some.gguf")),
        ("some.gguf", ("local", "some.gguf")),
        ("scripted", ("scripted", None)),
        (" scripted:fast ", ("scripted", "fast")),
        ("langchain_mistralai:ChatMistralAI:mistral-small", ("langchain_mistralai:ChatMistralAI", "mistral-small")),
        ("my.package:make_model", ("my.package:make_model", None)),
    ],
)
def test_a_models_name_tells_its_provider(text: str, wanted: tuple[str, str | None]) -> None:
    llm = parse_model_name(text)
    assert (llm.provider, llm.model) == wanted


@pytest.mark.parametrize(
    ("text", "hint"), [("opnai:gpt-4", "'openai'"), ("llama3", "provider:model"), ("", "provider:model")]
)
def test_a_name_that_tells_nothing_names_the_choices(text: str, hint: str) -> None:
    with pytest.raises(ModelSetupError) as caught:
        parse_model_name(text)
    assert hint in str(caught.value)
    assert "scripted" in str(caught.value)


PRICE = PriceConfig(input_per_mtok=1, output_per_mtok=2)
BASE = LLMConfig(
    provider="openai",
    model="gpt-4o",
    temperature=0.5,
    api_key_env="MY_KEY",
    params={"seed": 1, "top_p": 0.5},
    price=PRICE,
)


@pytest.mark.parametrize(
    ("over", "wanted"),
    [
        ({}, {}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"temperature": None}, {"temperature": None}),
        ({"params": {"top_p": 0.9, "n": 2}}, {"params": {"seed": 1, "top_p": 0.9, "n": 2}}),
        ({"model": "gpt-4o-mini"}, {"model": "gpt-4o-mini", "price": None}),
        ({"model": "gpt-4o"}, {}),
        ({"provider": "openai", "model": "gpt-4o", "max_tokens": 5}, {"max_tokens": 5}),
    ],
)
def test_keys_given_in_a_node_win(over: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert merge_llm(BASE, LLMConfig(**over)).model_dump() == {**BASE.model_dump(), **wanted}


@pytest.mark.parametrize("name", ["scripted", "anthropic:claude-x", "claude-x", "local"])
def test_another_provider_gets_nothing_of_the_first_ones(name: str) -> None:
    """Not its key, its address, its parameters or its price."""
    merged = merge_llm(BASE, parse_model_name(name))
    assert merged.model_fields_set <= {"provider", "model", "temperature", "params"}
    assert (merged.temperature, merged.params, merged.model) == (0.5, {}, parse_model_name(name).model)


def test_a_block_without_a_provider_keeps_its_parameters_for_any() -> None:
    script = LLMConfig(params={"replies": ["hi"]})
    assert merge_llm(script, parse_model_name("scripted")) == LLMConfig(provider="scripted", params={"replies": ["hi"]})
    assert merge_llm(None, None) == LLMConfig()


@pytest.mark.parametrize(
    ("llm", "words"),
    [
        ({}, ("llm.provider", "local", "scripted")),
        ({"provider": "opena"}, ("'opena'", "Did you mean 'openai'")),
        ({"model": "llama3"}, ("'llama3'", "llm.provider")),
        ({"provider": "openai"}, ("llm.model",)),
        ({"provider": "openai_compatible", "model": "m"}, ("llm.api_base",)),
        ({"model": "gpt-4o", "api_key_env": "NOT_SET"}, ("'NOT_SET'", "not set")),
        ({"model": "gpt-4o", "params": {"tempersture": 1}}, ("tempersture", "Did you mean 'temperature'")),
        ({"model": "gpt-4o", "params": {"api_key": "x"}}, ("llm.api_key_env",)),
        ({"model": "gpt-4o", "params": {"base_url": "http://evil"}}, ("llm.api_base",)),
        ({"model": "gpt-4o", "params": {"openai_proxy": "http://evil"}}, ("openai_proxy",)),
        ({"model": "gpt-4o", "params": {"max_retries": 5}}, ("config.execution.max_retries",)),
        ({"model": "gpt-4o", "params": {"n": "many"}}, ("n: ", "integer")),
        ({"provider": "no.such.package:Chat"}, ("no.such", "cannot be imported")),
        ({"provider": "json:loads"}, ("no langchain-core chat model",)),
        ({"provider": "local", "model": "/no/such.gguf"}, ("/no/such.gguf", "no such file")),
        ({"provider": "local", "params": {"n_ctxx": 5}}, ("n_ctxx", "n_ctx")),
        ({"provider": "local", "params": {"n_ctx": "big"}}, ("n_ctx", "integer")),
        ({"provider": "scripted", "params": {"replys": []}}, ("replys",)),
    ],
)
def test_a_model_that_cannot_be_made_says_what_to_do(llm: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ModelSetupError) as caught:
        open_model(LLMConfig(**llm), environ=KEYS)
    for word in words:
        assert word in str(caught.value)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("provider", "package"),
    [("anthropic", "langchain_anthropic"), ("google", "langchain_google_genai"), ("ollama", "langchain_ollama")],
)
def test_a_missing_package_names_the_line_that_installs_it(
    provider: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # how Python says that there is none, where it may be installed
    with pytest.raises(ModelSetupError) as caught:
        open_model(LLMConfig(provider=provider, model="m"), environ=KEYS)
    assert f'pip install "configurable-agents[{provider}]"' in str(caught.value)


def test_a_missing_key_names_the_variable() -> None:
    with pytest.raises(ModelSetupError, match="OPENAI_API_KEY"):
        open_model(LLMConfig(model="gpt-4o"), environ={})


@pytest.mark.parametrize(
    "base", ["https://api.openai.com.evil.example/v1", "http://api.openai.com/v1", "https://evil/v1"]
)
def test_a_usual_key_goes_only_to_its_providers_own_host(base: str) -> None:
    with pytest.raises(ModelSetupError, match=r"llm\.api_key_env"):
        open_model(LLMConfig(model="gpt-4o", api_base=base), environ=KEYS)


def test_the_environment_cannot_send_a_usual_key_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_BASE", "https://evil.example/v1")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://evil.example/v1")
    model = open_model(LLMConfig(model="gpt-4o"), environ=KEYS)
    assert (model.info.server_address, model.info.server_port) == ("api.openai.com", 443)
    assert str(model.model.root_async_client.base_url) == "https://api.openai.com/v1/"  # type: ignore[attr-defined]


def test_a_class_is_imported_only_for_a_trusted_file() -> None:
    llm = LLMConfig(
        provider="langchain_core.language_models.fake_chat_models:FakeListChatModel", params={"responses": ["hi"]}
    )
    assert open_model(llm, environ={}).info.in_process
    with pytest.raises(ModelSetupError, match="not trusted"):
        open_model(llm, environ={}, trust=False)


def test_a_class_gets_the_key_and_address_that_the_file_names() -> None:
    llm = LLMConfig(
        provider="langchain_openai:ChatOpenAI",
        model="m",
        api_base="https://my.host/v1",
        api_key_env="MY",
        temperature=0.25,
        max_tokens=9,
    )
    model = open_model(llm, environ={"MY": "sk-mine"})
    info = model.info
    assert (info.provider, info.model, info.server_address, info.temperature) == ("openai", "m", "my.host", 0.25)
    assert "sk-mine" not in repr(model)


class CodedError(Exception):
    def __init__(self, **facts: Any) -> None:
        vars(self).update(facts)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (CodedError(status_code=425), True),
        (CodedError(code=503), True),
        (CodedError(code=200), False),
        (CodedError(code="rate_limit_exceeded", status_code=429), True),
        (CodedError(code="insufficient_quota", status_code=429), False),
        (CodedError(response=CodedError(status_code=502)), True),
        (CodedError(status_code=True), False),
        (caused(ValueError("wrapped"), CodedError(status_code=429)), True),
        (caused(CodedError(status_code=400), ConnectionError()), False),
        (caused(RuntimeError(), ConnectionResetError()), True),
        (TimeoutError(), True),
        (ConnectionRefusedError(), True),
        (ValueError("no"), False),
        (TypeError("no"), False),
        (RuntimeError("no"), False),
        (OSError("disk full"), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: Exception, again: bool) -> None:
    assert is_retryable(error) is again


def test_a_cycle_of_causes_ends() -> None:
    one, two = ValueError(), ValueError()
    one.__cause__, two.__cause__ = two, one
    assert not is_retryable(one)


def test_the_libraries_own_connection_errors_may_pass() -> None:
    import httpx
    import openai

    request = httpx.Request("GET", "http://x")
    for kind in (httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError):
        assert is_retryable(kind("x", request=request))
    assert is_retryable(openai.APITimeoutError(request=request))  # type: ignore[arg-type]  # newer ones have an httpx of their own
    assert not is_retryable(httpx.UnsupportedProtocol("x"))
    assert not is_retryable(httpx.InvalidURL("x"))


def test_nothing_heavy_loads_until_a_model_is_opened(tmp_path: Path) -> None:
    program = (
        "import sys, configurable_agents.llm.base, configurable_agents.llm.providers as p\n"
        "p.parse_model_name('gpt-4o')\n"
        "heavy = {'langchain_core', 'genai_prices', 'xllamacpp', 'openai', 'httpx'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
