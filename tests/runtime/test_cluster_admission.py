"""Submissions that become runs: what is read once, and what is read again."""

from __future__ import annotations

from typing import Any

import pytest

from planloom import Engine, tool
from planloom.errors import PlanError
from planloom.journal.memory import MemoryJournal
from planloom.runtime.cluster.admission import PlansInHand, admitted
from planloom.runtime.cluster.bodies import PlanSubmission
from planloom.runtime.cluster.capabilities import Capabilities


@tool(effects="none", register=False)
def add(n: int) -> int:
    return n + 1


def plan(n: int, *, name: str = "add") -> dict[str, Any]:
    return {"planloom": 1, "name": "counts", "steps": [{"id": "a", "tool": name, "with": {"n": n}}]}


def started(known: PlansInHand, run_id: str, given: dict[str, Any], **more: Any) -> Any:
    engine = Engine(MemoryJournal(), tools=[add])
    submission = PlanSubmission(run_id=run_id, plan=given, **more)
    return admitted(submission, engine, Capabilities({}, engine.tools), known=known).started


def test_a_plan_that_is_submitted_again_is_read_once_and_another_one_by_itself() -> None:
    known = PlansInHand()

    first, again, other = (started(known, f"r{number}", plan(n)) for number, n in enumerate((1, 1, 2)))

    assert again.plan is first.plan
    assert other.plan.steps[0].args["n"] == 2


def test_a_known_plan_is_held_against_each_submissions_own_allowlist() -> None:
    known = PlansInHand()
    started(known, "r1", plan(1))

    with pytest.raises(PlanError, match="allow"):
        started(known, "r2", plan(1), allow=())


def test_a_plan_that_is_refused_is_not_known() -> None:
    known = PlansInHand()

    for _ in range(2):
        with pytest.raises(PlanError, match="nothing"):
            started(known, "r1", plan(1, name="nothing"))

    assert known.of(plan(1, name="nothing"))[1] == plan(1, name="nothing")
