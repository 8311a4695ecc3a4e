"""What became of runs whose cluster was killed around them: their records against the laws, and against the world.

Rule 1: the record and the effects file are all that is looked at; nobody's word counts.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planloom.core.answers import MAX_LOST
from planloom.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    Event,
    OutcomeUnknown,
    ResultRefused,
    RunFinished,
    StepResolved,
)
from planloom.core.result import RunStatus
from planloom.errors import PlanloomError
from planloom.journal.postgres.journal import PostgresJournal
from planloom.plan.policy import FailureKind
from planloom.ports import Recorded
from planloom.runtime.reading import read_run
from planloom.runtime.replay import diverges
from planloom.testing.history.check import check_history
from planloom.testing.history.violation import LoggedCall
from tests.cluster.kill_shapes import EFFECTS, ONCE, Drawn


@dataclass
class Verdict:
    """What was found of all runs.

    Attributes:
        wrong: What must not be, one line each.
        doubled: Keys of effects that may be had once, and were had more often.
        poisoned: Runs that failed as they have to: so many workers were lost with one step that it is given up.
    """

    runs: int = 0
    events: int = 0
    attempts: int = 0
    executions: int = 0
    once_executions: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    unended: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    lost_attempts: int = 0
    unknown: int = 0
    resolved: int = 0
    refused: int = 0
    poisoned: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.unended or self.doubled or self.wrong)


def effects_of(folder: Path) -> list[dict[str, Any]]:
    """Return what tools did, a line for each execution."""
    path = folder / EFFECTS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def judged(journal: PostgresJournal, runs: list[Drawn], folder: Path) -> Verdict:
    """Return what is found of these runs."""
    found = Verdict()
    lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in effects_of(folder):
        lines[line["run"]].append(line)
        found.executions += 1
        found.once_executions += line["tool"] == ONCE
    for run in runs:
        found.runs += 1
        try:
            record = await journal.read(run.run_id)
            await journal.chain_of(run.run_id)
        except PlanloomError as error:
            found.lost.append(f"{run.run_id} ({run.shape}): {error.message}")
            continue
        _judge(found, run, record, lines[run.run_id])
        await _judge_end(found, run, journal, [entry.event for entry in record])
    return found


def _judge(found: Verdict, run: Drawn, record: list[Recorded], lines: list[dict[str, Any]]) -> None:
    events = [entry.event for entry in record]
    found.events += len(events)
    for line, times in Counter(line["key"] for line in lines if line["tool"] == ONCE).items():
        if times > 1:
            found.doubled.append(f"{run.run_id} {line}: {times} times")
    calls = [LoggedCall(one["step"], one["attempt"], one["key"], one["tool"], one["run"]) for one in lines]
    for violation in check_history(record, tool_calls=calls, run_id=run.run_id):
        found.wrong.append(f"{run.run_id} ({run.shape}): {violation}")
    divergence = diverges(run.run_id, record)
    if divergence is not None:
        found.wrong.append(f"{run.run_id} ({run.shape}): diverges at {divergence.seq}")
    outcomes = Counter(_attempt(event) for event in events if isinstance(event, AttemptSucceeded | AttemptFailed))
    found.attempts += len(outcomes)
    found.wrong += [f"{run.run_id} {at}: {times} outcomes" for at, times in outcomes.items() if times > 1]
    found.lost_attempts += sum(isinstance(one, AttemptFailed) and one.kind is FailureKind.LOST for one in events)
    found.unknown += sum(isinstance(one, OutcomeUnknown) for one in events)
    found.resolved += sum(isinstance(one, StepResolved) for one in events)
    found.refused += sum(isinstance(one, ResultRefused) for one in events)
    done = {line["step"] for line in lines if line["tool"] == ONCE}
    once = {step for step, tool in _tools(run.plan["steps"]) if tool == ONCE}
    for event in events:
        if isinstance(event, AttemptSucceeded) and event.step.partition("[")[0] in once and event.step not in done:
            found.wrong.append(f"{run.run_id} {event.step}: on record as done, and it was not")


def _lost_most(events: list[Event]) -> int:
    """Return how many workers were lost with one step, most of all."""
    lost = Counter(one.step for one in events if isinstance(one, AttemptFailed) and one.kind is FailureKind.LOST)
    return max(lost.values(), default=0)


def _attempt(event: AttemptSucceeded | AttemptFailed) -> tuple[str, int, int]:
    return event.step, event.attempt, event.epoch


def _tools(steps: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(step["id"], step["tool"]) for step in steps if "tool" in step]


async def _judge_end(found: Verdict, run: Drawn, journal: PostgresJournal, events: list[Event]) -> None:
    if not isinstance(events[-1], RunFinished):
        blocked = (await read_run(journal, run.run_id)).state.blocked
        why = ", ".join(f"{key} waits: {node.waiting}" for key, node in blocked.items()) or "nothing waits for anybody"
        found.unended.append(f"{run.run_id} ({run.shape}): {why}; last: {type(events[-1]).__name__}")
        return
    result = (await read_run(journal, run.run_id)).result
    found.statuses[result.status.value] += 1
    if result.status is RunStatus.SUCCESS:
        if result.output != run.output:
            found.wrong.append(f"{run.run_id} ({run.shape}): it came to {result.output!r}, not to {run.output!r}")
    elif result.status is RunStatus.FAILED and _lost_most(events) >= MAX_LOST:
        found.poisoned.append(f"{run.run_id} ({run.shape}): {result.error}")
    elif not (run.is_cancelled and result.status is RunStatus.CANCELLED):
        found.wrong.append(f"{run.run_id} ({run.shape}): {result.status.value}: {result.error}")
