"""What is read from a file that is right."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from configurable_agents import ConfigError
from configurable_agents.config import json_schema
from configurable_agents.config.loader import config_from_mapping, load_config, parse_config
from configurable_agents.config.schema import ModelNode

GOOD = """\
schema_version: 1.0
flow: {name: support, version: "7"}
state:
  fields:
    topic: {type: str, required: true}
    answer: {type: str}
nodes:
- {id: draft, prompt: "About {topic}", outputs: [answer]}
edges:
- {from: START, to: draft}
- {from: draft, to: END}
"""


def with_config(config: str) -> str:
    return f"{GOOD}config:\n  {config}\n"


def field(declaration: str) -> object:
    text = GOOD.replace("answer: {type: str}", f"answer: {{type: str}}\n    extra: {declaration}")
    return parse_config(text).config.state.fields["extra"].default


def test_the_text_and_its_hash_are_those_of_the_file(tmp_path: Path) -> None:
    """The run keeps the file as it was, byte for byte."""
    raw = ("\ufeff" + GOOD.replace("\n", "\r\n") + "# größer 😀\r\n").encode()
    file = tmp_path / "support.yaml"
    file.write_bytes(raw)
    loaded = load_config(file)
    assert loaded.text.encode() == raw
    assert loaded.sha256 == hashlib.sha256(raw).hexdigest()
    assert loaded.path == file


def test_json_is_read_as_yaml_is() -> None:
    """Programs write JSON, with tabs, escapes and no spaces."""
    document = parse_config(GOOD).config.model_dump(by_alias=True, exclude_unset=True)
    document["flow"]["name"] = "größer / 😀"
    for text in (
        json.dumps(document),
        json.dumps(document, indent="\t", ensure_ascii=False),
        json.dumps(document, separators=(",", ":")).replace("/", "\\/"),
    ):
        assert parse_config(text).config.flow.name == "größer / 😀"
    assert config_from_mapping(document).config == parse_config(json.dumps(document)).config


def test_a_mapping_has_a_canonical_text() -> None:
    """The same workflow has the same hash, whatever order a program put it in."""
    document = parse_config(GOOD).config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    other = dict(reversed(list(document.items())))
    assert config_from_mapping(document).sha256 == config_from_mapping(other).sha256
    assert parse_config(config_from_mapping(document).text).config == config_from_mapping(document).config


@pytest.mark.parametrize(
    ("declaration", "value"),
    [
        ("{type: str, default: no}", "no"),
        ("{type: str, default: on}", "on"),
        ("{type: str, default: 2026-11-22}", "2026-11-22"),
        ("{type: str, default: 12:30:45}", "12:30:45"),
        ("{type: str, default: 1_000}", "1_000"),
        ("{type: bool, default: True}", True),
        ("{type: int, default: 017}", 17),
        ("{type: int, default: 0o17}", 15),
        ("{type: int, default: 0xff}", 255),
        ("{type: float, default: 1e3}", 1000.0),
        ("{type: dict, default: {1: a, true: b, null: c}}", {"1": "a", "true": "b", "null": "c"}),
        ("{type: str, default: ~}", None),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(declaration: str, value: object) -> None:
    """Nobody writes `no` and means false in a list of country codes."""
    read = field(declaration)
    assert (read, type(read)) == (value, type(value))


def test_a_key_with_nothing_after_it_counts_as_not_given() -> None:
    """People leave a heading in a file for later."""
    text = with_config("llm:\n  execution:\n  observability:\n    logging:\n")
    text = text.replace("outputs: [answer]}", "outputs: [answer], inputs: , retry: }")
    assert parse_config(text).config.config == parse_config(GOOD).config.config


def test_keys_of_the_published_schema_are_ignored_with_one_warning_each() -> None:
    """Files that were written for it keep running, and say what has no effect."""
    text = with_config(
        "mlflow: {a: 1}\n  storage: {backend: sqlite, pth: x}\n  observability: {mlflow: {enabled: true}}"
    )
    text = "memory: {a: 1}\n" + text.replace("{id: draft,", "{id: draft, name: Draft, log_prompts: true,")
    loaded = parse_config(text, name="old.yaml")
    assert [f"{w.file}:{w.line}:{w.column} {w.path}: {w.remedy}" for w in loaded.warnings] == [
        "old.yaml:1:1 memory: Remove it.",
        "old.yaml:9:15 nodes[0].name: Remove it.",
        "old.yaml:9:28 nodes[0].log_prompts: Remove it.",
        "old.yaml:14:3 config.mlflow: Remove it.",
        "old.yaml:15:30 config.storage.pth: Did you mean 'path'?",
        "old.yaml:16:19 config.observability.mlflow: Remove it.",
    ]
    assert loaded.config.nodes == parse_config(GOOD).config.nodes


def test_a_loop_may_say_its_condition_in_one_text() -> None:
    """`condition: text` and `condition: {logic: text}` are the same."""
    loops = [
        GOOD.replace("{from: draft, to: END}", f"{{from: draft, loop: {{condition: {condition}}}}}")
        for condition in ("state.answer != null", "{logic: state.answer != null}")
    ]
    assert parse_config(loops[0]).config == parse_config(loops[1]).config


def test_an_error_found_later_can_be_placed_in_the_file() -> None:
    """What is missing in the environment is found when a run starts; the file still has the line."""
    from configurable_agents.config.environment import fill_environment

    loaded = parse_config(with_config("llm:\n    api_base: http://${env:NO_SUCH_HOST}/v1"), name="support.yaml")
    with pytest.raises(ConfigError) as caught:
        fill_environment(loaded.config.config, {})
    problem = loaded.place(caught.value).problems[0]
    assert (problem.file, problem.line, problem.column) == ("support.yaml", 14, 15)


def test_the_environment_is_filled_in_and_its_values_are_known() -> None:
    """Known values can be masked wherever text goes."""
    from configurable_agents.config.environment import fill_environment

    text = with_config("llm: {api_base: 'http://${env:HOST}:${env:PORT}', params: {headers: [{x: '${env:KEY}'}]}}")
    config, secrets = fill_environment(parse_config(text).config.config, {"HOST": "h", "PORT": "1", "KEY": "${env:NO}"})
    assert config.llm.api_base == "http://h:1"
    assert config.llm.params == {"headers": [{"x": "${env:NO}"}]}, "what is filled in is not looked at again"
    assert secrets == {"h", "1", "${env:NO}"}


def test_the_schema_for_editors_knows_keys_and_descriptions() -> None:
    """Editors complete keys and show what they mean."""
    schema = json_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    assert set(schema["properties"]) == {"schema_version", "flow", "state", "nodes", "edges", "config"}
    assert len(schema["properties"]["nodes"]["items"]["oneOf"]) == 4
    edge = schema["$defs"]["Edge"]
    assert "from" in edge["properties"]
    assert edge["additionalProperties"] is False
    assert schema["$defs"]["ModelNode"]["properties"]["timeout"]["description"] == "Seconds for each attempt."
    json.dumps(schema)


def test_loading_is_light() -> None:
    """`validate` answers at once: no model library, no database, no exporter is loaded for it."""
    code = (
        "import sys, configurable_agents.config.loader, configurable_agents.config.reach\n"
        "heavy = {'langchain_core', 'sqlalchemy', 'alembic', 'opentelemetry', 'typer', 'rich', 'genai_prices'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_node_is_the_model_node_that_the_file_says() -> None:
    """The parts arrive as written."""
    node = parse_config(GOOD).config.nodes[0]
    assert isinstance(node, ModelNode)
    assert (node.prompt, node.outputs) == ("About {topic}", ("answer",))
