"""An MCP server that is a program of ours: started, talked to over its stdin and stdout, and ended with all it started.

Rule 1: no line is read on that is too long, and the lines that are too much end the program, not us.
Rule 2: nothing that it wrote is logged here but to the file that the operator names, and there without secrets.
Rule 3: the program is in a process group of its own, which is killed as a whole, whichever of them are left, also when
    this process is killed first. What leaves the group on purpose (`setsid`) is not found again.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from planloom.guardian import Guardian
from planloom.tools.mcp_wire import MAX_MESSAGE_BYTES, TOO_LONG, too_much

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

EXIT_S = 2.0
"""Seconds that a program has to end once its stdin is closed, and again once it was told to by a signal."""
LOOK_S = 0.5
"""Seconds between looks at whether a program still is there: what it started may keep its stdout open."""
MAX_LOG_BYTES = 16 * 2**20
"""Of stderr, for each time that the program is started; the rest is dropped."""
MAX_ASKED = 1_000
"""Requests of the server that our answers are still on the way to."""
_CHUNK = 2**16


@dataclass(frozen=True, slots=True)
class ServerProgram:
    """What is started.

    Attributes:
        environment: All of its variables.
        log: File that takes its stderr; None: that is dropped.
        strike: Takes secrets out of text.
        breaks: Told what is wrong with the program when it is ended for that.
    """

    command: str
    args: tuple[str, ...]
    environment: dict[str, str]
    folder: Path
    log: Path | None
    strike: Callable[[str], str]
    breaks: Callable[[str], None]


@asynccontextmanager
async def over_stdio(program: ServerProgram) -> AsyncIterator[tuple[Any, Any]]:
    """Start a program, and give the streams of messages from it and to it; it is gone after.

    Raises:
        OSError: It cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        program.command,
        *program.args,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL if program.log is None else asyncio.subprocess.PIPE,
        cwd=program.folder,
        env=program.environment,
        start_new_session=True,
        limit=MAX_MESSAGE_BYTES,
    )
    guardian = Guardian()  # told to forget late: asyncio reaps the program itself, whose number is free for a moment
    guardian.watch(process.pid)
    tasks: list[asyncio.Task[None]] = []
    try:
        come, coming = anyio.create_memory_object_stream[Any](0)
        going, go = anyio.create_memory_object_stream[Any](0)
        talk = _Talk(program, process, come, go)
        tasks += [asyncio.create_task(talk.hear()), asyncio.create_task(talk.say()), asyncio.create_task(talk.watch())]
        if program.log is not None:
            tasks.append(asyncio.create_task(_kept(process, program.log, program.strike)))
        async with coming, going:
            yield coming, going
        await asyncio.wait(tasks[1:2], timeout=EXIT_S)  # what was said already is still sent
    finally:
        try:
            await _end(process)
        finally:
            was_there = _signal(process, signal.SIGKILL)
            for task in tasks:
                task.cancel()
            if was_there:
                await _until(lambda: process.returncode is not None and not _signal(process, 0))
            _close(process)
            guardian.forget(process.pid)
            guardian.close()
    await asyncio.wait(tasks)


class _Talk:
    """The messages from a program and to it."""

    def __init__(self, program: ServerProgram, process: Process, come: Any, go: Any) -> None:
        self._program = program
        self._process = process
        self._come = come
        self._go = go
        self._asked = 0
        """Requests of the server, less what was answered."""

    async def hear(self) -> None:
        """Hand on what it says, until it ends or says what cannot be taken; then drop the rest."""
        stdout = self._process.stdout
        assert stdout is not None
        async with self._come:
            with suppress(asyncio.IncompleteReadError, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                while True:
                    try:
                        line = await stdout.readuntil(b"\n")
                    except asyncio.LimitOverrunError:
                        wrong: str | None = TOO_LONG
                    else:
                        wrong = await self._take(line)
                    if wrong is not None:
                        self._program.breaks(wrong)
                        break
        while await stdout.read(_CHUNK):  # else it could not write, and so not end
            pass

    async def _take(self, line: bytes) -> str | None:
        """Hand one line on, or return what is wrong with it; lines that are no messages are passed over."""
        import mcp_types
        from mcp.shared.message import SessionMessage

        wrong = too_much(line)
        if wrong is not None:
            return wrong
        try:
            message = mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValueError:  # its words are not told: they quote what may be secret
            return "it sent a message that cannot be read" if b'"jsonrpc"' in line else None
        if isinstance(message, mcp_types.JSONRPCRequest):
            self._asked += 1
            if self._asked > MAX_ASKED:
                return "it asks, and does not read the answers"
        await self._come.send(SessionMessage(message))
        return None

    async def say(self) -> None:
        """Send what is to be said; when it no longer listens nothing comes of it either."""
        import mcp_types

        stdin = self._process.stdin
        assert stdin is not None
        try:
            async with self._go:
                async for one in self._go:
                    message = one.message.model_dump_json(by_alias=True, exclude_unset=True)
                    stdin.write(message.encode() + b"\n")
                    await stdin.drain()
                    if isinstance(one.message, mcp_types.JSONRPCResponse | mcp_types.JSONRPCError):
                        self._asked -= 1
        except OSError:
            await self._come.aclose()

    async def watch(self) -> None:
        """End the talk when the program is gone, and what it started keeps its stdout open."""
        while self._process.returncode is None:  # noqa: ASYNC110 - asyncio has no event for just this
            await asyncio.sleep(LOOK_S)
        await asyncio.sleep(LOOK_S)  # what it said last may still be on its way
        await self._come.aclose()


async def _kept(process: Process, path: Path, strike: Callable[[str], str]) -> None:
    """Write what the program says on stderr to a file, line by line."""
    stderr = process.stderr
    assert stderr is not None
    kept, rest = 0, b""
    with path.open("ab") as file:
        while chunk := await stderr.read(_CHUNK):
            if kept > MAX_LOG_BYTES:
                continue
            whole, newline, rest = (rest + chunk).rpartition(b"\n")
            if len(rest) > MAX_LOG_BYTES:
                whole, rest = whole + newline + rest, b""
            kept += len(whole) + 1
            if kept > MAX_LOG_BYTES:
                whole, rest = b"planloom: no more of this is kept", b""
            file.write(strike((whole + newline).decode(errors="replace")).encode())
            file.flush()
        file.write(strike(rest.decode(errors="replace")).encode())


async def _end(process: Process) -> None:
    """Have a program end, and what it started: they are asked to, then told to."""
    if process.stdin is not None:
        process.stdin.close()
    # Not `process.wait`: that waits for whoever has its stdout, too.
    await _until(lambda: process.returncode is not None)
    if _signal(process, signal.SIGTERM):
        await _until(lambda: not _signal(process, 0))


async def _until(is_so: Callable[[], bool]) -> None:
    """Return as soon as it is so, or when the time is over."""
    over = asyncio.get_running_loop().time() + EXIT_S
    while not is_so() and asyncio.get_running_loop().time() < over:  # noqa: ASYNC110 - nothing to be told by
        await asyncio.sleep(0.01)


def _signal(process: Process, number: int) -> bool:
    """Send a signal to the program and to what it started, and return whether any of them is there."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # one of them became somebody else; those that could be told were
        return True
    return True


def _close(process: Process) -> None:
    """Close our ends of its pipes, which what it started may keep open; asyncio has no other way to."""
    process._transport.close()  # type: ignore[attr-defined]
