"""`runtime: monty`, the default: a Python interpreter that has no way out, written in Rust, in a process of its own.

Rule 1: each program has a fresh process. What a limit of the interpreter misses, the process is held to from outside.
Rule 2: what a program says reaches the event loop one piece at a time; the loop ends it by killing its process.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from planloom.core.code import ErrorType
from planloom.errors import OutputError
from planloom.sandbox.ending import CALLS_AT_ONCE, Ending
from planloom.sandbox.monty_drive import NAME, SPARE_MEMORY, Drive, missing, monty_library
from planloom.sandbox.places import AT_ONCE, Places
from planloom.sandbox.program import checked_inputs, refused_import
from planloom.sandbox.watch import Watch

if TYPE_CHECKING:
    from types import ModuleType

    from planloom.core.code import Program, SandboxResult
    from planloom.errors import NoSandboxError

MESSAGES_HELD = 16
"""How many times what one call may carry a program may have given to calls that have not ended."""


class MontySandbox:
    """Runs programs in Monty; satisfies `ports.SandboxBackend`."""

    name = NAME

    def __init__(self, *, at_once: int = AT_ONCE) -> None:
        self._places = Places(at_once)

    def missing(self) -> NoSandboxError | None:
        """Return why it cannot be had here."""
        return missing()

    async def run(self, program: Program) -> SandboxResult:
        """Run a program and return what it came to; cancelling it kills its process at once.

        Raises:
            NoSandboxError: Monty is not installed.
            Exception: What a tool of the host raised.
        """
        library = monty_library()
        async with self._places.one(program):
            return await _Running(program, library).result()

    async def close(self) -> None:
        """Nothing stays between programs."""


class _Running:
    """One program under way, as the event loop sees it."""

    def __init__(self, program: Program, library: ModuleType) -> None:
        self._program = program
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._ending = Ending(program, self._over.set)
        self._drive = Drive(program, library, self)
        self._calls: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(CALLS_AT_ONCE)
        self._carried = 0
        """Bytes of the arguments of calls that have not ended."""
        self._sleeps: dict[int, asyncio.TimerHandle] = {}
        self.stopped = asyncio.Event()

    async def result(self) -> SandboxResult:
        program, limits = self._program, self._program.limits
        try:
            inputs = _checked(program)
        except OutputError as error:
            self._ending.failed(ErrorType.DENIED, error.message)
            return self._finished()
        watch = Watch(limits, self._drive.processes, self._ending.failed, spare_bytes=SPARE_MEMORY)
        self._drive.begin(inputs)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(limits.wall_s):
                    await self._over.wait()
            self._ending.failed(ErrorType.TIMEOUT, f"it was not done within {limits.wall_s:g} s")
        finally:
            watch.close()
            self._drive.end()
            for handle in self._sleeps.values():
                handle.cancel()
            for task in self._calls:
                task.cancel()
            await asyncio.gather(*self._calls, return_exceptions=True)
            await self.stopped.wait()
        return self._finished()

    # --- told by the thread --------------------------------------------------------------------

    def tell(self, what: str, *told: Any) -> None:
        """Have `self.<what>(*told)` called on the event loop; nobody there any more is all right."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(getattr(self, what), *told)

    def done(self, value: Any) -> None:
        self._ending.done(value)

    def failed(self, kind: ErrorType, text: str) -> None:
        self._ending.failed(kind, text)

    def raises(self, error: BaseException) -> None:
        self._ending.raises(error)

    def printed(self, stream: str, text: str) -> None:
        self._ending.printed(stream, text)

    def sleep(self, number: int, seconds: float) -> None:
        if not self._ending.is_over:
            delay_s = min(max(0.0, seconds), self._program.limits.wall_s)
            self._sleeps[number] = self._loop.call_later(delay_s, self._slept, number)

    def _slept(self, number: int) -> None:
        del self._sleeps[number]
        self._drive.answers.put((number, {"value": None}))

    def has_stopped(self) -> None:
        self._ending.failed(ErrorType.CRASHED, "the interpreter broke down")
        self.stopped.set()

    def call(self, number: int, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], size: int) -> None:
        if not self._ending.may_call(name):
            return
        self._carried += size
        most = MESSAGES_HELD * self._program.limits.result_bytes
        if self._carried > most:
            self._ending.failed(ErrorType.RESULT, f"it gave more than {most:,} bytes to calls that have not ended")
            return
        task = asyncio.create_task(self._call(number, name, args, kwargs, size))
        self._calls.add(task)
        task.add_done_callback(self._called)

    def took(self) -> None:
        """Let the next call begin: the program has taken an answer, which nobody holds here any more."""
        self._turns.release()

    async def _call(self, number: int, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], size: int) -> None:
        await self._turns.acquire()
        try:
            told = await self._ending.call(name, args, kwargs, size)
        except (SystemExit, KeyboardInterrupt) as error:  # from a task of its own they would end the event loop
            self._ending.raises(error)
            return
        finally:
            self._carried -= size
        self._drive.answers.put((number, told))

    def _called(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self._ending.raises(error)

    def _finished(self) -> SandboxResult:
        return self._ending.finished(NAME, *held(self._program))


def _checked(program: Program) -> dict[str, Any]:
    """Return a program's variables.

    Raises:
        OutputError: It is not even begun.
    """
    inputs = checked_inputs(program)
    if program.allowed_imports is not None:
        module = refused_import(program.source, program.allowed_imports)
        if module is not None:
            raise OutputError(f"module {module!r:.200} may not be imported here")
    return inputs


def held(program: Program) -> tuple[dict[str, str], dict[str, str]]:
    """Return how each limit of a program is held here, and why others are not."""
    limits = program.limits
    enforced = {
        "memory_mb": f"{limits.memory_mb:g}: by the interpreter, and by measuring its process",
        "wall_s": f"{limits.wall_s:g}: killed",
        "output_bytes": f"{limits.output_bytes}",
        "result_bytes": f"{limits.result_bytes}",
        "processes": "1: there is no way to start another",
        "disk_mb": f"{limits.disk_mb:g}: files are in memory only",
        "tool_calls": f"{limits.tool_calls}",
        "network": "none: the interpreter has no way to it",
        "files": "none of this machine's: the interpreter has no way to them",
        "environment": "none",
    }
    unenforced: dict[str, str] = {}
    if limits.cpu_percent is not None:
        where = enforced if sys.platform == "linux" else unenforced
        where["cpu_percent"] = (
            f"{limits.cpu_percent:g}: stopped and let go on, as an average"
            if sys.platform == "linux"
            else "processor time of other processes cannot be read on this system"
        )
    if sys.platform != "linux":
        unenforced["process_memory"] = (
            "its process cannot be measured on this system; the interpreter's own limit holds"
        )
    if program.allowed_imports is not None:
        enforced["allowed_imports"] = ", ".join(sorted(program.allowed_imports)) or "none"
    return enforced, unenforced
