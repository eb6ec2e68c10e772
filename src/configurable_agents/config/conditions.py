"""Conditions as text: an own tokenizer and parser that give a frozen tree. What a tree means is told by `core.conditions`.

or < and < not < comparisons (in, not in; chained as in Python) < + - < * / // % < unary - + < atoms
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

MAX_LENGTH: Final = 4096
MAX_NESTING: Final = 30
"""Of parentheses, lists, calls and signs: deeper than anyone writes, shallow enough for Python's own stack."""
MAX_DIGITS: Final = 19

FUNCTIONS: Final[dict[str, tuple[int, int]]] = {
    "len": (1, 1),
    "lower": (1, 1),
    "upper": (1, 1),
    "startswith": (2, 2),
    "endswith": (2, 2),
    "min": (1, 100),
    "max": (1, 100),
    "abs": (1, 1),
}
"""The functions, each with how few and how many arguments it takes."""


class ConditionSyntaxError(ValueError):
    """A text that is no condition."""

    def __init__(self, message: str, *, offset: int, fragment: str, remedy: str = "") -> None:
        self.message = message
        self.offset = offset
        """Characters before the place."""
        self.fragment = fragment
        """What stands there, as it is written; empty at the end."""
        self.remedy = remedy
        super().__init__(f"{message}. {remedy}" if remedy else message)


@dataclass(frozen=True, slots=True)
class Literal:
    """A number, text, true, false or null."""

    value: Any
    offset: int


@dataclass(frozen=True, slots=True)
class StatePath:
    """A value of the state, by its dotted path."""

    parts: tuple[str, ...]
    offset: int

    @property
    def text(self) -> str:
        """The path as it may be written."""
        return "state." + ".".join(self.parts)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list."""

    items: tuple[Expression, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Call:
    """A function of `FUNCTIONS` with its arguments."""

    name: str
    arguments: tuple[Expression, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Unary:
    """`not`, `-` or `+` before an operand."""

    operator: str
    operand: Expression
    offset: int


@dataclass(frozen=True, slots=True)
class Chain:
    """Operands of one precedence with the operators between them: flat, so that a long sum is not a deep tree."""

    first: Expression
    rest: tuple[tuple[str, Expression, int], ...]
    """Operator, operand, and where the operator stands."""

    @property
    def offset(self) -> int:
        """Where the first operand stands."""
        return self.first.offset


@dataclass(frozen=True, slots=True)
class Logical(Chain):
    """Operands joined by `and`, or by `or`."""


@dataclass(frozen=True, slots=True)
class Comparison(Chain):
    """Operands joined by comparisons."""


@dataclass(frozen=True, slots=True)
class Arithmetic(Chain):
    """Operands joined by `+ -`, or by `* / // %`."""


Expression = Literal | StatePath | ListOf | Call | Unary | Logical | Comparison | Arithmetic


@dataclass(frozen=True, slots=True)
class ParsedCondition:
    """A condition taken apart."""

    text: str
    root: Expression

    @property
    def paths(self) -> tuple[StatePath, ...]:
        """All values of the state that it reads, in order."""
        return tuple(_paths(self.root))


def _paths(node: Expression) -> Iterator[StatePath]:
    if isinstance(node, StatePath):
        yield node
    elif isinstance(node, ListOf | Call):
        for item in node.items if isinstance(node, ListOf) else node.arguments:
            yield from _paths(item)
    elif isinstance(node, Unary):
        yield from _paths(node.operand)
    elif isinstance(node, Chain):
        yield from _paths(node.first)
        for _, operand, _ in node.rest:
            yield from _paths(operand)


def parse_condition(text: str) -> ParsedCondition:
    """Take a condition apart.

    Raises:
        ConditionSyntaxError: With the offset of the first place that is wrong, and mostly with a remedy.
    """
    if len(text) > MAX_LENGTH:
        raise ConditionSyntaxError(f"a condition has at most {MAX_LENGTH} characters", offset=0, fragment="")
    parser = _Parser(text)
    root = parser.expression(0)
    parser.expect_end()
    return ParsedCondition(text, root)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    offset: int


_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    | (?P<braced>\{[^{}]*\})
    | (?P<path>state(?:\.\w+)+)
    | (?P<word>[^\W\d]\w*)
    | (?P<operator>==|!=|<=|>=|//|\*\*|&&|\|\||<>|[<>+\-*/%()\[\],])
    """,
    re.VERBOSE | re.DOTALL,
)
_STATE_PATH = re.compile(r"state(?:\.\w+)+")
_REMEDIES: Final = {
    "**": "There is no power; write a product.",
    "&&": "Write 'and'.",
    "||": "Write 'or'.",
    "<>": "Write '!='.",
    "=": "Write '==' to compare.",
    "!": "Write 'not'.",
    "&": "Write 'and'.",
    "|": "Write 'or'.",
    "'": "The text's second quotation mark is missing.",
    '"': "The text's second quotation mark is missing.",
    "{": "The '}' is missing.",
    "\u2018": "Write plain quotation marks: '…'.",
    "\u2019": "Write plain quotation marks: '…'.",
    "\u201c": "Write plain quotation marks: '…'.",
    "\u201d": "Write plain quotation marks: '…'.",
    ".": "To change a value's case or take its length, write lower(state.x), len(state.x).",
}


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            sign = text[at]
            raise ConditionSyntaxError(
                f"{sign!r} means nothing here", offset=at, fragment=sign, remedy=_REMEDIES.get(sign, "")
            )
        if match.lastgroup != "space":
            yield _Token(match.lastgroup or "", match.group(), at)
        at = match.end()
    yield _Token("end", "", len(text))


