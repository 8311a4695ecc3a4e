"""What a program can do to the process that runs it, without ever getting out: its memory, its event loop, its time."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import pytest

from planloom import Engine, tool
from planloom.core.code import ErrorType, Program, SandboxLimits, SandboxResult
from planloom.errors import NotInstalledError
from planloom.sandbox.monty import MontySandbox
from planloom.sandbox.program import is_async, refused_import
from planloom.sandbox.sandbox import backend_of
from planloom.sandbox.watch import descendants, memory_bytes
from sandbox.conftest import needs
from sandbox.test_programs import Ticks, run

MANY = 800


async def slow(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    await asyncio.sleep(0.3)
    return "z" * 1_000_000


async def quick(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return "z" * 1_000_000


HOARDERS = {
    "large arguments": (slow, f"import asyncio\nawait asyncio.gather(*[tool('x' * 900_000) for _ in range({MANY})])"),
    "large answers": (quick, f"import asyncio\nawait asyncio.gather(*[tool(1) for _ in range({MANY})])"),
}


def grown(runtime: str, source: str, tool: Any, **limits: Any) -> tuple[SandboxResult, int, float]:
    """Return what a program came to, the most memory that it took here, and how long it kept the loop."""

    async def main() -> tuple[SandboxResult, int, float]:
        backend = backend_of(runtime)
        await backend.run(Program("1"))
        before, most = memory_bytes(os.getpid()), 0
        program = Program(source, tools={"tool": tool}, limits=SandboxLimits(wall_s=2, cpu_percent=None, **limits))
        async with Ticks() as ticks:
            running = asyncio.create_task(backend.run(program))
            while not running.done():
                await asyncio.sleep(0.01)
                most = max(most, memory_bytes(os.getpid()) - before)
        return running.result(), most, ticks.longest_s

    return asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("what", HOARDERS)
def test_what_a_program_has_under_way_fills_no_memory_here(runtime: str, what: str) -> None:
    tool, source = HOARDERS[what]

    _, more_bytes, _ = grown(runtime, source, tool, memory_mb=2_000)

    assert more_bytes < 200 * 10**6


@pytest.mark.slow
def test_answers_that_a_program_does_not_read_fill_no_memory_here() -> None:
    needs("cpython")
    source = f"for _ in range({MANY}): tools._tools._ask('tool', (), {{}})\nimport time\ntime.sleep(9)"

    result, more_bytes, _ = grown("cpython", source, quick)

    assert result.error_type is ErrorType.TIMEOUT
    assert more_bytes < 200 * 10**6


def test_a_program_that_gives_and_gets_more_than_there_is_room_for_goes_on(runtime: str) -> None:
    async def echo(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args[0]

    source = "import asyncio\nreturn sum(map(len, await asyncio.gather(*[echo('x' * 300_000) for _ in range(40)])))"

    result = run(runtime, source, tools={"echo": echo}, limits={"memory_mb": 400})

    assert (result.error, result.result) == (None, 12_000_000)


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.parametrize("body", ["{},", "0,", "1e1,", "1" * 4_000 + ","])
def test_a_message_made_to_be_hard_to_read_does_not_keep_the_loop(body: str) -> None:
    needs("cpython")
    source = f"""
