"""A process, its pipes and its end, all on the event loop, without a thread.

Rule 1: whatever ends the use of it, `end` leaves nothing: every process killed and gone, the first one reaped, every
descriptor closed.
Rule 2: a pipe is read as fast as it comes and given on in pieces; whoever gets them says when it is enough.
Rule 3: killing goes by descriptors of processes, not by their numbers, which the kernel gives to others later.
Rule 4: bubblewrap that is killed while it starts leaves behind the process it has just made, waiting for ever. So it is
first stopped, then what is under it is killed, then it; also when Python shuts down. Whoever else kills it, or us: what
it left is still in its process group then, and that is killed before its first process is reaped, or by the guardian.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic, sleep

from planloom.guardian import Guardian
from planloom.sandbox.watch import descendants, state_of

_PIECE = 65_536
_GOING = "RSD"
"""States of a process that has not stopped: running, sleeping, waiting for a disk."""
GONE_S = 2.0
"""Seconds that a killed process is waited for."""
_STANDS_S = 0.01
"""Seconds that a process may take to stop."""

OnPiece = Callable[[bytes], None]
"""Takes what came; nothing at the end of the pipe."""


class Pipes:
    """Descriptors of one program, each watched on the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._open: set[int] = set()
        self._unsent: dict[int, bytearray] = {}
        self._on_piece: dict[int, OnPiece] = {}
        self._unheard: set[int] = set()
        self._on_room: dict[int, Callable[[], None]] = {}

    def reader(self, on_piece: OnPiece) -> tuple[int, int]:
        """Make a pipe whose contents go to `on_piece`; return the child's end and the number to `listen` to."""
        ours, theirs = os.pipe()
        self._open |= {ours, theirs}
        os.set_blocking(ours, False)
        self._on_piece[ours] = on_piece
        self._loop.add_reader(ours, self._read, ours)
        return theirs, ours

    def listen(self, number: int, is_heard: bool) -> None:
        """Read a pipe from now on, or leave what comes in it, so that who writes has to wait."""
        if number not in self._open or is_heard != (number in self._unheard):
            return
        if is_heard:
            self._unheard.discard(number)
            self._loop.add_reader(number, self._read, number)
        else:
            self._unheard.add(number)
            self._loop.remove_reader(number)

    def writer(self, on_room: Callable[[], None]) -> tuple[int, int]:
        """Make a pipe to write to; return the child's end and the number to `send` to.

        Args:
            on_room: Called when all is written that had to wait.
        """
        theirs, ours = os.pipe()
        self._open |= {ours, theirs}
        os.set_blocking(ours, False)
        self._on_room[ours] = on_room
        return theirs, ours

    def unsent(self, number: int) -> int:
        """Return the bytes that wait to be written."""
        return len(self._unsent.get(number, b""))

    def given(self, text: bytes) -> int:
        """Return the child's end of a pipe that holds this text; no more than a pipe takes at once."""
        theirs, ours = os.pipe()
        self._open |= {ours, theirs}
        os.write(ours, text)
        self.close(ours)
        return theirs

    def send(self, number: int, text: bytes) -> None:
        """Write this, now or when there is room; a reader that is gone is nothing new."""
        if number not in self._open:
            return
        waiting = self._unsent.setdefault(number, bytearray())
        waiting += text
        self._write(number)

    def _write(self, number: int) -> None:
        waiting = self._unsent[number]
        try:
            while waiting:
                del waiting[: os.write(number, waiting[:_PIECE])]
        except BlockingIOError:
            self._loop.add_writer(number, self._write, number)
            return
        except BrokenPipeError:
            waiting.clear()
        if self._loop.remove_writer(number):
            self._on_room[number]()

    def _read(self, number: int) -> None:
        try:
            piece = os.read(number, _PIECE)
        except BlockingIOError:
            return
        if not piece:
            self.close(number)
        self._on_piece[number](piece)

    def close(self, number: int) -> None:
        if number in self._open:
            self._open.discard(number)
            self._loop.remove_reader(number)
            self._loop.remove_writer(number)
            os.close(number)

    def close_all(self) -> None:
        for number in list(self._open):
            self.close(number)


