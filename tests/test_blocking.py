"""The ways between code that is async and code that is not."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextvars import ContextVar
from typing import Any

import pytest

from planloom import blocking

WHO: ContextVar[str] = ContextVar("WHO", default="nobody")


def test_a_thread_sees_what_its_caller_sees_and_answers() -> None:
    async def main() -> Any:
        WHO.set("me")
        return await blocking.in_thread(lambda one: (WHO.get(), one), 1)

    assert asyncio.run(main()) == ("me", 1)


@pytest.mark.parametrize(("raised", "told"), [(KeyError("k"), KeyError), (StopIteration(1), RuntimeError)])
def test_what_a_thread_raises_is_raised_where_it_is_waited_for(raised: Exception, told: type[Exception]) -> None:
    def fails() -> None:
        raise raised

    with pytest.raises(told):
        asyncio.run(blocking.in_thread(fails))


@pytest.mark.slow
def test_a_thread_that_never_comes_back_keeps_no_process_from_ending() -> None:
    program = (
        "import asyncio, threading\n"
        "from planloom import PooledStepExecutor\n"
        "async def main():\n"
        "    executor = PooledStepExecutor({}, timeout_seconds=0.05)\n"
        "    for done in (executor.execute_blocking_tool(threading.Event().wait), executor.close()):\n"
        "        try:\n"
        "            await asyncio.wait_for(done, 0.2)\n"
        "        except TimeoutError:\n"
        "            print('given up')\n"
        "asyncio.run(main())\n"
    )

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)

    assert ended.stdout.split("\n")[:2] == ["given up", "given up"]
