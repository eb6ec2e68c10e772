"""Every problem of a file is told at once, each with its place and its remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from _broken_workflows import BROKEN
from configurable_agents import ConfigError
from configurable_agents.config.loader import config_from_mapping, load_config, parse_config


def without_marks(marked: str) -> tuple[str, list[tuple[int, int]]]:
    """Take the marks out of a text and give their lines and columns."""
    pieces = marked.split("«")
    places, before = [], ""
    for piece in pieces[:-1]:
        before += piece
        places.append((before.count("\n") + 1, len(before) - before.rfind("\n")))
    return "".join(pieces), places


@pytest.mark.parametrize("name", BROKEN)
def test_every_problem_has_its_place_and_its_remedy(name: str, tmp_path: Path) -> None:
    """Whoever mends a file wants the whole list, and the cursor in the right place."""
    text, places = without_marks(BROKEN[name].text)
    file = tmp_path / "broken.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    problems = caught.value.problems
    assert [f"{p.path}: {p.message} | {p.remedy}" for p in problems] == list(BROKEN[name].problems)
    found = [(p.line, p.column) for p in problems]
    assert found == sorted(found, key=lambda place: (place[0] or 0, place[1] or 0)), "problems are in file order"
    assert sorted(set(found)) == sorted(set(places))
    assert {p.file for p in problems} == {str(file)}


def test_a_message_reads_as_editors_want_it() -> None:
    """`file:line:column: path: what`, and the remedy below: an editor jumps there."""
    text = 'schema_version: "1.0"\nflow: {name: t, verson: x}\nstate: {fields: {a: {type: int}}}\n'
    text += "nodes: [{id: n, function: f}]\nedges: [{from: START, to: n}, {from: n, to: END}]\n"
    with pytest.raises(ConfigError) as caught:
        parse_config(text, name="support.yaml")
    assert str(caught.value) == (
        "support.yaml:2:17: flow.verson: unknown key\n"
        "  Did you mean 'version'? The keys here are name, description, version, tags and author."
    )


def test_a_mapping_made_by_a_program_is_checked_as_a_file_is() -> None:
    """Problems then have a path and an order, but no line."""
    with pytest.raises(ConfigError) as caught:
        config_from_mapping({"schema_version": "1.0", "flow": {}, "state": {"fields": {"a": {"type": "itn"}}}})
    problems = caught.value.problems
    assert [p.path for p in problems] == ["nodes", "edges", "flow.name", "state.fields.a.type"]
    assert {p.line for p in problems} == {None}


@pytest.mark.parametrize(
    ("value", "path"), [({1, 2}, "config"), (2**64, "config"), (object(), "config"), ([b"x"], "config[0]")]
)
def test_a_mapping_holds_plain_data(value: object, path: str) -> None:
    """What is no JSON could not be kept with the run."""
    with pytest.raises(ConfigError) as caught:
        config_from_mapping({"config": value})
    assert [p.path for p in caught.value.problems] == [path]


def test_a_mapping_that_holds_itself_is_one_problem() -> None:
    """A mistake of a program must not become a recursion error."""
    mapping: dict[str, object] = {}
    mapping["flow"] = mapping
    with pytest.raises(ConfigError, match="nested at most 50 deep"):
        config_from_mapping(mapping)


def test_files_that_cannot_be_read_are_one_problem(tmp_path: Path) -> None:
    """No traceback for a wrong name, a folder, or another encoding."""
    (tmp_path / "latin.yaml").write_bytes("flow: {name: größe}".encode("latin-1"))
    (tmp_path / "large.yaml").write_bytes(b"#" * (1024 * 1024 + 1))
    for name, message in [
        ("none.yaml", "No such file"),
        (".", "Is a directory"),
        ("latin.yaml", ":1:16: the file is not UTF-8"),
        ("large.yaml", "the file has more than 1048576 bytes"),
    ]:
        with pytest.raises(ConfigError, match=message) as caught:
            load_config(tmp_path / name)
        assert len(caught.value.problems) == 1


def test_a_secret_in_the_environment_is_in_no_message() -> None:
    """Messages are kept, shown and sent on."""
    from configurable_agents.config.environment import fill_environment
    from configurable_agents.config.schema import RuntimeConfig

    config = RuntimeConfig.model_validate({"storage": {"path": "${env:P}"}, "llm": {"api_base": "${env:MISSING}"}})
    with pytest.raises(ConfigError) as caught:
        fill_environment(config, {"P": "sesame"})
    assert str(caught.value) == (
        "config.llm.api_base: the environment variable 'MISSING' is not set\n  Set it before the run: export MISSING=…"
    )
