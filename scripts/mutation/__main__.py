"""`python -m scripts.mutation` changes `src/planloom/core` in one place at a time and runs the tests on each change.

A change that no test notices has survived. `survivors.toml` says of each function with survivors why they may live; a
function that is not in it, or has more than it says, is a finding.

Rule 1: it works in a copy; the checkout is left as it is.
Rule 2: a change that no test reaches counts as one that survived.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
REASONS = Path(__file__).with_name("survivors.toml")
COPIED = ("src", "tests", "benchmarks", "scripts", "examples", "docs", "README.md", "pyproject.toml")
KILLED_AT_LEAST = 0.85
SURVIVED, UNREACHED, NOT_RUN = (0,), (5, 33), (None,)
"""Exit codes that mutmut records of a change; any other, a time limit included, is a change that was noticed."""


@dataclass
class Tally:
    """What became of the changes in one file.

    Attributes:
        survived: How many survived, by function.
    """

    noticed: int = 0
    unreached: int = 0
    survived: Counter[str] = field(default_factory=Counter)

    @property
    def tried(self) -> int:
        return self.noticed + sum(self.survived.values())


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.mutation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sample", type=int, default=0, help="so many changes, drawn by SEED; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="*", help="functions whose names fit, e.g. '*budget*'")
    parser.add_argument("--keep", type=Path, help="the folder to work in; used again, it goes on where it was")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as made:
        place = given.keep or Path(made)
        _copy(place)
        _mutmut(place, "run", "planloom.core.turns.*", "--max-children", "1")  # makes all changes, and tries a few
        names = sorted(name for codes in _codes(place).values() for name in codes if _fits(name, given.only))
        if given.sample:
            names = random.Random(given.seed).sample(names, min(given.sample, len(names)))  # noqa: S311 - no secret
        _mutmut(place, "run", *names, "--max-children", str(given.jobs))
        return _told(place, set(names))


def _fits(name: str, pattern: str) -> bool:
    return re.fullmatch(pattern.replace(".", r"\.").replace("*", ".*"), name) is not None


def _copy(place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        source, target = ROOT / name, place / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "node_modules", "out", "outbox")
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignored)
        else:
            shutil.copy2(source, target)


def _mutmut(place: Path, *arguments: str) -> None:
    program = Path(sys.executable).with_name("mutmut")
    subprocess.run([str(program), *arguments], cwd=place, check=False, stdout=subprocess.DEVNULL)


def _codes(place: Path) -> dict[str, dict[str, int | None]]:
    """Return the exit code of each change, by file and name."""
    found = {}
    for path in sorted((place / "mutants" / "src" / "planloom" / "core").glob("*.meta")):
        found[path.name.removesuffix(".py.meta")] = json.loads(path.read_text("utf-8"))["exit_code_by_key"]
    return found


def _told(place: Path, wanted: set[str]) -> int:
    reasons = tomllib.loads(REASONS.read_text("utf-8")) if REASONS.exists() else {}
    tallies: dict[str, Tally] = {}
    for module, codes in _codes(place).items():
        tally = tallies[module] = Tally()
        for name, code in codes.items():
            if name not in wanted or code in NOT_RUN:
                continue
            if code in SURVIVED or code in UNREACHED:
                tally.survived[function_of(name)] += 1
                tally.unreached += code in UNREACHED
            else:
                tally.noticed += 1
    for module, tally in tallies.items():
        if tally.tried:
            told = f"{tally.noticed:>5} of {tally.tried:>5}  {tally.noticed / tally.tried:6.1%}"
            print(f"{module:<14} {told}  {tally.unreached:>3} unreached")
    noticed, tried = sum(one.noticed for one in tallies.values()), sum(one.tried for one in tallies.values())
    share = noticed / tried if tried else 0.0
    print(f"{'core/':<14} {noticed:>5} of {tried:>5}  {share:6.1%}, at least {KILLED_AT_LEAST:.0%} wanted")
    unexplained = 0
    for tally in tallies.values():
        for function, count in sorted(tally.survived.items()):
            reason = reasons.get(function)
            allowed = reason["most"] if reason else 0
            if count > allowed:
                unexplained += count - allowed
                print(f"  {count} survived in {function}, {allowed} explained")
    print(f"{unexplained} of {tried - noticed} survivors without a reason in {REASONS.name}")
    return 0 if share >= KILLED_AT_LEAST else 1


def function_of(name: str) -> str:
    """Return what was changed: `budget.Budget.take` of `planloom.core.budget.xǁBudgetǁtake__mutmut_3`."""
    module, changed = name.removeprefix("planloom.core.").split(".", 1)
    changed = changed.rsplit("__mutmut_", 1)[0]
    changed = changed.removeprefix("x_") if changed.startswith("x_") else changed.removeprefix("xǁ").replace("ǁ", ".")
    return f"{module}.{changed}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