import os
value = {body!r} * {950_000 // len(body)}
line = ('{{"t":"call","id":1,"name":"tool","args":[[' + value + '0]],"kwargs":{{}}}}\\n').encode()
for fd in range(3, 30):
    try:
        os.set_blocking(fd, True)
        while True: os.write(fd, line)
    except OSError: pass
"""

    _, _, gap_s = grown("cpython", source, slow)

    assert gap_s < 0.15


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.parametrize("source", ["return [10**4000] * 2000", "while True: print(end='')", "return [{}] * 900_000"])
def test_a_value_made_to_be_hard_to_read_does_not_keep_the_loop(source: str) -> None:
    needs("monty")

    _, _, gap_s = grown("monty", source, slow)

    assert gap_s < 0.15


@pytest.mark.slow
@pytest.mark.timing
def test_children_that_come_and_go_are_counted_towards_a_share_of_a_core() -> None:
    needs("cpython")
    source = """
import os, time
until = time.time() + 2
while time.time() < until:
    if os.fork() == 0:
        for _ in range(20_000): pass
        os._exit(0)
    os.wait()
return sum(os.times()[:4])
"""

    result = run("cpython", source, limits={"cpu_percent": 25})

    assert result.result < 1.2


def test_an_answer_that_comes_while_the_program_sleeps_is_not_lost(runtime: str) -> None:
    async def echo(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args[0]

    source = """
import asyncio, time
async def sleeper():
    time.sleep(0.1)
    return 1
return await asyncio.gather(echo(5), sleeper())
"""

    result = run(runtime, source, tools={"echo": echo}, limits={"wall_s": 2})

    assert (result.error, result.result) == (None, [5, 1])


def test_nothing_is_left_to_happen_when_a_program_has_ended() -> None:
    needs("monty")
    source = "import asyncio\nasync def f(): await asyncio.sleep(100)\nawait asyncio.gather(*[f() for _ in range(500)])"

    async def main() -> int:
        await MontySandbox().run(Program(source, limits=SandboxLimits(wall_s=0.3)))
        return sum(not handle.cancelled() for handle in asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]

    assert asyncio.run(main()) == 0


def test_a_program_that_waits_for_a_place_says_so(runtime: str) -> None:
    async def main() -> list[float | None]:
        told: list[float | None] = []
        backend = type(backend_of(runtime))(at_once=1)  # type: ignore[call-arg]
        first = asyncio.create_task(backend.run(Program("import time\ntime.sleep(0.1)")))
        await asyncio.sleep(0.03)
        await asyncio.gather(first, backend.run(Program("1", waits=told.append)))
        return told

    told = asyncio.run(main())

    assert told[0] is None
    assert len(told) == 2
    assert 0 < (told[1] or 0) < 5


# --- modules that a program may not import ----------------------------------------------------

HIDDEN = {
    "on the next line": "import json,\\\nos",
    "after a form feed": "import\fos",
    "from, after a form feed": "from\fos import path",
    "on the next line, as Windows ends one": "import\\\r\nos",
    "between strings of strings": 'f"{"\'\'\'"}"\nimport os\nf"{"\'\'\'"}"',
    "after a brace that is text": "f\"{'}' or \"'''\"}\"\nimport os\nx=\"'''\"",
    "with spaces about its dots": "from os . path import join",
    "after another statement": "import json; import os",
}


@pytest.mark.parametrize("how", HIDDEN)
def test_a_module_is_found_however_its_import_is_written(how: str) -> None:
    assert refused_import(HIDDEN[how], frozenset({"json"})) is not None


@pytest.mark.parametrize(
    "source",
    [
        "import json",
        "from json . decoder import x",
        "raise A from b",
        "x = 'import re'",
        "important = 1",
        "f'{1}'\nx=1",
    ],
)
def test_what_is_no_import_is_not_taken_for_one(source: str) -> None:
    assert refused_import(source, frozenset({"json"})) is None


@pytest.mark.parametrize(
    "source",
    [
        "import a" + " " * 99_000 + "b",
        "from ." * 16_000,
        "from a" + " .from" * 16_000,
        "import " * 14_000,
        "f'{" * 33_000,
    ],
)
def test_looking_for_imports_takes_time_in_proportion_to_the_source(source: str) -> None:
    begun_at = time.perf_counter()

    refused_import(source, frozenset())
    is_async(source)

    assert time.perf_counter() - begun_at < 1


# --- when it is cancelled, or cannot be had ---------------------------------------------------


@pytest.mark.slow
def test_cancelled_twice_it_leaves_no_process_and_no_descriptor(runtime: str) -> None:
    async def tool(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        await asyncio.sleep(0.01)

    async def main() -> tuple[int, int]:
        backend = backend_of(runtime)
        program = Program("while True: tool()", tools={"tool": tool}, limits=SandboxLimits(tool_calls=10**6))
        await backend.run(Program("1"))
        before = len(os.listdir("/proc/self/fd"))
        for place in range(30):
            running = asyncio.create_task(backend.run(program))
            await asyncio.sleep(0.002 * place)
            running.cancel()
            await asyncio.sleep(0)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        await asyncio.sleep(0.2)
        return len(os.listdir("/proc/self/fd")) - before, len(list(descendants(os.getpid())))

    assert asyncio.run(main()) == (0, 0)


PLAN = {"planloom": 1, "name": "code", "steps": [{"id": "a", "code": {"source": "1", "runtime": "cpython"}}]}


def test_a_plan_whose_sandbox_is_not_here_is_refused_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    async def main() -> None:
        async with Engine() as engine:
            await engine.start(PLAN)

    with pytest.raises(NotInstalledError, match="needs bubblewrap") as caught:
        asyncio.run(main())

    assert "apt-get install bubblewrap" in caught.value.remedy


def test_what_a_program_printed_is_told_with_what_its_tool_raised(runtime: str) -> None:
    needs(runtime)

    @tool(name="broken", effects="none")
    async def broken() -> str:
        """Fail."""
        raise LookupError("no such record")

    async def main() -> str | None:
        code = {"source": "print('asking')\nbroken()", "runtime": runtime, "tools": ["broken"]}
        async with Engine(tools=[broken]) as engine:
            result = await engine.run({"planloom": 1, "name": "code", "steps": [{"id": "a", "code": code}]})
        return result.step("a").error

    assert asyncio.run(main()) == "LookupError: no such record\nthe program had printed: asking"
