"""Kill a run with `kill -9` and take it up again: what is on record is not done a second time."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOOLS = '''
import os, time
from planloom import tool

@tool(name="demo.work", effects="idempotent")
def work(number: int) -> int:
    """Take a moment, leave a line behind."""
    with open("calls.log", "a") as log:
        log.write(f"{number}\\n")
    time.sleep(0.05)
    return number * 10
'''
PLAN = """
planloom: 1
name: resume
steps:
  - id: work
    tool: demo.work
    for_each: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
    max_parallel: 1
    with: {number: "${{ item }}"}
outputs: "${{ sum(steps.work.output) }}"
"""
PLANLOOM = [sys.executable, "-m", "planloom"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "tools.py").write_text(TOOLS, encoding="utf-8")
        (here / "plan.yaml").write_text(PLAN, encoding="utf-8")
        log = here / "calls.log"

        run = subprocess.Popen(
            [*PLANLOOM, "run", "plan.yaml", "--tools", "tools.py", "--run-id", "r1"],
            cwd=here,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not log.exists() or len(log.read_text().splitlines()) < 7:
            assert run.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        before = log.read_text().splitlines()

        subprocess.run([*PLANLOOM, "resume", "r1", "--tools", "tools.py"], cwd=here, check=True)
        after = log.read_text().splitlines()

    again = len(after) - len(set(after))
    print(f"killed after {len(before)} calls; {len(after)} in all, {again} of them made again")
    assert set(after) == {str(number) for number in range(1, 21)}
    # Only the call that was under way, and its tool said that it may be made again.
    assert again <= 1


if __name__ == "__main__":
    main()
