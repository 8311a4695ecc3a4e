"""Processes that tests strike: an engine in one of its own, its workers, and everything that they start.

Rule 1: every wait has an end; a victim that takes too long is killed, and the test fails.
Rule 2: whoever strikes knows before what must be gone after: numbers of processes, with the time each was started.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from planloom.sandbox.watch import descendants
from tests.crash.effects import Effects

ROOT = Path(__file__).parents[2]
GONE_S = 2.0
"""Seconds after the end of an engine in which everything it started is gone."""
PATIENCE_S = 60.0
OUTSIDE = {
    "SIGKILL": signal.SIGKILL,
    "SIGTERM": signal.SIGTERM,
    "SIGINT": signal.SIGINT,
    "SIGSEGV": signal.SIGSEGV,
    "SIGABRT": signal.SIGABRT,
}
"""Ways to end a process from outside."""


@dataclass(frozen=True, slots=True)
class Known:
    """A process, told apart from a later one with its number."""

    pid: int
    began: str

    @property
    def is_alive(self) -> bool:
        return self.began != "" and _began(self.pid) == self.began


def known(pid: int) -> Known:
    return Known(pid, _began(pid))


def under(pid: int) -> set[Known]:
    """Return the processes that a process started, and those that these did."""
    return {one for one in map(known, descendants(pid)) if one.began}


def _began(pid: int) -> str:
    """Return when a process began, in the kernel's ticks; "" if there is none, or nobody has heard of its end yet."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""


def _told(pid: int) -> str:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return f"{pid}, gone by now"
    return f"{state[:80]} {command[:200]}"


def left_alive(those: set[Known], *, within_s: float = GONE_S) -> set[str]:
    """Wait until all of them are gone; return what those are that are not."""
    end = time.monotonic() + within_s
    while True:
        left = {one for one in those if one.is_alive}
        if not left or time.monotonic() > end:
            return {_told(one.pid) for one in left}
        time.sleep(0.005)


class Victim:
    """An engine with a process of its own, which drives the run of `killed.py`; a context manager.

    Args:
        workers: Its tools are called by worker processes.
        moment_s: Seconds that each call of a tool takes.
        through: What starts it, if not this process itself.
    """

    def __init__(
        self,
        folder: Path,
        run_id: str,
        *,
        workers: bool = False,
        moment_s: float = 0.004,
        through: tuple[str, ...] = (),
    ) -> None:
        command = [*through, sys.executable, "-m", "tests.crash.killed", str(folder), run_id, *(["workers"] * workers)]
        self.effects = Effects(folder)
        self._complaints = folder / "stderr.log"
        with self._complaints.open("ab") as complaints:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "KILLED_MOMENT_S": str(moment_s)},
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
            )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.complaints

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None

    @property
    def complaints(self) -> str:
        return self._complaints.read_text(errors="replace")[-2_000:]

    @property
    def workers(self) -> list[int]:
        """Return the numbers of its worker processes."""
        found = []
        for pid in descendants(self.pid):
            with suppress(OSError):
                if b"planloom.runtime.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return sorted(found)

    def ended(self, *, within_s: float = PATIENCE_S) -> str:
        """Wait for its end; return how its run ended, or "" if it came to no end."""
        try:
            told, _ = self.process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end: {self.complaints}") from None
        return str(told).strip()


def strike(pid: int, way: str, *, stopped_s: float = 0.0) -> None:
    """End a process from outside, or ("stopped") have it stand still for some time; one that is gone stays so."""
    with suppress(ProcessLookupError):
        if way != "stopped":
            os.kill(pid, OUTSIDE[way])
            return
        os.kill(pid, signal.SIGSTOP)
        time.sleep(stopped_s)
        os.kill(pid, signal.SIGCONT)


def in_turn(ways: tuple[str, ...], chance: random.Random) -> Iterator[str]:
    """Yield ways without end, each as often as it is there, in an order left to chance."""
    while True:
        yield from chance.sample(ways, len(ways))
