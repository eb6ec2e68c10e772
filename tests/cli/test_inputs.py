"""Inputs from the command line: what each form means, and that everything wrong is told at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from configurable_agents.cli.inputs import gather_inputs
from configurable_agents.config.schema import StateField
from configurable_agents.errors import InputError

FIELDS = {
    name: StateField(type=kind)
    for name, kind in {"topic": "str", "count": "int", "tags": "list[str]", "on": "bool", "note": " str "}.items()
}
FILES = {"a.txt": "line one\nline two\n", "tags.json": '["x", "y"]', "-": "from stdin", "bad.json": "[1,"}


def read(place: str) -> str:
    """Read one of the files above."""
    if place not in FILES:
        raise InputError([f"cannot read {place!r}: No such file or directory"])
    return FILES[place]


def given(*pairs: str, inputs: str | None = None, files: Mapping[str, str] = FILES) -> dict[str, Any]:
    """Gather inputs."""
    return gather_inputs(
        pairs,
        inputs,
        FIELDS,
        read=lambda place: {**FILES, **files}[place] if place in {**FILES, **files} else read(place),
    )


@pytest.mark.parametrize(
    ("pair", "name", "value"),
    [
        ("topic=refunds", "topic", "refunds"),
        ("topic=", "topic", ""),
        ("topic=a=b", "topic", "a=b"),
        ("topic=12", "topic", "12"),
        ("note={}", "note", "{}"),
        ("count=12", "count", 12),
        ("on=true", "on", True),
        ('tags=["a", "b"]', "tags", ["a", "b"]),
        ("topic=@a.txt", "topic", "line one\nline two"),
        ("tags=@tags.json", "tags", ["x", "y"]),
        ("topic=@-", "topic", "from stdin"),
        ("topic=@@ada", "topic", "@ada"),
        ("unknown=x", "unknown", "x"),
    ],
)
def test_a_pair_means_what_the_fields_type_says(pair: str, name: str, value: object) -> None:
    """A text needs no quotes, and any other type is JSON."""
    assert given(pair) == {name: value}


@pytest.mark.parametrize("text", ['{"topic": "a", "count": 1}', "topic: a\ncount: 1\n"])
def test_a_file_gives_a_mapping_in_json_or_yaml_and_pairs_go_over_it(text: str) -> None:
    """A prepared file with one value changed is what people do."""
    assert given("count=2", inputs="in", files={"in": text}) == {"topic": "a", "count": 2}


@pytest.mark.parametrize(
    ("pairs", "inputs", "told"),
    [
        (["topic"], None, "input 'topic' is not of the form key=value"),
        (["topic=a", "topic=b"], None, "input 'topic' is given twice"),
        (["count=many"], None, "input count: the field's type is int, so its value is read as JSON"),
        (["count=NaN"], None, "NaN is not JSON"),
        (["tags=" + "[" * 100_000], None, "nested too deep"),
        (["tags=@bad.json"], None, "input tags (from bad.json): the field's type is list[str]"),
        (["topic=@gone.txt"], None, "input 'topic': cannot read 'gone.txt'"),
        (["topic=@-"], "-", "stdin ('-') can be read only once"),
        ([], "a.txt", "holds no mapping"),
        ([], "bad.json", "bad.json:"),
    ],
)
def test_a_wrong_input_is_one_message(pairs: list[str], inputs: str | None, told: str) -> None:
    """It names the input and the reason."""
    with pytest.raises(InputError) as caught:
        given(*pairs, inputs=inputs)
    assert told in str(caught.value)


def test_everything_wrong_is_told_at_once() -> None:
    """Nobody likes to fix one thing at a time."""
    with pytest.raises(InputError) as caught:
        given("topic", "count=x", "tags=y")
    assert len(caught.value.problems) == 3


def test_a_file_that_is_no_text_is_said_to_be_none(tmp_path: Path) -> None:
    """Somebody passes a picture."""
    (tmp_path / "x.png").write_bytes(b"\x89PNG\xff")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        gather_inputs([f"topic=@{tmp_path / 'x.png'}"], None, FIELDS)
