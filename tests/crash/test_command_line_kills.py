"""`planloom run` killed at random moments and taken up by `planloom resume`; what stays unknown is answered from the
effects themselves, with `planloom resolve`, as an operator would. And what SIGINT and SIGTERM do.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).with_name("cli_tools.py")
PLAN = """
planloom: 1
name: killed
steps:
  - {id: a, tool: cli.pure, with: {n: 1}}
  - id: put
    tool: cli.put
    for_each: [1, 2, 3, 4, 5, 6]
    max_parallel: 2
    needs: [a]
    with: {n: "${{ item }}"}
  - id: pay
    tool: cli.pay
    for_each: "${{ steps.put.output }}"
    max_parallel: 2
    with: {n: "${{ item }}"}
  - {id: last, tool: cli.pure, with: {n: "${{ sum(steps.pay.output) }}"}}
outputs: "${{ steps.last.output }}"
"""
EXPECTED = sum(n + 2 for n in range(1, 7)) + 1
KILLS = max(3, int(os.environ.get("PLANLOOM_KILLS", "20")) // 2)
SEED = int(os.environ.get("PLANLOOM_SEED", "1"))


def planloom(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "planloom", words[0], "--json", *words[1:]]
    if words[0] in ("run", "resume"):
        command += ["--tools", str(TOOLS)]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def answer(process: subprocess.Popen[str], timeout_s: float = 60) -> tuple[int, Any, str]:
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, json.loads(out) if out.strip() else None, err


def effects(folder: Path) -> list[list[str]]:
    log = folder / "effects.log"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def wait_for_effects(folder: Path, count: int) -> None:
    end = time.monotonic() + 30
    while len(effects(folder)) < count:
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.005)


@pytest.mark.crash
def test_a_run_of_the_command_line_survives_any_number_of_kills(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    killed = unknown = runs = 0
    while killed < KILLS:
        runs += 1
        folder = tmp_path / f"run-{runs}"
        folder.mkdir()
        (folder / "plan.yaml").write_text(PLAN)
        words, done = ("run", "plan.yaml", "--run-id", "r"), None
        while done is None:
            process = planloom(folder, *words)
            at = len(effects(folder)) + chance.randrange(6)
            if killed < KILLS:
                end = time.monotonic() + 30
                while process.poll() is None and len(effects(folder)) < at and time.monotonic() < end:
                    time.sleep(0.002)
                time.sleep(chance.uniform(0, 0.015))
                process.kill()
            code, told, err = answer(process)
            killed += code == -signal.SIGKILL
            assert code in (-signal.SIGKILL, 0, 4), err
            if effects(folder):
                words = ("resume", "r")
            if code == 4:
                unknown += resolve(folder, told)
            elif code == 0:
                done = told
        assert done["result"] == EXPECTED
        once = Counter(step for kind, step, *_ in effects(folder) if kind == "once")
        assert set(once.values()) == {1}, "a once tool was called twice"
        keys = {(step, key) for kind, step, _, key in effects(folder) if kind == "idempotent"}
        assert len(keys) == 6, "an idempotent step was given another key the second time"
    sys.stdout.write(f"{killed} kills in {runs} runs of the command line left {unknown} outcomes unknown\n")


def resolve(folder: Path, told: Any) -> int:
    """Answer for every blocked step whether it happened, as the effects say; return how many there were."""
    happened = {step for kind, step, *_ in effects(folder) if kind == "once"}
    for blocker in told["blocked"]:
        step = blocker["step"]
        number = int(step.partition("[")[2].rstrip("]"))
        how = ["--output", str(number + 3)] if step in happened else ["--retry"]
        code, _, err = answer(planloom(folder, "resolve", "r", step, *how))
        assert code == 0, err
    return len(told["blocked"])


LONG = """
planloom: 1
name: long
steps:
  - {id: a, tool: cli.pure, with: {n: 1}}
  - {id: long, tool: cli.long, needs: [a]}
  - {id: after, tool: cli.pay, needs: [long], with: {n: 1}}
"""


@pytest.mark.crash
def test_an_interrupt_cancels_the_run_on_record_and_ends_the_process(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(LONG)
    process = planloom(tmp_path, "run", "plan.yaml", "--run-id", "r")
    wait_for_effects(tmp_path, 2)

    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    code, _, err = answer(process, 20)

    assert time.monotonic() - began < 4
    assert code == 130, err
    _, shown, _ = answer(planloom(tmp_path, "show", "r"))
    assert shown["status"] == "cancelled"
    assert [step["status"] for step in shown["steps"]] == ["completed", "cancelled", "skipped"]
    assert [kind for kind, *_ in effects(tmp_path)] == ["none", "none", "stopped"]
    assert "Traceback" not in err


@pytest.mark.crash
def test_a_second_interrupt_ends_a_process_whose_tool_does_not_listen(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("planloom: 1\nsteps: [{id: a, tool: cli.deaf}]\n")
    process = planloom(tmp_path, "run", "plan.yaml", "--run-id", "r")
    wait_for_effects(tmp_path, 1)

    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    began = time.monotonic()
    code, _, _ = answer(process, 20)

    assert time.monotonic() - began < 3
    assert code != 0


@pytest.mark.crash
def test_a_terminated_process_ends_at_once_and_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN.replace("cli.pay", "cli.put"))
    process = planloom(tmp_path, "run", "plan.yaml", "--run-id", "r")
    wait_for_effects(tmp_path, 3)

    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    code, _, err = answer(process, 20)

    assert time.monotonic() - began < 4
    assert code in (-signal.SIGTERM, 143), err
    code, told, err = answer(planloom(tmp_path, "resume", "r"))
    assert code == 0, err
    assert told["result"] == EXPECTED
