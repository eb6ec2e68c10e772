"""The command line in tests: in a process of its own, or in this one where no signal or stream matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from configurable_agents.cli.main import main

COMMAND = (sys.executable, "-m", "configurable_agents.cli.main")


@dataclass(frozen=True)
class Said:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """Give the one object on stdout."""
        value: dict[str, Any] = json.loads(self.out)
        return value


def environment(**more: str) -> dict[str, str]:
    """Give the environment of a command: this one's, without what would change its output."""
    hidden = {"CONFIGURABLE_AGENTS_STORE", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "PYTHONIOENCODING"}
    return {**{name: value for name, value in os.environ.items() if name not in hidden}, **more}


def run_process(arguments: Sequence[str], folder: Path, *, stdin: str = "", **more: str) -> Said:
    """Run a command in a process."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(**more),
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def run_here(capsys: pytest.CaptureFixture[str], *arguments: str) -> Said:
    """Run a command in this process."""
    capsys.readouterr()
    code = main(arguments)
    out, err = capsys.readouterr()
    return Said(code, out, err)


def scripted_file(folder: Path, **params: Any) -> Path:
    """Write a workflow of two model nodes, `draft` and `review`, that a script answers."""
    path = folder / "support.yaml"
    path.write_text(
        f"""\
schema_version: "1.0"
flow: {{name: support, version: "2"}}
state:
  fields:
    topic: {{type: str, required: true}}
    count: {{type: int, default: 1}}
    tags: {{type: "list[str]", default: []}}
    answer: {{type: str}}
    verdict: {{type: str, enum: [good, bad]}}
nodes:
  - {{id: draft, prompt: "Write about {{topic}}.", outputs: [answer]}}
  - {{id: review, prompt: "Judge: {{answer}}", outputs: [verdict]}}
edges:
  - {{from: START, to: draft}}
  - {{from: draft, to: review}}
  - {{from: review, to: END}}
config: {{llm: {{provider: scripted, params: {json.dumps(params)}}}}}
"""
    )
    return path
