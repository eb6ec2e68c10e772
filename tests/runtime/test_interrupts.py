"""Ctrl-C, in programs of their own: the run ends at once, is kept as cancelled, and the program hears of it."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from _runs import kept, start_program

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")

PROGRAM = """
import asyncio, signal, sys, threading, time
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import arun_workflow, run_workflow

store, way, body, shape = sys.argv[1:]

async def sleeping():
    print("begun", flush=True)
    await asyncio.sleep(30)
    return 1

def blocking():
    print("begun\\n", end="", flush=True)  # in one piece: another thread says the same
    time.sleep(30)
    return 1

timeout = {"timeout": 20} if shape == "timeout" else {}
nodes = [calls("slow", "x") | timeout]
edges = [*chain("START slow END")]
if shape == "fan-out":
    nodes.append(calls("other", "y") | {"function": "slow"})
    edges = [{"from": "START", "to": ["slow", "other"]}, {"from": "slow", "to": "END"}, {"from": "other", "to": "END"}]
workflow = make(nodes, edges, {"x": field("int"), "y": field("int")})
options = {"functions": {"slow": globals()[body]}, "store": store}

async def in_a_loop():
    return run_workflow(workflow, **options)

try:
    if way == "run":
        run_workflow(workflow, **options)
    elif way == "arun":
        asyncio.run(arun_workflow(workflow, **options))
    else:
        asyncio.run(in_a_loop())
except KeyboardInterrupt as error:
    print("KeyboardInterrupt", repr(error.__cause__), flush=True)
print("handler", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


@pytest.mark.parametrize(
    ("way", "body", "shape"),
    [
        ("run", "sleeping", "line"),
        ("run", "blocking", "line"),
        ("run", "blocking", "fan-out"),
        ("arun", "sleeping", "fan-out"),
        ("arun", "blocking", "timeout"),
        ("nested", "sleeping", "timeout"),
        ("nested", "blocking", "line"),
    ],
)
def test_ctrl_c_cancels_the_run_at_once(way: str, body: str, shape: str, tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    with start_program(PROGRAM, store, way, body, shape) as process:
        assert process.stdout is not None
        for _ in range(2 if shape == "fan-out" else 1):
            assert process.stdout.readline() == "begun\n", process.communicate(timeout=5)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        seconds = time.monotonic() - sent
    assert process.returncode == 0, err
    assert out.splitlines() == ["KeyboardInterrupt None", "handler True"]
    assert err == "", "a cancelled run is nothing to report"
    assert seconds < 2
    stored = kept(store)
    assert stored.run.status == "cancelled"
    assert {str(record.status) for record in stored.nodes} == {"cancelled"}
