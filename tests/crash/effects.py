"""The world outside, as lines of a file: what tools really did, whatever a record says of it.

Rule 1: a tool leaves its line before it does anything else; it is on disk when the tool goes on.
Rule 2: who wants a process struck from inside leaves a file `strike` with the way; a call in it takes that up.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_HELD: list[bytearray] = []
"""Memory that is never given back."""
LINE_BYTES = 110
"""About as long as a line of the log is."""
_MORE_BYTES = 8 * 2**20


def _exhaust() -> None:
    """Leave this process next to no memory from here on."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    while True:
        _HELD.append(bytearray(2**16))


FROM_INSIDE: dict[str, Callable[[], object]] = {
    "exit": lambda: os._exit(7),
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "no memory": _exhaust,
}
"""Ways in which the code of a tool ends its own process, or makes it one that can hardly go on."""


@dataclass(frozen=True, slots=True)
class Effects:
    """The file calls.log of a folder: a line of JSON for each call, which `planloom verify --tool-log` can read."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "calls.log"

    def note(self, tool: str, effects: str, number: int, *, step: str, attempt: int, key: str) -> None:
        """Have it happen; then strike, if that was asked for."""
        told = {"step": step, "attempt": attempt, "key": key, "tool": tool, "effects": effects, "number": number}
        log = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(log, f"{json.dumps(told)}\n".encode())
            os.fsync(log)
            size = os.fstat(log).st_size
        finally:
            os.close(log)
        self._take_up_strike(size)

    def _take_up_strike(self, size: int) -> None:
        try:
            at, way = (self.folder / "strike").read_text(encoding="utf-8").split(maxsplit=1)
            if size < int(at):
                return
            (self.folder / "strike").rename(self.folder / "struck")
        except FileNotFoundError:  # nobody asked for it, or another process was there first
            return
        FROM_INSIDE[way]()

    def strike(self, way: str, *, calls: int = 0) -> None:
        """Have the process of the next call, or of one about so many calls later, struck in a way FROM_INSIDE."""
        size = self.path.stat().st_size if self.path.exists() else 0
        drafted = self.folder / "strike.draft"
        drafted.write_text(f"{size + calls * LINE_BYTES} {way}", encoding="utf-8")
        drafted.rename(self.folder / "strike")

    def withdraw(self) -> bool:
        """Strike no more; return whether that came too late."""
        try:
            (self.folder / "strike").unlink()
        except FileNotFoundError:
            return True
        return False

    def lines(self) -> list[dict[str, Any]]:
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def counted(self, effects: str) -> Counter[str]:
        """Return how many calls there were with such effects, by their step."""
        return Counter(line["step"] for line in self.lines() if line["effects"] == effects)

    def argument(self, step: str) -> int | None:
        """Return what the `once` tool of a step was called with, or None if it was not: it did not happen."""
        found = (line["number"] for line in self.lines() if (line["effects"], line["step"]) == ("once", step))
        return next(found, None)
