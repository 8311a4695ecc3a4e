"""Bugs that are put into the engine on purpose, one at a time: a simulation that does not find them is worth nothing.

Rule 1: nothing checks for any of these: a bug is caught when a life breaks a law that every life is held to.
Rule 2: a life with a bug is judged with the bug: what of the engine the judge uses has it, too, as it would be with a
bug that nobody knows of.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import tests.simulation.bugs_inside  # noqa: F401 - it keeps its bugs when it is loaded
from tests.simulation.bugs import BUGS
from tests.simulation.sweep import Found, look_at

LIFE_S = 20
"""Real seconds after which a life with a bug in it is taken to go round and round."""
MOST = 2_000
"""Seeds within which every bug must be caught."""


@dataclass(frozen=True, slots=True)
class Caught:
    """How a bug was found out.

    Attributes:
        seed: The first seed that breaks a law; None: none did.
        seeds: How many were lived.
        law: What that life broke.
    """

    name: str
    seed: int | None
    seeds: int
    law: str
    seconds: float


def caught(name: str, *, first: int = 0, most: int = MOST) -> Caught:
    """Put a bug in and live seed after seed until one breaks a law."""
    began = time.monotonic()
    for place in range(most):
        with BUGS[name].put():
            found = _in_time(first + place)
        if found.violations:
            return Caught(name, first + place, place + 1, found.violations[0], time.monotonic() - began)
    return Caught(name, None, most, "", time.monotonic() - began)


def _in_time(seed: int) -> Found:
    """Live a life; one that goes round and round without a turn of the loop has broken a law, too."""

    def rang(number: int, frame: Any) -> None:
        raise TimeoutError(f"no end after {LIFE_S} s")

    before = signal.signal(signal.SIGALRM, rang)
    signal.alarm(LIFE_S)
    try:
        return look_at(seed)
    except TimeoutError as error:
        return Found(seed, [f"end: {error}"], "", "none", {})
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def print_table(*, first: int, most: int, jobs: int) -> int:
    """Try every bug in processes of their own, and print what caught it; return 1 if any was not caught."""
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.simulation.sabotage", str(first), str(most)]

    def one(name: str) -> Caught:
        environment = os.environ | {"PYTHONHASHSEED": "1"}
        done = subprocess.run([*command, name], capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr[-2_000:]}")
        return Caught(**json.loads(done.stdout))

    width = max(map(len, BUGS))
    missed = 0
    sys.stdout.write(f"{'bug':{width}}  seeds  caught by\n")
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        for found in pool.map(one, BUGS):
            missed += found.seed is None
            law = found.law.splitlines()[0][:140] if found.law else "NOT CAUGHT"
            sys.stdout.write(f"{found.name:{width}}  {found.seeds:5}  {law}\n")
            sys.stdout.flush()
    seconds = time.monotonic() - began
    sys.stdout.write(f"{len(BUGS) - missed} of {len(BUGS)} bugs caught within {most} seeds, {seconds:.0f} s\n")
    return 1 if missed else 0


if __name__ == "__main__":
    outcome = caught(sys.argv[3], first=int(sys.argv[1]), most=int(sys.argv[2]))
    sys.stdout.write(json.dumps({name: getattr(outcome, name) for name in Caught.__slots__}))
