"""docs/jaeger.md is true: its commands run, its ports are open, and the Collector counts what our spans say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from _cli import run_process
from _compose import COLLECTOR, SERVICES, published
from _documents import snippets
from _otlp import otlp_receiver
from _otlp_decode import ReceivedSpan
from _source import ROOT
from configurable_agents import semconv
from configurable_agents.cli.main import app

PAGE = ROOT / "docs" / "jaeger.md"
TEXT = PAGE.read_text(encoding="utf-8")
LINES = [line.strip() for snippet in snippets(PAGE) for line in snippet.text.splitlines()]
COMMANDS = [shlex.split(line, comments=True)[1:] for line in LINES if line.startswith("configurable-agents ")]
RUNS = [command for command in COMMANDS if command[0] == "run"]
MODEL_CALL, RUN = "chat", "invoke_workflow"


def shipped(command: list[str], folder: Path) -> list[ReceivedSpan]:
    """Run a command of the page, with the scripted model and our receiver in place of the Collector."""
    store = ["--store", str(folder / "runs.db"), "--model", "scripted"]
    with otlp_receiver("http/protobuf") as receiver:
        there = [re.sub(r"http://127\.0\.0\.1:\d+", receiver.endpoint, word) for word in command]
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": receiver.protocol}
        said = run_process([*there, *store], ROOT, **settings, OTEL_METRICS_EXPORTER="none")
        assert said.code == 0, said.err
        return receiver.spans


@pytest.mark.parametrize("command", RUNS, ids=" ".join)
def test_a_run_on_the_page_arrives_whole(command: list[str], tmp_path: Path) -> None:
    """Step 3 is what a new user sees first."""
    spans = shipped(command, tmp_path)
    (root,) = [span for span in spans if span.parent_span_id is None]
    assert root.name.startswith("invoke_workflow ")
    assert {span.parent_span_id for span in spans} - {None} <= {span.span_id for span in spans}


def test_the_collector_counts_by_attributes_that_the_spans_carry(tmp_path: Path) -> None:
    """A name that no span has is a figure of 0 that looks like an answer."""
    spans = shipped(RUNS[0], tmp_path)
    of = {
        operation: [s for s in spans if s.attributes[semconv.GEN_AI_OPERATION_NAME] == operation]
        for operation in (MODEL_CALL, RUN)
    }
    for metric in COLLECTOR["connectors"]["signal_to_metrics"]["spans"]:
        (condition,) = metric["conditions"]
        operation = re.findall(r'== "(\w+)"', condition)[0]
        summed = re.findall(r'attributes\["([\w.]+)"\]', metric["sum"]["value"])[0]
        assert f'span.attributes["{summed}"] != nil' in condition
        if summed == semconv.UNPRICED_CALLS and operation == MODEL_CALL:
            continue  # the scripted model has a price
        for span in of[operation]:
            wanted = {summed, *(said["key"] for said in metric["attributes"])}
            assert wanted <= span.attributes.keys(), f"{metric['name']}: {span.name}"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_on_the_page_has_the_options_it_is_given(command: list[str]) -> None:
    """Else the person who needs it most, because something is away, gets a usage message."""
    found = typer.main.get_command(app)
    words = list(command)
    while (children := getattr(found, "commands", None)) is not None:
        found = children[words.pop(0)]
    options = {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= options


def test_the_page_names_open_ports_and_every_service_that_has_one() -> None:
    """An address that nobody serves sends a reader off."""
    open_ports = {port for service in SERVICES for port in published(service)}
    named = set(re.findall(r"127\.0\.0\.1:(\d+)", TEXT))
    assert named <= open_ports
    assert open_ports - named <= {"4317"}
    assert "4317 is gRPC" in TEXT


def test_the_page_names_attributes_that_there_are() -> None:
    """They are typed into Jaeger's search as they stand here."""
    known = {value for name, value in vars(semconv).items() if name.isupper() and isinstance(value, str)}
    assert set(re.findall(r"`((?:configurable_agents|gen_ai|error)\.[a-z_.]+[a-z])(?:=|`)", TEXT)) <= known


def test_every_picture_is_shown_described_and_small() -> None:
    """The repository is cloned by people who look at none of them."""
    shown = dict(re.findall(r"!\[([^\]]+)\]\((images/[^)]+)\)", TEXT))
    files = {f"images/{path.name}": path for path in (ROOT / "docs" / "images").glob("jaeger-*")}
    assert set(shown.values()) == files.keys()
    assert all(path.stat().st_size < 200_000 for path in files.values())
