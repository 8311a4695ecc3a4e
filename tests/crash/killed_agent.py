"""The process that is killed: `killed_agent.py FOLDER URL` has an agent do a task, or go on with it, to its end.

Every call of a tool leaves a line in calls.log before it does anything else. The last line of output is the result as
JSON, or the code of the error.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from planloom import tool
from planloom.api.agent_factory import create_gemma_agent
from planloom.errors import PlanloomError

FOLDER = Path(sys.argv[1]) if __name__ == "__main__" else Path()


def note(name: str) -> None:
    log = os.open(FOLDER / "calls.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(log, f"{name}\n".encode())
    finally:
        os.close(log)


@tool(effects="none")
async def look_up(word: str) -> int:
    """Return the number of a word."""
    note("look_up")
    return len(word)


@tool(effects="once")
async def pay(amount: int) -> str:
    """Pay an amount."""
    note("pay")
    if (FOLDER / "hang").exists():
        await asyncio.Event().wait()
    return f"paid {amount}"


def main() -> None:
    agent = create_gemma_agent(sys.argv[2], tools=[look_up, pay], journal=FOLDER / "runs.db", temperature=0.1)
    try:
        response = agent.run("pay the length of a word", run_id="r")
    except PlanloomError as error:
        print(json.dumps({"error": error.code}))
    else:
        print(json.dumps(response.to_dict()))


if __name__ == "__main__":
    main()
