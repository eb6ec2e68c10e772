# ruff: noqa: PT017 - where inputs are random, an error may come or not, and is looked at when it comes
"""Conditions compute or raise; they are never silently false and never run code."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _timing import cpu_seconds
from configurable_agents.config.conditions import ConditionSyntaxError, parse_condition
from configurable_agents.core.conditions import evaluate
from configurable_agents.errors import ConditionError

STATE: dict[str, Any] = {
    "score": 7,
    "ratio": 0.5,
    "status": "High",
    "done": False,
    "none": None,
    "items": [1, 2, {"x": 5}],
    "tags": ["a", "b"],
    "user": {"name": "Ada", "address": {"city": "London"}, "true": 1},
    "empty": [],
}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("state.score > 5 and lower(state.status) == 'high'", True),
        ("{state.items.2.x} >= 5", True),
        ("not state.done", True),
        ("state.none == null", True),
        ("state.none != null or state.score", 7),
        ("1 < state.score <= 7", True),
        ("1 < 2 < 2", False),
        ("not 1 == 2", True),
        ("(not true) == false", True),
        ("-state.score + 2 * 3 - 1", -2),
        ("7 // 2 + 7 % 2 - 6 / 4", 2.5),
        ("'a' in state.tags and 'z' not in state.tags", True),
        ("'name' in state.user and 'on' in state.user.address.city", True),
        ("state.status in ['Low', 'High']", True),
        ("len(state.tags) == 2 and len('abc') == 3 and len(state.user) == 3", True),
        ("upper(\"it's\") == 'IT\\'S'", True),
        ("startswith(state.status, 'Hi') and endswith(state.status, 'gh')", True),
        ("min(3, state.score) + abs(-2)", 5),
        ("max(state.tags)", "b"),
        ("state.score == 7.0 and true and True and not None", True),
        ("state.empty or 'default'", "default"),
        ("state.done == false and state.none == None", True),
        ("state.user.true == 1", True),
        ("state.none == 0", False),
    ],
)
def test_a_condition_is_computed_as_python_would(text: str, result: Any) -> None:
    """People know Python's operators; nothing about them should surprise."""
    assert evaluate(text, STATE) == result


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("state.none > 3", "at character 12: '>' compares numbers, or texts, by order; here are null, int"),
        ("state.status < 3", "at character 14: '<' compares numbers, or texts, by order; here are str, int"),
        ("true < 2", "here are bool, int"),
        ("state.tags < state.tags", "here are a list"),
        ("state.missing == 1", "at character 1: state has no 'missing'; it has 'score'"),
        ("1 == {state.user.age}", "at character 6: state.user has no 'age'; it has 'name', 'address', 'true'"),
        ("state.none.x", "state.none is null and has no parts (looking for 'x')"),
        ("state.items.3", "state.items is a list of 3 and has no '3'"),
        ("state.done + 1", "'+' is for numbers, not for bool"),
        ("'a' + 'b'", "'+' is for numbers, not for str"),
        ("'a' * 3", "'*' is for numbers, not for str"),
        ("[1] * 3", "'*' is for numbers, not for a list"),
        ("-state.status", "'-' is for numbers, not for str"),
        ("1 / (state.score - 7)", "at character 3: division by zero"),
        ("3 in 'abc'", "'in' looks for a text in a text, not for int"),
        ("'a' in 5", "'in' looks into a list, a dict or a text, not into int"),
        ("len(5)", "'len' is for a text, a list or a dict, not for int"),
        ("lower(state.score)", "'lower' is for texts, not for int"),
        ("min(state.empty)", "'min' of an empty list"),
        ("max(1, 'a')", "'max' compares numbers, or texts, by order"),
        ("min(5)", "'min' takes a list, or several values, not int"),
        ("9000000000000000000 + 9000000000000000000", "the number grows beyond 64 bits"),
        ("1e308 * 10", "the number grows too large"),
    ],
)
def test_what_cannot_be_computed_fails_with_its_place(text: str, message: str) -> None:
    """A route taken because a comparison failed quietly is found weeks later."""
    with pytest.raises(ConditionError) as caught:
        evaluate(text, STATE)
    assert message in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("text", "offset", "remedy"),
    [
        ("state.status == high", 16, "Put text in quotes: 'high'"),
        ("score > 3", 0, "a state field is state.score"),
        ("state.score = 3", 12, "Write '=='"),
        ("state.done && true", 11, "Write 'and'"),
        ("state.done || true", 11, "Write 'or'"),
        ("!state.done", 0, "Write 'not'"),
        ("state.score is 3", 12, "Write '=='"),
        ("state.score <> 3", 12, "Write '!='"),
        ("2 ** 3", 2, "There is no power"),
        ("state.items[0]", 11, "Write an index with a dot: state.items.0"),
        ("{score} > 3", 0, "Write state.score"),
        ("{state.score", 0, "The '}' is missing"),
        ("'abc", 0, "second quotation mark is missing"),
        ("“high” == 1", 0, "plain quotation marks"),
        ("lenn(state.tags)", 0, "Did you mean 'len'?"),
        ("state.status.lower()", 18, "The functions are len, lower"),
        ("state > 3", 0, "Write state.field"),
        ("(1, 2)", 2, "Write a list"),
        ("1 == not 2", 5, "Write (not …)"),
    ],
)
def test_what_is_no_condition_says_how_to_write_it(text: str, offset: int, remedy: str) -> None:
    """The usual slips have their remedy."""
    with pytest.raises(ConditionSyntaxError) as caught:
        parse_condition(text)
    assert caught.value.offset == offset
    assert remedy in caught.value.remedy


