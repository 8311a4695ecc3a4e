"""Many seeds, by several processes: each is lived twice, in two interpreters that hash differently.

Rule 1: what comes of a seed does not depend on what was lived before it in its process.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from tests.simulation.judge import violations
from tests.simulation.life import Life, live
from tests.simulation.trace import short

COLLECT_EVERY = 25
"""Lives after which the garbage is collected."""
TELL_S = 10.0
"""Seconds between two lines that say how far it is."""


@dataclass
class Found:
    """What came of a seed.

    Attributes:
        kinds: Events on record, by their kind.
    """

    seed: int
    violations: list[str]
    digest: str
    status: str
    counts: dict[str, int]
    kinds: dict[str, int] = field(default_factory=dict)
    trace: list[str] = field(default_factory=list)


def look_at(seed: int, *, judged: bool = True) -> Found:
    """Live a seed once; what breaks it is a violation, too."""
    try:
        life = live(seed)
        wrong = violations(life) if judged else []
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return Found(
            seed, [f"raised: {type(error).__name__}: {error} at {last.filename}:{last.lineno}"], "", "none", {}
        )
    records = life.disk.run("r").records if life.disk.has("r") else []
    counts = dict(life.counts) | {"events": len(records)}
    kinds = Counter(type(entry.event).__name__ for entry in records)
    status = life.told[-1].status.value if life.told else "none"
    return Found(seed, wrong, digest_of(life), status, counts, dict(kinds), short(records) if wrong else [])


def digest_of(life: Life) -> str:
    """Return SHA-256 of the record, as it is on the disk."""
    return sha256(life.disk.bytes_of("r")).hexdigest()


def look_twice(seed: int) -> Found:
    found, again = look_at(seed), look_at(seed, judged=False)
    if found.digest != again.digest:
        found.violations.append("determinism: two lives of the seed left two records")
    return found


# --- by several processes ----------------------------------------------------------------------


@dataclass
class Sweep:
    """What came of many seeds."""

    seeds: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    failing: list[Found] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, found: Found) -> None:
        self.seeds += 1
        self.counts.update(found.counts)
        self.statuses[found.status] += 1
        self.kinds.update(found.kinds)
        if found.violations:
            self.failing.append(found)


def sweep(first: int, count: int, jobs: int) -> Iterator[Sweep]:
    """Live so many seeds; yield how far it is, now and then and in the end."""
    began, told = time.monotonic(), time.monotonic()
    result = Sweep()
    halves: dict[int, dict[str, Any]] = {}
    for one in _heard(first, count, jobs):
        other = halves.pop(one["seed"], None)
        if other is None:
            halves[one["seed"]] = one
        else:
            result.add(_together(one, other))
        result.seconds = time.monotonic() - began
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            yield result
    for seed in halves:
        result.failing.append(Found(seed, ["broken: a process of the simulation died"], "", "none", {}))
    yield result


def _together(one: dict[str, Any], other: dict[str, Any]) -> Found:
    judged, again = (one, other) if one["judged"] else (other, one)
    del judged["judged"]
    found = Found(**judged)
    if found.digest != again["digest"] and not found.violations:
        found.violations.append("determinism: two lives of the seed left two records")
    return found


def _heard(first: int, count: int, jobs: int) -> Iterator[dict[str, Any]]:
    """Yield what the processes say, as it comes: each seed twice."""
    sides = max(1, jobs // 2)
    said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    processes = [_process(first, count, side, share, sides) for share in range(sides) for side in (0, 1)]
    readers = [threading.Thread(target=_read, args=(process, said), daemon=True) for process in processes]
    for reader in readers:
        reader.start()
    try:
        left = len(processes)
        while left:
            line = said.get()
            if line is None:
                left -= 1
            else:
                yield json.loads(line)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for reader in readers:  # they come to the end of what was said
            reader.join()
        for process in processes:
            if process.stdout is not None:
                process.stdout.close()


def _process(first: int, count: int, side: int, share: int, shares: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.simulation", "--work", f"{first},{count},{side},{share},{shares}"]
    environment = os.environ | {"PYTHONHASHSEED": str(side + 1)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def _read(process: subprocess.Popen[str], said: queue.SimpleQueue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        said.put(line)
    said.put(None)


def work(first: int, count: int, side: int, share: int, shares: int) -> None:
    """Live every seed of a share once: judge every second one, whose second life another process lives."""
    with without_garbage_collection():
        for place, seed in enumerate(range(first + share, first + count, shares)):
            judged = (place + side) % 2 == 0
            found = look_at(seed, judged=judged)
            sys.stdout.write(json.dumps(vars(found) | {"judged": judged}) + "\n")
            sys.stdout.flush()
            if place % COLLECT_EVERY == 0:
                gc.collect()


class without_garbage_collection(AbstractContextManager[None]):
    """Have garbage collected between lives, and not in the middle of one."""

    def __enter__(self) -> None:
        gc.collect()
        gc.freeze()
        gc.disable()

    def __exit__(self, *exception: object) -> None:
        gc.enable()
        gc.unfreeze()