_COMPARISONS: Final = frozenset({"==", "!=", "<", "<=", ">", ">=", "in", "not in"})
_WORDS: Final = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_KEYWORDS: Final = frozenset({"and", "or", "not", "in"})

_OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT = range(6)
_LEVELS: Final[tuple[frozenset[str], ...]] = (
    frozenset({"or"}),
    frozenset({"and"}),
    frozenset(),
    _COMPARISONS,
    frozenset("+-"),
    frozenset({"*", "/", "//", "%"}),
)
_CHAINS: Final[dict[int, type[Logical | Comparison | Arithmetic]]] = {
    _OR: Logical,
    _AND: Logical,
    _COMPARE: Comparison,
    _SUM: Arithmetic,
    _PRODUCT: Arithmetic,
}


class _Parser:
    """Precedence climbing: Python frames are spent on operators that are there, not on every level of precedence."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self._nesting = 0

    def expression(self, level: int) -> Expression:
        """Parse operators that bind at least as closely as `level`."""
        left, reached = self._operand(level), len(_LEVELS) - 1
        if isinstance(left, Unary) and left.operator == "not":
            reached = _NOT
        for current in range(reached, level - 1, -1):
            left = self._chain(left, current)
        return left

    def _chain(self, first: Expression, level: int) -> Expression:
        rest = []
        while (operator := self._operator()) in _LEVELS[level]:
            offset = self._token.offset
            self._at += 2 if operator == "not in" else 1
            rest.append((operator, self.expression(level + 1), offset))
        return _CHAINS[level](first, tuple(rest)) if rest else first

    def _operator(self) -> str:
        token = self._token
        if token.text == "not" and self._tokens[self._at + 1].text == "in":
            return "not in"
        return token.text if token.kind in {"operator", "word"} else ""

    @property
    def _token(self) -> _Token:
        return self._tokens[self._at]

    def _operand(self, level: int) -> Expression:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise self._error(self._token, f"a condition is nested at most {MAX_NESTING} deep")
        made = self._unary(level) or self._atom()
        self._nesting -= 1
        return made

    def _unary(self, level: int) -> Expression | None:
        token = self._token
        if token.text == "not" and token.kind == "word":
            if level > _NOT:
                raise self._error(token, "'not' needs parentheses here", "Write (not …).")
            self._at += 1
            return Unary("not", self.expression(_NOT), token.offset)
        if token.text in {"-", "+"} and token.kind == "operator":
            self._at += 1
            return Unary(token.text, self._operand(_PRODUCT + 1), token.offset)
        return None

    def _atom(self) -> Expression:
        token = self._token
        self._at += 1
        match token.kind:
            case "number":
                return Literal(self._number(token), token.offset)
            case "text":
                return Literal(_unquoted(token), token.offset)
            case "path":
                return self._path(token, token.text)
            case "braced":
                return self._path(token, token.text[1:-1])
            case "word":
                return self._word(token)
        if token.text == "(":
            return self._grouped()
        if token.text == "[":
            return ListOf(self._until("]"), token.offset)
        raise self._unexpected(token)

    def _grouped(self) -> Expression:
        inside = self.expression(_OR)
        if self._token.text == ",":
            raise self._error(self._token, "there are no tuples", "Write a list: [1, 2].")
        self._expect(")")
        # An empty chain keeps the parentheses: `(a < b) < c` is no chained comparison, and `(not a) == b` no `not`.
        return Arithmetic(inside, ()) if isinstance(inside, Chain | Unary) else inside

    def _until(self, closing: str) -> tuple[Expression, ...]:
        items: list[Expression] = []
        while self._token.text != closing:
            items.append(self.expression(_OR))
            if self._token.text != ",":
                break
            self._at += 1
        self._expect(closing)
        return tuple(items)

    def _expect(self, closing: str) -> None:
        if self._token.text != closing:
            token = self._token
            if token.kind == "end":
                raise self._error(token, f"a {closing!r} is missing")
            raise self._unexpected(token)
        self._at += 1

    def expect_end(self) -> None:
        """Refuse whatever is left."""
        if self._token.kind != "end":
            raise self._unexpected(self._token)

    def _number(self, token: _Token) -> int | float:
        whole = token.text.isdecimal()
        if whole and len(token.text) <= MAX_DIGITS:
            return int(token.text)
        number = float(token.text) if not whole and len(token.text) <= 50 else float("inf")
        if number == float("inf"):
            raise self._error(token, "this number is too large")
        return number

    def _path(self, token: _Token, text: str) -> StatePath:
        if not _STATE_PATH.fullmatch(text):
            name = text.strip().removeprefix("state.")
            remedy = f"Write state.{name}." if re.fullmatch(r"\w+(\.\w+)*", name) else "Write state.field."
            raise self._error(token, f"{_short(token.text)} is no value of the state", remedy)
        if self._token.text == "[":
            raise self._error(self._token, "there is no '[…]' after a value", f"Write an index with a dot: {text}.0.")
        if self._token.text == "(":
            raise self._error(self._token, f"{_short(text)} cannot be called", f"The functions are {_names()}.")
        return StatePath(tuple(text.split(".")[1:]), token.offset)

    def _word(self, token: _Token) -> Expression:
        if token.text in _WORDS:
            return Literal(_WORDS[token.text], token.offset)
        if self._token.text == "(" and token.text not in _KEYWORDS:
            return self._call(token)
        if token.text in _KEYWORDS:
            raise self._unexpected(token)
        raise self._bare_word(token)

    def _call(self, token: _Token) -> Expression:
        if token.text not in FUNCTIONS:
            meant = get_close_matches(token.text[:40], FUNCTIONS, 1)
            remedy = f"Did you mean {meant[0]!r}?" if meant else f"The functions are {_names()}."
            raise self._error(token, f"there is no function {_short(token.text)}", remedy)
        self._at += 1
        arguments = self._until(")")
        least, most = FUNCTIONS[token.text]
        if not least <= len(arguments) <= most:
            takes = f"{least} argument{'s' * (least > 1)}" if least == most else f"{least} to {most} arguments"
            raise self._error(token, f"{token.text!r} takes {takes}, not {len(arguments)}")
        return Call(token.text, arguments, token.offset)

    def _bare_word(self, token: _Token) -> ConditionSyntaxError:
        if token.text == "state":
            return self._error(token, "'state' alone is no value", "Write state.field.")
        if token.text in {"is", "lambda", "if", "else", "for", "import"}:
            return self._unexpected(token)
        word = token.text if len(token.text) <= 40 else "…"
        return self._error(
            token,
            f"{_short(token.text)} is a bare word",
            f"Put text in quotes: '{word}'; a state field is state.{word}.",
        )

    def _unexpected(self, token: _Token) -> ConditionSyntaxError:
        if token.kind == "end":
            return self._error(token, "the condition ends too early")
        remedy = "Write '=='." if token.text == "is" else _REMEDIES.get(token.text, "")
        if token.kind == "word" and token.text not in {*_KEYWORDS, "is", "if", "else", "for", "lambda", "import"}:
            return self._bare_word(token)
        return self._error(token, f"{_short(token.text)} is not expected here", remedy)

    def _error(self, token: _Token, message: str, remedy: str = "") -> ConditionSyntaxError:
        return ConditionSyntaxError(message, offset=token.offset, fragment=token.text, remedy=remedy)


_ESCAPES: Final = {"n": "\n", "t": "\t", "\\": "\\", "'": "'", '"': '"'}


def _unquoted(token: _Token) -> str:
    def plain(match: re.Match[str]) -> str:
        if match.group(1) not in _ESCAPES:
            raise ConditionSyntaxError(
                f"{match.group()!r} means nothing in a text",
                offset=token.offset + 1 + match.start(),
                fragment=match.group(),
                remedy="Write '\\\\' for a backslash.",
            )
        return _ESCAPES[match.group(1)]

    return re.sub(r"\\(.)", plain, token.text[1:-1], flags=re.DOTALL)


def _names() -> str:
    return ", ".join(FUNCTIONS)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
