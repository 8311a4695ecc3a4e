"""One worker process as whoever started it sees it.

Rule 1: it leads a process group of its own, and is killed with all of it.
Rule 2: what it is told of secrets goes through its standard input, never through arguments or environment.
Rule 3: its group is killed before it is reaped: until then its number cannot belong to anybody else.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from planloom.guardian import Guardian

LAST_WORDS_BYTES = 4_000
"""How much of what it printed is kept, from the end."""
READS_AT_ONCE = 4
"""Pieces of what it printed that are read in one go."""
POLL_S = 0.05
"""Seconds between looks whether it has ended, where the system has no better way to say so."""


class ChildProcess:
    """A process that was started, its last words, and its end.

    Args:
        first_line: What it reads from its standard input, which then ends.
        on_exit: Hears of its end once, with its exit code, negative for a signal; its group is dead by then.
        guardian: Sees to the end of its group should this process end first.
    """

    def __init__(
        self,
        command: Sequence[str],
        first_line: str,
        *,
        on_exit: Callable[[int], None],
        guardian: Guardian,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_exit = on_exit
        self._guardian = guardian
        self._printed = bytearray()
        line = first_line.encode() + b"\n"
        self._pipe, printing = os.pipe()
        try:
            told, telling = os.pipe()
        except OSError:
            os.close(self._pipe)
            os.close(printing)
            raise
        try:
            os.set_blocking(self._pipe, False)
            os.set_blocking(telling, False)  # a line that does not fit a pipe is an error, not a wait
            if os.write(telling, line) < len(line):
                raise OSError(errno.E2BIG, f"what a worker is told takes {len(line)} bytes, more than a pipe does")
            self._popen = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                list(command), stdin=told, stdout=printing, stderr=printing, env=env, start_new_session=True
            )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            for end in (printing, told, telling):
                os.close(end)
        self._guardian.watch(self.pid)
        self._loop.add_reader(self._pipe, self._read)
        self._handle = self._watch()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def last_words(self) -> str:
        """Return the end of what it printed."""
        return self._printed.decode(errors="replace").strip()

    def kill(self) -> None:
        """Kill it and every process of its group; `on_exit` hears of it soon after."""
        if self._popen.returncode is None:
            with suppress(ProcessLookupError, PermissionError):  # nobody left, or, on some systems, only the dead
                os.killpg(self.pid, signal.SIGKILL)

    def _watch(self) -> int | None:
        """Have `_look` called when the process ends."""
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):
                handle = os.pidfd_open(self.pid)
                self._loop.add_reader(handle, self._look)
                return handle
        self._loop.call_later(POLL_S, self._look)
        return None

    def _look(self) -> None:
        if not self._ended():
            if self._handle is None:
                self._loop.call_later(POLL_S, self._look)
            return
        self.kill()
        self._guardian.forget(self.pid)
        code = self._popen.wait()
        if self._handle is not None:
            self._loop.remove_reader(self._handle)
            os.close(self._handle)
        self._read()
        if self._pipe >= 0:
            self._stop_reading()
        self._on_exit(code)

    def _ended(self) -> bool:
        if hasattr(os, "waitid"):
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        return self._popen.poll() is not None

    def _read(self) -> None:
        for _ in range(READS_AT_ONCE):  # whoever prints without end must not be listened to without end
            if self._pipe < 0:
                return
            try:
                piece = os.read(self._pipe, 65_536)
            except BlockingIOError:
                return
            if not piece:
                self._stop_reading()
            self._printed += piece
            del self._printed[:-LAST_WORDS_BYTES]

    def _stop_reading(self) -> None:
        self._loop.remove_reader(self._pipe)
        os.close(self._pipe)
        self._pipe = -1


def ended_how(code: int) -> str:
    """Return how a process ended, for people."""
    if code >= 0:
        return f"it exited with code {code}"
    try:
        return f"it was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was killed by signal {-code}"
