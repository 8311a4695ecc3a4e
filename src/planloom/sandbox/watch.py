"""Looks after a program's processes from outside, where the program cannot reach.

Rule 1: what the kernel does not limit by itself is measured every `TICK_S` seconds: memory of all processes together,
processor time, files and the locks on them.
Rule 2: a share of a core is held by stopping all processes and letting them go on: an average, over the whole program.
Rule 3: it reads the kernel's own tables only, and a process that is gone is no error.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from planloom.core.code import ErrorType

if TYPE_CHECKING:
    from planloom.core.code import SandboxLimits

TICK_S = 0.02
CREDIT_S = 0.15
"""Seconds of processor time that a program has at once: an interpreter needs a third of that to start."""
MAX_FILES = 5_000
"""The kernel counts what is in a program's files, and not the files."""
MAX_LOCKS = 500
"""Each takes some memory of the kernel's, which no limit counts."""
_LOCKS_LOOKED_AT = 65_536
"""Bytes of the kernel's list, the newest first: to read all of a long one takes quadratic time."""
_LOCKS_EVERY = 10
"""Ticks from one look at all the machine's locks to the next."""

Breach = Callable[[ErrorType, str], None]
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Watch:
    """Watches one program until `close`.

    Args:
        processes: Returns the ids of its processes, as they are now.
        breach: Is told once what the program did beyond its limits.
        spare_bytes: Of memory, for what is not the program's own.
        folder: Returns the path of the program's own files as seen from here, or None.
    """

    def __init__(
        self,
        limits: SandboxLimits,
        processes: Callable[[], list[int]],
        breach: Breach,
        *,
        spare_bytes: int = 0,
        folder: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._limits = limits
        self._spare_bytes = spare_bytes
        self._processes = processes
        self._breach = breach
        self._folder = folder
        self._loop = asyncio.get_running_loop()
        self._begun_at = monotonic()
        self._used_s = 0.0
        self._ticks = 0
        self._is_stopped = False
        self._next: asyncio.TimerHandle | None = self._loop.call_later(TICK_S, self._tick)

    def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _tick(self) -> None:
        self._next = self._loop.call_later(TICK_S, self._tick)
        found = self._processes()
        memory = sum(map(memory_bytes, found))
        if memory > self._limits.memory_bytes + self._spare_bytes:
            self._over(ErrorType.MEMORY, f"it uses more than the {self._limits.memory_mb:g} MB it may")
        elif _files(self._folder()) > MAX_FILES:
            self._over(ErrorType.DISK, f"it made more than {MAX_FILES:,} files")
        elif self._has_too_many_locks(found):
            self._over(ErrorType.DISK, f"it holds more than {MAX_LOCKS:,} locks")
        else:
            self._hold_back(found)

    def _has_too_many_locks(self, found: list[int]) -> bool:
        self._ticks += 1
        if self._ticks % _LOCKS_EVERY:
            return False
        told = _read("/proc/locks", _LOCKS_LOOKED_AT)
        return sum(told.count(b" %d " % process) for process in found) > MAX_LOCKS

    def _over(self, kind: ErrorType, text: str) -> None:
        self.close()
        self._breach(kind, text)

    def _hold_back(self, found: list[int]) -> None:
        percent = self._limits.cpu_percent
        if percent is None:
            return
        # A child that is gone is in what its parent's children used, so what is there tells of all there were.
        self._used_s = max(self._used_s, sum(used_s(process, and_children=True) for process in found))
        allowed_s = CREDIT_S + percent / 100 * (monotonic() - self._begun_at)
        is_over = self._used_s > allowed_s
        if is_over or self._is_stopped:
            self._is_stopped = is_over
            for process in found:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(process, signal.SIGSTOP if is_over else signal.SIGCONT)


def memory_bytes(process: int) -> int:
    """Return the memory of a process that is not a file's, tables of its pages included."""
    found = 0
    for line in _read(f"/proc/{process}/status").splitlines():
        if line.startswith((b"RssAnon:", b"RssShmem:", b"VmSwap:", b"VmPTE:", b"HugetlbPages:")):
            found += int(line.split()[1]) * 1024
    return found


def used_s(process: int, *, and_children: bool = False) -> float:
    """Return the seconds of processor time that a process used itself, and those of its children that are gone."""
    fields = _read(f"/proc/{process}/stat").rpartition(b")")[2].split()
    return sum(map(int, fields[11 : 15 if and_children else 13])) / _TICKS


def state_of(process: int) -> str:
    """Return the letter that stands for what a process is doing, as in `ps`; "" if it is gone."""
    fields = _read(f"/proc/{process}/stat").rpartition(b")")[2].split()
    return fields[0].decode() if fields else ""


def descendants(process: int) -> Iterator[int]:
    """Yield the ids of the processes that a process started, and those that these did."""
    waiting = [process]
    while waiting:
        parent = waiting.pop()
        try:
            threads = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue
        for thread in threads:
            children = [int(child) for child in _read(f"/proc/{parent}/task/{thread}/children").split()]
            yield from children
            waiting += children


def _files(folder: str | None) -> int:
    if folder is None:
        return 0
    try:
        found = os.statvfs(folder)
    except OSError:
        return 0
    return found.f_files - found.f_ffree


def _read(path: str, most: int = 1 << 20) -> bytes:
    told = b""
    try:
        with open(path, "rb", buffering=0) as file:
            while len(told) < most and (piece := file.read(4_096)):
                told += piece
            return told
    except OSError:
        return b""
