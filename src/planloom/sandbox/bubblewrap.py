"""`runtime: cpython`: all of Python, in namespaces of its own, made by bubblewrap.

Rule 1: the program runs as a user that owns nothing here, without rights, network, environment or any file but the
standard library, read-only, and a small folder of its own that lives in memory.
Rule 2: if that cannot be had, the program is refused. There is no weaker way to run it.
Rule 3: nothing that comes from the program is believed: messages are bounded, and of a known form, or they end it.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import secrets
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from planloom.core.code import ErrorType
from planloom.errors import NoSandboxError, OutputError
from planloom.plan.values import as_json
from planloom.sandbox.child import Child
from planloom.sandbox.ending import CALLS_AT_ONCE, HELD_AT_ONCE, Ending
from planloom.sandbox.inbox import Inbox
from planloom.sandbox.places import AT_ONCE, Places
from planloom.sandbox.program import NAMESPACES, WORK, checked_inputs, is_async
from planloom.sandbox.runner_text import runner_text
from planloom.sandbox.seccomp import seccomp_program
from planloom.sandbox.visible import DEVICES, Visible, look, missing
from planloom.sandbox.watch import Watch, descendants

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planloom.core.code import Program, SandboxLimits, SandboxResult

NAME = "cpython"
LAST_WORDS_S = 0.5
"""Seconds that a program which has answered may take to end by itself, so that all it printed arrives."""
_decoder = codecs.getincrementaldecoder("utf-8")
_NOBODY = 65_534
_USERS = range(0x6000_0000, 0x6FFF_0000)
"""Where a program's user is drawn from when we are root: no system gives these out, so what it runs is its alone."""
_ADDRESS_SPACE_MORE = 512 * 10**6
"""Bytes of addresses beyond the memory limit: libraries, stacks and reserves, which are no memory in use."""
_OPEN_FILES = 64
_AROUND_RESULT = len('{"t":"done","result":}')
_SAID_BY_PROGRAMS = frozenset(
    {ErrorType.SYNTAX, ErrorType.RUNTIME, ErrorType.MEMORY, ErrorType.DISK, ErrorType.DENIED, ErrorType.RESULT}
)
"""Ends that a program may say it came to; of the others the host knows by itself."""

_NAMESPACE_RIGHTS = "bubblewrap may not make namespaces here"
_REMEDY = (
    "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
    "kernel.apparmor_restrict_unprivileged_userns=0), give the container the right to make them, "
    "or run the step with `runtime: monty`"
)


class CpythonSandbox:
    """Runs programs in full CPython; satisfies `ports.SandboxBackend`."""

    name = NAME

    def __init__(self, *, at_once: int = AT_ONCE) -> None:
        self._places = Places(at_once)

    def missing(self) -> NoSandboxError | None:
        """Return why it cannot be had here; whether namespaces may be made shows only when a program is run."""
        return missing()

    async def run(self, program: Program) -> SandboxResult:
        """Run a program and return what it came to; cancelling it kills all of its processes at once.

        Raises:
            NoSandboxError: There is no bubblewrap, or it may not work here.
            Exception: What a tool of the host raised.
        """
        found = await asyncio.to_thread(look)
        async with self._places.one(program):
            return await _Running(program, found).result()

    async def close(self) -> None:
        """Nothing stays between programs."""


