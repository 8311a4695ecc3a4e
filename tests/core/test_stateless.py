"""A heart that is rebuilt from the record before each fact decides as the one that lived on.

Whoever decides about a run may so be another one each time: nothing but the record is handed on between them.

Rule 1: what is compared is everything a turn says: events, causes and commands.
Rule 2: nothing undecided is handed on: who takes a fact in decides all that follows from it.
"""

from __future__ import annotations

from random import Random

import pytest

from planloom.core.commands import GoOn
from planloom.core.events import Fact, RunStarted, StepSpeculated, WentOn
from planloom.core.machine import RunMachine
from planloom.core.turns import Turn
from planloom.plan.model import Plan
from tests.core.driving import Drive, differences, snapshot
from tests.core.speculating import TOOLS, random_plan
from tests.core.test_any_run import AnyLabelledRun, AnyRun, walked

HEARTS = 3
"""Machines that take turns with one run."""


class TakingTurns(Drive):
    """A run of which another machine decides each time, having read what the others recorded."""

    hearts: list[RunMachine]
    turns = 0

    def hand(self, fact: Fact) -> Turn:
        if isinstance(fact, WentOn):
            return super().hand(fact)
        if not self.turns:
            self.hearts = [RunMachine(self.run_id) for _ in range(HEARTS)]
        rebuilt = RunMachine(self.run_id)
        rebuilt.replay(self.journal)
        expected = decided(rebuilt, fact, self.now)

        self.machine = self.hearts[self.turns % HEARTS]
        self.machine.replay(self.journal[self.machine.state.seq :])
        self.turns += 1
        turn = super().hand(fact)

        assert turn.events == expected.events
        assert turn.causes == expected.causes
        assert tuple(one for one in turn.commands if not isinstance(one, GoOn)) == expected.commands
        assert differences(snapshot(self.machine), snapshot(rebuilt)) == {}
        return turn

    def replay(self) -> None:
        """Have nobody remember anything."""
        self.hearts = [RunMachine(self.run_id) for _ in range(HEARTS)]
        super().replay()


def decided(heart: RunMachine, fact: Fact, now: float) -> Turn:
    """Return all that a fact leads to, whatever was left undecided at first included."""
    turns = [heart.handle(fact)]
    while any(isinstance(one, GoOn) for one in turns[-1].commands):
        turns.append(heart.handle(WentOn(now)))
    return Turn(
        tuple(event for turn in turns for event in turn.events),
        tuple(cause for turn in turns for cause in turn.causes),
        tuple(one for turn in turns for one in turn.commands if not isinstance(one, GoOn)),
    )


class AnySharedRun(AnyRun):
    drives = TakingTurns


class AnySharedRunInSmallTurns(AnyRun):
    a_turn = 2
    drives = TakingTurns


class AnySharedLabelledRun(AnyLabelledRun):
    drives = TakingTurns


TestAnySharedRun = pytest.mark.slow(walked(AnySharedRun, examples=25, steps=25))
TestAnySharedRunInSmallTurns = pytest.mark.slow(walked(AnySharedRunInSmallTurns, examples=25, steps=25))
TestAnySharedLabelledRun = pytest.mark.slow(walked(AnySharedLabelledRun, examples=12, steps=25))


@pytest.mark.parametrize("seed", range(8))
def test_a_plan_that_may_run_ahead_is_decided_without_memory_where_the_run_is_not_to(seed: int) -> None:
    dice = Random(seed)
    document = random_plan(seed)
    drive = TakingTurns(Plan.from_dict(document), tools=TOOLS, run_ahead=False)

    drive.finish(lambda request: dice.randint(0, 2))

    assert drive.machine.ended
    assert drive.of_type(StepSpeculated) == []
    assert {request.role for request in drive.started} <= {"", "replan"}
    drive.assert_replays()


def test_a_run_that_is_to_run_ahead_does_and_says_so_on_record() -> None:
    document = {
        "steps": [
            {"id": "a", "model": "m", "prompt": "x", "speculate": {"draft": "n", "policy": "compare"}},
            {"id": "b", "tool": "t", "with": {"x": "${{ steps.a.output }}"}},
        ]
    }

    ahead, not_ahead = RunMachine("ahead"), RunMachine("not ahead")
    ahead.handle(RunStarted(Plan.from_dict(document), {}, 0.0, tools=TOOLS))
    turn = not_ahead.handle(RunStarted(Plan.from_dict(document), {}, 0.0, tools=TOOLS, run_ahead=False))
    rebuilt = RunMachine("not ahead")
    rebuilt.replay(turn.events)

    assert [one.speculation is not None for one in (ahead, not_ahead, rebuilt)] == [True, False, False]
