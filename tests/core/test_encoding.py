"""Encoding: plain JSON comes back exactly, everything else becomes valid JSON, in bounded time, whatever it is."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import math
import uuid
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from _timing import cpu_seconds
from configurable_agents.core.encoding import MAX_BYTES, copy_plain, encode

text = st.text(st.characters(exclude_categories=["Cs"]))
numbers: st.SearchStrategy[Any] = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | text
json_values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=40)

odd_scalars = (
    scalars
    | st.floats()
    | st.integers()
    | st.binary()
    | st.text(st.characters())
    | st.dates()
    | st.datetimes()
    | st.uuids()
    | st.complex_numbers()
    | st.decimals()
)
hashable = st.none() | st.booleans() | st.integers() | st.text(st.characters()) | st.floats() | st.binary()
odd_values = st.recursive(
    odd_scalars,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(hashable, inner) | st.sets(hashable),
    max_leaves=30,
)


def valid(value: Any) -> Any:
    """Encode, and read the text with two parsers that are strict in different ways."""

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    encoded = encode(value)
    encoded.encode("utf-8")
    orjson.loads(encoded)
    return json.loads(encoded, parse_constant=refuse)


@given(json_values)
def test_plain_json_values_come_back_exactly(value: Any) -> None:
    back = valid(value)
    assert back == value
    assert repr(back) == repr(value), "1 and 1.0, 0.0 and -0.0, True and 1 are told apart"


@settings(max_examples=300)
@given(odd_values)
def test_any_value_becomes_valid_json(value: Any) -> None:
    valid(value)
    valid({"key": [value]})


@pytest.mark.parametrize(
    ("value", "stub"),
    [
        (math.nan, {"$float": "nan"}),
        (math.inf, {"$float": "inf"}),
        (-math.inf, {"$float": "-inf"}),
        (2**64, {"$int": str(2**64)}),
        (-(2**63) - 1, {"$int": str(-(2**63) - 1)}),
        (b"\x00\xff", {"$bytes": "AP8="}),
        ({1}, {"$set": [1]}),
        (frozenset(), {"$set": []}),
        ("a\ud800b", "a\\ud800b"),
        ("a\0b", "a\0b"),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC), "2024-02-29T12:30:00+00:00"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (PurePosixPath("/a/b"), "/a/b"),
        ((1, 2), [1, 2]),
        (OrderedDict(a=1), {"a": 1}),
        ({2: "a"}, {"2": "a"}),
    ],
    ids=repr,
)
def test_what_json_cannot_hold_is_told(value: Any, stub: Any) -> None:
    assert valid(value) == stub
    assert valid({"k": [value, None]}) == {"k": [stub, None]}, "a null beside it hides nothing"


class Colour(enum.Enum):
    RED = "red"


class Point(BaseModel):
    x: int
    when: datetime.date


@dataclasses.dataclass
class Pair:
    left: Any
    right: Any


def test_models_dataclasses_and_enums_are_their_values() -> None:
    point = Point(x=1, when=datetime.date(2024, 1, 2))
    value = {"p": point, "q": Pair(Colour.RED, {1.5}), "d": deque([1])}
    back = valid(value)
    assert back["p"] == {"x": 1, "when": "2024-01-02"}
    assert back["q"] == {"left": "red", "right": {"$set": [1.5]}}
    assert back["d"]["$object"] == "collections.deque"


def nested(depth: int) -> Any:
    value: Any = "the end"
    for number in range(depth):
        value = [value] if number % 2 else {"k": value}
    return value


@pytest.mark.parametrize("depth", [150, 250, 300, 1000, 100_000])
def test_depth_is_bounded(depth: int) -> None:
    value = nested(depth)
    assert cpu_seconds(lambda: encode(value), limit=1) < 1
    encoded = encode(value)
    json.loads(encoded)
    assert ("the end" in encoded) or ("too deep" in encoded)
    assert len(encoded) < 5000
    while isinstance(value, list | dict):  # taken apart by hand: Python's own way would recurse
        value = value.pop() if isinstance(value, list) else value.popitem()[1]


def test_cycles_end() -> None:
    a: list[Any] = [1]
    b = {"a": a}
    a += [b, b]
    assert valid(a) == [1, {"a": {"$cut": "cycle"}}, {"a": {"$cut": "cycle"}}]


def test_a_value_that_stands_twice_is_no_cycle() -> None:
    shared = [1]
    assert valid({"a": shared, "b": shared, "c": {1}}) == {"a": [1], "b": [1], "c": {"$set": [1]}}


class Hostile:
    """Raises wherever it is looked at."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


class Long:
    def __repr__(self) -> str:
        return "x" * 10_000_000


class Endless(Mapping[str, int]):
    """A mapping that never ends."""

    def __getitem__(self, key: str) -> int:
        return 1

    def __len__(self) -> int:
        return 2**40

    def __iter__(self) -> Iterator[str]:
        return iter(str, "never")


class Dumps:
    """Says that it can be dumped, for ever."""

    def model_dump(self) -> Any:
        return [self, Dumps()]


class LyingStr(str):
    def encode(self, *_: Any, **__: Any) -> bytes:
        raise RuntimeError("no encode")

    def __str__(self) -> str:
        raise RuntimeError("no str")


@pytest.mark.parametrize(
    "make", [Hostile, Long, Endless, Dumps, lambda: LyingStr("x"), object, lambda: type, lambda: print]
)
def test_a_hostile_object_costs_bounded_time_and_spoils_nothing_beside_it(make: Any) -> None:
    assert cpu_seconds(lambda: valid({"before": 1, "odd": make(), "after": [2, {3}]}), limit=5) < 5
    back = valid({"before": 1, "odd": make(), "after": [2, {3}]})
    assert back["before"] == 1
    if make not in (Endless, Dumps):  # these use up what a value may cost
        assert back["after"] == [2, {"$set": [3]}]


@pytest.mark.parametrize("value", ["x" * 50_000_000, ["y" * 1_000_000] * 50, b"z" * 50_000_000, "\ud800" * 10_000_000])
def test_a_huge_value_becomes_a_stub_with_size_and_hash(value: Any) -> None:
    assert cpu_seconds(lambda: encode({"text": value}), limit=3) < 3
    encoded = encode({"text": value})
    stub = json.loads(encoded)["$too_large"]
    assert stub["bytes"] > MAX_BYTES
    assert len(stub["sha256"]) == 64


def test_what_is_just_small_enough_is_kept_whole() -> None:
    value = "x" * (MAX_BYTES - 2)
    assert encode(value) == f'"{value}"'


def test_huge_integers_take_no_quadratic_time() -> None:
    assert cpu_seconds(lambda: encode({"n": 1 << 4_000_000}), limit=1) < 1
    encoded = encode({"n": 1 << 4_000_000})
    assert json.loads(encoded)["n"]["$int"].startswith("0x1000")


def test_many_small_values_end() -> None:
    assert cpu_seconds(lambda: encode([{1}] * 100_000), limit=20) < 20
    encoded = encode([{1}] * 100_000)
    json.loads(encoded)


@given(json_values)
def test_a_copy_is_equal_and_shares_nothing_that_can_change(value: Any) -> None:
    copy = copy_plain(value)
    assert copy == value

    def containers(item: Any) -> Iterator[int]:
        if isinstance(item, list | dict):
            yield id(item)
            for inner in item.values() if isinstance(item, dict) else item:
                yield from containers(inner)

    assert not set(containers(copy)) & set(containers(value))