class _Running:
    """One program under way."""

    def __init__(self, program: Program, found: Visible) -> None:
        self._program = program
        self._visible = found
        self._over = asyncio.Event()
        self._ending = Ending(program, self._over.set)
        self._child = Child()
        self._send_to = -1
        self._first = 0
        """Id of the process that all others of the sandbox are under."""
        self._answers = -1
        self._inbox = Inbox(
            program.limits.result_bytes,
            take=self._take,
            refuse=self._ending.failed,
            has_room=self._has_room,
            listen=lambda is_heard: self._child.pipes.listen(self._answers, is_heard),
        )
        self._decoders = {name: _decoder(errors="replace") for name in ("stdout", "stderr")}
        self._complaint = bytearray()
        self._is_ready = False
        self._calls: set[asyncio.Task[None]] = set()
        self._carried = 0
        """Bytes of the arguments of calls under way."""
        self._filter = seccomp_program()

    async def result(self) -> SandboxResult:
        limits = self._program.limits
        try:
            first = self._first_message()
        except OutputError as error:
            self._ending.failed(ErrorType.DENIED, error.message)
            return self._finished()
        watch: Watch | None = None
        try:
            self._begin()
            self._child.pipes.send(self._send_to, first)
            watch = Watch(limits, self._processes, self._ending.failed, folder=self._folder)
            with suppress(TimeoutError):
                async with asyncio.timeout(limits.wall_s):
                    await self._until_over()
            self._ending.failed(ErrorType.TIMEOUT, f"it was not done within {limits.wall_s:g} s")
            if self._ending.error_type is None and self._ending.raised is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LAST_WORDS_S):
                        await self._child.ended()
        finally:
            if watch is not None:
                watch.close()
            self._inbox.close()
            self._child.kill()
            for task in self._calls:
                task.cancel()
            await self._child.end()
            await asyncio.gather(*self._calls, return_exceptions=True)
        return self._finished()

    def _first_message(self) -> bytes:
        program = self._program
        told = {
            "source": program.source,
            "inputs": checked_inputs(program),
            "tools": sorted(program.tools),
            "namespaces": NAMESPACES,
            "is_async": is_async(program.source),
            "imports": None if program.allowed_imports is None else sorted(program.allowed_imports),
        }
        return _line(told)

    def _begin(self) -> None:
        pipes = self._child.pipes
        out, _ = pipes.reader(lambda piece: self._printed("stdout", piece))
        err, _ = pipes.reader(lambda piece: self._printed("stderr", piece))
        answers, self._answers = pipes.reader(self._inbox.heard)
        asks, self._send_to = pipes.writer(self._inbox.go_on)
        keep = [asks, answers]
        options: list[str] = []
        if self._filter is not None:
            number = pipes.given(self._filter)
            keep.append(number)
            options += ["--seccomp", str(number)]
        command = command_of(self._visible, self._program.limits, options, (asks, answers))
        try:
            self._child.begin(command, keep=keep, out=out, err=err)
        except OSError as error:
            raise NoSandboxError(f"bubblewrap cannot be started: {error}", remedy=_REMEDY, backend=NAME) from error

    async def _until_over(self) -> None:
        """Wait until something has ended the program, or its first process has gone without a word."""
        over = asyncio.ensure_future(self._over.wait())
        gone = asyncio.ensure_future(self._child.ended())
        try:
            await asyncio.wait((over, gone), return_when=asyncio.FIRST_COMPLETED)
            if not self._over.is_set():
                with suppress(TimeoutError):  # what it said last may still be in the pipe
                    await asyncio.wait_for(asyncio.shield(over), 0.05)
            if not self._over.is_set():
                self._died()
        finally:
            over.cancel()
            gone.cancel()

    def _died(self) -> None:
        code = self._child.exit_code or 0
        number = code - 128 if code > 128 else -code
        is_killed = number in set(signal.Signals)
        if not self._is_ready and not is_killed:
            text = self._complaint.decode(errors="replace").strip()[:500]
            self._ending.raises(NoSandboxError(f"{_NAMESPACE_RIGHTS}: {text}", remedy=_REMEDY, backend=NAME))
            return
        if number == signal.SIGXCPU:
            self._ending.failed(ErrorType.TIMEOUT, "it used all the processor time it may")
            return
        by = f", killed by {signal.Signals(number).name}" if is_killed else ""
        self._ending.failed(ErrorType.CRASHED, f"its process died{by or f' with exit code {code}'}")

    def _processes(self) -> list[int]:
        return list(descendants(self._child.process)) if self._child.process else []

    def _folder(self) -> str | None:
        """Return where the program's files are; before it is ready, the same path may still lead to this machine's."""
        return f"/proc/{self._first}/root{WORK}" if self._first else None

    # --- what comes from the sandbox -----------------------------------------------------------

    def _printed(self, stream: str, piece: bytes) -> None:
        if not self._is_ready and stream == "stderr":
            self._complaint += piece[:1_000]
        text = self._decoders[stream].decode(piece, final=not piece)
        if text and not self._ending.printed(stream, text):
            self._child.kill()

    def _has_room(self) -> bool:
        """Return whether it may have one more call under way, or must wait for others, or read what they came to."""
        if self._ending.is_over:
            return False
        held = self._carried + self._child.pipes.unsent(self._send_to)
        return len(self._calls) < CALLS_AT_ONCE and held < HELD_AT_ONCE * self._program.limits.result_bytes

    def _take(self, message: dict[str, Any], size: int) -> None:
        kind = message["t"]
        if kind == "call":
            self._called(message, size)
        elif kind == "done":
            self._done(message["result"], size - _AROUND_RESULT)
        elif kind == "error":
            said, name = ErrorType(message["kind"]), message.get("name")
            if said not in _SAID_BY_PROGRAMS:
                raise ValueError(said)
            self._ending.raised_in_program(said, str(message["text"]), name if isinstance(name, str) else None)
        elif kind == "ready" and not self._is_ready:
            self._is_ready = True
            self._first = next(iter(self._processes()), 0)
        else:
            raise ValueError(kind)

    def _done(self, value: Any, size: int) -> None:
        limits = self._program.limits
        if size > limits.result_bytes:
            self._ending.failed(ErrorType.RESULT, f"it returned more than {limits.result_bytes:,} bytes of JSON")
            return
        try:
            self._ending.done(as_json(value, where="result"))
        except OutputError as error:
            self._ending.failed(ErrorType.RESULT, error.message)

    def _called(self, message: dict[str, Any], size: int) -> None:
        number, name = message["id"], message["name"]
        args, kwargs = as_json(message["args"]), as_json(message["kwargs"])
        if not (type(number) is int and isinstance(name, str) and isinstance(args, list) and isinstance(kwargs, dict)):
            raise TypeError(name)
        if not self._ending.may_call(name):
            return
        self._carried += size
        task = asyncio.create_task(self._call(number, name, tuple(args), kwargs, size))
        self._calls.add(task)
        task.add_done_callback(self._called_out)

    async def _call(self, number: int, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], size: int) -> None:
        try:
            told = await self._ending.call(name, args, kwargs, size)
        except (SystemExit, KeyboardInterrupt) as error:  # from a task of its own they would end the event loop
            self._ending.raises(error)
            return
        finally:
            self._carried -= size
        self._child.pipes.send(self._send_to, _line({"id": number} | told))

    def _called_out(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self._ending.raises(error)
        self._inbox.go_on()

    def _finished(self) -> SandboxResult:
        return self._ending.finished(NAME, *held(self._program, has_filter=self._filter is not None))


def held(program: Program, *, has_filter: bool) -> tuple[dict[str, str], dict[str, str]]:
    """Return how each limit of a program is held here, and why others are not."""
    limits = program.limits
    enforced = {
        "memory_mb": f"{limits.memory_mb:g}: by the kernel for each process, by measuring for all together",
        "wall_s": f"{limits.wall_s:g}: killed",
        "output_bytes": f"{limits.output_bytes}",
        "result_bytes": f"{limits.result_bytes}",
        "processes": f"{limits.processes}: by the kernel",
        "disk_mb": f"{limits.disk_mb:g}: by the size of its file system; files are counted",
        "tool_calls": f"{limits.tool_calls}",
        "network": "none: a network namespace of its own",
        "files": "none but the standard library, read-only",
    }
    unenforced: dict[str, str] = {}
    if limits.cpu_percent is not None:
        enforced["cpu_percent"] = f"{limits.cpu_percent:g}: stopped and let go on, as an average"
    if has_filter:
        enforced["system_calls"] = "filtered"
    else:
        unenforced["system_calls"] = "no filter is known for this machine; namespaces and limits hold"
    if program.allowed_imports is not None:
        unenforced["allowed_imports"] = "held for `import` as it is written; code can get round it within the sandbox"
    return enforced, unenforced


def command_of(found: Visible, limits: SandboxLimits, options: list[str], channel: tuple[int, int]) -> list[str]:
    """Return the command that starts the interpreter in a sandbox.

    Root lets bubblewrap use root's own rights and hands the interpreter the one to become somebody else, which it does
    before anything else: files of root's home would be out of reach of a user namespace, and the kernel does not count
    root's processes. Everybody else gets a user namespace.
    """
    is_root = os.geteuid() == 0
    command = [found.bwrap, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    command += ["--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv", *options]
    if is_root:
        command += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-user", "--uid", str(_NOBODY), "--gid", str(_NOBODY), "--cap-drop", "ALL"]
    for folder in found.folders:
        command += ["--perms", "0755", "--dir", folder]
    for path in found.shown:
        command += ["--ro-bind", path, path]
    for path in found.hidden:
        command += ["--perms", "0755", "--tmpfs", path, "--remount-ro", path]
    for path in DEVICES:
        command += ["--dev-bind-try", path, path]
    size = str(max(4_096, limits.disk_bytes))
    command += ["--perms", "0777", "--size", size, "--tmpfs", WORK, "--remount-ro", "/", "--chdir", WORK]
    for name, value in {"HOME": WORK, "TMPDIR": WORK, "MALLOC_ARENA_MAX": "1"}.items():
        command += ["--setenv", name, value]
    user = str(_user()) if is_root else ""
    python = [found.python, "-I", "-S", "-B", "-X", "utf8", "-c", runner_text(), *map(str, channel), user]
    return [*command, "--", *python, *(f"{name}={value}" for name, value in _rlimits(limits).items())]


def _rlimits(limits: SandboxLimits) -> Mapping[str, int]:
    share = (limits.cpu_percent or 100.0 * limits.processes) / 100
    return {
        "RLIMIT_DATA": limits.memory_bytes,
        "RLIMIT_AS": limits.memory_bytes + _ADDRESS_SPACE_MORE,
        "RLIMIT_NPROC": limits.processes,
        "RLIMIT_FSIZE": limits.disk_bytes,
        "RLIMIT_NOFILE": _OPEN_FILES,
        "RLIMIT_CPU": int(limits.wall_s * share) + 2,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_SIGPENDING": 64,
    }


def _user() -> int:
    """Return a user that nobody else is, where all numbers may be used; else nobody."""
    with suppress(OSError, ValueError), open("/proc/self/uid_map", encoding="ascii") as file:
        if int(file.read().split()[2]) > _USERS.stop:
            return secrets.choice(_USERS)
    return _NOBODY


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"
