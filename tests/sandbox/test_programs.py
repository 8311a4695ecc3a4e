"""What a program can do and is told, the same in both sandboxes, and how it ends when it does too much."""

from __future__ import annotations

import asyncio
import io
import os
import sys
import time
from contextlib import redirect_stdout
from typing import Any

import pytest

from planloom.core.code import ErrorType, Program, SandboxLimits, SandboxResult
from planloom.errors import ArgumentsError, ConfigError, NoSandboxError
from planloom.sandbox import bubblewrap, visible, watch
from planloom.sandbox.sandbox import Sandbox, backend_of, size_bytes
from planloom.sandbox.watch import descendants, memory_bytes, used_s
from sandbox.conftest import needs


def run(runtime: str, source: str, **given: Any) -> SandboxResult:
    limits = SandboxLimits(**{"cpu_percent": None, **given.pop("limits", {})})
    return asyncio.run(backend_of(runtime).run(Program(source, limits=limits, **given)))


async def add(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] + kwargs.get("more", 1)


RETURNS = {
    "the last line": ("x = 20\nx + 1", 21),
    "return": ("return 3", 3),
    "return from within": ("for i in range(9):\n    if i == 4:\n        return {'at': i}\n", {"at": 4}),
    "nothing": ("x = 1", None),
    "helpers that call each other": ("def a(n): return b(n) + 1\ndef b(n): return n * 2\na(4)", 9),
    "recursion": ("def f(n): return 1 if n < 2 else n * f(n - 1)\nreturn f(20)", 2432902008176640000),
    "globals of a returning program": ("n = 0\ndef up():\n    global n\n    n += 1\nup()\nup()\nreturn n", 2),
    "a variable of a returning program": ("n = 2\ndef get(): return n\nreturn [get() for _ in range(n)]", [2, 2]),
    "await at the top": ("import asyncio\nasync def f(): return 7\nawait f()", 7),
    "gather": ("import asyncio\nasync def f(n): return n\nreturn await asyncio.gather(f(1), f(2))", [1, 2]),
    "a tuple as a list": ("(1, 'a', None, True, 1.5)", [1, "a", None, True, 1.5]),
    "await in a string is none": ("x = 'await'  # await\nlen(x)", 5),
    "text of many lines": ("x = '''a\n  b\n'''\nreturn x", "a\n  b\n"),
    "caught": ("try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    r = str(e)\nr", "division by zero"),
    "classes": ("class A:\n  def __init__(self, n): self.n = n\n  def twice(self): return self.n * 2\nA(4).twice()", 8),
    "a file of its own": ("with open('n', 'w') as f:\n  f.write('hi')\nwith open('n') as f:\n  return f.read()", "hi"),
}  # fmt: skip


@pytest.mark.parametrize("name", RETURNS)
def test_a25_a_program_returns_what_python_would(runtime: str, name: str) -> None:
    source, expected = RETURNS[name]

    result = run(runtime, source)

    assert (result.error, result.result) == (None, expected)
    assert result.backend == runtime


def test_inputs_are_variables_and_output_is_kept(runtime: str) -> None:
    result = run(runtime, "print('hello', name)\nlen(items)", inputs={"name": "Ada", "items": [1, 2, 3]})

    assert (result.result, result.output) == (3, "hello Ada\n")


def test_text_of_any_language_goes_in_and_comes_out(runtime: str) -> None:
    text = 'naïve – 日本語 🙂 \t\n"' * 9_000

    result = run(runtime, "for _ in range(3): print(text)\ntext", inputs={"text": text})

    assert (result.error, result.result == text, result.output == f"{text}\n" * 3) == (None, True, True)


def test_text_that_utf8_cannot_write_is_no_result(runtime: str) -> None:
    assert run(runtime, "return chr(0xD800)").error_type in (ErrorType.RESULT, ErrorType.RUNTIME)


