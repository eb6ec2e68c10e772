"""Endpoints that refuse, hang, throttle, fail or drip: no run notices them, and no program's end waits for them."""

from __future__ import annotations

import contextlib
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from _otlp import FAULTS, PROTOCOLS, Protocol, otlp_receiver
from _runs import rows, start_program
from _timing import anew, in_one_of_a_few_tries, timely

NODES, ROUNDS = 50, 4
TRIES = 8
"""Bounds on time are told from the noise of a busy machine by trying again: what is really late is late each time."""

PROGRAM = f"""
import json, logging, sys, time
from _runs import calls, chain, field
from _workflows import make
from configurable_agents import run_workflow

names = [f"n{{number}}" for number in range({NODES})]
LONG = make([calls(name, "x") for name in names], chain(f"START {{' '.join(names)}} END"), {{"x": field("int")}})
times = []

def act():
    times.append(time.perf_counter())
    return 1

def run(endpoint):
    times.clear()
    run_workflow(LONG, functions=dict.fromkeys(names, act), store=store, otlp=endpoint)
    return [(after - before) * 1000 for before, after in zip(times, times[1:])]

store, *endpoints = sys.argv[1:]
logging.basicConfig(format="%(levelname)s %(message)s")
"""

TIMED = f"""
run("none")
added = {{}}
for endpoint in endpoints:
    run(endpoint)
    plain, shipped = [], []
    for _ in range({ROUNDS}):
        plain += run("none")
        shipped += run(endpoint)
    p99 = [sorted(found)[int(len(found) * 0.99)] for found in (plain, shipped)]
    added[endpoint] = p99[1] - p99[0]
print(json.dumps([added, time.monotonic()]))
sys.stdout.flush()
"""


def run_against(
    endpoints: list[str], protocol: Protocol, store: Path, body: str, **environment: str
) -> tuple[str, str, float]:
    """Run a program that ships to endpoints: what it said on both streams, and when it had ended."""
    process = start_program(PROGRAM + body, store, *endpoints, OTEL_EXPORTER_OTLP_PROTOCOL=protocol, **environment)
    with process:
        assert process.stdin is not None
        process.stdin.close()
        # Not `communicate`: what still holds the streams open is not the program.
        code = process.wait(timeout=100)
        ended = time.monotonic()
        assert process.stdout is not None
        assert process.stderr is not None
        out, err = process.stdout.read(), process.stderr.read()
    assert code == 0, err
    return out, err, ended


@pytest.mark.alone
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_endpoints_that_fail_delay_no_node_and_no_end_and_lose_no_history(protocol: Protocol, tmp_path: Path) -> None:
    """Six ways to fail, all in one program: telemetry is never the reason why a run is slow."""
    found: list[tuple[dict[str, float], float]] = []
    added, seconds = dict.fromkeys(FAULTS, math.inf), math.inf
    with contextlib.ExitStack() as stack:
        receivers = {fault: stack.enter_context(otlp_receiver(protocol, fault=fault)) for fault in FAULTS}
        by_endpoint = {receiver.endpoint: fault for fault, receiver in receivers.items()}
        for number in range(TRIES):
            store = tmp_path / f"{number}.db"
            # Beside it: how fast programs end is the machine's affair.
            usual = usual_end(protocol, tmp_path / "usual.db")
            out, err, ended = run_against(list(by_endpoint), protocol, store, TIMED)
            if "are not in the store yet" in err:  # the end was stalled for so long that it did not wait for the store
                continue
            by_place, end = json.loads(out)
            found.append(({by_endpoint[endpoint]: ms for endpoint, ms in by_place.items()}, ended - end - usual))
            check_history(store)
            check_warnings(err, list(by_endpoint))
            added = {fault: min(ms, found[-1][0][fault]) for fault, ms in added.items()}
            seconds = min(seconds, found[-1][1])
            if max(added.values()) < 5 and seconds <= 0.5:
                break
    assert max(added.values()) < 5, f"milliseconds added to the 99th percentile of nodes: {found}"
    assert seconds <= 0.5, f"seconds added to the program's end: {found}"


