"""What an attempt that took too long says: the limit that somebody set, not what was left of it when it began."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from planloom.core.commands import RunStep
from planloom.core.events import AttemptFailed
from planloom.core.result import StepOutcome
from planloom.executors.attempt import Attempts
from planloom.plan.model import Step
from planloom.plan.policy import Effects
from planloom.ports import AttemptContext
from tests.executors.attempts import Books


class Hangs:
    async def execute(self, request: RunStep, context: AttemptContext) -> StepOutcome:
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize(
    ("limits", "left_s", "told"),
    [
        ({"attempt_timeout": 0.03}, 0.029891, "0.03 s"),
        ({"timeout_seconds": 0.03}, 0.0299, "0.03 s"),
        ({"attempt_timeout": 9.0, "timeout_seconds": 0.03}, 0.0299, "0.03 s"),
        ({"timeout_seconds": 90.0}, 0.0123456, "0.0123 s"),
        ({}, 0.0123456, "0.0123 s"),
    ],
    ids=str,
)
def test_the_limit_is_told_and_not_what_was_left_of_it(limits: dict[str, Any], left_s: float, told: str) -> None:
    context = Books()
    step = Step(id="s", tool="t", **limits)
    request = RunStep("r", "s", step, 1, 1, {}, Effects.NONE, False, "r/s", context.clock.now() + left_s)

    fact = asyncio.run(Attempts(Hangs())(request, context))

    assert isinstance(fact, AttemptFailed)
    assert fact.error == f"TimeoutError: step 's' gave no answer within {told}"
