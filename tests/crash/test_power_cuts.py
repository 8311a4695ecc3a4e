"""Runs of every shape, stopped wherever they can be stopped: after the restart nothing is missing, nothing came twice.

Rule: what a run comes to is what it would have come to without the cut; what is on record is not done again.
The counts stand at the end of what pytest prints (`conftest.py`).
"""

from __future__ import annotations

import pytest

from planloom import Effects, Engine, MemoryJournal
from planloom.core.events import OutcomeUnknown
from planloom.testing.clock import ManualClock
from planloom.testing.crash import CrashingJournal, Spoil
from planloom.testing.sweep.report import CrashReport
from tests.crash.every_shape import EVERY, LAGS, OUTSIDE, swept
from tests.crash.inner_shapes import INSIDE
from tests.crash.shapes import World, bounded, driven, plan_of

FEW = ("chain", "map of sub-plans", "approvals", "failing, with clean-up", "timeouts", "a pause", "agent")


@pytest.mark.slow
@pytest.mark.parametrize("shape", FEW)
def test_a_run_survives_a_stop_anywhere(shape: str) -> None:
    report = swept(shape, 1)

    report.check()
    assert len(report.points) > 5


@pytest.mark.crash
@pytest.mark.parametrize("lag", LAGS)
@pytest.mark.parametrize("shape", EVERY)
def test_every_shape_survives_a_stop_anywhere_and_another_one(
    shape: str, lag: int, record_property: pytest.RecordProperty
) -> None:
    report = swept(shape, lag, twice=lag == 1)

    tell(report, record_property)
    report.check()
    assert len(report.points) > 5
    assert report.unknown > 0 or shape not in INSIDE


def tell(report: CrashReport, record_property: pytest.RecordProperty) -> None:
    """Have the counts printed in the end."""
    counts = {"points": len(report.points), "lost": report.lost, "doubled": report.doubled, "unknown": report.unknown}
    record_property("crash sweep", {"shape": report.plan, **counts})


def test_there_are_shapes_of_every_feature() -> None:
    plans = str([(shape.fields, shape.steps, shape.staging) for shape in OUTSIDE.values()])
    features = (
        "for_each", "max_parallel", "collect", "max_failure_rate", "join", "'when'", "on_error", "fail_fast", "approve",
        "form", "expires_seconds", "'wait'", "until", "timeout_seconds", "attempt_timeout", "retry", "not_yet",
        "idempotency_key", "max_concurrent", "max_total_cost_usd", "concurrency", "sequential", "priority", "cache",
        "verify", "stream", "tools", "speculate", "replan", "'plan'", "parallel", "says", "begin", "big", "wire",
    )  # fmt: skip

    missing = [feature for feature in features if feature not in plans]

    assert missing == []
    assert len(EVERY) >= 40


def test_limits_hold_over_a_power_cut() -> None:
    async def main() -> tuple[int, int]:
        clock, world, disk = ManualClock(), World(), MemoryJournal()
        journal = CrashingJournal(disk, at=4, how=Spoil.AFTER, lag=1)
        async with Engine(journal, tools=world.tools(), clock=clock) as engine:
            await driven(engine.start(plan_of("limits"), run_id="r"), clock, world, until=journal.stopped)
        async with Engine(disk, tools=world.tools(), clock=clock) as engine:
            await driven(engine.resume("r"), clock, world)
        return world.peak, sum(isinstance(entry.event, OutcomeUnknown) for entry in await disk.read("r"))

    peak, unknown = bounded(main())

    assert (peak, unknown > 0) == (2, True)


def test_every_shape_has_steps_of_effects_that_matter() -> None:
    used = {tool.name: tool.effects for tool in World().tools()}

    assert set(used.values()) == set(Effects)
