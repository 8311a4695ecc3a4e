"""Steps whose calls are on record one by one, over a power cut: what their shapes are swept for stands in
`inner_sweep.py`, the sweep in `test_power_cuts.py`.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from planloom import Engine, MemoryJournal, RunStatus
from planloom.agents.reasoning import Reasoner
from planloom.core.chat import ModelCall
from planloom.core.result import RunResult
from planloom.testing.clock import ManualClock
from planloom.testing.crash import CrashingJournal, Spoil
from planloom.testing.models import FunctionModel
from planloom.testing.sweep.loop import run_patiently
from planloom.testing.sweep.story import told
from tests.crash.inner_shapes import InnerWorld, plan_inside
from tests.crash.inner_sweep import TimedWorld, inner_staging, keeps_inner_laws
from tests.crash.shapes import bounded, driven

SAMPLES = 3
NO_TWO_ALIKE = {
    "planloom": 1,
    "steps": [
        {
            "id": "ask",
            "agent": "guesser",
            "prompt": "guess",
            "effects": "none",
            "verify": {"strategy": "self_consistency", "samples": SAMPLES},
        }
    ],
}


def guesser() -> Reasoner:
    """Return an agent that gives another answer each time, so that no two of them agree."""
    numbers = itertools.count(1)

    def answer(call: ModelCall) -> Any:
        if "Look at what was done" in call.messages[-1].content:
            return {"is_complete": True, "reasoning": "", "answer": f"guess {next(numbers)}"}
        return {"has_sufficient_info": True, "reasoning": "", "tasks": []} if call.output is not None else "a thought"

    return Reasoner(name="guesser", model=FunctionModel(answer))


@pytest.mark.parametrize("at", [4, 6, 8, 10])
def test_samples_of_an_agent_stay_as_many_after_a_power_cut_and_do_not_agree_with_themselves(at: int) -> None:
    async def main() -> RunResult | None:
        clock, world, disk, agent = ManualClock(), InnerWorld(), MemoryJournal(), guesser()
        journal = CrashingJournal(disk, at=at, how=Spoil.AFTER, lag=1)
        async with Engine(journal, agents=[agent], clock=clock) as engine:
            await driven(engine.start(NO_TWO_ALIKE, run_id="r"), clock, world, until=journal.stopped)
        async with Engine(disk, agents=[agent], clock=clock) as engine:
            return await driven(engine.resume("r"), clock, world)

    result = bounded(main())

    assert result is not None
    assert result.status is RunStatus.FAILED
    assert f"at most 1 of {SAMPLES}" in (result.error or "")


def test_an_answer_that_is_asked_for_although_it_is_on_record_is_found_out() -> None:
    staging = inner_staging(plan_inside("agent"), 1)
    whole, other = (run_patiently(told(staging)) for _ in range(2))
    inside = other.world.inside  # type: ignore[attr-defined]
    assert isinstance(inside, TimedWorld)
    other.lives.append(other.lives[0])

    inside.asked.append(inside.asked[0])
    inside.asked_at.append(inside.asked_at[-1])

    assert any("on record" in what or "more was paid" in what for what in keeps_inner_laws(other, whole)) is False
    other.lives[-1].before = other.record
    other.lives[-1].began_at = 0.0005
    assert "a model was asked again although its answer is on record" in list(keeps_inner_laws(other, whole))
