"""All lanes, a few at a time, each watched from outside: one that hangs or dies is a finding like any other.

Rule 1: a lane's process may come to any end; what it was reading is in a file, and the others go on.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.gauge import Finding, Progress

STUCK_S = 30.0
"""Seconds of no progress after which a lane is taken to hang."""
_TELL_S = 5.0
_LOOK_S = 0.1


@dataclass(slots=True)
class Lane:
    """One target under one engine.

    Attributes:
        told: What its process reported, once it has ended.
    """

    target: str
    engine: str
    count: int
    seed: int
    told: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    took_s: float = 0.0

    @property
    def inputs(self) -> int:
        return int(self.told.get("inputs", 0))


@dataclass(slots=True)
class _Running:
    """The process of a lane."""

    lane: Lane
    process: subprocess.Popen[bytes]
    progress: Progress
    report: Path
    errors: Path
    started_at: float
    moved_at: float
    count: int = 0


def run_lanes(lanes: Sequence[Lane], *, jobs: int) -> list[Lane]:
    """Run every lane; tell how far they are; return them in their order."""
    waiting = sorted((lane for lane in lanes if lane.count), key=lambda lane: -lane.count)
    running: list[_Running] = []
    ended = 0
    whole = sum(lane.count for lane in lanes)
    started = told_at = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_started(waiting.pop(0), Path(place)))
            time.sleep(_LOOK_S)
            for one in list(running):
                if not _goes_on(one):
                    running.remove(one)
                    ended += one.lane.inputs
            now = time.monotonic()
            if now - told_at > _TELL_S:
                told_at = now
                under_way = ", ".join(f"{one.lane.target} by {one.lane.engine}" for one in running)
                so_far = ended + sum(one.count for one in running)
                print(f"  {so_far:>9,} of {whole:,} after {now - started:.0f} s: {under_way}", flush=True)
    return list(lanes)


def _started(lane: Lane, place: Path) -> _Running:
    name = f"{lane.target}.{lane.engine}"
    progress, report, errors = place / f"{name}.progress", place / f"{name}.json", place / f"{name}.errors"
    shared = Progress.create(progress)
    command = [sys.executable, "-m", "fuzz.lane", lane.target, lane.engine]
    command += ["--count", str(lane.count), "--seed", str(lane.seed)]
    command += ["--progress", str(progress), "--report", str(report)]
    folder = Path(__file__).parent.parent
    environ = os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": str(folder), "TMPDIR": str(place)}
    with errors.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=stderr, stderr=stderr, env=environ, cwd=folder)
    now = time.monotonic()
    return _Running(lane, process, shared, report, errors, now, now)


def _goes_on(one: _Running) -> bool:
    """Return whether a lane's process is still at it; take what it came to if it is not."""
    now = time.monotonic()
    count, data = one.progress.read()
    if count != one.count:
        one.count, one.moved_at = count, now
    lane = one.lane
    if one.process.poll() is None:
        if now - one.moved_at < STUCK_S:
            return True
        one.process.kill()
        one.process.wait()
        what = f"hangs: still at it after {now - one.moved_at:.0f} s"
    else:
        what = f"the process ended with {_ended(one.process.returncode)}"
    lane.took_s = now - one.started_at
    if one.report.exists():
        lane.told = json.loads(one.report.read_text(encoding="utf-8"))
        lane.findings = [_finding(told) for told in lane.told["findings"]]
    else:
        errors = one.errors.read_text(encoding="utf-8", errors="replace")[-2_000:]
        lane.told = {"inputs": count}
        lane.findings = [Finding(lane.target, f"{what}\n{errors}" if errors else what, "", data)]
    return False


def _ended(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"status {code}"


def _finding(told: dict[str, str]) -> Finding:
    return Finding(told["target"], told["what"], told["where"], base64.b64decode(told["base64"]))


def table(lanes: Sequence[Lane]) -> str:
    """Return what the lanes came to, a line each."""
    heads = ("target", "engine", "inputs", "accepted", "refused", "slowest ms", "largest MB", "found", "s")
    rows = [heads, *(_row(lane) for lane in lanes)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(heads))]
    lines = ["  ".join(_aligned(cell, widths[at], at) for at, cell in enumerate(row)).rstrip() for row in rows]
    digests = ["digest", *(str(lane.told.get("digest", "-")) for lane in lanes)]
    return "\n".join(f"{line}  {digest}" for line, digest in zip(lines, digests, strict=True))


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < 2 else cell.rjust(width)


def _row(lane: Lane) -> tuple[str, ...]:
    told = lane.told
    counts = tuple(f"{told.get(name, 0):,}" for name in ("inputs", "accepted", "refused"))
    sizes = tuple(f"{told.get(name, 0.0):.1f}" for name in ("slowest_ms", "largest_mb"))
    return (lane.target, lane.engine, *counts, *sizes, str(len(lane.findings)), f"{lane.took_s:.0f}")