def test_a_tool_that_is_cancelled_cancels_the_program(runtime: str) -> None:
    async def gone(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run(runtime, "gone()\nwhile True: pass", tools={"gone": gone})


CALLS = {
    "plainly": "add(1) + tools.add(2, more=5) + functions.add(3)",
    "with await": "return await add(1) + await tools.add(2, more=5) + await functions.add(3)",
    "all at once": "import asyncio\nreturn sum(await asyncio.gather(add(1), tools.add(2, more=5), functions.add(3)))",
    "from a helper": "async def f(n): return await add(n)\nreturn await f(1) + await f(6) + await f(3)",
}


@pytest.mark.parametrize("how", CALLS)
def test_a_program_calls_tools(runtime: str, how: str) -> None:
    result = run(runtime, CALLS[how], tools={"add": add})

    assert (result.error, result.result) == (None, 13)
    assert [call.name for call in result.tool_calls] == ["add"] * 3


def test_what_it_got_wrong_about_a_tool_a_program_is_told(runtime: str) -> None:
    async def picky(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise ArgumentsError("it takes a number")

    source = "try:\n    picky('x')\nexcept TypeError as e:\n    r = str(e)\nr"

    assert run(runtime, source, tools={"picky": picky}).result == "it takes a number"


def test_what_a_tool_raises_ends_the_program_and_is_raised(runtime: str) -> None:
    async def broken(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise LookupError("no such record")

    source = "try:\n    broken()\nexcept BaseException:\n    pass\nwhile True: pass"

    with pytest.raises(LookupError, match="no such record"):
        run(runtime, source, tools={"broken": broken})


@pytest.mark.parametrize(
    "source",
    [
        "tools.wipe()",
        "functions.wipe()",
        "wipe()",
        "await tools.wipe()",
        "x = tools.wipe\nx()",
        "getattr(tools, 'wipe')()",
    ],
)
def test_a25_a_tool_it_was_not_given_is_denied_by_every_name(runtime: str, source: str) -> None:
    result = run(runtime, source, tools={"add": add}, forbids=lambda name: name == "wipe")

    assert result.error_type is ErrorType.DENIED
    assert "add" in (result.error or "") or "wipe" in (result.error or "")


ENDS = {
    "syntax": ("def f(:", ErrorType.SYNTAX),
    "runtime": ("1 / 0", ErrorType.RUNTIME),
    "a name": ("nope", ErrorType.RUNTIME),
    "output": ("print('x' * 2_000_000)", ErrorType.OUTPUT),
    "result": ("return 'x' * 2_000_000", ErrorType.RESULT),
    "disk": ("with open('x', 'w') as f:\n    f.write('x' * 20_000_000)", ErrorType.DISK),
    "memory": ("x = []\nwhile True: x.append('y' * 1_000_000)", ErrorType.MEMORY),
}


@pytest.mark.parametrize("name", ENDS)
def test_how_a_program_ended_has_a_type(runtime: str, name: str) -> None:
    source, expected = ENDS[name]

    result = run(runtime, source)

    assert result.error_type is expected
    assert result.error
    assert not result.success


def test_a_program_that_is_too_long_is_not_begun(runtime: str) -> None:
    result = run(runtime, "x = 1\n" * 100, limits={"source_bytes": 500})

    assert (result.error_type, result.output) == (ErrorType.DENIED, "")


def test_an_injected_module_is_refused(runtime: str) -> None:
    result = run(runtime, "sys.exit()", inputs={"sys": sys})

    assert result.error_type is ErrorType.DENIED


def test_every_limit_is_told_as_held_or_not(runtime: str) -> None:
    result = run(runtime, "1", limits={"cpu_percent": 50})

    for limit in ("memory_mb", "wall_s", "cpu_percent", "output_bytes", "result_bytes", "processes", "disk_mb"):
        assert (limit in result.enforced) != (limit in result.unenforced), limit


def test_only_allowed_modules_are_imported(runtime: str) -> None:
    allowed = frozenset({"json"})

    assert run(runtime, "import json\njson.loads('[1]')", allowed_imports=allowed).result == [1]
    assert run(runtime, "import json, re", allowed_imports=allowed).error_type is ErrorType.DENIED
    assert run(runtime, "from re import match", allowed_imports=allowed).error_type is ErrorType.DENIED
    assert run(runtime, "x = 'import re'\nx", allowed_imports=allowed).result == "import re"


class Ticks:
    """How long the event loop was kept from going round."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def __aenter__(self) -> Ticks:
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _tick(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            self.longest_s = max(self.longest_s, time.perf_counter() - before - 0.005)


@pytest.mark.slow
@pytest.mark.timing
def test_a15_an_endless_loop_is_killed_and_the_event_loop_goes_on(runtime: str) -> None:
    async def main() -> tuple[SandboxResult, float, float]:
        backend = backend_of(runtime)
        await backend.run(Program("1"))
        async with Ticks() as ticks:
            begun_at = time.perf_counter()
            limits = SandboxLimits(wall_s=0.5, cpu_percent=None)
            result = await backend.run(Program("while True: pass", limits=limits))
            took_s = time.perf_counter() - begun_at
        return result, took_s, ticks.longest_s

    result, took_s, gap_s = asyncio.run(main())

    assert result.error_type is ErrorType.TIMEOUT
    assert took_s < 0.8
    assert gap_s < 0.05
    assert list(descendants(os.getpid())) == []


@pytest.mark.slow
def test_a16_more_memory_than_allowed_ends_it_and_not_the_host(runtime: str) -> None:
    before = memory_bytes(os.getpid())

    result = run(runtime, "x = 'y' * 600_000_000\nlen(x)", limits={"memory_mb": 64})

    assert result.error_type is ErrorType.MEMORY
    assert memory_bytes(os.getpid()) - before < 100 * 10**6


@pytest.mark.slow
@pytest.mark.timing
def test_a16_a_quarter_of_a_core_is_a_quarter_of_a_core(runtime: str) -> None:
    async def main() -> float:
        limits = SandboxLimits(wall_s=3.0, cpu_percent=25)
        running = asyncio.create_task(backend_of(runtime).run(Program("while True: pass", limits=limits)))
        most: dict[int, float] = {}
        while not running.done():
            await asyncio.sleep(0.02)
            for process in descendants(os.getpid()):
                most[process] = max(most.get(process, 0.0), used_s(process))
        return sum(most.values())

    assert asyncio.run(main()) < 1.2


@pytest.mark.slow
def test_a26_what_two_programs_print_does_not_mix(runtime: str) -> None:
    async def main() -> list[SandboxResult]:
        backend = backend_of(runtime)
        programs = (Program(f"for i in range(200): print({word!r}, i)") for word in ("left", "right"))
        return await asyncio.gather(*map(backend.run, programs))

    mine, stdout = io.StringIO(), sys.stdout
    with redirect_stdout(mine):
        left, right = asyncio.run(main())

    assert left.output == "".join(f"left {i}\n" for i in range(200))
    assert right.output == "".join(f"right {i}\n" for i in range(200))
    assert (mine.getvalue(), sys.stdout) == ("", stdout)


@pytest.mark.slow
def test_cancelling_kills_everything_at_once(runtime: str) -> None:
    async def main() -> tuple[float, int]:
        source = "while True: pass"
        if runtime == "cpython":
            source = "import os\nfor _ in range(3):\n    if os.fork() == 0: break\nwhile True: pass"
        running = asyncio.create_task(backend_of(runtime).run(Program(source, limits=SandboxLimits(wall_s=60))))
        while not list(descendants(os.getpid())):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.15)
        begun_at = time.perf_counter()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return time.perf_counter() - begun_at, len(list(descendants(os.getpid())))

    took_s, left = asyncio.run(main())

    assert took_s < 0.5
    assert left == 0


def test_the_face_says_limits_as_its_callers_do(runtime: str) -> None:
    sandbox = Sandbox(memory_limit="64MB", cpu_limit=0.5, network_access=False, runtime=runtime)

    result = sandbox.run("return 6 * 7", timeout=5)

    assert (sandbox.limits.memory_mb, sandbox.limits.cpu_percent) == (64, 50)
    assert result.result == 42


def test_a_face_without_a_network_has_no_network() -> None:
    with pytest.raises(ConfigError, match="no sandbox has a network"):
        Sandbox(network_access=True)


@pytest.mark.parametrize(
    ("text", "expected"), [("100MB", 10**8), ("64MiB", 64 * 2**20), ("1.5 gb", 15 * 10**8), (4096, 4096)]
)
def test_a_size_is_read(text: str | int, expected: int) -> None:
    assert size_bytes(text) == expected


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="is no size"):
        size_bytes("lots")


def test_without_bubblewrap_cpython_is_refused_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    visible.look.cache_clear()

    with pytest.raises(NoSandboxError, match="apt-get install bubblewrap"):
        run("cpython", "1")

    visible.look.cache_clear()


def test_where_namespaces_are_refused_cpython_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("cpython")
    script = tmp_path / "bwrap"
    script.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    script.chmod(0o755)
    real = visible.look()
    monkeypatch.setattr(bubblewrap, "look", lambda: visible.Visible(str(script), real.python, real.shown, real.hidden))

    with pytest.raises(NoSandboxError, match="No permissions to create new namespace"):
        run("cpython", "1")


def test_files_of_this_machine_are_not_taken_for_those_of_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("cpython")
    seen: list[str | None] = []
    real = watch._files
    monkeypatch.setattr(watch, "TICK_S", 0.0)
    monkeypatch.setattr(watch, "_files", lambda folder: seen.append(folder) or real(folder))

    results = [run("cpython", "import time\ntime.sleep(0.05)\n1") for _ in range(5)]

    assert [result.error for result in results] == [None] * 5
    assert None in seen
    assert any(folder is not None for folder in seen)
