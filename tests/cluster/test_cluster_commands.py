"""A cluster of real processes, worked with from the command line: agents, workers, and people."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.servers import Nats, until
from tests.cluster.test_agent_command import agent_process, planloom, project

ASKS = """
planloom: 1
name: asks
inputs: {n: {type: integer}}
steps:
  - {id: a, tool: add, with: {n: "${{ inputs.n }}"}}
  - {id: ask, approve: {message: "Pay?"}, needs: [a]}
  - {id: b, tool: pay, with: {n: "${{ steps.a.output }}"}, needs: [ask]}
"""


def said(*args: str, folder: Path, code: int = 0) -> str:
    """Run a command to its end, and return what it printed."""
    process = planloom(*args, folder=folder)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, f"planloom {' '.join(args)}: {err}"
    return out


@contextmanager
def worker_process(folder: Path, nats: Nats, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "planloom", "worker", "--nats", nats.url, "--wait", "20", *args],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def folder(tmp_path: Path, postgres: str, nats: Nats) -> Iterator[Path]:
    with project(tmp_path, postgres, nats) as made:
        (made / "asks.yaml").write_text(ASKS)
        yield made


def test_a_run_of_real_processes_is_told_by_every_command_that_reads_a_record(folder: Path, nats: Nats) -> None:
    with agent_process(folder), worker_process(folder, nats), worker_process(folder, nats):
        out = said("submit", "plan.yaml", "--input", "n=1", "--run-id", "r", "--wait", folder=folder)
        shown = said("show", "r", folder=folder)
        listed = said("list", folder=folder)
        said("verify", "r", folder=folder)
        said("replay", "r", folder=folder)

    assert out.strip() == "3"
    assert "success" in shown
    assert "r" in listed


def test_people_answer_a_run_of_the_cluster_from_the_command_line(folder: Path, nats: Nats) -> None:
    with agent_process(folder), worker_process(folder, nats):
        said("submit", "asks.yaml", "--input", "n=1", "--run-id", "r", folder=folder)
        until(lambda: "approve r ask" in said("show", "r", folder=folder), within_s=60)
        said("pause", "r", folder=folder)
        said("approve", "r", "ask", folder=folder)
        said("resume", "r", folder=folder)
        until(lambda: '"status": "success"' in said("show", "r", "--json", folder=folder), within_s=60)
        said("verify", "r", folder=folder)


CODE = """
planloom: 1
name: code
steps:
  - id: sums
    code:
      tools: [add, pay]
      source: |
        total = 0
        for n in [1, 2, 3]:
            total = total + add(n=n)
        pay(n=total)
  - {id: ask, model: "scripted://echo", prompt: "say it", stream: true}
  - {id: each, tool: add, for_each: [1, 2, 3], with: {n: "${{ item }}"}, needs: [sums]}
  - id: sub
    plan: {name: inner, inputs: {n: {}}, steps: [{id: x, tool: pay, with: {n: "${{ inputs.n }}"}}]}
    with: {n: "${{ sum(steps.each.output) }}"}
  - {id: rest, wait: {seconds: 0.2}, needs: [sub]}
"""


def test_steps_of_every_kind_are_made_by_workers_and_their_calls_are_on_record(folder: Path, nats: Nats) -> None:
    (folder / "code.yaml").write_text(CODE)
    with agent_process(folder), agent_process(folder), worker_process(folder, nats, "--capacity", "4"):
        said("submit", "code.yaml", "--run-id", "a/7 .*> ü", "--wait", folder=folder)
        told = said("events", "a/7 .*> ü", folder=folder)
        said("verify", "a/7 .*> ü", folder=folder)

    assert told.count("call_started") == 1  # only what has effects is announced
    assert told.count("call_ended") >= 4
    assert "output_streamed" in told


def test_a35_a_worker_and_an_agent_that_are_killed_cost_no_run_and_double_no_effect(folder: Path, nats: Nats) -> None:
    log = folder / "paid.log"
    (folder / "tools.py").write_text(
        f'''
import os, time
from planloom import tool

def note(text):
    with open({str(log)!r}, "a") as file:
        os.write(file.fileno(), (text + "\\n").encode())

@tool(effects="none")
def add(n: int) -> int:
    """Add one."""
    time.sleep(0.3)
    return n + 1

@tool(effects="once")
def pay(n: int) -> int:
    """Pay."""
    note(f"paid {{n}}")
    return n + 1
'''
    )
    with agent_process(folder) as (victim, _), agent_process(folder), worker_process(folder, nats) as worker:
        for number in range(6):
            said("submit", "plan.yaml", "--input", f"n={number}", "--run-id", f"r{number}", folder=folder)
        os.killpg(victim.pid, signal.SIGKILL)
        os.killpg(worker.pid, signal.SIGKILL)
        with worker_process(folder, nats, "--capacity", "4"):

            def settled() -> bool:
                told = [said("show", f"r{number}", "--json", folder=folder) for number in range(6)]
                return all('"status": "success"' in one or "resolve" in one for one in told)

            until(settled, within_s=90)
            for number in range(6):
                said("verify", f"r{number}", folder=folder)

    paid = log.read_text().splitlines()
    assert len(paid) == len(set(paid)), "something was paid twice"
