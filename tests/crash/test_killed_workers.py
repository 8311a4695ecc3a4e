"""Workers killed in the middle of a call that a program made: what may happen once waits for a person."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from planloom import RunStatus
from planloom.core.events import CallEnded, CallStarted, OutcomeUnknown
from planloom.core.result import RunResult
from tests.transport.workplace import calls, engine_on, plan, pool_of, until

pytestmark = pytest.mark.slow


def program(folder: Path, source: str) -> dict[str, Any]:
    return {
        "id": "do",
        "code": {"source": source, "tools": ["w.put", "w.pay"]},
        "with": {"folder": str(folder)},
    }


async def killed_in(folder: Path, source: str, *, at: int) -> tuple[RunResult, list[Any]]:
    """Run a program in a worker, kill it in the middle of call number `at`; return what it came to, and the record."""
    async with pool_of(2, 2) as pool, engine_on(pool) as engine:
        await until(lambda: pool.idle == 2)
        run = await engine.start(plan(program(folder, source)))
        await until(lambda: len(calls(folder)) == at)
        os.kill(int(calls(folder)[-1][3]), signal.SIGKILL)
        result = await run.result()
        return result, [entry.event for entry in await engine.journal.read(run.run_id)]


def test_a_once_call_of_a_program_whose_worker_died_is_not_made_again(tmp_path: Path) -> None:
    source = "w_pay(folder=folder)\nw_pay(folder=folder, seconds=60)"

    result, events = asyncio.run(killed_in(tmp_path, source, at=2))

    assert result.status is RunStatus.WAITING
    assert [event.step for event in events if isinstance(event, OutcomeUnknown)] == ["do"]
    assert len(calls(tmp_path)) == 2
    assert sum(isinstance(event, CallStarted) for event in events) == 2
    assert sum(isinstance(event, CallEnded) for event in events) == 1


def test_a_program_whose_worker_died_goes_on_elsewhere_with_what_is_on_record(tmp_path: Path) -> None:
    source = "w_pay(folder=folder)\nreturn w_put(folder=folder, n=3, seconds=0.5)"

    result, _ = asyncio.run(killed_in(tmp_path, source, at=2))

    assert result.output == 9
    assert [line[0] for line in calls(tmp_path)] == ["pay", "put", "put"]