HOSTILE = [
    *("__import__('os').system('id')", "().__class__.__bases__", "state.__class__", "state.status.__class__", "x.y"),
    *("state.user.__init__.__globals__", "{state.__class__}", "{0.__class__}", "lambda: 0", "[x for x in state.tags]"),
    *("exec('1')", "eval('1')", "open('/etc/passwd')", "getattr(state, 'x')", "print(1)", "globals()", "breakpoint()"),
    *(
        "state.status.lower()",
        "state.tags[0]",
        "state.score.real",
        "(state)",
        "state()",
        "len.__self__",
        "len",
        "len()",
    ),
    *("'{0.__class__}' % 1", "'%s' % state.status", "f'{1}'", "'a' 'b'", "b'x'", "1 if true else 2", "x := 1", "x = 1"),
    *("9**9**9", "9" * 4000, "1e400", "0x" + "f" * 400, "9999999999 * 9999999999 * 9999999999", "1 << 99", "~1"),
    *("'a' * 999999999", "[0] * 999999999", "state.big * 9", "state.status % state.status", "1,", "{1: 2}", "{1, 2}"),
    *(
        "(" * 4000,
        "[" * 4000,
        "not " * 1000,
        "-" * 4000,
        "len(" * 1000,
        "'" * 4001,
        "\\" * 4000,
        "{" * 4000,
        "1" + "+1" * 2047,
    ),
    *(
        "a" * 4097,
        "1 and " * 600 + "1",
        "1<" * 2000 + "1",
        "state." * 600,
        "state" + ".a" * 2000,
        "",
        " ",
        "\0",
        "#",
        ";",
    ),
    *(
        " or ".join(["lower(state.big) == 'a'"] * 150),
        " or ".join(["'b' in state.big"] * 200),
        "state.deep == state.deep2",
    ),
    *(
        " or ".join(["state.big == state.big2"] * 150),
        "min(state.big)",
        "max(state.long)",
        " or ".join(["0 in state.long"] * 200),
    ),
    *(
        "import os",
        "import",
        "assert 0",
        "await x",
        "yield",
        "*state.tags",
        "**state.user",
        "@x",
        "$HOME",
        "`id`",
        "state.\n",
    ),
]


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


BIG = {
    "big": "x" * 3_000_000 + "y",
    "big2": "x" * 3_000_000 + "z",
    "long": [1] * 500_000,
    "deep": deep(900),
    "deep2": deep(900),
}


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:40]))
def test_a_hostile_condition_reaches_nothing_and_costs_nothing(text: str) -> None:
    """Conditions come from files of strangers: no name, call or attribute of Python is in reach, and no bomb either."""

    def look() -> None:
        try:
            result = evaluate(text, {**STATE, **BIG})
        except (ConditionSyntaxError, ConditionError) as error:
            assert len(str(error)) < 1_000
        else:
            assert result in (True, False, 1, 2048)

    assert cpu_seconds(look, limit=0.05) < 0.05 * 4, "50 ms, with room for a slow machine"


NUMBERS = st.integers(0, 20).map(str) | st.sampled_from(["0.5", "1.5", "2.0", "1e2"])


def _joined(operators: list[str], parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(
        lambda first, rest: first + "".join(f" {operator} {part}" for operator, part in rest),
        parts,
        st.lists(st.tuples(st.sampled_from(operators), parts), min_size=1, max_size=3),
    )


def _numeric(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return (
        _joined(["+", "-", "*", "/", "//", "%"], inner)
        | inner.map(lambda text: f"({text})")
        | inner.map(lambda text: f"-({text})")
        | inner.map(lambda text: f"abs({text})")
        | st.tuples(inner, inner).map(lambda pair: f"max({pair[0]}, {pair[1]})")
    )


NUMERIC = st.recursive(NUMBERS | NUMBERS.map(lambda text: f"-{text}"), _numeric, max_leaves=8)
COMPARED = _joined(["<", "<=", "==", "!=", ">", ">="], NUMERIC)
BOOLEAN = st.recursive(
    COMPARED | st.sampled_from(["True", "False"]),
    lambda inner: (
        _joined(["and", "or"], inner) | inner.map(lambda text: f"not {text}") | inner.map(lambda text: f"({text})")
    ),
    max_leaves=8,
)


@given(NUMERIC | BOOLEAN)
def test_precedence_is_pythons(text: str) -> None:
    """Random expressions give what Python gives, or fail where Python or our limits do."""
    try:
        expected = eval(text, {"__builtins__": {}, "abs": abs, "max": max})
    except (ZeroDivisionError, OverflowError):
        expected = None
    try:
        result = evaluate(text, {})
    except ConditionError:
        assert expected is None or abs(expected) > 2**50
        return
    except ConditionSyntaxError as error:
        assert "nested" in str(error)
        return
    assert (result, type(result)) == (expected, type(expected))


@given(st.text(alphabet="state.score'\"()[]{}<>=!+-*/%andortin 0123456789,\\", max_size=60))
def test_any_text_is_a_condition_or_a_clear_error(text: str) -> None:
    """Parsing ends, and an error points into the text."""
    try:
        parsed = parse_condition(text)
    except ConditionSyntaxError as error:
        assert text[error.offset :].startswith(error.fragment)
        return
    try:
        evaluate(parsed, STATE)
    except ConditionError as error:
        assert "condition" in str(error)
