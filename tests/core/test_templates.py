# ruff: noqa: PT017 - where inputs are random, an error may come or not, and is looked at when it comes
"""Templates read values by path, in one pass, and do nothing else."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from _timing import cpu_seconds
from configurable_agents.config.templates import TemplateSyntaxError, parse_template, parse_value
from configurable_agents.core.templates import MAX_RENDERED, Scope, render, resolve, resolve_value
from configurable_agents.errors import TemplateError

STATE = {
    "topic": "refunds",
    "items": [{"name": "a"}, {"name": "b"}],
    "user": {"name": "Ada", "1": "one", "a-b": "dash", "__class__": "a key"},
    "score": 0.5,
    "none": None,
    "flag": True,
    "braces": "{topic} {{topic}} {state.topic} ${env:HOME}",
}


def rendered(text: str, **local: Any) -> str:
    return render(parse_template(text), Scope(STATE, local))


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("", ""),
        ("no names", "no names"),
        ("{topic}", "refunds"),
        ("{state.topic}!", "refunds!"),
        ("{items.1.name}{items.0.name}", "ba"),
        ("{user.1} {user.a-b}", "one dash"),
        ("[{none}]", "[]"),
        ("{flag} {score}", "true 0.5"),
        ("{items}", '[{"name":"a"},{"name":"b"}]'),
        ("{{topic}}", "{topic}"),
        ("{{{topic}}}", "{refunds}"),
        ('{{"a": "{topic}"}}', '{"a": "refunds"}'),
        ("{braces}", "{topic} {{topic}} {state.topic} ${env:HOME}"),
        ("{user.__class__}", "a key"),
    ],
)
def test_a_template_gives_text(text: str, result: str) -> None:
    """Texts as they are, null as nothing, the rest as JSON; braces in values are inert."""
    assert rendered(text) == result


def test_a_local_name_hides_a_state_field() -> None:
    """`{state.name}` still reads the state."""
    assert rendered("{topic} {state.topic}", topic="local") == "local refunds"


def test_exactly_one_placeholder_passes_the_value_with_its_type() -> None:
    """Functions get lists and numbers, not their text."""
    scope = Scope(STATE)
    assert resolve(parse_template("{items}"), scope) is STATE["items"]
    assert resolve(parse_template("{items} "), scope) == '[{"name":"a"},{"name":"b"}] '
    assert resolve(parse_template("{none}"), scope) is None


def test_templates_are_found_in_lists_and_dicts_of_inputs() -> None:
    """What is no text is passed on as it is."""
    value = parse_value({"a": ["{score}", "x{topic}", 5, None], "b": {"c": "{user.name}"}})
    assert resolve_value(value, Scope(STATE)) == {"a": [0.5, "xrefunds", 5, None], "b": {"c": "Ada"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{nothing}", "{nothing}: the state has no 'nothing'; it has 'topic'"),
        ("{user.age}", "{user.age}: user has no 'age'; it has 'name', '1', 'a-b', '__class__'"),
        ("{items.2}", "{items.2}: items is a list of 2 and has no '2'"),
        ("{items.first}", "{items.first}: items is a list of 2 and has no 'first'"),
        ("{none.name}", "{none.name}: none is null and has no parts (looking for 'name')"),
        ("{state.topic.upper}", "{state.topic.upper}: state.topic is str and has no parts (looking for 'upper')"),
    ],
)
def test_a_path_that_leads_nowhere_says_what_was_there(text: str, message: str) -> None:
    """The error is read by whoever wrote the template, and the state is not before them."""
    with pytest.raises(TemplateError) as caught:
        rendered(text)
    assert str(caught.value).startswith(message)


class Trap:
    """An object whose every part is a trap."""

    def __getattribute__(self, name: str) -> Any:
        if name in {"__class__", "__dict__"}:  # the interpreter's own questions
            return object.__getattribute__(self, name)
        raise AssertionError(f"read {name}")

    def __str__(self) -> str:
        raise AssertionError("made a text")

    __repr__ = __str__


HOSTILE = [
    *("{topic.__class__}", "{topic.__class__.__mro__.1.__subclasses__}", "{user.__init__.__globals__}"),
    *("{items.__len__}", "{trap.x}", "{trap.__dict__}", "{trap.__class__}", "{trap}"),
    *("{topic!r}", "{topic!s}", "{topic:>1000000000}", "{topic:{score}}", "{score:.999999999f}", "{topic!r:>10}"),
    *("{topic[0]}", "{items[0][name]}", "{topic.upper()}", "{__import__('os')}", "{len(topic)}", "{topic + topic}"),
    *(
        "{0}",
        "{}",
        "{ }",
        "{ topic }",
        "{state}",
        "{.topic}",
        "{topic.}",
        "{topic..x}",
        "{state..x}",
        "{*}",
        "{**user}",
    ),
    *("{topic", "topic}", "}{", "{{topic}", "{topic}}", "{{{topic}}", "{{}", "{" * 999_999, "}" * 999_999),
    *("{a" + ".a" * 499_999 + "}", "{items." + "9" * 999_999 + "}", "{items.-1}", "{items.1e9}", "{items.٣}"),
    *("{braces.0}", "{big}" * 10_000, "{wide}" * 10_000, "{many}", "{state.big}{big}{big}{big}{big}"),
    *("{nothing\n}", "{topic\0}", "{%s}", "{#topic}", "{{topic}}}", "{user.name|upper}", "{lambda: 0}", "{f'x'}"),
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:40]))
def test_a_hostile_template_reaches_nothing_and_costs_nothing(text: str) -> None:
    """Templates come from files of strangers, and values from models."""
    scope = Scope(
        {**STATE, "big": "x" * 5_000_000, "wide": ["x" * 2_000], "many": {"x": "{big}" * 100}}, {"trap": Trap()}
    )

    def look() -> None:
        try:
            result = render(parse_template(text), scope)
        except (TemplateSyntaxError, TemplateError) as error:
            assert len(str(error)) < 1_000
        else:
            assert result == scope.state["many"]["x"] or result == orjson.dumps(scope.state["many"]).decode()

    assert cpu_seconds(look, limit=0.05) < 0.05 * 4, "50 ms, with room for a slow machine"


def test_a_text_stops_growing() -> None:
    """One placeholder again and again must not fill the memory."""
    with pytest.raises(TemplateError, match="grows beyond"):
        render(parse_template("{big}" * 20), Scope({"big": "x" * (MAX_RENDERED // 16)}))


@given(st.text())
def test_a_text_with_doubled_braces_comes_back(text: str) -> None:
    """Any text can be written as a template."""
    assert rendered(text.replace("{", "{{").replace("}", "}}")) == text


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(JSON, st.text(alphabet="ab {}.:!", max_size=20))
def test_values_are_data_wherever_they_stand(value: Any, around: str) -> None:
    """No value is ever looked at as a template again, and typed values come back as they are."""
    before = around.replace("{", "{{").replace("}", "}}")
    scope = Scope({"value": value, "a": "never", "b": "never"})
    as_text = "" if value is None else value if isinstance(value, str) else orjson.dumps(value).decode()
    assert render(parse_template(f"{before}{{value}}{before}"), scope) == around + as_text + around
    assert resolve(parse_template("{value}"), scope) is value
    if value is not None and not isinstance(value, str):
        assert json.loads(as_text) == value


@given(st.text(alphabet="{}abc.0 :!\\", max_size=60))
def test_any_text_is_a_template_or_a_clear_error(text: str) -> None:
    """Parsing ends, and an error points into the text."""
    try:
        template = parse_template(text)
    except TemplateSyntaxError as error:
        assert text[error.offset :].startswith(error.fragment)
    else:
        for placeholder in template.placeholders:
            assert text[placeholder.offset :].startswith(placeholder.text)
