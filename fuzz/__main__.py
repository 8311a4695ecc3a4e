"""`python -m fuzz`: hostile inputs for every reader of text from outside, and a table of what they came to."""

from __future__ import annotations

import argparse
import base64
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from fuzz.gauge import Finding, Gauge, peak_mb
from fuzz.lanes import ENGINES
from fuzz.running import Lane, run_lanes, table
from fuzz.targets import TARGETS


def main(arguments: Sequence[str] | None = None) -> int:
    asked = parser().parse_args(arguments)
    if asked.command == "again":
        return again(asked.target, asked.input)
    chosen = [TARGETS[name] for name in asked.targets or TARGETS]
    engines = [engine for engine in ENGINES if asked.engine in (None, engine)]
    if asked.engine is None and find_spec("atheris") is None:
        print("atheris is not installed here (`make fuzz` installs it where it can): inputs by grammar only")
        engines = ["grammar"]
    whole = sum(target.share[ENGINES.index(engine)] for target in chosen for engine in engines)
    lanes = [
        Lane(target.name, engine, round(asked.inputs * target.share[ENGINES.index(engine)] / whole), asked.seed)
        for target in chosen
        for engine in engines
        if target.share[ENGINES.index(engine)]
    ]
    print(f"{sum(lane.count for lane in lanes):,} inputs, seed {asked.seed}, {asked.jobs} at a time", flush=True)
    done = run_lanes(lanes, jobs=asked.jobs)
    print(f"\n{table(done)}")
    findings = [finding for lane in done for finding in lane.findings]
    for finding in findings:
        print(f"\n{finding.text()}")
    print(f"\n{sum(lane.inputs for lane in done):,} inputs, {len(findings)} findings")
    return 1 if findings else 0


def again(name: str, given: str) -> int:
    """Give one input to a target once more, and tell everything about it."""
    data = Path(given[1:]).read_bytes() if given.startswith("@") else base64.b64decode(given)
    target = TARGETS[name]
    gauge = Gauge(target)
    finding = gauge.take(data)
    try:
        print("not taken" if target.reads(data) is None else "taken")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is shown
        print(f"{type(error).__name__}: {error}")
    print(f"{len(data)} bytes, {gauge.slowest_ms:.1f} ms, {peak_mb(lambda: Gauge(target).take(data)):.1f} MB")
    if isinstance(finding, Finding):
        print(finding.text())
    return 0 if finding is None else 1


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    made.set_defaults(command="run")
    made.add_argument("--inputs", type=int, default=200_000, help="how many in all (200000)")
    made.add_argument("--seed", type=int, default=1, help="another seed makes other inputs (1)")
    made.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time (one for each core)")
    made.add_argument("--engine", choices=ENGINES, help="only this one")
    made.add_argument("--target", dest="targets", action="append", choices=list(TARGETS), help="only this one")
    commands = made.add_subparsers(dest="command")
    one = commands.add_parser("again", help="give one input to a target once more")
    one.add_argument("target", choices=list(TARGETS))
    one.add_argument("input", help="base64, or @FILE")
    return made


if __name__ == "__main__":
    sys.exit(main())
