"""Whatever becomes of the processes of a sandbox, from outside or from inside: it is told, and nothing is left."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from planloom import Engine, RunStatus, tool
from planloom.core.code import ErrorType, Program, SandboxLimits, SandboxResult
from planloom.sandbox.sandbox import backend_of
from planloom.sandbox.watch import descendants
from sandbox.conftest import needs
from tests.crash.victims import Known, known, left_alive

WALL_S = 1.0
ANYWHERE = ("SIGKILL", "SIGTERM", "SIGSTOP")
"""Sent to each process of a sandbox in turn, those that are around the program's own included."""
FROM_OUTSIDE = (*ANYWHERE, "SIGINT", "SIGSEGV", "SIGABRT")
FROM_INSIDE = {
    "exit": ("import os\ntool()\nos._exit(3)", "died with exit code 3"),
    "segfault": ("import ctypes\ntool()\nctypes.string_at(0)", "killed by SIGSEGV"),
    "abort": ("import os\ntool()\nos.abort()", "killed by SIGABRT"),
    "kill": ("import os\ntool()\nos.kill(os.getpid(), 9)", "killed by SIGKILL"),
    "stop": ("import os\ntool()\nos.kill(os.getpid(), 19)", "not done within 1 s"),
    "stop all": ("import os\ntool()\nos.kill(0, 19)", "not done within 1 s"),
    "no memory": ("tool()\nkept = []\nwhile True: kept.append(bytearray(2**16))", "more memory than it may have"),
    "a child takes it along": (
        "import os\ntool()\nif os.fork() == 0: (os.kill(os.getppid(), 9), os._exit(0))\nos.wait()",
        "killed by SIGKILL",
    ),
}


def sandboxed() -> list[int]:
    """Return the processes of all sandboxes here, without the one that guards them."""
    found = []
    for one in descendants(os.getpid()):
        with suppress(OSError):
            command = Path(f"/proc/{one}/cmdline").read_bytes()
            if b"bwrap" in command.partition(b"\0")[0] or b"monty" in command or b"\0-I\0-S\0" in command:
                found.append(one)
    return found


class Struck:
    """A program that is under way in a sandbox, in the middle of a call of its tool."""

    def __init__(self, runtime: str, source: str) -> None:
        limits = SandboxLimits(wall_s=WALL_S, cpu_percent=None, tool_calls=10**6)
        self._called = asyncio.Event()
        before = set(sandboxed())
        program = Program(source, tools={"tool": self._tool}, limits=limits)
        self.ending = asyncio.create_task(backend_of(runtime).run(program))
        self._before = before
        self.processes: list[int] = []

    async def _tool(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._called.set()
        await asyncio.sleep(0.005)

    async def is_under_way(self) -> Struck:
        await self._called.wait()
        self.processes = [one for one in sandboxed() if one not in self._before]
        return self


@pytest.mark.slow
def test_however_a_process_of_a_sandbox_is_ended_from_outside_the_program_ends(runtime: str) -> None:
    wrapping = 0 if runtime == "monty" else 2
    strikes = [(way, place) for way in FROM_OUTSIDE for place in range(wrapping + 1)]
    strikes = [(way, place) for way, place in strikes if way in ANYWHERE or place == wrapping]

    async def main() -> tuple[list[SandboxResult], list[int]]:
        endings = []
        for way, place in strikes:
            one = await Struck(runtime, "while True: tool()").is_under_way()
            assert len(one.processes) == wrapping + 1
            os.kill(one.processes[place], getattr(signal, way))
            endings.append(one.ending)
        return await asyncio.gather(*endings), list(descendants(os.getpid()))

    ended, left = asyncio.run(main())

    for (way, place), result in zip(strikes, ended, strict=True):
        if way == "SIGINT" and runtime == "cpython":
            assert (result.error_type, "KeyboardInterrupt" in str(result.error)) == (ErrorType.RUNTIME, True)
        else:  # some signals do nothing to some processes: then it goes on until its time is up
            assert result.error_type in (ErrorType.CRASHED, ErrorType.TIMEOUT), (way, place)
        assert (result.error_type is ErrorType.TIMEOUT) or way != "SIGSTOP", place
        assert (result.error_type is ErrorType.CRASHED) or way != "SIGKILL", place
        assert result.execution_time < WALL_S + 1, (way, place)
    assert left == []


@pytest.mark.slow
def test_however_a_program_ends_its_own_process_it_is_told_so_and_nothing_is_left() -> None:
    needs("cpython")

    async def main() -> tuple[list[SandboxResult], list[int]]:
        programs = [Struck("cpython", source) for source, _ in FROM_INSIDE.values()]
        return await asyncio.gather(*(one.ending for one in programs)), list(descendants(os.getpid()))

    ended, left = asyncio.run(main())

    for (_, why), result in zip(FROM_INSIDE.values(), ended, strict=True):
        assert why in str(result.error)
    assert left == []


def test_a_sandbox_that_is_killed_before_its_program_begins_has_died_and_is_not_one_that_cannot_be_had() -> None:
    needs("cpython")

    async def main() -> SandboxResult:
        await backend_of("cpython").run(Program("1"))  # which looks at what there is to be shown to programs
        running = asyncio.create_task(backend_of("cpython").run(Program("while True: pass")))
        while not (there := sandboxed()):
            await asyncio.sleep(0)
        os.kill(there[0], signal.SIGKILL)
        return await running

    result = asyncio.run(main())

    assert (result.error_type, result.error) == (ErrorType.CRASHED, "its process died, killed by SIGKILL")


def test_a_call_that_is_cut_off_when_its_program_dies_is_an_unknown_outcome_if_it_may_be_made_once(
    runtime: str,
) -> None:
    calls: list[int] = []

    @tool(name="pay", effects="once")
    async def pay(number: int) -> int:
        """Pay, in a world where the sandbox dies meanwhile."""
        calls.append(number)
        os.kill(sandboxed()[-1], signal.SIGKILL)
        await asyncio.sleep(0.1)
        return number

    code = {"source": "return pay(number=1)", "runtime": runtime, "tools": ["pay"]}
    step = {"id": "a", "code": code, "retry": {"max_attempts": 5, "initial_delay": 0.001}}

    async def main() -> tuple[RunStatus, list[str]]:
        async with Engine(tools=[pay]) as engine:
            result = await engine.run({"planloom": 1, "name": "code", "steps": [step]})
        return result.status, [blocker["step"] for blocker in result.blockers()]

    status, blockers = asyncio.run(main())

    assert calls == [1]
    if runtime == "monty":  # it notices only when it is answered: then the call has ended, and is on record
        assert status is RunStatus.SUCCESS
    else:
        assert (status, blockers) == (RunStatus.WAITING, ["a"])


@pytest.mark.slow
def test_bubblewrap_that_is_killed_while_it_starts_leaves_nothing_that_waits_for_it() -> None:
    """What it has just made waits for word from it, and is told of its end only later."""
    needs("cpython")

    async def main() -> None:
        backend, chance = backend_of("cpython"), random.Random(1)
        await backend.run(Program("1"))
        for _ in range(40):
            running = asyncio.create_task(backend.run(Program("import time\ntime.sleep(0.05)")))
            while not (there := sandboxed()):
                await asyncio.sleep(0)
            until = time.monotonic() + chance.uniform(0, 0.008)
            while time.monotonic() < until:
                met.update(map(known, sandboxed()))
            os.kill(there[0], signal.SIGKILL)
            await running

    met: set[Known] = set()
    asyncio.run(main())

    assert len(met) > 40
    assert left_alive(met) == set()
