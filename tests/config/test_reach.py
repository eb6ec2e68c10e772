"""What a file names outside of itself is listed, and refused where the file is not trusted."""

from __future__ import annotations

import pytest

from configurable_agents import ConfigError
from configurable_agents.config.loader import parse_config
from configurable_agents.config.reach import reach, refuse_untrusted
from configurable_agents.config.schema import WorkflowConfig


def workflow(config: str = "{}", llm: str = "{}") -> WorkflowConfig:
    text = 'schema_version: "1.0"\nflow: {name: t}\nstate: {fields: {a: {type: str}}}\n'
    text += f"nodes: [{{id: n, prompt: x, outputs: [a], llm: {llm}}}]\n"
    return parse_config(f"{text}edges: [{{from: START, to: n}}, {{from: n, to: END}}]\nconfig: {config}\n").config


def test_everything_that_is_named_is_listed_with_its_place() -> None:
    """Whoever runs a stranger's file sees what it would talk to."""
    named = reach(
        workflow(
            "{llm: {provider: openai_compatible, api_base: 'https://me:pw@llm.example:8443/v1', api_key_env: KEY,"
            " params: {top_p: 1, extra: {proxy: 'http://${env:PROXY}/'}}},"
            " storage: {backend: 'postgresql://me:pw@db.example/runs'}}",
            "{provider: 'my.models:Model', model: x}",
        )
    )
    assert [tuple(host) for host in named.hosts] == [
        ("llm.example:8443", "config.llm.api_base"),
        ("http://${env:PROXY}/", "config.llm.params.extra.proxy"),
        ("db.example", "config.storage.backend"),
    ]
    assert [tuple(name) for name in named.environment] == [
        ("KEY", "config.llm.api_key_env"),
        ("PROXY", "config.llm.params.extra.proxy"),
    ]
    assert [tuple(name) for name in named.modules] == [("my.models:Model", "nodes[0].llm.provider")]
    assert [tuple(name) for name in named.params] == [("extra", "config.llm.params.extra")]


@pytest.mark.parametrize(
    ("config", "llm", "path"),
    [
        ("{storage: {path: ../x.db}}", "{}", "../x.db"),
        ("{storage: {backend: 'sqlite:////etc/x.db'}}", "{}", "//etc/x.db"),
        ("{llm: {provider: local}}", "{model: /tmp/x.bin}", "/tmp/x.bin"),
        ("{}", "{provider: local, model: x.gguf}", "x.gguf"),
    ],
)
def test_paths_are_listed(config: str, llm: str, path: str) -> None:
    """Of the store, and of a local model."""
    assert [named.value for named in reach(workflow(config, llm)).paths] == [path]


@pytest.mark.parametrize(
    ("config", "llm", "message"),
    [
        ("{llm: {api_base: 'http://169.254.169.254/'}}", "{}", "the host '169.254.169.254'"),
        ("{}", "{api_base: 'http://evil.example'}", "the host 'evil.example'"),
        ("{llm: {api_key_env: AWS_SECRET}}", "{}", "the environment variable 'AWS_SECRET'"),
        ("{llm: {model: '${env:AWS_SECRET}'}}", "{}", "the environment variable 'AWS_SECRET'"),
        ("{storage: {path: /etc/cron.d/x}}", "{}", "the path '/etc/cron.d/x'"),
        ("{storage: {backend: 'postgresql://db.example/x'}}", "{}", "the host 'db.example'"),
        ("{}", "{provider: local, model: ../../secret.gguf}", "the path '../../secret.gguf'"),
        ("{}", "{provider: 'os:system'}", "the Python class 'os:system'"),
        ("{}", "{params: {base_url: 'http://evil.example'}}", "the parameter 'base_url'"),
        ("{}", "{params: {default_headers: {a: b}}}", "the parameter 'default_headers'"),
        ("{}", "{params: {openai_proxy: evil.example}}", "the parameter 'openai_proxy'"),
    ],
)
def test_a_file_that_is_not_trusted_reaches_nothing(config: str, llm: str, message: str) -> None:
    """It may choose words, and nothing else."""
    with pytest.raises(ConfigError) as caught:
        refuse_untrusted(workflow(config, llm))
    assert message in str(caught.value)


def test_what_the_caller_named_is_allowed() -> None:
    """And harmless parameters always are."""
    refuse_untrusted(workflow("{llm: {provider: openai, model: gpt-x, params: {seed: 1, top_p: 0.5}}}"))
    config = workflow("{llm: {api_base: 'http://localhost:8080/v1', api_key_env: KEY}, storage: {path: x.db}}")
    refuse_untrusted(config, hosts=["localhost:8080"], environment=["KEY"], paths=["x.db"])
