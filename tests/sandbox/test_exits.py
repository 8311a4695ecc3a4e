"""Python ends cleanly whatever is under way in a sandbox: nothing said, nothing left, no signal."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

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
def test_python_ends_cleanly_fifty_times_of_fifty(runtime: str, way: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"{BEGIN}RUNTIME = {runtime!r}\n{WAYS[way]}")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}

    def ended(_: int) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False, env=environment
        )
        return done.returncode, "" if way == LEFT else done.stderr

    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(ended, range(TIMES // len(WAYS) + 1)))

    assert found == {(0, "")}
    assert [file.name for file in tmp_path.iterdir()] == ["script.py"]
