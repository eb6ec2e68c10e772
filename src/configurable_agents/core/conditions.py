"""What a condition means: a small evaluator over the parsed tree. It computes or it raises; it is never silently false.

`and`, `or` and `not` go by Python's truthiness and stop as early as Python does; `==` and `!=` compare anything; order,
arithmetic and functions want the types that they are for.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from configurable_agents.config.conditions import (
    Arithmetic,
    Call,
    Comparison,
    Expression,
    ListOf,
    Literal,
    Logical,
    ParsedCondition,
    StatePath,
    Unary,
    parse_condition,
)
from configurable_agents.core.templates import is_missing, missing, part_of
from configurable_agents.errors import ConditionError

MAX_WORK: Final = 4_000_000
"""Characters that one evaluation may go over: some milliseconds."""
ELEMENT_WORK: Final = 20
"""What an element of a list counts for, in characters: comparing it is a call, not a step in a loop of C."""
MAX_NUMBER: Final = 2**63
"""Whole numbers stay within 64 bits, as everywhere else in a run."""


def evaluate(condition: ParsedCondition | str, state: Mapping[str, Any]) -> Any:
    """Compute a condition over the state; `bool()` of the result tells whether it holds.

    Raises:
        ConditionError: It cannot be computed: null or mixed types compared by order, a wrong type, a path that leads
            nowhere, a number that grows too large. It names the condition and the place.
        ConditionSyntaxError: A text was given that is no condition.
    """
    parsed = parse_condition(condition) if isinstance(condition, str) else condition
    try:
        return _Evaluation(parsed.text, state).value_of(parsed.root)
    except RecursionError:
        raise ConditionError(f"condition {parsed.text!r}: its values are nested too deep to compare") from None


class _Failure(Exception):  # noqa: N818  # never leaves this module
    """What is wrong, before the place is known."""


class _Evaluation:
    def __init__(self, text: str, state: Mapping[str, Any]) -> None:
        self._text = text
        self._state = state
        self._work = 0

    def value_of(self, node: Expression) -> Any:
        match node:
            case Literal():
                return node.value
            case StatePath():
                return self._read(node)
            case ListOf():
                return [self.value_of(item) for item in node.items]
            case Logical():
                return self._logical(node)
            case Comparison():
                return self._comparison(node)
            case Arithmetic():
                return self._arithmetic(node)
            case Unary():
                return self._unary(node)
            case Call():
                return self._call(node)

    def _read(self, node: StatePath) -> Any:
        value: Any = self._state
        for position, part in enumerate(node.parts):
            found = part_of(value, part)
            if is_missing(found):
                where = ".".join(("state", *node.parts[:position]))
                raise self._error(missing(where, value, part), node.offset)
            value = found
        return value

    def _logical(self, node: Logical) -> Any:
        value = self.value_of(node.first)
        for name, operand, _ in node.rest:
            if bool(value) == (name == "or"):
                return value
            value = self.value_of(operand)
        return value

    def _comparison(self, node: Comparison) -> bool:
        left = self.value_of(node.first)
        for name, operand, offset in node.rest:
            right = self.value_of(operand)
            if not self._guarded(offset, _COMPARE[name], self, left, right):
                return False
            left = right
        return True

    def _arithmetic(self, node: Arithmetic) -> Any:
        value = self.value_of(node.first)
        for name, operand, offset in node.rest:
            value = self._guarded(offset, _calculated, name, value, self.value_of(operand))
        return value

    def _unary(self, node: Unary) -> Any:
        value = self.value_of(node.operand)
        if node.operator == "not":
            return not value
        return self._guarded(node.offset, _calculated, node.operator, 0, value)

    def _call(self, node: Call) -> Any:
        arguments = [self.value_of(argument) for argument in node.arguments]
        return self._guarded(node.offset, _CALLS[node.name], self, *arguments)

    def _guarded(self, offset: int, compute: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return compute(*arguments)
        except _Failure as failure:
            raise self._error(str(failure), offset) from None

    def _error(self, message: str, offset: int) -> ConditionError:
        text = self._text if len(self._text) <= 200 else f"{self._text[:197]}..."
        return ConditionError(f"condition {text!r}, at character {offset + 1}: {message}")

    def charge(self, *values: Any) -> None:
        """Count what is gone over, so that many passes over a large value end."""
        for value in values:
            if isinstance(value, str | list | dict):
                self._work += len(value) * (1 if isinstance(value, str) else ELEMENT_WORK)
        if self._work > MAX_WORK:
            raise _Failure("its values are too large: it would go over more than a condition may")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    name = type(value).__name__
    return f"a {name}" if isinstance(value, list | dict) else name


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _bounded(value: Any) -> Any:
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        raise _Failure("the number grows beyond 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise _Failure("the number grows too large")
    return value


_ARITHMETIC: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}


def _calculated(name: str, left: Any, right: Any) -> Any:
    if not _is_number(left) or not _is_number(right):
        raise _Failure(f"{name!r} is for numbers, not for {_kind(right if _is_number(left) else left)}")
    # Both at most 64 bits, so that no product is ever large.
    _bounded(left), _bounded(right)
    try:
        return _bounded(_ARITHMETIC[name](left, right))
    except ZeroDivisionError:
        raise _Failure("division by zero") from None
    except OverflowError:
        raise _Failure("the number grows too large") from None


def _ordered(values: Sequence[Any], name: str) -> None:
    types = set(map(type, values))
    if not (types <= {int, float} or types <= {str}):
        kinds = ", ".join(dict.fromkeys(_kind(value) for value in values[:5]))
        raise _Failure(f"{name!r} compares numbers, or texts, by order; here are {kinds}")


def _by_order(name: str, compare: Callable[[Any, Any], Any]) -> Callable[[_Evaluation, Any, Any], bool]:
    def compute(evaluation: _Evaluation, left: Any, right: Any) -> bool:
        _ordered((left, right), name)
        evaluation.charge(left, right)
        return bool(compare(left, right))

    return compute


def _equal(evaluation: _Evaluation, left: Any, right: Any) -> bool:
    evaluation.charge(left, right)
    return bool(left == right)


def _contains(evaluation: _Evaluation, left: Any, right: Any) -> bool:
    if isinstance(right, str) and not isinstance(left, str):
        raise _Failure(f"'in' looks for a text in a text, not for {_kind(left)}")
    if not isinstance(right, str | list | dict):
        raise _Failure(f"'in' looks into a list, a dict or a text, not into {_kind(right)}")
    evaluation.charge(right)
    if isinstance(right, dict):
        return isinstance(left, str) and left in right
    return left in right


_COMPARE: Final[Mapping[str, Callable[[_Evaluation, Any, Any], bool]]] = {
    "==": _equal,
    "!=": lambda evaluation, left, right: not _equal(evaluation, left, right),
    "<": _by_order("<", operator.lt),
    "<=": _by_order("<=", operator.le),
    ">": _by_order(">", operator.gt),
    ">=": _by_order(">=", operator.ge),
    "in": _contains,
    "not in": lambda evaluation, left, right: not _contains(evaluation, left, right),
}


def _len(_: _Evaluation, value: Any) -> int:
    if not isinstance(value, str | list | dict):
        raise _Failure(f"'len' is for a text, a list or a dict, not for {_kind(value)}")
    return len(value)


def _abs(_: _Evaluation, value: Any) -> Any:
    if not _is_number(value):
        raise _Failure(f"'abs' is for numbers, not for {_kind(value)}")
    return abs(value)


def _of_texts(name: str, compute: Callable[..., Any]) -> Callable[..., Any]:
    def call(evaluation: _Evaluation, *texts: Any) -> Any:
        for text in texts:
            if not isinstance(text, str):
                raise _Failure(f"{name!r} is for texts, not for {_kind(text)}")
        evaluation.charge(*texts)
        return compute(*texts)

    return call


def _extreme(name: str, choose: Callable[[Sequence[Any]], Any]) -> Callable[..., Any]:
    def call(evaluation: _Evaluation, *values: Any) -> Any:
        among = values[0] if len(values) == 1 else values
        if not isinstance(among, list | tuple):
            raise _Failure(f"{name!r} takes a list, or several values, not {_kind(among)}")
        if not among:
            raise _Failure(f"{name!r} of an empty list")
        evaluation.charge(list(among))
        _ordered(among, name)
        if isinstance(among[0], str):
            evaluation.charge(*among)
        return choose(among)

    return call


_CALLS: Final[Mapping[str, Callable[..., Any]]] = {
    "len": _len,
    "abs": _abs,
    "lower": _of_texts("lower", str.lower),
    "upper": _of_texts("upper", str.upper),
    "startswith": _of_texts("startswith", str.startswith),
    "endswith": _of_texts("endswith", str.endswith),
    "min": _extreme("min", min),
    "max": _extreme("max", max),
}