@in_one_of_a_few_tries
def usual_end(protocol: Protocol, store: Path) -> float:
    """Measure how long a program's end takes, from its last run's, with an endpoint that takes everything."""
    with otlp_receiver(protocol) as receiver:
        out, err, ended = run_against([receiver.endpoint], protocol, anew(store), TIMED)
        timely((err, len(receiver.spans)) == ("", (1 + ROUNDS) * (NODES + 1)), err)  # its end waits for so long only
    return ended - float(json.loads(out)[1])


def check_history(store: Path) -> None:
    runs = 1 + len(FAULTS) * (1 + 2 * ROUNDS)
    counts = "SELECT (SELECT count(*) FROM workflow_runs WHERE status = 'completed'), (SELECT count(*) FROM execution_states)"
    assert rows(store, counts) == [(runs, runs * NODES)]
    assert rows(store, "SELECT count(*) FROM run_deliveries") == [(0,)], "nothing is marked that nobody took"


def check_warnings(err: str, endpoints: list[str]) -> None:
    """One warning at most for each endpoint while the program runs, and at its end the count; nothing of libraries."""
    spans = (1 + ROUNDS) * (NODES + 1)
    lines = [line for line in err.splitlines() if "configurable-agents runs export --pending --otlp" in line]
    for endpoint in endpoints:
        told = [line for line in lines if f"do not reach {endpoint}: " in line]
        counted = [line for line in lines if f"WARNING {spans} spans were not delivered to {endpoint}: " in line]
        assert (len(told) <= 1, len(counted)) == (True, 1), err
        assert f"--otlp {endpoint}" in counted[0]
    # gRPC's own C++ code may say on stderr that it was forked, or could not be; it has no other switch.
    assert [line for line in err.splitlines() if line.startswith("WARNING") and line not in lines] == []
    assert "Traceback" not in err


MEMORY = """
import gc, os
from opentelemetry import trace

def act():
    trace.get_current_span().set_attribute("mine", "x" * 8000)
    return 1

def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

found = []
for number in range(80):
    run(endpoints[0])
    if number in (39, 79):
        found.append(resident())
print(json.dumps(found))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells no memory")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_program_does_not_grow_while_its_endpoint_is_dead(protocol: Protocol, tmp_path: Path) -> None:
    """Thirty megabytes of spans go nowhere: eight wait, the rest is counted."""
    with otlp_receiver(protocol, fault="hang") as receiver:
        store = tmp_path / "w.db"
        out, err, _ = run_against([receiver.endpoint], protocol, store, MEMORY, OTEL_EXPORTER_OTLP_TIMEOUT="1000")
    before, after = json.loads(out)
    assert after - before < 6_000_000
    warnings = [line for line in err.splitlines() if line.startswith("WARNING")]
    assert "it takes spans more slowly than they are made" in warnings[0]
    assert f"WARNING {80 * (NODES + 1)} spans were not delivered" in warnings[1]
    assert len(warnings) == 2


@pytest.mark.alone
@in_one_of_a_few_tries
def test_a_program_may_give_its_end_more_time_or_none(tmp_path: Path) -> None:
    """A job on a slow line may rather wait; one in a hot loop may rather not."""
    found: dict[str, Any] = {}
    with otlp_receiver("http/protobuf", fault="hang") as receiver:
        for seconds in ("0", "1.5"):
            body = "run(endpoints[0])\nprint(time.monotonic())\nsys.stdout.flush()"
            patience = {"CONFIGURABLE_AGENTS_OTLP_EXIT_SECONDS": seconds}
            out, err, ended = run_against([receiver.endpoint], "http/protobuf", tmp_path / "w.db", body, **patience)
            found[seconds] = ended - float(out)
            assert "51 spans were not delivered" in err
    assert found["1.5"] >= 1.5
    timely(found["0"] < found["1.5"] - 1, found)