class Handle:
    """One process that must be gone in the end, known by a descriptor."""

    def __init__(self, process: int) -> None:
        self.process = process
        self._loop = asyncio.get_running_loop()
        self.gone = asyncio.Event()
        try:
            self._number = os.pidfd_open(process)
        except ProcessLookupError:
            self._number = -1
            self.gone.set()
            return
        self._loop.add_reader(self._number, self._ended)

    def _ended(self) -> None:
        self.gone.set()
        self._loop.remove_reader(self._number)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """Have it stand still, which takes some microseconds."""
        self._signal(signal.SIGSTOP)
        until = monotonic() + _STANDS_S
        while state_of(self.process) in _GOING and monotonic() < until:
            sleep(0)

    def _signal(self, number: signal.Signals) -> None:
        if self._number >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._number, number)

    def close(self) -> None:
        if self._number >= 0:
            self._loop.remove_reader(self._number)
            os.close(self._number)
            self._number = -1


_guardian = Guardian()
_guarding = threading.Lock()
"""The guardian is that of all event loops."""


class Child:
    """A process with others under it.

    Attributes:
        pipes: Its pipes; the child's ends are closed here once it has begun.
    """

    def __init__(self) -> None:
        self.pipes = Pipes()
        self._process: subprocess.Popen[bytes] | None = None
        self._first: Handle | None = None
        self._under: dict[int, Handle] = {}

    def begin(self, command: Sequence[str], *, keep: Sequence[int], out: int, err: int) -> None:
        """Start it, with these descriptors open and no environment.

        Raises:
            OSError: It cannot be started.
        """
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the command is ours; what is untrusted goes over a pipe
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=keep,
                env={},
                close_fds=True,
                process_group=0,
            )
        finally:
            for number in (*keep, out, err):
                self.pipes.close(number)
        with _guarding:
            _guardian.watch(self._process.pid)
        try:
            self._first = Handle(self._process.pid)
        except OSError:
            self._process.kill()
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            self._reap()
            raise
        _live.add(self)

    @property
    def process(self) -> int:
        """Return the id of the first process; 0 before it has begun."""
        return self._process.pid if self._process is not None else 0

    @property
    def exit_code(self) -> int | None:
        """Return what the first process ended with, as `Popen.returncode`; None while it runs."""
        return self._reap() if self._first is not None and self._first.gone.is_set() else None

    def _reap(self) -> int | None:
        """Take leave of the first process, which has ended, and of what it left in its group."""
        assert self._process is not None
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):  # nobody left, or only the dead
                os.killpg(self._process.pid, signal.SIGKILL)
            with _guarding:
                _guardian.forget(self._process.pid)
                if not _guardian.guards:
                    _guardian.close()
        return self._process.poll()

    async def ended(self) -> None:
        """Wait until the first process has ended."""
        if self._first is not None:
            await self._first.gone.wait()

    def kill(self) -> None:
        if self._first is None or self._first.gone.is_set():
            return
        self._first.stop()
        for process in descendants(self._first.process):
            if process not in self._under:
                try:
                    self._under[process] = Handle(process)
                except OSError:  # no descriptor to be had: it goes with the first one that is under ours
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
        for handle in (*self._under.values(), self._first):
            handle.kill()

    async def end(self) -> None:
        """Kill what runs, wait for it to be gone, and close everything, also if this is cancelled meanwhile."""
        self.kill()
        ending = asyncio.ensure_future(self._be_gone())
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            while not ending.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.shield(ending)
            raise

    async def _be_gone(self) -> None:
        handles = [*self._under.values(), *([self._first] if self._first is not None else [])]
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(GONE_S):
                    for handle in handles:
                        await handle.gone.wait()
        finally:
            if self._process is not None:
                self._reap()
            for handle in handles:
                handle.close()
            self.pipes.close_all()
            _live.discard(self)


_live: set[Child] = set()


@atexit.register
def _leave_nothing() -> None:
    for child in list(_live):
        child.kill()
    with _guarding:
        _guardian.close()
