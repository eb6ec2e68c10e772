"""Reads our papers: fenced snippets, links, headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from _source import ROOT

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```\s*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Snippet:
    """One fenced block."""

    page: str
    line: int
    language: str
    text: str

    @property
    def is_whole_workflow(self) -> bool:
        """Whether it is a workflow file and no part of one."""
        return self.language == "yaml" and bool(re.search(r"^schema_version:", self.text, re.MULTILINE))

    @property
    def file_name(self) -> str:
        """The name that its first line gives it, as `# hello.yaml`."""
        named = re.match(r"#\s*(\S+\.ya?ml)\s*$", self.text.splitlines()[0])
        return named[1] if named else "workflow.yaml"

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """List every paper of the repository."""
    return [
        *sorted(ROOT.glob("*.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "examples").rglob("*.md")),
    ]


def name_of(page: Path) -> str:
    """Give a page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def snippets(page: Path) -> list[Snippet]:
    """List a page's fenced blocks."""
    text = page.read_text(encoding="utf-8")
    return [
        Snippet(name_of(page), text.count("\n", 0, found.start()) + 1, found["info"].strip(), found["text"])
        for found in _FENCE.finditer(text)
    ]


def links(page: Path) -> Iterator[str]:
    """List a page's links that lead to other files of the repository or to headings."""
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for found in _LINK.finditer(prose):
        if not re.match(r"[a-z]+:", found["target"]):
            yield found["target"]


def anchors(page: Path) -> set[str]:
    """List the anchors of a page's headings, as GitHub makes them."""
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+\s+(.*?)\s*$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def rows_below(page: Path, heading: str) -> list[list[str]]:
    """Give the cells of the tables below a heading, up to the next heading; the first row of each table is left out."""
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no heading {heading!r}"
    lines = [line for line in found[1].splitlines() if line.startswith("|")]
    rules = [number for number, line in enumerate(lines) if re.fullmatch(r"[|\- ]+", line)]
    rows = [line for number, line in enumerate(lines) if number not in rules and number + 1 not in rules]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip()[1:-1])] for row in rows]


def code_in(text: str) -> list[str]:
    """Give what stands in backticks."""
    return re.findall(r"`([^`]+)`", text)
