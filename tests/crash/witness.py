"""Who looks at a run from outside, again and again, and compares what is on record with what happened.

Rule 1: what was on record once stays so, with the same value (I1, I2), and is not made again.
Rule 2: the laws I1 to I8 hold at every look, with what the tools say was called; no `once` effect happens twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from planloom import Engine, SqliteJournal, StepStatus
from planloom.core.events import AttemptSucceeded, OutcomeUnknown, RunFinished
from planloom.core.result import StepResult
from planloom.errors import RunNotFoundError
from planloom.observe.looks import every_step
from planloom.ports import Recorded
from planloom.runtime.replay import diverges
from planloom.testing.history.check import check_history
from planloom.testing.history.tool_log import read_tool_log
from tests.crash.effects import Effects


def record(folder: Path, run_id: str) -> tuple[list[Recorded], dict[str, StepResult]]:
    """Return the events of a run and its completed steps; nothing if there is no such run yet."""

    async def read() -> tuple[list[Recorded], dict[str, StepResult]]:
        journal = SqliteJournal(folder / "runs.db")
        try:
            async with Engine(journal, tools=[]) as engine:
                result = await engine.result_of(run_id)
                ended = {step.id: step for step in every_step(result.steps) if step.status is StepStatus.COMPLETED}
                return await journal.read(run_id), ended
        except RunNotFoundError:
            return [], {}
        finally:
            await journal.close()

    return asyncio.run(read())


class Witness:
    """Watches one run.

    Attributes:
        events: What was on record at the last look.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        self.events: list[Recorded] = []
        self._folder = folder
        self._run_id = run_id
        self._known: dict[str, Any] = {}
        self._called = 0

    def look(self) -> None:
        """Compare the record and the world with how they stood at the last look. Nobody may be driving the run."""
        before, known = self.events, self._known
        self.events, completed = record(self._folder, self._run_id)
        self._known = {key: step.output for key, step in completed.items()}
        assert {key: self._known.get(key) for key in known} == known, "I1, I2"
        log = Effects(self._folder)
        lines = log.lines()
        again = {line["step"] for line in lines[self._called :] if line["step"] in known}
        assert again == set(), "called again although its result was on record"
        self._called = len(lines)
        assert max(log.counted("once").values(), default=0) <= 1, "I3: a once effect happened twice"
        if self.events:
            calls = read_tool_log(log.path, run_id=self._run_id) if lines else []
            broken = check_history(self.events, before=before, tool_calls=calls, run_id=self._run_id)
            assert broken == [], broken

    @property
    def has_ended(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1].event, RunFinished)

    @property
    def unknown(self) -> int:
        """Return how many outcomes were unknown."""
        return sum(isinstance(entry.event, OutcomeUnknown) for entry in self.events)

    def ended(self) -> RunFinished:
        """Return how the run ended, once the laws were seen to hold."""
        ended = self.events[-1].event
        assert isinstance(ended, RunFinished)
        succeeded = Counter(entry.event.step for entry in self.events if isinstance(entry.event, AttemptSucceeded))
        assert max(succeeded.values(), default=0) <= 1, "a step succeeded twice"
        assert diverges(self._run_id, self.events) is None
        return ended
