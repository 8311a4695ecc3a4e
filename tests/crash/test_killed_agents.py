"""Agents whose process is killed: the next one asks the model and the tools only for what is missing."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planloom.core.events import CallEnded
from planloom.errors import RunNotFoundError
from planloom.journal.sqlite import SqliteJournal
from planloom.testing.provider import Answer, Hang, ProviderServer, RecordedRequest, Reply

pytestmark = pytest.mark.slow
CHILD = Path(__file__).with_name("killed_agent.py")
TASKS = [
    {"description": "look the word up", "tool_name": "look_up"},
    {"description": "pay that much", "tool_name": "pay"},
]
ANSWERS: list[dict[str, Any]] = [
    {"has_sufficient_info": True, "reasoning": "first look, then pay", "tasks": TASKS},
    {"word": "planloom"},
    {"amount": 8},
    {"is_complete": True, "reasoning": "paid", "answer": "It is paid."},
]
START_S = 60.0


def which(request: RecordedRequest) -> int:
    """Return which of ANSWERS a request asks for."""
    prompt = request.prompt
    if "Plan what" in prompt:
        return 0
    if "Look at what" in prompt:
        return 3
    return 1 if "The tool look_up" in prompt else 2


class Provider:
    """Answers every question, but for one that it lets hang the first time."""

    def __init__(self, hang_at: int | None) -> None:
        self.asked: list[int] = []
        self._hang_at = hang_at

    def __call__(self, request: RecordedRequest) -> Answer:
        place = which(request)
        self.asked.append(place)
        if place == self._hang_at:
            self._hang_at = None
            return Hang()
        return Reply(text=json.dumps(ANSWERS[place]))


def started(folder: Path, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, str(CHILD), str(folder), url], stdout=subprocess.PIPE, text=True)


def killed_when(child: subprocess.Popen[str], reached: Callable[[], None]) -> None:
    try:
        reached()
    finally:
        child.kill()
        child.communicate(timeout=START_S)
    assert child.returncode == -signal.SIGKILL


def ended(folder: Path, url: str) -> dict[str, Any]:
    child = started(folder, url)
    try:
        output, _ = child.communicate(timeout=START_S)
    finally:
        child.kill()
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def calls(folder: Path) -> list[str]:
    log = folder / "calls.log"
    return log.read_text().split() if log.exists() else []


def on_record(folder: Path) -> int:
    """Return how many calls of the agent have ended, as far as that is durable."""

    async def read() -> int:
        journal = SqliteJournal(folder / "runs.db")
        try:
            return sum(isinstance(one.event, CallEnded) for one in await journal.read("r"))
        except RunNotFoundError:
            return 0
        finally:
            await journal.close()

    return asyncio.run(read())


def until(is_so: Callable[[], bool]) -> None:
    """Wait for what another process does: there is no event for it."""
    give_up_at = time.monotonic() + START_S
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


@pytest.mark.parametrize("hang_at", [*(pytest.param(place, marks=pytest.mark.crash) for place in (0, 1, 3)), 2])
def test_an_agent_that_was_killed_asks_only_for_what_is_missing(tmp_path: Path, hang_at: int) -> None:
    provider = Provider(hang_at)
    with ProviderServer(provider) as server:

        def reached() -> None:
            server.wait_until(lambda one: one.count > hang_at, timeout_s=START_S)
            until(lambda: on_record(tmp_path) >= [0, 1, 3, 5][hang_at])

        killed_when(started(tmp_path, server.openai_url), reached)
        result = ended(tmp_path, server.openai_url)
        again = ended(tmp_path, server.openai_url)

    assert result["result"] == "It is paid."
    assert provider.asked == sorted([0, 1, 2, 3, hang_at])
    assert calls(tmp_path) == ["look_up", "pay"]
    assert result["metrics"]["llm_calls"] == 4
    assert [entry["result"] for entry in result["execution_history"]] == [8, "paid 8"]
    assert again["result"] == "It is paid."


def test_an_agent_that_was_killed_while_it_paid_waits_for_a_person(tmp_path: Path) -> None:
    (tmp_path / "hang").touch()
    provider = Provider(None)
    with ProviderServer(provider) as server:

        def reached() -> None:
            until(lambda: "pay" in calls(tmp_path))

        killed_when(started(tmp_path, server.openai_url), reached)
        result = ended(tmp_path, server.openai_url)

    assert result == {"error": "run.blocked"}
    assert provider.asked == [0, 1, 2]
    assert calls(tmp_path) == ["look_up", "pay"]
