# ruff: noqa: PT017 - where inputs are random, an error may come or not, and is looked at when it comes
"""Types check and coerce what nodes write, and are told to models."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from configurable_agents.config.types import TypeSyntaxError, ValueType, parse_type


class Person(BaseModel):
    name: str
    age: int | None = None


@dataclass
class Point:
    x: int
    y: float


class Level(enum.StrEnum):
    HIGH = "high"


PERSON: dict[str, Any] = {
    "name": "str",
    "age": {"type": "int", "required": False},
    "tag": {"type": "str", "default": "-"},
}


@pytest.mark.parametrize(
    ("text", "value", "result"),
    [
        ("int", "7", 7),
        ("int", 7.0, 7),
        ("float", 7, 7.0),
        ("bool", "no", False),
        ("str", Level.HIGH, "high"),
        ("list[int]", ("1", 2), [1, 2]),
        ("list[str]", {"a"}, ["a"]),
        ("dict[str, list[float]]", {"a": [1]}, {"a": [1.0]}),
        ("dict[int, str]", {1: "a", "2": "b"}, {"1": "a", "2": "b"}),
        ("dict", Person(name="Ada"), {"name": "Ada", "age": None}),
        ("dict[str, float]", Point(1, 2), {"x": 1.0, "y": 2.0}),
        (
            "list",
            [(1, {"a": Level.HIGH}), Person(name="Ada"), {2: None}],
            [[1, {"a": "high"}], {"name": "Ada", "age": None}, {"2": None}],
        ),
    ],
)
def test_values_are_coerced_to_plain_data(text: str, value: Any, result: Any) -> None:
    """What is kept is JSON: functions may return their own classes all the same."""
    made = parse_type(text).validate(value)
    assert made == result
    assert json.loads(json.dumps(made)) == made


@pytest.mark.parametrize(
    ("text", "value", "message"),
    [
        ("int", "seven", "expected int, got str 'seven'"),
        ("int", 1.5, "expected int, got float 1.5"),
        ("int", 2**63, "expected a whole number of at most 64 bits, got a whole number of more than 64 bits"),
        ("float", float("nan"), "expected a finite number, got float nan"),
        ("str", 5, "expected str, got int 5"),
        ("str", None, "expected str, got null"),
        ("bool", [], "expected bool, got a list of 0"),
        ("list[dict[str, int]]", [{}, {"a": 1, "b": "x"}], "[1].b: expected int, got str 'x'"),
        ("list", "text", "expected a list, got str 'text'"),
        ("list", [[object()]], "[0]: expected a JSON value, got object"),
        ("dict", [1], "expected a mapping, got a list of 1"),
        ("list", [{("a",): 1}], "[0]: expected a text as key, got a list of 1"),
        ("list", [float("inf")], "[0]: expected a finite number, got inf"),
    ],
)
def test_what_does_not_fit_says_where_and_what_in_one_line(text: str, value: Any, message: str) -> None:
    """The line is told to people, and to the model that is asked again."""
    with pytest.raises(ValueError) as caught:
        parse_type(text).validate(value)
    assert str(caught.value) == message


def test_an_object_has_its_fields_and_no_others() -> None:
    """Defaults are filled in; a field that is not required may be null."""
    person = parse_type("object", schema=PERSON)
    assert person.validate({"name": "Ada"}) == {"name": "Ada", "age": None, "tag": "-"}
    assert person.validate(Person(name="Ada", age=36)) == {"name": "Ada", "age": 36, "tag": "-"}
    with pytest.raises(ValueError, match=r"^name: this field is missing$"):
        person.validate({})
    with pytest.raises(ValueError, match=r"^mail: the type has no such field$"):
        person.validate({"name": "Ada", "mail": "x"})
    assert person.json_schema() == {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "tag": {"type": "string"},
        },
        "required": ["name", "age", "tag"],
        "additionalProperties": False,
    }


def test_an_enum_allows_its_values_and_of_a_list_its_elements() -> None:
    """A category that the workflow does not know must not reach a route."""
    assert parse_type("str", enum=["a", "b"]).validate("a") == "a"
    assert parse_type("list[str]", enum=["a", "b"]).validate(["a", "a"]) == ["a", "a"]
    with pytest.raises(ValueError, match=r"^\[1\]: expected one of 'a', 'b', got str 'c'$"):
        parse_type("list[str]", enum=["a", "b"]).validate(["a", "c"])
    assert parse_type("list[str]", enum=["a"]).json_schema() == {
        "type": "array",
        "items": {"type": "string", "enum": ["a"]},
    }


@pytest.mark.parametrize(
    ("wanted", "given", "fits"),
    [
        ("float", "int", True),
        ("int", "float", False),
        ("int", "bool", False),
        ("list", "list[int]", True),
        ("list[float]", "list[int]", True),
        ("list[int]", "list", False),
        ("dict", "dict[str, int]", True),
        ("dict[str, int]", "dict[int, int]", True),
        ("dict[int, int]", "dict[str, int]", False),
        ("str", "list[str]", False),
    ],
)
def test_one_type_fits_another_if_all_its_values_do(wanted: str, given: str, fits: bool) -> None:
    """What a node gives is checked against the state before anything runs."""
    assert parse_type(wanted).accepts(parse_type(given)) is fits


def test_objects_enums_and_null_fit_as_their_values_do() -> None:
    """The same rule where types have parts."""
    person = parse_type("object", schema=PERSON)
    named = parse_type("object", schema={"name": "str"})
    assert parse_type("dict").accepts(person)
    assert parse_type("dict[str, str]").accepts(named)
    assert not parse_type("dict[str, int]").accepts(named)
    assert person.accepts(named)
    assert not named.accepts(person)
    assert not person.accepts(parse_type("dict"))
    assert parse_type("str").accepts(parse_type("str", enum=["a"]))
    assert parse_type("str", enum=["a", "b"]).accepts(parse_type("str", enum=["a"]))
    assert not parse_type("str", enum=["a"]).accepts(parse_type("str"))
    assert not parse_type("str").accepts(parse_type("str").or_null())
    assert parse_type("str").or_null().accepts(parse_type("str"))
    assert parse_type("str").or_null().validate(None) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("string", "no type is called 'string'. Did you mean 'str'?"),
        ("lst[str]", "no type is called 'lst' (in 'lst[str]'). Did you mean 'list'?"),
        ("dict[str]", "'dict' takes two types, as dict[str, int]"),
        ("list[str, int]", "'list' takes one type, as list[str]"),
        ("str[int]", "'str' takes no type in []"),
        ("dict[list, int]", "a dict's keys are str, int, float, bool, not list"),
        ("list[str", "it ends too early"),
        ("list[str]]", "']' is too much"),
        ("", "it ends too early"),
        ("list[" * 30, "a type is nested at most 20 deep"),
        ("a" * 501, "a type has at most 500 characters"),
        ("__import__('os')", "no type is called '__import__'"),
    ],
)
def test_a_text_that_is_no_type_says_why(text: str, message: str) -> None:
    """With what was probably meant."""
    with pytest.raises(TypeSyntaxError) as caught:
        parse_type(text)
    assert message in str(caught.value)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
TYPES = st.recursive(
    st.sampled_from(["str", "int", "float", "bool", "list", "dict"]),
    lambda inner: inner.map(lambda text: f"list[{text}]") | inner.map(lambda text: f"dict[str, {text}]"),
    max_leaves=3,
)


@given(JSON_VALUES)
def test_any_json_value_comes_back_from_an_untyped_list_as_it_went_in(value: Any) -> None:
    """A list or dict without types takes everything that JSON does, and shares nothing with what was given."""
    made = parse_type("list").validate([value])
    assert made == [value]
    assert orjson.dumps(made) == orjson.dumps([value])
    assert not isinstance(value, dict | list) or made[0] is not value


@given(TYPES, JSON_VALUES)
@example("dict[str, str]", {"\n": None})  # a key that would break the line of the message
def test_what_was_accepted_is_accepted_again_unchanged(text: str, value: Any) -> None:
    """A value that was kept fits its type when a run is resumed."""
    made = parse_type(text)
    try:
        once = made.validate(value)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert made.validate(once) == once
    assert made.validate(orjson.loads(orjson.dumps(once))) == once


@given(TYPES, TYPES, JSON_VALUES)
def test_accepts_is_sound(wanted: str, given: str, value: Any) -> None:
    """If one type takes another, it takes each of its values."""
    if parse_type(wanted).accepts(parse_type(given)):
        try:
            made = parse_type(given).validate(value)
        except ValueError:
            return
        parse_type(wanted).validate(made)


@given(TYPES)
def test_a_type_is_written_as_it_was_read(text: str) -> None:
    """Messages name types in the words of the file."""
    made = parse_type(text)
    assert parse_type(made.text) == ValueType(made.shape)
