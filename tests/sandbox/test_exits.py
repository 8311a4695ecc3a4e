"""Python ends cleanly whatever is under way in a sandbox: nothing said, nothing left, no signal."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from planloom.sandbox.watch import descendants, state_of

TIMES = 50
LEFT = "with a loop that was simply left"
"""Python and asyncio have something to say of that; how it ends is what is looked at."""
WAYS = {
    "after a program": "asyncio.run(backend_of(RUNTIME).run(Program('1 + 1')))",
    "after a cancelled one": """
async def main():
    task = asyncio.create_task(backend_of(RUNTIME).run(Program('while True: pass')))
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
asyncio.run(main())
""",
    "with one under way that nobody awaits": """
async def tool(args, kwargs): return 1
async def main():
    global task
    program = Program('while True: tool()', tools={'tool': tool}, limits=SandboxLimits(tool_calls=10**6))
    task = asyncio.create_task(backend_of(RUNTIME).run(program))
    await asyncio.sleep(0.1)
asyncio.run(main())
""",
    LEFT: """
async def tool(args, kwargs): return 1
loop = asyncio.new_event_loop()
program = Program('while True: tool()', tools={'tool': tool}, limits=SandboxLimits(tool_calls=10**6))
task = loop.create_task(backend_of(RUNTIME).run(program))
loop.run_until_complete(asyncio.sleep(0.1))
""",
}
BEGIN = """
import asyncio
from planloom.core.code import Program, SandboxLimits
from planloom.sandbox.sandbox import backend_of
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_python_ends_cleanly(runtime: str, way: str, tmp_path: Path) -> None:
    ends_cleanly(runtime, way, tmp_path, times=2)


@pytest.mark.crash
@pytest.mark.parametrize("way", WAYS)
def test_python_ends_cleanly_fifty_times_of_fifty(runtime: str, way: str, tmp_path: Path) -> None:
    ends_cleanly(runtime, way, tmp_path, times=TIMES // len(WAYS) + 1)


def ends_cleanly(runtime: str, way: str, tmp_path: Path, *, times: int) -> None:
    """Assert that so many processes end with nothing said and nothing left."""
    script = tmp_path / "script.py"
    script.write_text(f"{BEGIN}RUNTIME = {runtime!r}\n{WAYS[way]}")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}

    def ended(_: int) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False, env=environment
        )
        return done.returncode, "" if way == LEFT else done.stderr

    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(ended, range(times)))

    assert found == {(0, "")}
    assert [file.name for file in tmp_path.iterdir()] == ["script.py"]


@pytest.mark.slow
def test_when_python_is_killed_its_programs_go_with_it(runtime: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    limits = "SandboxLimits(wall_s=60, cpu_percent=10)"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    script.write_text(
        f"{BEGIN}async def main():\n"
        f"    task = asyncio.create_task(backend_of({runtime!r}).run(Program('while True: pass', limits={limits})))\n"
        "    await asyncio.sleep(0.5)\n    print('up', flush=True)\n    await task\n"
        "asyncio.run(main())\n"
    )

    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        under = list(descendants(process.pid))
        process.kill()

    until = time.monotonic() + 5
    while any(state_of(one) not in ("", "Z", "X") for one in under) and time.monotonic() < until:
        time.sleep(0.01)
    assert under
    assert [one for one in under if state_of(one) not in ("", "Z", "X")] == []
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("planloom-empty-")] == []
